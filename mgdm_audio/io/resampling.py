"""Change of sampling rate by windowed-sinc interpolation, whole or as a stream, on any device.

y[j] = sum_n x[n] h(j p / q - n) with p / q = in / out in lowest terms and
h(t) = c sinc(c t) kaiser(t c / zeros), c = rolloff min(1, out / in)
(Smith, "Digital audio resampling", https://ccrma.stanford.edu/~jos/resample/). The filter and its
constants are those of torchaudio's ``sinc_interp_kaiser`` at "kaiser best", and the outputs agree
with it; it is written again here because torchaudio's needs the whole signal at once and a kernel
of p times q numbers, gigabytes for 44 101 Hz, where this interpolates in a table of filters.

Alignment is exact: sample j of the output lies at the time of sample j in / out of the input, with
no delay, and an input of n samples gives ceil(n out / in). Beyond its ends the signal is zero.
"""

from __future__ import annotations

import functools
import math

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError

__all__ = ["ROLLOFF", "Resampler", "resample"]

ROLLOFF = 0.9475937167399596
_ZEROS = 64
_BETA = 14.769656459379492
_MAX_TABLE = 1 << 22  # numbers in a kernel that is kept; 16 MB in float32
_CHUNK = 1 << 13
_STEPS = 1 << 12  # filters between two input samples; between filters the error is below 1e-7


