"""Write the page: every track is read once, encoded, drawn and let go."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from mgdm_audio.errors import AudioError
from mgdm_audio.io.atomic import FileOutput, replacing
from mgdm_audio.listening_page.clips import (
    BEFORE,
    CLIP_FRAMES,
    CODECS,
    Clip,
    cut,
    encode,
    kbps_for,
)
from mgdm_audio.listening_page.confidence import Confidence
from mgdm_audio.listening_page.pictures import Portrait, spectrogram_webp
from mgdm_audio.listening_page.sounds import (
    PAGE_RATE,
    Sound,
    blocks_of,
    channels_of,
    frames_of,
)
from mgdm_core.errors import SettingsError

MAX_FILE_BYTES = 24_000_000
"""What the sound of a page in one file is fitted into."""

_HERE = Path(__file__).parent
_COLOURS = ("bass", "drums", "guitar", "piano")
_MORE_COLOURS = ("other", "fifth", "sixth")


@dataclass(frozen=True)
class PageOptions:
    """How a page is written.

    Parameters
    ----------
    folder : bool
        A folder with ``index.html`` and the sound beside it, at full quality, instead of one file.
    codec : {"opus", "mp3"}
        Opus sounds better at the size; browsers before 2025 on Apple devices play only mp3.
    theme : {"auto", "light", "dark"}
        Colours at first; the page has a switch.
    overwrite : bool
        Replace a page that exists.
    """

    folder: bool = False
    codec: str = "opus"
    theme: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise SettingsError(f"a page plays {' or '.join(CODECS)}; found {self.codec!r}")
        if self.theme not in ("auto", "light", "dark"):
            raise SettingsError(f"colours are auto, light or dark; found {self.theme!r}")


@dataclass
class _Track:
    """One lane of the page."""

    name: str
    kind: str
    sound: Sound
    colour: str
    key: str = ""
    download: str | None = None
    confidence_text: str = ""
    drawn: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name[:1].upper() + self.name[1:]

    @property
    def file(self) -> str:
        return os.path.basename(self.download) if self.download else f"{self.name}.wav"


def write_page(
    path: str | os.PathLike,
    stems: Mapping[str, Sound],
    mixture: Sound,
    rate: int,
    *,
    residual: Sound | None = None,
    title: str = "Stems",
    facts: Mapping[str, str] | None = None,
    confidence: Confidence | None = None,
    downloads: Mapping[str, str] | None = None,
    options: PageOptions | None = None,
) -> Path:
    """Write a page on which stems, residual and mixture are heard in one player.

    Opens from a disk in any browser, without a server or a network.

    Parameters
    ----------
    path : path
        The HTML file to appear; with ``options.folder`` the folder.
    stems : mapping of str to array or path
        Name to sound: ``(n,)`` or ``(channels, n)`` with full scale 1, or a sound file. Stereo
        stays; more channels are heard as their mean. Mixture and residual are given likewise.
    rate : int
        Of all sounds, in Hz.
    facts : mapping of str to str, optional
        How it was made, for a folded table.
    confidence : Confidence, optional
        Draws a strip below each stem that has a row.
    downloads : mapping of str to str, optional
        Path of a track's file, seen from the page. Tracks without one offer a wav of what the page
        plays.
    """
    options = options or PageOptions()
    if not stems:
        raise SettingsError("a page needs at least one stem; found none")
    tracks = _tracks(stems, mixture, residual, downloads or {})
    frames = frames_of(tracks[1].sound)
    seconds = frames / rate
    for track in tracks:
        row = None if confidence is None else confidence.cells(track.name, seconds)
        if confidence is not None and row is not None and track.kind == "stem":
            track.drawn["confidence"] = base64.b64encode(row.tobytes()).decode("ascii")
            mean = confidence.mean(track.name)
            said = "unknown" if mean != mean else f"{100 * mean:.0f} % on average"
            track.confidence_text = f"Confidence in {track.name}: {said}"
    page = _Page(tracks, rate, frames, title, dict(facts or {}), confidence, options)
    if options.folder:
        _write_folder(Path(path), page)
        return Path(path) / "index.html"
    with FileOutput(path, lambda part: page.write(part, page.clips()), options.overwrite) as output:
        output.commit()
    return output.path


def _tracks(
    stems: Mapping[str, Sound],
    mixture: Sound,
    residual: Sound | None,
    downloads: Mapping[str, str],
) -> list[_Track]:
    free = iter([*_MORE_COLOURS, *(c for c in _COLOURS if c not in stems)] * (1 + len(stems)))
    tracks = [_Track("mixture", "mixture", mixture, "mixture")]
    for name, sound in stems.items():
        colour = name if name in _COLOURS else next(free)
        tracks.append(_Track(name, "stem", sound, colour))
    if residual is not None:
        tracks.append(_Track("residual", "residual", residual, "residual"))
    for number, track in enumerate(tracks):
        track.key = str(number) if 1 <= number <= 9 else ""
        if track.name in downloads:
            track.download = quote(downloads[track.name])
    return tracks


@dataclass
class _Page:
    tracks: list[_Track]
    rate: int
    frames: int
    title: str
    facts: dict[str, str]
    confidence: Confidence | None
    options: PageOptions

    def __post_init__(self) -> None:
        self.length = max(1, round(self.frames * PAGE_RATE / self.rate))
        self.channels = [channels_of(t.sound) for t in self.tracks]
        self.kbps = kbps_for(
            self.options.codec,
            self.frames / self.rate,
            self.channels,
            None if self.options.folder else MAX_FILE_BYTES,
        )
        self.pictures: list[bytes] = []

    def clips(self) -> Iterator[Clip]:
        """Encode all tracks, and draw each on the way."""
        loudest = 0.0
        self.pictures = []
        for number, track in enumerate(self.tracks):
            portrait = Portrait(self.length)
            blocks = _drawn(blocks_of(track.sound, self.rate, self.frames), portrait)
            for index, samples in cut(blocks, self.length):
                yield Clip(number, index, encode(samples, self.options.codec, self.kbps))
            for _ in blocks:  # what resampling gives beyond the last clip is drawn as well
                pass
            power = portrait.power()
            # The mixture comes first: its loudest spot is the white of all spectrograms.
            loudest = loudest or float(power.max())
            track.drawn["peaks"] = base64.b64encode(portrait.peaks().tobytes()).decode("ascii")
            self.pictures.append(spectrogram_webp(power, loudest))

    def data(self) -> str:
        """What the script needs to know; JSON that cannot close its element."""
        tracks = []
        for number, (track, picture) in enumerate(zip(self.tracks, self.pictures, strict=True)):
            source = f"pictures/{number}.webp"
            if not self.options.folder:
                source = "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
            shown = {"label": track.label, "kind": track.kind, "spectrogram": source}
            tracks.append(shown | track.drawn)
        facts = {
            "rate": PAGE_RATE,
            "frames": self.length,
            "clipFrames": CLIP_FRAMES,
            "before": BEFORE,
            "codec": CODECS[self.options.codec].title,
            "tracks": tracks,
        }
        return json.dumps(facts).replace("<", "\\u003c")

    def write(self, path: Path, clips: Iterator[Clip]) -> None:
        """Write the HTML; ``clips`` are those that it holds itself."""
        loader = jinja2.FileSystemLoader(_HERE / "templates")
        environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
        )
        icons: Any = environment.get_template("icons.html").module
        seconds = self.frames / self.rate
        values = {
            "icon": icons.icon,
            "title": self.title,
            "lead": self._lead(),
            "length": _clock(seconds),
            "seconds": f"{seconds:.3f}",
            "theme": self.options.theme,
            "folder": self.options.folder,
            "tracks": self.tracks,
            "keys": min(9, len(self.tracks) - 1),
            "any_confidence": any(t.confidence_text for t in self.tracks),
            "confidence_meaning": self.confidence.meaning if self.confidence else "",
            "facts": self.facts,
            "foot": f"Sound on this page: {CODECS[self.options.codec].title}, {self.kbps} kbit/s "
            f"per channel. Player drawn with wavesurfer.js (BSD-3-Clause).",
            "clips": clips,
            "data": lambda: Markup(self.data()),
            "css": Markup((_HERE / "static" / "page.css").read_text(encoding="utf-8")),
            "js": Markup((_HERE / "static" / "player.js").read_text(encoding="utf-8")),
        }
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(environment.get_template("page.html").generate(values))

    def _lead(self) -> str:
        names = [t.name for t in self.tracks if t.kind == "stem"]
        channels = "stereo" if max(self.channels) == 2 else "mono"
        return (
            f"{', '.join(names)} · {_clock(self.frames / self.rate)} · "
            f"{self.rate / 1000:g} kHz {channels}"
        )


def _drawn(blocks: Iterator[Any], portrait: Portrait) -> Iterator[Any]:
    for block in blocks:
        portrait.add(block)
        yield block


def _write_folder(path: Path, page: _Page) -> None:
    if path.exists():
        if not page.options.overwrite:
            raise AudioError(f"{path}: exists already; allow overwriting or move it")
        if not (path / "index.html").exists() and (not path.is_dir() or any(path.iterdir())):
            raise AudioError(f"{path}: holds something other than a page; name another")
    with replacing(path, folder=True) as partial:
        for name in ("audio", "pictures"):
            (partial / name).mkdir()
        for clip in page.clips():
            file = partial / "audio" / f"{clip.track}-{clip.index}.js"
            file.write_text(f'mgdmClip({clip.track},{clip.index},"{clip.base64}")')
        for number, picture in enumerate(page.pictures):
            (partial / "pictures" / f"{number}.webp").write_bytes(picture)
        page.write(partial / "index.html", iter(()))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
