"""Write a data set in the four-stem layout: ``{split}/{track}/{stem}.wav``, mono, one rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mgdm_audio.compute.engines import InlinePool, Outcome, ProcessPool
from mgdm_audio.datasets.tracks import Dataset, Track
from mgdm_audio.errors import AudioWriteError
from mgdm_audio.io.atomic import replacing
from mgdm_core.errors import SettingsError

SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")


@dataclass(frozen=True)
class Converted:
    """One track written, or found written before (then not ``fresh``)."""

    key: str
    fresh: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertWork:
    """What a worker does with each track; see :func:`convert_dataset`."""

    out: Path
    rate: int
    subtype: str

    def start(self, device: str) -> Callable[[Track], Converted]:
        """Nothing is loaded beforehand; the device is not used."""
        del device
        return self._convert

    def _convert(self, track: Track) -> Converted:
        audio = track.load(self.rate)
        peak = max(float(np.abs(stem).max(initial=0.0)) for stem in audio.stems.values())
        subtype, notes = self.subtype, list(audio.notes)
        if subtype != "FLOAT" and peak > 1.0:
            # A class may be louder than full scale although the mix is not: clipping it, or a gain
            # of its own, would break the sum.
            subtype = "FLOAT"
            notes.append(f"written as float: a stem peaks at {peak:.2f} times full scale")
        target = self.out / track.key
        with replacing(target, folder=True) as partial:
            for name, stem in audio.stems.items():
                try:
                    soundfile.write(partial / f"{name}.wav", stem, self.rate, subtype=subtype)
                except soundfile.LibsndfileError as error:
                    raise AudioWriteError(f"{target}: cannot be written ({error})") from error
        return Converted(track.key, True, tuple(notes))


def is_converted(folder: Path, stems: tuple[str, ...], rate: int) -> bool:
    """Whether a track's folder holds every stem at the rate, all of one length."""
    try:
        found = [soundfile.info(folder / f"{name}.wav") for name in stems]
    except (soundfile.LibsndfileError, OSError):
        return False
    return len({i.frames for i in found}) == 1 and all(i.samplerate == rate for i in found)


def convert_dataset(
    dataset: Dataset,
    out: Path,
    rate: int = 22_050,
    subtype: str = "PCM_16",
    workers: int = 1,
) -> Iterator[Outcome]:
    """Write the four-stem layout, one folder after the other, each whole or not at all.

    Tracks that are there already are left alone, so the same command goes on where it was stopped.

    Parameters
    ----------
    dataset : Dataset
        What to convert; tracks without a split go into ``test``'s place, directly under ``out``.
    subtype : str
        ``PCM_16``, ``PCM_24`` or ``FLOAT``. A track whose stems exceed full scale is written as
        float, and says so.

    Raises
    ------
    SettingsError
        If the subtype or the rate is none, or the output is the data set itself.
    """
    if subtype not in SUBTYPES:
        raise SettingsError(f"the subtype must be one of {', '.join(SUBTYPES)}, found {subtype!r}")
    if not 1000 <= rate <= 768_000:
        raise SettingsError(f"the rate lies in 1000..768000 Hz; found {rate}")
    if out.resolve() == dataset.root.resolve():
        raise SettingsError(f"{out} is the data set itself; give another folder to write to")
    return _convert_all(dataset, out, rate, subtype, workers)


def _convert_all(
    dataset: Dataset, out: Path, rate: int, subtype: str, workers: int
) -> Iterator[Outcome]:
    todo = []
    for track in dataset.tracks:
        if is_converted(out / track.key, dataset.stems, rate):
            yield Outcome(track.key, Converted(track.key, False))
        else:
            todo.append((track.key, track))
    work = ConvertWork(out, rate, subtype)
    pool = InlinePool(work, "cpu")
    if workers > 1 and todo:
        pool = ProcessPool(work, ["cpu"] * min(workers, len(todo)), threads=1)
    try:
        yield from pool.run(todo)
    finally:
        pool.close()
