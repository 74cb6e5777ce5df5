"""Find out what kind of data set a folder is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mgdm_audio.datasets.four_stem import StemFolderTrack, stem_files
from mgdm_audio.datasets.slakh import SLAKH_STEMS, SlakhTrack, stem_order
from mgdm_audio.datasets.tracks import SPLITS, Dataset
from mgdm_audio.errors import DatasetError, display_name, os_reason


def open_dataset(root: str | Path) -> Dataset:
    """Open a data set: raw Slakh2100, or folders of ``TRACK/{stem}.wav``.

    The folder may hold splits (``train``, ``validation``, ``test``, ``omitted``), tracks, or be one
    track. Only names are looked at here; ``mgdm_audio.datasets.check`` looks into the files.

    Raises
    ------
    DatasetError
        If the folder is not there, holds no track, or one whose name is no text.
    """
    root = Path(root)
    try:
        children = _folders(root)
    except OSError as error:
        raise DatasetError(
            f"{root}: cannot be opened ({os_reason(error)}); give the folder of a data set"
        ) from error
    split_folders = {s: root / s for s in SPLITS if (root / s).is_dir()}
    if split_folders:
        found = [(s, p) for s, folder in split_folders.items() for p in _folders(folder)]
        ignored = [p for p in children if p.name not in SPLITS]
    elif children and not _is_slakh(root):
        found = [(root.name if root.name in SPLITS else "", p) for p in children]
        ignored = []
    else:
        split = root.parent.name if root.parent.name in SPLITS else ""
        found, ignored = [(split, root)], []
    if any(_is_slakh(p) for _, p in found):
        named = [(s, p) for s, p in found if p.name.startswith("Track") or _is_slakh(p)]
        check_names(p for _, p in named)
        ignored += [p for s, p in found if (s, p) not in named]
        return Dataset(root, "slakh", SLAKH_STEMS, [SlakhTrack(p, s) for s, p in named], ignored)
    files = {p: stem_files(p) for _, p in found}
    check_names(path for held in files.values() for path in held.values())
    names = {name for held in files.values() for name in held}
    stems = stem_order(names - {"residual"})
    tracks = [StemFolderTrack(p, s, stems) for s, p in found if files[p]]
    if not tracks:
        raise DatasetError(
            f"{root}: holds no track; raw Slakh2100 (TrackNNNNN/metadata.yaml) or folders "
            f"TRACK/STEM.wav are understood, with or without split folders around them"
        )
    ignored += [p for _, p in found if not files[p]]
    return Dataset(root, "stems", stems, tracks, ignored)


def check_names(paths: Iterable[Path]) -> None:
    """Refuse names that are no text, by a DatasetError."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"{display_name(path)}: tables of results hold Unicode text, which this name is "
                f"not; rename it"
            ) from error


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_slakh(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file() or (folder / "stems").is_dir()
