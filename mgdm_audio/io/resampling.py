"""Change of sampling rate, whole or as a stream: by soxr on the CPU, by torchaudio elsewhere.

Alignment is exact: sample j of the output lies at the time of sample j in / out of the input, with
no delay, and an input of n samples gives ceil(n out / in). Beyond its ends the signal is zero. Up
to 0.9 of the lower Nyquist frequency tones keep their level within 0.01 dB, 120 dB clean.
"""

from __future__ import annotations

import math

import numpy as np
import soxr
import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError

_QUALITY = "VHQ"


class Resampler:
    """Resample a stream from one rate to another.

    `push` blocks of any size, then `finish`: the pieces put together equal `resample` on the whole
    signal up to rounding. Holds the filter's length and a block.

    Raises
    ------
    SettingsError
        If a rate is not positive.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if rate_in < 1 or rate_out < 1:
            raise SettingsError(f"rates are positive; found {rate_in} and {rate_out} Hz")
        self._in, self._out = rate_in, rate_out
        self._stream: soxr.ResampleStream | None = None
        self._empty: Tensor | None = None  # of the blocks' kind
        self._taken = self._given = 0

    def length(self, samples: int) -> int:
        """Output samples for an input of that many."""
        return -(-samples * self._out // self._in)

    def push(self, block: Float[Tensor, "*leading samples"]) -> Float[Tensor, "*leading out"]:
        """Take the next block; return the outputs that no later input changes."""
        if self._in == self._out:
            return block
        if self._empty is None:
            self._empty = block[..., :0].clone()
        self._taken += block.shape[-1]
        return self._run(block.reshape(self._rows, block.shape[-1]).numpy().T, last=False)

    def finish(self) -> Float[Tensor, "*leading out"]:
        """Return what is left; the total is ceil(n out / in). The resampler is then used up."""
        if self._in == self._out:
            return torch.zeros(0)
        if self._empty is None:
            raise ShapeError("a resampler was finished before any block was pushed to it")
        # soxr rounds the length; zeros behind the end make enough of it.
        behind = np.zeros((math.ceil(self._in / self._out) + 1, self._rows))
        rest = self._run(behind.astype(self._empty.numpy().dtype), last=True)
        return rest[..., : max(self.length(self._taken) - self._given + rest.shape[-1], 0)]

    @property
    def _rows(self) -> int:
        assert self._empty is not None
        return math.prod(self._empty.shape[:-1])

    def _run(self, frames: np.ndarray, last: bool) -> Tensor:
        assert self._empty is not None
        if self._stream is None:
            self._stream = soxr.ResampleStream(
                self._in, self._out, self._rows, dtype=frames.dtype.name, quality=_QUALITY
            )
        out = self._stream.resample_chunk(np.ascontiguousarray(frames), last=last)
        out = out.reshape(-1, self._rows)
        self._given += len(out)
        return torch.from_numpy(np.ascontiguousarray(out.T)).reshape(
            *self._empty.shape[:-1], len(out)
        )


def resample(
    x: Float[Tensor, "*leading samples"], rate_in: int, rate_out: int
) -> Float[Tensor, "*leading out"]:
    """Resample a whole signal, float32 or float64, where it is; rates in Hz.

    The result has ceil(samples rate_out / rate_in) samples.
    """
    if rate_in == rate_out or x.shape[-1] == 0:
        return x.clone()
    if x.device.type != "cpu":
        return _resample_on_device(x, rate_in, rate_out)
    resampler = Resampler(rate_in, rate_out)
    first = resampler.push(x)
    return torch.cat([first, resampler.finish()], -1)


def _resample_on_device(x: Tensor, rate_in: int, rate_out: int) -> Tensor:
    import torchaudio  # half a second, and most runs resample on the CPU

    # Wide and steep ("kaiser best"), the length the same as soxr's here.
    return torchaudio.functional.resample(
        x,
        rate_in,
        rate_out,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
