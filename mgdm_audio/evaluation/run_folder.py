"""The folder of an evaluation: what was asked, and one file per track as each track ends.

::

    RUN/run.json                        what was asked: data, prior, settings, machine
    RUN/{variant}/tracks/{key}.json     scores and cost of one track, or its error
    RUN/{variant}/bss/{key}.json        BSSEval medians and remarks
    RUN/{variant}/museval/{split}/{name}.json   museval's own file
    RUN/{variant}/stems/{key}/          estimates, where they are kept
    RUN/{variant}/listen/{key}/         excerpts of the best and the worst tracks
    RUN/results.parquet  RUN/summary.json  RUN/summary.md  RUN/report/

Every file appears whole or not at all, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mgdm_audio.errors import AudioError, AudioWriteError, os_reason
from mgdm_audio.io.atomic import replacing, write_text
from mgdm_audio.io.json_text import json_text

_PARTIAL = ".mgdm-"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a sampler and its settings.

    Attributes
    ----------
    settings : tuple of (name, value)
        Changes to the preset's: text as on the command line, or Python values, objects too.
    """

    sampler: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Name for people: ``mgdm gibbs=2``."""
        return " ".join([self.sampler, *(f"{name}={value}" for name, value in self.settings)])

    @property
    def stored(self) -> list[list[Any]]:
        """Settings as run.json holds them; an object by its text, so that the label is the same."""
        return [[name, v if _is_plain(v) else str(v)] for name, v in self.settings]

    @property
    def slug(self) -> str:
        """Name of its folder."""
        text = re.sub(r"[^\w.=+-]+", "_", self.label).strip("._") or "variant"
        # Names that differ only in what was replaced must not share a folder.
        known = text == self.label.replace(" ", "_") and len(text) < 80
        digest = hashlib.sha256(self.label.encode("utf-8", "surrogatepass")).hexdigest()
        return text if known else f"{text[:60]}-{digest[:8]}"


class RunFolder:
    """Reads and writes the folder of one evaluation."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # What was asked.

    @property
    def description(self) -> dict[str, Any]:
        """Content of run.json."""
        path = self.path / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or "asked" not in content:
                raise ValueError("it does not say what was asked")
            return content
        except OSError as error:
            raise AudioError(
                f"{self.path}: holds no evaluation ({path.name}: {os_reason(error)})"
            ) from error
        except ValueError as error:
            raise AudioError(f"{path}: is damaged ({error}); evaluate again") from error

    def begin(self, asked: dict[str, Any], facts: dict[str, Any], overwrite: bool = False) -> None:
        """Start the run, or go on with one that asked for the same; ``facts`` are remembered only.

        Raises
        ------
        AudioError
            If the folder holds a run that asked for something else, or something else altogether.
        """
        asked = json.loads(json.dumps(asked))
        if self.path.exists() and not self.path.is_dir():
            raise AudioError(f"{self.path}: is a file, a run needs a folder; give another --out")
        if (self.path / "run.json").exists():
            before = self.description["asked"]
            # Variants are rows of the table: another run may add some.
            compared = sorted({*before, *asked} - {"variants"})
            changed = [k for k in compared if before.get(k) != asked.get(k)]
            if changed:
                if not overwrite:
                    raise AudioError(_changed(self.path, changed, before, asked))
                self._clear()
            elif overwrite:
                self._clear()
            else:
                asked = {**asked, "variants": self._merged(before, asked)}
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise AudioError(
                f"{self.path}: holds something other than an evaluation; give another --out"
            )
        self.remove_partial()
        content = json_text({"asked": asked, "facts": facts}, indent=1)
        write_text(self.path / "run.json", content + "\n")

    def variants(self) -> list[Variant]:
        """Variants of the run, in the order in which they were asked for."""
        return [
            Variant(v["sampler"], tuple((name, _freeze(value)) for name, value in v["settings"]))
            for v in self.description["asked"]["variants"]
        ]

    def _merged(self, before: dict[str, Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Variants of both; one by the same name must mean the same settings."""

        def name(variant: dict[str, Any]) -> str:
            return json.dumps([variant["sampler"], variant["settings"]])

        held = {name(v): v for v in before.get("variants", [])}
        for variant in asked["variants"]:
            earlier = held.setdefault(name(variant), variant)
            if earlier != variant:  # a preset or a default is not what it was
                raise AudioError(
                    _changed(
                        self.path,
                        [variant["sampler"]],
                        {variant["sampler"]: earlier["all_settings"]},
                        {variant["sampler"]: variant["all_settings"]},
                    )
                )
        return list(held.values())

    def _clear(self) -> None:
        for variant in self.variants():
            shutil.rmtree(self.path / variant.slug, ignore_errors=True)
        shutil.rmtree(self.path / "report", ignore_errors=True)
        for name in ("run.json", "results.parquet", "summary.json", "summary.md"):
            (self.path / name).unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove what a killed run left half-written."""
        for path in self.path.rglob(f"{_PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # Records of tracks.

    def record(self, variant: Variant, key: str, part: str = "tracks") -> dict[str, Any] | None:
        """Record of one track (``tracks`` or ``bss``); None where there is none or it is broken."""
        path = self._file(variant, part, key)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_record(
        self, variant: Variant, key: str, record: dict[str, Any], part: str = "tracks"
    ) -> None:
        """Write the record of one track."""
        write_text(self._file(variant, part, key), json_text(record, indent=1) + "\n")

    def forget(self, variant: Variant, key: str) -> None:
        """Remove a track's records and sounds: they are of files that have changed since."""
        for part in ("tracks", "bss"):
            self._file(variant, part, key).unlink(missing_ok=True)
        for folder in (self.stems_folder(variant, key), self.listen_folder(variant, key)):
            self.drop(folder)

    def write_museval(self, variant: Variant, split: str, name: str, text: str) -> None:
        """Write museval's own file, where museval's tools look for it (``test/**/*.json``)."""
        write_text(self.path / variant.slug / "museval" / (split or "test") / f"{name}.json", text)

    def records(self, variant: Variant, keys: list[str]) -> Iterator[dict[str, Any]]:
        """Records of the tracks that have one, each with its BSSEval record as ``"bss"``."""
        for key in keys:
            record = self.record(variant, key)
            if record is not None:
                yield {**record, "bss": self.record(variant, key, "bss")}

    # Sound.

    def stems_folder(self, variant: Variant, key: str) -> Path:
        """Folder of a track's estimates."""
        return self.path / variant.slug / "stems" / key

    def listen_folder(self, variant: Variant, key: str) -> Path:
        """Folder of a track's excerpts."""
        return self.path / variant.slug / "listen" / key

    def write_sounds(
        self, folder: Path, sounds: dict[str, np.ndarray], rate: int, lossless: bool = True
    ) -> None:
        """Write a folder of sound files, all of them or none.

        Lossless is float wav, exact to the bit; else 16-bit flac for listening, turned down
        together where one would clip.
        """
        peak = max((float(np.abs(s).max(initial=0.0)) for s in sounds.values()), default=0.0)
        gain = 1.0 if lossless or peak <= 1.0 else 0.999 / peak
        with replacing(folder, folder=True) as partial:
            for name, sound in sounds.items():
                path = partial / f"{name}.{'wav' if lossless else 'flac'}"
                subtype = "FLOAT" if lossless else "PCM_16"
                try:
                    soundfile.write(path, sound if lossless else gain * sound, rate, subtype)
                except soundfile.LibsndfileError as error:
                    raise AudioWriteError(f"{folder}: cannot be written ({error})") from error

    def drop(self, folder: Path) -> None:
        """Remove a folder of sounds, and the folders above it that it leaves empty."""
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: done
            while (folder := folder.parent) != self.path:
                folder.rmdir()

    def _file(self, variant: Variant, part: str, key: str) -> Path:
        return self.path / variant.slug / part / f"{key}.json"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _freeze(value: Any) -> Any:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _changed(path: Path, changed: list[str], before: dict, asked: dict) -> str:
    shown = "; ".join(_difference(k, before.get(k), asked.get(k)) for k in changed[:3])
    return (
        f"{path}: holds a run that was asked differently ({shown}); "
        f"give another --out, or --overwrite to start it anew"
    )


def _difference(name: str, before: Any, asked: Any) -> str:
    """What changed, of a long list or mapping only the first thing."""
    if isinstance(before, dict) and isinstance(asked, dict):
        keys = sorted(k for k in {*before, *asked} if before.get(k) != asked.get(k))
        return _difference(f"{name}.{keys[0]}", before.get(keys[0]), asked.get(keys[0]))
    if isinstance(before, list) and isinstance(asked, list) and len(before) + len(asked) > 8:
        return f"{name}: {len(before)} before, {len(asked)} now"
    return f"{name} was {before!r}, now {asked!r}"
