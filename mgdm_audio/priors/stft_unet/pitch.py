"""A trunk over pitch: what a bin is told by its harmonics, wherever on the scale they lie.

Bands blur the partials of a note into each other. On a logarithmic axis of frequency a note that
is played higher is the same picture shifted, and its partials lie at distances that do not depend
on its pitch, so convolutions over that axis, with what lies at harmonic distances beside what lies
near, learn a timbre once for all pitches (as the harmonic constant-Q transform does: Bittner et al.
2017, "Deep salience representations for f0 estimation in polyphonic music").
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.stft_unet.layers import rms_norm
from mgdm_core.array_types import Array, Float, Tensor

__all__ = ["PitchBlock", "PitchTrunk", "pitch_places"]

_STEPS = 24
# From here, as a share of the highest frequency: C1 at 22 050 Hz.
_LOWEST = 0.003
_HARMONICS = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0, 5.0)
_SHIFTS = tuple(round(_STEPS * math.log2(ratio)) for ratio in _HARMONICS)
# Channels of every pitch that are seen from harmonic distances.
_SEEN = 8
_LEAST_FEATURES = 8
# Pitches that are gathered by one matrix: those of two octaves read a fraction of the bins.
_TOGETHER = 48


def pitch_places(bins: int) -> Float[Array, " pitches"]:
    """Where pitches lie on the axis of bins: 24 to the octave, eight octaves and a third.

    Parameters
    ----------
    bins : int
        Bins below Nyquist's.
    """
    first = max(0.5, _LOWEST * bins)
    count = 1 + math.floor(_STEPS * math.log2((bins - 1) / first))
    return first * 2 ** (np.arange(count) / _STEPS)


class PitchBlock(nn.Module):
    """A convolution over pitch and time beside a map of what lies at harmonic distances.

    Parameters
    ----------
    channels, embedding : int
        Width, and size of the embedding of the noise.
    dilation : int
        Columns between the taps of the first convolution.
    """

    def __init__(self, channels: int, embedding: int, dilation: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.first = nn.Conv2d(channels, channels, 3, padding=(1, dilation), dilation=(1, dilation))
        self.seen = nn.Conv2d(channels, _SEEN, 1)
        self.harmonic = nn.Conv2d(_SEEN * len(_SHIFTS), channels, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(
        self, x: Float[Tensor, "batch channels pitches columns"], embedding: Tensor
    ) -> Float[Tensor, "batch channels pitches columns"]:
        """Refine."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = F.silu(rms_norm(x) * (1 + scale) + shift)
        far = max(map(abs, _SHIFTS))
        seen = F.pad(self.seen(h), (0, 0, far, far))
        pitches = x.shape[2]
        around = torch.cat([seen.narrow(2, far + shift, pitches) for shift in _SHIFTS], 1)
        h = self.first(h) + self.harmonic(around)
        return x + self.second(F.silu(rms_norm(h)))


class PitchTrunk(nn.Module):
    """From the features of bins and frames to what every pitch tells the bins around it.

    What it says starts at zero.

    Parameters
    ----------
    bins, features : int
        Bins, and features of each.
    patch : int
        Frames to a column.
    channels, layers, embedding : int
        Width, number of blocks, size of the embedding of the noise.
    hidden : int
        Channels of what is told.
    """

    gather: Tensor
    weights: Tensor

    def __init__(
        self,
        bins: int,
        features: int,
        patch: int,
        channels: int,
        layers: int,
        embedding: int,
        hidden: int,
    ) -> None:
        super().__init__()
        places = pitch_places(bins)
        # Triangles to the next pitch on both sides, at least to the next bin; each sums to 1.
        reach = np.maximum(1.0, places * (2 ** (1 / _STEPS) - 1))
        gather = np.maximum(0.0, 1 - np.abs(np.arange(bins)[:, None] - places) / reach)
        self.register_buffer(
            "gather", torch.tensor((gather / gather.sum(0)).tolist()), persistent=False
        )
        self.read = _bins_read(gather)
        # The way back is linear in the logarithm of the frequency.
        at = np.log(np.maximum(np.arange(bins), 0.5))
        rows = [np.interp(at, np.log(places), row) for row in np.eye(len(places))]
        self.register_buffer("weights", torch.tensor(np.stack(rows).tolist()), persistent=False)
        kept = max(_LEAST_FEATURES, channels // 4)
        self.features = nn.Conv2d(features, kept, 1)
        self.columns = nn.Conv2d(kept, channels, (3, patch), (1, patch), (1, 0))
        self.place = nn.Parameter(torch.zeros(channels, len(places), 1))
        self.layers = nn.ModuleList(
            PitchBlock(channels, embedding, 2 ** (layer % 4)) for layer in range(layers)
        )
        self.told = nn.Conv2d(channels, hidden, 1, bias=False)
        nn.init.zeros_(self.told.weight)

    def forward(
        self,
        features: Float[Tensor, "batch features frames bins"],
        embedding: Float[Tensor, "batch size"],
    ) -> Float[Tensor, "batch hidden columns pitches"]:
        """What is told, before it is spread over the bins; frames fill whole columns."""
        h = self.features(features)
        gather = self.gather.to(h.dtype).split(_TOGETHER, 1)
        pitches = [h[..., a:b] @ part[a:b] for (a, b), part in zip(self.read, gather)]
        h = torch.cat(pitches, 3).transpose(2, 3)
        h = self.columns(h.contiguous(memory_format=torch.channels_last)) + self.place
        for layer in self.layers:
            h = layer(h, embedding)
        return self.told(F.silu(rms_norm(h))).transpose(2, 3).contiguous()

    def spread(
        self, told: Float[Tensor, "batch hidden columns pitches"], chosen: Tensor
    ) -> Float[Tensor, "batch hidden columns chosen"]:
        """What is told to the chosen bins."""
        return told @ self.weights.index_select(1, chosen).to(told.dtype)


def _bins_read(gather: Float[Array, "bins pitches"]) -> tuple[tuple[int, int], ...]:
    """First bin that each part of the pitches reads, and the one after its last."""
    read = [
        np.flatnonzero(gather[:, first : first + _TOGETHER].any(1))
        for first in range(0, gather.shape[1], _TOGETHER)
    ]
    return tuple((int(bins[0]), int(bins[-1]) + 1) for bins in read)
