"""The pool of song segments that batches are drawn from, renewed as the run goes.

A batch depends on the seed, the step and the segments alone. The segments of a step are those with
numbers in a window that moves on by ``items_per_step`` per step, so nothing has to be stored to
resume: the window is known from the step, and segments that are gone are made again by number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mgdm_audio.errors import one_line
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.errors import MGDMError, SettingsError

__all__ = [
    "DataSettings",
    "SegmentPool",
    "SegmentSource",
    "SegmentsFrom",
    "ShardSource",
    "average_power",
]

# int16 with room up to 4: a song whose mixture has an RMS of 0.1 peaks well below that, and the
# rounding noise of 4e-5 lies below the lowest noise level.
INT16_SCALE = 8192.0


@dataclass(frozen=True)
class DataSettings:
    """Batches, their augmentation and the pool they are drawn from.

    Parameters
    ----------
    batch : int
        Items per step and process.
    crop : int
        Samples per item.
    window : int
        Segments in the pool.
    initial : int
        Segments that must be there before the first step.
    items_per_step : float
        New segments per step.
    remix : float
        Share of items whose stems come from four different segments.
    stem_gain_db, song_gain_db : float
        Deviations of the random gains of stems and songs, in decibels.
    equaliser_db : float
        Deviation, in decibels, of a smooth random gain over frequency for every stem.
    speed : float
        Share of songs that are played faster or slower, and so higher or lower, by up to 5 / 4.
    texture : float
        Deviation of the logarithm of a random exponent on the magnitudes of every stem.
    drop : float
        Chance that a stem is silenced.
    sparse : float
        Share of the items of which one to three of the stems that sound are kept, and made as loud
        as a whole song: an instrument is learnt where it is heard alone.
    """

    batch: int = 4
    crop: int = 65_536
    window: int = 1_536
    initial: int = 192
    items_per_step: float = 0.75
    remix: float = 0.3
    stem_gain_db: float = 2.5
    song_gain_db: float = 2.0
    equaliser_db: float = 4.0
    speed: float = 0.5
    texture: float = 0.15
    drop: float = 0.06
    sparse: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.crop < 1 or self.initial < 1 or self.window < self.initial:
            raise SettingsError("batch, crop, initial must be positive and window >= initial")
        if self.items_per_step < 0:
            raise SettingsError(f"items_per_step must not be negative; found {self.items_per_step}")
        shares = (self.remix, self.speed, self.drop, self.sparse)
        if not all(0 <= share <= 1 for share in shares) or self.drop == 1:
            raise SettingsError("remix, speed, drop and sparse are shares in [0, 1]")

    def augmented(self, share: float) -> DataSettings:
        """Return these settings with so much of their remixing, speeds, textures, equalisers."""
        names = ("remix", "equaliser_db", "speed", "texture")
        return replace(self, **{name: share * getattr(self, name) for name in names})

    def span(self, step: int) -> tuple[int, int]:
        """First segment of the window at a step, and the one after its last."""
        stop = self.initial + int(step * self.items_per_step)
        return max(0, stop - self.window), stop


class SegmentSource(Protocol):
    """Segments by number: the same number gives the same segment."""

    @property
    def name(self) -> str:
        """Where they come from, for the line that says why they do not."""
        ...

    @property
    def segment(self) -> int:
        """Samples per segment."""
        ...

    def stream(self, start: int) -> Iterator[Array]:
        """Segments start, start + 1, ..., float32 of shape (stems, segment)."""
        ...


@dataclass(frozen=True)
class SegmentsFrom:
    """The segments of a source from some number on, counted from 0."""

    source: SegmentSource
    first: int

    @property
    def name(self) -> str:
        """Where the source has them from."""
        return self.source.name

    @property
    def segment(self) -> int:
        """Samples per segment."""
        return self.source.segment

    def stream(self, start: int) -> Iterator[Array]:
        """Segments from number ``start`` on, without end."""
        return self.source.stream(self.first + start)


class ShardSource:
    """Segments packed by the ``pack`` command (int16, shape (items, stems, segment), .npy).

    They are few and carried whole; numbers beyond the last begin again with the first.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"the shards in {folder}"
        files = sorted(Path(folder).glob("*.npy"))
        if not files:
            raise MGDMError(f"no .npy shards in {folder}; make them with the pack command")
        self.shards = [np.load(f, mmap_mode="r") for f in files]
        shapes = {s.shape[1:] for s in self.shards}
        if len(shapes) != 1 or any(s.dtype != np.int16 for s in self.shards):
            raise MGDMError(f"shards in {folder} must be int16 of one shape; found {shapes}")
        self.segment = self.shards[0].shape[-1]
        self.items = [(s, i) for s in range(len(files)) for i in range(len(self.shards[s]))]

    def stream(self, start: int) -> Iterator[Array]:
        """Segments from number ``start`` on, without end."""
        number = start
        while True:
            shard, item = self.items[number % len(self.items)]
            yield self.shards[shard][item].astype(np.float32) / INT16_SCALE
            number += 1