class Resampler:
    """Resample a stream from one rate to another.

    `push` blocks of any size, then `finish`: the pieces put together equal `resample` on the whole
    signal up to rounding. Holds the filter's length and a block.

    Parameters
    ----------
    rate_in, rate_out : int
        In Hz, positive.

    Raises
    ------
    SettingsError
        If a rate is not positive.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        if rate_in < 1 or rate_out < 1:
            raise SettingsError(f"rates are positive; found {rate_in} and {rate_out} Hz")
        common = math.gcd(rate_in, rate_out)
        self._p, self._q = rate_in // common, rate_out // common
        self._cutoff = ROLLOFF * min(1.0, self._q / self._p)
        self._half = math.ceil(_ZEROS / self._cutoff)
        self._buffer: Tensor | None = None  # starts at input sample _origin
        self._origin = -self._half
        self._taken = self._given = 0

    @property
    def context(self) -> int:
        """Input samples before and after an output's time that it depends on."""
        return 0 if self._p == self._q else self._half

    def length(self, samples: int) -> int:
        """Output samples for an input of that many."""
        return -(-samples * self._q // self._p)

    def push(self, block: Float[Tensor, "*leading samples"]) -> Float[Tensor, "*leading out"]:
        """Take the next block; return the outputs that no later input changes."""
        if self._p == self._q:
            return block
        self._append(block)
        self._taken += block.shape[-1]
        # Output j needs inputs up to floor(j p / q) + half.
        ready = -(-(self._taken - self._half) * self._q // self._p)
        return self._emit(max(ready, self._given))

    def finish(self) -> Float[Tensor, "*leading out"]:
        """Return what is left; the total is ceil(n out / in). The resampler is then used up.

        Raises
        ------
        ShapeError
            If no block was pushed.
        """
        if self._p == self._q:
            return torch.zeros(0)
        if self._buffer is None:
            raise ShapeError("a resampler was finished before any block was pushed to it")
        end = self.length(self._taken)
        behind = (end - 1) * self._p // self._q + self._half + 1 - self._taken
        if behind > 0:
            self._append(self._buffer.new_zeros((*self._buffer.shape[:-1], behind)))
        return self._emit(end)

    def _append(self, block: Tensor) -> None:
        if self._buffer is None:
            self._buffer = block.new_zeros((*block.shape[:-1], self._half))
        self._buffer = torch.cat([self._buffer, block], -1)

    def _emit(self, end: int) -> Tensor:
        assert self._buffer is not None
        if end <= self._given:
            return self._buffer[..., :0]
        out = self._interpolate(self._given, end)
        self._given = end
        first = end * self._p // self._q - self._half  # oldest input that output `end` needs
        drop = min(max(first - self._origin, 0), self._buffer.shape[-1])
        self._buffer = self._buffer[..., drop:].clone()
        self._origin += drop
        return out

    def _interpolate(self, begin: int, end: int) -> Tensor:
        """Outputs begin..end-1 from the buffer."""
        if self._q * (2 * self._half + self._p) <= _MAX_TABLE:
            return self._by_table(begin, end)
        parts = [self._by_weights(j, min(j + _CHUNK, end)) for j in range(begin, end, _CHUNK)]
        return torch.cat(parts, -1)

    def _by_table(self, begin: int, end: int) -> Tensor:
        """One strided convolution: frame m gives outputs q m .. q m + q - 1 from p m - half on."""
        buffer = self._buffer
        assert buffer is not None
        table = _table(self._p, self._q, self._cutoff, self._half, buffer.dtype, buffer.device)
        first, last = begin // self._q, (end - 1) // self._q
        start = first * self._p - self._half - self._origin
        stop = last * self._p - self._half + table.shape[-1] - self._origin
        # A frame holds up to p samples that its wanted outputs do not need; zeros stand for those
        # that are gone or yet to come.
        held = buffer[..., max(start, 0) : stop]
        held = torch.nn.functional.pad(
            held, (max(-start, 0), stop - max(start, 0) - held.shape[-1])
        )
        lead = held.shape[:-1]
        frames = torch.nn.functional.conv1d(
            held.reshape(-1, 1, held.shape[-1]), table, stride=self._p
        )
        out = frames.transpose(1, 2).reshape(*lead, -1)
        return out[..., begin - first * self._q : end - first * self._q]

    def _by_weights(self, begin: int, end: int) -> Tensor:
        buffer = self._buffer
        assert buffer is not None
        j = torch.arange(begin, end, dtype=torch.int64)
        base = torch.div(j * self._p, self._q, rounding_mode="floor")
        position = (j * self._p - base * self._q).to(torch.float64) * (_STEPS / self._q)
        step = position.floor()
        blend = (position - step).to(buffer.dtype).to(buffer.device)[:, None]
        step = step.long().to(buffer.device)
        table = _fine_table(self._cutoff, self._half, buffer.dtype, buffer.device)
        weights = torch.lerp(table[step], table[step + 1], blend)
        taps = torch.arange(-self._half, self._half + 1)
        index = (base[:, None] + taps - self._origin).to(buffer.device)
        # The filter is zero half a length away, so an index one off the buffer's end adds nothing.
        gathered = buffer[..., index.clamp(0, buffer.shape[-1] - 1)]
        return (gathered * weights).sum(-1)


def resample(
    x: Float[Tensor, "*leading samples"], rate_in: int, rate_out: int
) -> Float[Tensor, "*leading out"]:
    """Resample a whole signal.

    Parameters
    ----------
    x : Tensor, shape (..., samples)
        On any device; the result is there too, in the same dtype.
    rate_in, rate_out : int
        In Hz.

    Returns
    -------
    Tensor, shape (..., ceil(samples rate_out / rate_in))
    """
    if rate_in == rate_out:
        return x.clone()
    if x.shape[-1] == 0:
        return x.clone()
    resampler = Resampler(rate_in, rate_out)
    first = resampler.push(x)
    return torch.cat([first, resampler.finish()], -1)


def _filter(t: Float[Tensor, "..."], cutoff: float) -> Float[Tensor, "..."]:
    """The interpolation filter h(t), t in input samples, in float64."""
    u = t * cutoff
    inside = (1 - (u / _ZEROS) ** 2).clamp_min(0)
    window = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(
        torch.tensor(_BETA, dtype=torch.float64)
    )
    return cutoff * torch.sinc(u) * window * (u.abs() <= _ZEROS)


@functools.lru_cache(maxsize=16)
def _table(
    p: int, q: int, cutoff: float, half: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "q 1 taps"]:
    phase = torch.arange(q, dtype=torch.float64)[:, None] * p / q
    tap = torch.arange(2 * half + p, dtype=torch.float64) - half
    return _filter(phase - tap, cutoff)[:, None].to(device, dtype)


@functools.lru_cache(maxsize=4)
def _fine_table(
    cutoff: float, half: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "steps taps"]:
    phase = torch.arange(_STEPS + 1, dtype=torch.float64)[:, None] / _STEPS
    tap = torch.arange(-half, half + 1, dtype=torch.float64)
    return _filter(phase - tap, cutoff).to(device, dtype)
