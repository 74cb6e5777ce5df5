"""Stems on disk: streamed, whole or not at all, and never clipped without a word."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mgdm_audio.errors import AudioClipError, AudioWriteError
from mgdm_audio.io.atomic import AtomicOutput
from mgdm_audio.io.encoders import Encoder, OutputFormat, open_encoder
from mgdm_core.array_types import Array, Float
from mgdm_core.errors import SettingsError, ShapeError

_SPOOL_FRAMES = 1 << 16
# The product of a float32 peak and the gain that undoes it may be one rounding step above 1.
_FULL_SCALE = 1 + 1e-6


class StemWriter(AtomicOutput):
    """Write one stem block by block.

    float32 wav goes straight to its temporary file. Other formats lose samples beyond full scale,
    which is known only at the end: they are first spooled as float32 beside the target and
    encoded by `finish`, with the gain that the caller then decides on.

    Raises
    ------
    AudioWriteError
        Where the file cannot be created.
    AudioFormatError
        Where the container cannot hold the rate or the channels.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rate: int,
        channels: int,
        output: OutputFormat | None = None,
        overwrite: bool = False,
    ) -> None:
        self.output = output if output is not None else OutputFormat()
        self.output.check(rate, channels)
        self.rate, self.channels = rate, channels
        self.frames, self.peak = 0, 0.0
        self._encoder: Encoder | None = None
        self._spool: BinaryIO | None = None
        super().__init__(path, overwrite)
        with self._guard():
            self._first = self.temporary()
            if self.output.clips:
                self._spool = self._first.open("w+b")
            else:
                self._encoder = open_encoder(self._first, rate, channels, self.output)

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append samples.

        Raises
        ------
        AudioWriteError
            On a full disk and the like, or for NaN and infinity; nothing is left behind.
        ShapeError
            If the number of channels is another.
        """
        if block.shape[0] != self.channels:
            raise ShapeError(
                f"a stem of {self.channels} channels takes blocks (channels, frames); "
                f"found {block.shape}"
            )
        if self._closed or self.finished is not None:
            raise AudioWriteError(f"{self.label}: is complete; nothing can be added")
        if block.shape[1] == 0:
            return
        with self._guard():
            block = np.ascontiguousarray(block, dtype=np.float32)
            peak = float(np.abs(block).max())
            if not math.isfinite(peak):
                raise AudioWriteError(f"{self.label}: the stem holds NaN or infinity; not written")
            self.peak = max(self.peak, peak)
            if self._spool is not None:
                self._spool.write(np.ascontiguousarray(block.T).tobytes())
            elif self._encoder is not None:
                self._encoder.write(block)
            self.frames += block.shape[1]

    @property
    def clips(self) -> bool:
        """Whether samples would be lost at gain 1."""
        return self.output.clips and self.peak > 1

    def check_gain(self, gain: float) -> None:
        """Refuse a gain at which samples would clip.

        Raises
        ------
        AudioClipError
            With the peak and the gain at which this stem would fit.
        SettingsError
            If it is not 1 for float32, which never needs one.
        """
        if not self.output.clips and gain != 1:
            raise SettingsError(f"float32 output does not clip and takes gain 1; found {gain}")
        if self.output.clips and self.peak * gain > _FULL_SCALE:
            decibel = 20 * math.log10(self.peak * gain)
            raise AudioClipError(
                f"{self.label}: would clip, peak {decibel:+.2f} dBFS; write float32, or turn all "
                f"stems down together, this one needs a gain of {1 / self.peak:.4g}"
            )

    def _complete(self, gain: float) -> Path:
        if self._spool is None:
            if self._encoder is not None:
                self._encoder.close()
            return self._first
        path = self.temporary()
        encoder = open_encoder(path, self.rate, self.channels, self.output)
        self._encoder = encoder
        self._spool.seek(0)
        size = _SPOOL_FRAMES * 4 * self.channels
        while data := self._spool.read(size):
            block = np.frombuffer(data, np.float32).reshape(-1, self.channels).T
            encoder.write(block * np.float32(gain))
        encoder.close()
        self._spool.close()
        self._first.unlink()
        return path

    def _discard(self) -> None:
        if self._spool is not None:
            with contextlib.suppress(OSError):  # flushing to a full disk fails once more
                self._spool.close()
        if self._encoder is not None:
            self._encoder.discard()


def clipping(writers: Sequence[AtomicOutput]) -> list[StemWriter]:
    """Return the stems that would clip at gain 1."""
    return [w for w in writers if isinstance(w, StemWriter) and w.clips]


def common_gain(writers: Sequence[AtomicOutput]) -> float:
    """Largest gain, at most 1, at which none of the stems clips; they still sum to the mix."""
    return min((1 / writer.peak for writer in clipping(writers)), default=1.0)
