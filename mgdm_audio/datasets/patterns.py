"""Sound files as other programs name them: ``generated_{stem}_{n}.wav`` and the like.

A pattern is a path below a folder. ``{stem}`` stands for the stem's name, ``{track}`` for the
track's, and ``{n}`` for a number: that of the track, where its name is one or ends with one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mgdm_audio.datasets.four_stem import StemFolderTrack
from mgdm_audio.datasets.slakh import stem_order
from mgdm_audio.datasets.tracks import Dataset
from mgdm_audio.errors import DatasetError
from mgdm_core.errors import SettingsError

_FIELDS = {"stem": r"[^/]+?", "track": r"[^/]+", "n": r"\d+"}


@dataclass(frozen=True)
class FilePattern:
    """Which file below a folder is which stem of which track.

    Such as ``generated_{stem}_{n}.wav`` or ``{track}/{stem}.flac``.
    """

    text: str

    def __post_init__(self) -> None:
        names = re.findall(r"\{(\w*)\}", self.text)
        unknown = sorted(set(names) - set(_FIELDS))
        if unknown or len(names) != len(set(names)):
            raise SettingsError(
                f"a file pattern has the fields {{stem}}, {{track}} and {{n}}, each at most once; "
                f"found {self.text!r}"
            )
        if ("track" in names) == ("n" in names):
            raise SettingsError(
                f"a file pattern needs either {{track}} or {{n}}; found {self.text!r}"
            )

    @property
    def has_stem(self) -> bool:
        """Whether files are told apart by stem; a mixture's pattern has none."""
        return "{stem}" in self.text

    def files(self, root: Path) -> dict[str, dict[str, Path]]:
        """Files below a folder by track (its name, or its number without leading zeros) and stem.

        Raises
        ------
        DatasetError
            If two files are the same stem of one track.
        """
        parts = re.split(r"\{(\w+)\}", self.text)
        pattern = re.compile(
            "".join(
                f"(?P<{part}>{_FIELDS[part]})" if i % 2 else re.escape(part)
                for i, part in enumerate(parts)
            )
        )
        found: dict[str, dict[str, Path]] = {}
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            match = pattern.fullmatch(path.relative_to(root).as_posix())
            if match is None:
                continue
            fields = match.groupdict()
            track = fields.get("track") or str(int(fields["n"]))
            held = found.setdefault(track, {})
            stem = fields.get("stem", "")
            if stem in held:
                raise DatasetError(f"{path} and {held[stem]} are both {stem} of {track}")
            held[stem] = path
        return found

    def of_track(self, found: Mapping[str, dict[str, Path]], name: str) -> dict[str, Path] | None:
        """A track's own among all files; None where there is none."""
        if "{track}" in self.text:
            return found.get(name)
        number = re.search(r"\d+$", name)
        return None if number is None else found.get(str(int(number[0])))


@dataclass(frozen=True)
class PatternTrack(StemFolderTrack):
    """One track whose files were found by a pattern; its folder need not exist."""

    named: tuple[tuple[str, Path], ...] = ()
    mixture_file: Path | None = None

    def files(self) -> list[Path]:
        """See :meth:`Track.files`."""
        own = [] if self.mixture_file is None else [self.mixture_file]
        return [path for _, path in self.named] + own

    def stem_paths(self) -> dict[str, Path]:
        """See :meth:`StemFolderTrack.stem_paths`."""
        return dict(self.named)

    def mix_path(self) -> Path | None:
        """See :meth:`StemFolderTrack.mix_path`."""
        return self.mixture_file


def open_patterns(
    root: str | Path, stems_pattern: str, mixture_pattern: str | None = None
) -> Dataset:
    """Open reference stems that are named by a pattern; that of mixtures has no ``{stem}``.

    Raises
    ------
    SettingsError
        For a pattern that says too little.
    DatasetError
        If no file fits.
    """
    root = Path(root)
    pattern = FilePattern(stems_pattern)
    mixed = None if mixture_pattern is None else FilePattern(mixture_pattern)
    if not pattern.has_stem or (mixed is not None and mixed.has_stem):
        raise SettingsError(
            "the pattern of the references needs {stem} and that of the mixtures must not have it; "
            f"found {stems_pattern!r} and {mixture_pattern!r}"
        )
    found = pattern.files(root)
    mixtures = {} if mixed is None else mixed.files(root)
    taken = {path for held in mixtures.values() for path in held.values()}
    tracks = []
    names = stem_order({s for held in found.values() for s, p in held.items() if p not in taken})
    for track in sorted(found, key=lambda t: (not t.isdigit(), int(t) if t.isdigit() else 0, t)):
        files = tuple((s, p) for s, p in found[track].items() if p not in taken)
        own = None if mixed is None else mixed.of_track(mixtures, track)
        mixture = None if own is None else own[""]
        if files:
            tracks.append(PatternTrack(root / track, "", names, files, mixture))
    if not tracks:
        raise DatasetError(f"{root}: has no file that fits {stems_pattern!r}")
    return Dataset(root, "stems", names, tracks)
