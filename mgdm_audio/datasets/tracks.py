"""What a data set is to the evaluation: named tracks, each with a mixture and reference stems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mgdm_audio.errors import DatasetError
from mgdm_audio.io import resampling
from mgdm_audio.io.reader import read
from mgdm_core.array_types import Array, Float
from mgdm_core.errors import SettingsError

SPLITS = ("train", "validation", "test", "omitted")
"""Folder names that are splits rather than tracks."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".aiff", ".aif", ".mp3", ".m4a", ".opus")

Mixture = Literal["sum", "mix"]
"""``sum``: the sum of the reference stems; ``mix``: the data set's own mixture file."""


@dataclass(frozen=True)
class TrackAudio:
    """One track, ready to be separated and scored: float32, mono; absent stems are zeros."""

    mixture: Float[Array, " samples"]
    stems: dict[str, np.ndarray]
    rate: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.mixture) / self.rate

    def stacked(self) -> Float[Array, "stems samples"]:
        """Reference stems in order, ``[stems, samples]``."""
        return np.stack(list(self.stems.values()))


@dataclass(frozen=True)
class Track(ABC):
    """A track of a data set; small and picklable, the audio is read by :meth:`load`."""

    path: Path
    split: str = ""

    @property
    def name(self) -> str:
        """Name of the track's folder."""
        return self.path.name

    @property
    def key(self) -> str:
        """``split/name``, or the name alone: unique in the data set."""
        return f"{self.split}/{self.name}" if self.split else self.name

    def files(self) -> list[Path]:
        """Every file that :meth:`load` may read."""
        found = (p for p in self.path.rglob("*") if p.suffix.lower() in (*AUDIO_SUFFIXES, ".yaml"))
        return sorted(p for p in found if p.is_file())

    @abstractmethod
    def mix_path(self) -> Path | None:
        """The track's own mixture file; None where there is none."""

    def mixed(
        self, stems: dict[str, np.ndarray], rate: int, mixture: Mixture
    ) -> Float[Array, " samples"]:
        """What is separated, as long as the stems: their sum, or the track's mixture file."""
        if mixture == "sum":
            return np.asarray(np.stack(list(stems.values())).sum(axis=0, dtype=np.float32))
        path = self.mix_path()
        if path is None:
            raise DatasetError(
                f"{self.path}: has no mix or mixture file; use the sum of the stems instead"
            )
        signal, own_rate = read_mono(path)
        return fit_length(resample(signal, own_rate, rate), len(next(iter(stems.values()))))

    @abstractmethod
    def load(self, rate: int, mixture: Mixture = "sum") -> TrackAudio:
        """Read the mixture and the reference stems, resampled to ``rate`` in Hz.

        Raises
        ------
        DatasetError
            If the track lacks what its layout promises.
        AudioReadError
            If a file is damaged.
        """


@dataclass(frozen=True)
class Dataset:
    """Tracks found in a folder.

    Attributes
    ----------
    kind : str
        ``slakh`` for raw Slakh2100, ``stems`` for folders of ``TRACK/{stem}.wav``.
    ignored : list of Path
        Folders beside the tracks that are none.
    """

    root: Path
    kind: str
    stems: tuple[str, ...]
    tracks: Sequence[Track]
    ignored: Sequence[Path] = field(default_factory=list)

    @property
    def splits(self) -> dict[str, int]:
        """Number of tracks of each split."""
        return dict(Counter(track.split for track in self.tracks))

    def select(
        self, split: str | None = None, names: Sequence[str] = (), limit: int | None = None
    ) -> Dataset:
        """Part of the data set: tracks of a split, of some names or keys, the first so many.

        Raises
        ------
        SettingsError
            If nothing is left, or a name is unknown.
        """
        tracks = list(self.tracks)
        if split is not None:
            tracks = [t for t in tracks if t.split == split]
            if not tracks:
                known = ", ".join(s or "(none)" for s in self.splits)
                raise SettingsError(
                    f"{self.root} has no tracks in split '{split}'; it has these splits: {known}"
                )
        if names:
            unknown = set(names) - {t.name for t in tracks} - {t.key for t in tracks}
            if unknown:
                raise SettingsError(
                    f"{self.root} has no track {', '.join(sorted(unknown))}; "
                    f"'mgdm-evaluate check' lists what is there"
                )
            tracks = [t for t in tracks if t.name in names or t.key in names]
        return Dataset(self.root, self.kind, self.stems, tracks[:limit], self.ignored)


def find_audio(folder: Path, name: str) -> Path | None:
    """Path of ``name`` with the first audio suffix that exists in ``folder``; None if none does."""
    for suffix in AUDIO_SUFFIXES:
        path = folder / (name + suffix)
        if path.is_file():
            return path
    return None


def read_mono(path: Path) -> tuple[Float[Array, " samples"], int]:
    """Read a file as the mean of its channels: samples ``[samples]`` and rate."""
    samples, rate = read(path)
    return (samples[0] if len(samples) == 1 else samples.mean(axis=0)), rate


def resample(
    signal: Float[Array, " samples"], rate: int, new_rate: int
) -> Float[Array, " new_samples"]:
    """Resample an array; the length is ceil(samples * new_rate / rate)."""
    if rate == new_rate:
        return signal
    x = torch.from_numpy(np.ascontiguousarray(signal, dtype=np.float32))
    return resampling.resample(x, rate, new_rate).numpy()


def fit_length(signal: Float[Array, " samples"], n: int) -> Float[Array, " n"]:
    """Cut, or pad with zeros, to ``n`` samples."""
    return signal[:n] if len(signal) >= n else np.pad(signal, (0, n - len(signal)))