class SegmentPool:
    """The window of segments as int16 in a ring on disk, filled ahead by a thread.

    Parameters
    ----------
    source : SegmentSource
        Where segments come from.
    settings : DataSettings
        Size of the window.
    folder : Path
        Place of the ring. What lies there from an interrupted run is used again if ``identity``
        is the same.
    identity : str
        Text that names the source: a ring of another source is discarded.
    stems : int
        Stems per segment.
    """

    def __init__(
        self,
        source: SegmentSource,
        settings: DataSettings,
        folder: Path,
        identity: str = "",
        stems: int = 4,
    ) -> None:
        self.source = source
        self.ahead = max(8, settings.window // 16)
        self.slots = settings.window + self.ahead
        folder.mkdir(parents=True, exist_ok=True)
        shape = (self.slots, stems, source.segment)
        self._label = folder / "pool.txt"
        ring, numbers = folder / "pool.npy", folder / "pool_numbers.npy"
        label = f"{identity} {shape}"
        known = self._label.read_text() if self._label.exists() else ""
        mode = "r+" if known == label and ring.exists() and numbers.exists() else "w+"
        if mode == "r+":
            self.ring = np.lib.format.open_memmap(ring, mode="r+")
            self.numbers = np.lib.format.open_memmap(numbers, mode="r+")
        else:
            self.ring = np.lib.format.open_memmap(ring, "w+", np.int16, shape)
            self.numbers = np.lib.format.open_memmap(numbers, "w+", np.int64, (self.slots,))
            self.numbers[:] = -1
            self._label.write_text(label)
        self._start = 0
        self._stop = 0
        self._closing = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def need(self, start: int, stop: int) -> None:
        """Wait until segments start..stop-1 are there, and let the thread go on behind them."""
        with self._changed:
            self._start, self._stop = start, stop
            if self._thread is None:
                self._thread = threading.Thread(target=self._fill, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            while not (self._error or self._closing or self._complete(start, stop)):
                self._changed.wait(1.0)
            if self._error is not None:
                reason = one_line(self._error)
                raise MGDMError(f"no segments from {self.source.name}: {reason}") from self._error

    def get(self, number: int) -> Array:
        """Segment as float32; it must be in the window asked for last."""
        slot = number % self.slots
        if self.numbers[slot] != number:
            raise MGDMError(f"segment {number} is not in the pool")
        return self.ring[slot].astype(np.float32) / INT16_SCALE

    def close(self) -> None:
        """Stop the thread; the ring stays on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _complete(self, start: int, stop: int) -> bool:
        return self._first_missing(start, stop) is None

    def _first_missing(self, start: int, stop: int) -> int | None:
        wanted = np.arange(start, stop)
        missing = wanted[self.numbers[wanted % self.slots] != wanted]
        return int(missing[0]) if len(missing) else None

    def _fill(self) -> None:
        stream: Iterator[Array] | None = None
        position = -1
        try:
            while True:
                with self._changed:
                    while not self._closing:
                        number = self._first_missing(
                            self._start, min(self._stop + self.ahead, self._start + self.slots)
                        )
                        if number is not None:
                            break
                        self._changed.wait()
                    if self._closing:
                        return
                assert number is not None
                if stream is None or not position <= number <= position + 4:
                    stream, position = iter(self.source.stream(number)), number
                while position < number:
                    next(stream)
                    position += 1
                item = next(stream)
                if len(item) != self.ring.shape[1]:
                    raise MGDMError(
                        f"the network has {self.ring.shape[1]} stems, the segments {len(item)}; "
                        f"pack them anew with or without --other, or take another preset"
                    )
                position += 1
                slot = number % self.slots
                limit = np.iinfo(np.int16)
                self.numbers[slot] = -1
                self.ring[slot] = np.clip(np.rint(item * INT16_SCALE), limit.min, limit.max)
                with self._changed:
                    self.numbers[slot] = number
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()


def average_power(
    segments: Iterable[Array], spectral: SpectralTransform
) -> Float[Tensor, "stems bins"]:
    """Average power spectrum of every stem, in songs brought to a mixture RMS of 0.1.

    Silent mixtures are left out; each segment counts the same.
    """
    total: Tensor | None = None
    count = 0
    for item in segments:
        rms = float(np.sqrt(np.mean(np.square(item.sum(0), dtype=np.float64))))
        if rms < 1e-3:
            continue
        spectrum = spectral.forward(torch.from_numpy(item * np.float32(0.1 / rms)))
        power = torch.view_as_real(spectrum).square().sum(-1).mean(-1)
        total = power if total is None else total + power
        count += 1
    if total is None:
        raise MGDMError("every segment of the pool is silent: there is nothing to learn")
    return total / count
