"""The level of a recording, so that the prior hears what it was trained on.

A first pass over the file measures; the second one hands the prior a mono mixture without DC
offset whose active parts have an RMS of 0.1, and multiplies the estimates back at the end. Nothing
is scaled per window or per stem, so a fade stays a fade and stems keep their balance. Everything
but the silence rule is relative to the recording: s times the input gives s times the output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError

TARGET_RMS = 0.1
"""RMS of the active parts of a mixture in the prior's training material."""

SILENCE = 1e-4
"""Peak of near-silence: -80 dBFS. Dither of 16-bit sound (3e-5 to 6e-5) lies below, music above."""

_FRAME_SECONDS = 0.1
_AUDIBLE = 1e-6  # -60 dB below the loudest frame: pauses, whatever hiss is in them
_ACTIVE = 1e-2  # -20 dB below the loud parts
_CAP = 4.0  # +6 dB: what one click or gunshot may count for
_CANCELLED = 0.25


def is_silent(block: Float[Tensor, "*leading samples"]) -> bool:
    """Whether a block is silent or nearly so, a constant offset aside.

    Silent where the peak about each channel's mean is below -80 dB of full scale; for a window at
    the prior's level that is 60 dB below the active parts. (The evaluation's rule, norm / length <
    1.5e-5, depends on how long a window is, so it is used for the published score only.)
    """
    if block.numel() == 0:
        return True
    centred = block - block.mean(-1, keepdim=True)
    return float(centred.abs().max()) <= SILENCE


@dataclass(frozen=True)
class Level:
    """What `LevelMeter` found.

    Parameters
    ----------
    offset : Tensor of float64, shape (channels,)
        Mean of each channel; not part of any stem, so it ends in the residual.
    downmix : Tensor of float64, shape (channels,)
        Weights of the channels in the mono mixture, magnitudes summing to one.
    gain : float
        The mono mixture times this has RMS `TARGET_RMS` in its active parts.
    peak : float
        Largest magnitude about the offset.
    silent : bool
        Whether the whole recording is silent or nearly so: its stems are silence.
    """

    offset: Float[Tensor, " channels"]
    downmix: Float[Tensor, " channels"]
    gain: float
    peak: float
    silent: bool

    def to_prior(self, block: Float[Tensor, "channels samples"]) -> Float[Tensor, " samples"]:
        """Mix a block down to mono at the prior's level, without the offset.

        Parameters
        ----------
        block : Tensor, shape (channels, samples)
            Of the recording that was measured, at its own rate. Not changed.
        """
        if block.shape[0] != len(self.offset):
            raise ShapeError(
                f"the level is of {len(self.offset)} channels; found a block of {block.shape[0]}"
            )
        # In float64: the offset may be much larger than the sound.
        centred = block.to(torch.float64) - self.offset.to(block.device)[:, None]
        mono = self.downmix.to(block.device) @ centred * self.gain
        return mono.to(block.dtype)

    def from_prior(
        self, stems: Float[Tensor, "*leading samples"]
    ) -> Float[Tensor, "*leading samples"]:
        """Undo the gain."""
        return stems / self.gain


class LevelMeter:
    """Measure a recording block by block; of a frame its sums and products are kept.

    The RMS is taken over frames of 0.1 s that are active: pauses more than 60 dB below the loudest
    frame are left out, the loud parts are the 90th percentile of the rest, a frame counts if it
    lies within 20 dB of them, and for at most 6 dB above them, so that neither long pauses nor a
    single click decide. Of an hour in stereo 48 bytes a frame, some 2 MB, are held.
    """

    def __init__(self, rate: int, channels: int) -> None:
        if rate < 1 or channels < 1:
            raise SettingsError(f"rate and channels are positive; found {rate} and {channels}")
        self._channels = channels
        self._frame = max(1, round(rate * _FRAME_SECONDS))
        self._sums: list[Tensor] = []  # of frames, those of a block together
        self._moments: list[Tensor] = []
        self._held = torch.zeros(channels, 0, dtype=torch.float64)
        self._low = torch.full((channels,), torch.inf, dtype=torch.float64)
        self._high = -self._low

    def add(self, block: Float[Tensor, "channels samples"]) -> None:
        """Take the next block."""
        if block.shape[0] != self._channels:
            raise ShapeError(
                f"the meter is for {self._channels} channels; found a block of {block.shape[0]}"
            )
        if block.shape[1] == 0:
            return
        wide = block.detach().to("cpu", torch.float64)
        self._low = torch.minimum(self._low, wide.amin(1))
        self._high = torch.maximum(self._high, wide.amax(1))
        held = torch.cat([self._held, wide], 1)
        whole = held.shape[1] - held.shape[1] % self._frame
        frames = held[:, :whole].reshape(self._channels, -1, self._frame).transpose(0, 1)
        self._sums.append(frames.sum(-1))
        self._moments.append(frames @ frames.transpose(1, 2))
        self._held = held[:, whole:].clone()

    def result(self) -> Level:
        """Level of what was added so far."""
        if not self._sums:
            raise ShapeError("a level needs at least one sample; nothing was added")
        rest = self._held.shape[1]
        last = self._held[None, :, :] if rest else self._held.new_zeros(0, self._channels, 0)
        sums = torch.cat([*self._sums, last.sum(-1)])
        moments = torch.cat([*self._moments, last @ last.transpose(1, 2)])
        counts = torch.full((len(sums),), float(self._frame), dtype=torch.float64)
        counts[len(sums) - len(last) :] = rest
        offset = sums.sum(0) / counts.sum()
        peak = float(torch.maximum(self._high - offset, offset - self._low).max())
        cross = sums[:, :, None] * offset
        shift = counts[:, None, None] * offset[:, None] * offset
        centred = moments - cross - cross.transpose(1, 2) + shift
        downmix = _downmix(centred.sum(0))
        power = torch.einsum("c,tcd,d->t", downmix, centred, downmix) / counts
        rms = _active_rms(power.clamp_min(0), counts)
        # Rounding leaves a constant recording with an RMS of 1e-9 of its offset, not with zero.
        silent = peak <= SILENCE or rms <= 1e-7 * float(offset.abs().max())
        gain = TARGET_RMS / rms if rms > 0 and not silent else 1.0
        return Level(offset, downmix, gain, peak, silent)


def _downmix(covariance: Float[Tensor, "channels channels"]) -> Float[Tensor, " channels"]:
    """Average of the channels, unless they cancel: then their principal direction.

    The average of channels with nothing in common has the power of one channel over their number;
    less than a quarter of that means that channels are in opposite phase, and the prior would hear
    next to nothing.
    """
    channels = len(covariance)
    average = torch.full((channels,), 1 / channels, dtype=torch.float64)
    power = float(covariance.diagonal().mean())
    if float(average @ covariance @ average) >= _CANCELLED * power / channels or power <= 0:
        return average
    direction = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    direction = direction * torch.sign(direction[direction.abs().argmax()])
    return direction / direction.abs().sum()


def _active_rms(power: Float[Tensor, " frames"], counts: Float[Tensor, " frames"]) -> float:
    keep = power > _AUDIBLE * power.max()
    if not bool(keep.any()):
        return 0.0
    power, counts = power[keep], counts[keep]
    loud = torch.quantile(power, 0.9)
    active = power >= _ACTIVE * loud
    capped = power[active].clamp(max=_CAP * float(loud))
    return float(((capped * counts[active]).sum() / counts[active].sum()).sqrt())
