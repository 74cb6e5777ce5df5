"""Folders of ``TRACK/{stem}.wav``: the four-stem layout of MSDM, and any other choice of stems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgdm_audio.datasets.tracks import (
    AUDIO_SUFFIXES,
    Mixture,
    Track,
    TrackAudio,
    fit_length,
    read_mono,
    resample,
)
from mgdm_audio.errors import DatasetError

MIXTURE_NAMES = ("mix", "mixture")
"""Names of files that hold the mixture, not a stem."""


def stem_files(folder: Path) -> dict[str, Path]:
    """Sound files of a folder by name, without those that are named like a mixture."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES)
    return {
        p.stem: p
        for p in files
        if p.stem.lower() not in MIXTURE_NAMES and not p.name.startswith(".") and p.is_file()
    }


@dataclass(frozen=True)
class StemFolderTrack(Track):
    """One track whose reference stems are files named after them.

    Attributes
    ----------
    stem_names : tuple of str
        The data set's stems; one that this track lacks is silent.
    """

    stem_names: tuple[str, ...] = ()

    def stem_paths(self) -> dict[str, Path]:
        """Files of the track's stems, by name."""
        return stem_files(self.path)

    def mix_path(self) -> Path | None:
        """The track's own mixture file; None where there is none."""
        beside = (p for p in self.files() if p.parent == self.path and p.suffix != ".yaml")
        files = {p.stem.lower(): p for p in beside}
        return next((files[name] for name in MIXTURE_NAMES if name in files), None)

    def load(self, rate: int, mixture: Mixture = "sum") -> TrackAudio:
        """See :meth:`Track.load`."""
        files = self.stem_paths()
        read = {name: read_mono(files[name]) for name in self.stem_names if name in files}
        if not read:
            raise DatasetError(
                f"{self.path}: has none of the stems {', '.join(self.stem_names)}; nothing to score"
            )
        signals = {name: resample(x, own_rate, rate) for name, (x, own_rate) in read.items()}
        n = max(map(len, signals.values()))
        notes = [f"no {name} in this track" for name in self.stem_names if name not in signals]
        notes += [
            f"{name} is {n - len(x)} samples shorter than the longest stem: padded"
            for name, x in signals.items()
            if len(x) != n
        ]
        stems = {
            name: fit_length(signals.get(name, np.zeros(0, np.float32)), n)
            for name in self.stem_names
        }
        return TrackAudio(self.mixed(stems, rate, mixture), stems, rate, tuple(notes))
