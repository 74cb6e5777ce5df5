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

from mgdm_audio.priors.stft_unet.bin_features import TREND_FEATURES
from mgdm_audio.priors.stft_unet.layers import rms_norm
from mgdm_audio.priors.stft_unet.sizes import BLOCKS_PER_SUMMARY
from mgdm_core.array_types import Array, Float, Tensor

_STEPS = 24
# From here, as a share of the highest frequency: C1 at 22 050 Hz.
_LOWEST = 0.003
_HARMONICS = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0, 5.0)
_SHIFTS = tuple(round(_STEPS * math.log2(ratio)) for ratio in _HARMONICS)
# Channels of every pitch that are seen from harmonic distances.
_SEEN = 8
_LEAST_FEATURES = 8
# Size of what tokens are found by, whatever the width: a wider trunk can go on from a narrower one.
_KEY = 16
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


class PitchSummary(nn.Module):
    """What the whole excerpt says, told to every pitch at every time.

    Which instrument a note belongs to shows in the company of others of its timbre. Tokens gather
    all pitches and columns, each by weights of its own, the louder the more; every place then reads
    the tokens that resemble it (Lee et al. 2019, "Set transformer", arXiv 1810.00825, section 3.1).
    What is told starts at zero.

    Parameters
    ----------
    channels, tokens : int
        Width, and number of tokens.
    """

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.asked = nn.Conv2d(channels, tokens, 1)
        self.loudness = nn.Parameter(torch.ones(tokens, 1, 1))
        self.value = nn.Conv2d(channels, channels, 1)
        self.mixed = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, _KEY)
        self.query = nn.Conv2d(channels, _KEY, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Float[Tensor, "batch channels pitches columns"],
        level: Float[Tensor, "batch 1 pitches columns"],
    ) -> Float[Tensor, "batch channels pitches columns"]:
        """Add what is told; ``level`` is the logarithm of how loud every place is."""
        h = rms_norm(x)
        weights = (self.asked(h) + self.loudness * level).flatten(2).softmax(2)
        tokens = weights.to(h.dtype) @ self.value(h).flatten(2).mT
        tokens = tokens + F.silu(self.mixed(rms_norm(tokens.mT).mT))
        likeness = self.key(tokens) @ self.query(h).flatten(2) * _KEY**-0.5
        told = tokens.mT @ likeness.softmax(1).to(tokens.dtype)
        return x + self.out(told.reshape(x.shape))


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
    tokens : int
        Of the summary after every third block (`PitchSummary`), 0 for none.
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
        tokens: int = 0,
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
        summaries = layers // BLOCKS_PER_SUMMARY if tokens else 0
        self.summaries = nn.ModuleList(PitchSummary(channels, tokens) for _ in range(summaries))
        self.told = nn.Conv2d(channels, hidden, 1, bias=False)
        nn.init.zeros_(self.told.weight)

    def forward(
        self,
        features: Float[Tensor, "batch features frames bins"],
        embedding: Float[Tensor, "batch size"],
    ) -> Float[Tensor, "batch hidden columns pitches"]:
        """What is told, before it is spread over the bins; frames fill whole columns."""
        h = self._over_pitches(self.features(features))
        h = self.columns(h.contiguous(memory_format=torch.channels_last)) + self.place
        level = self._level(features) if self.summaries else None
        for number, layer in enumerate(self.layers, 1):
            h = layer(h, embedding)
            if level is not None and number % BLOCKS_PER_SUMMARY == 0:
                h = self.summaries[number // BLOCKS_PER_SUMMARY - 1](h, level)
        return self.told(F.silu(rms_norm(h))).transpose(2, 3).contiguous()

    def _over_pitches(
        self, x: Float[Tensor, "batch channels frames bins"]
    ) -> Float[Tensor, "batch channels pitches frames"]:
        gather = self.gather.to(x.dtype).split(_TOGETHER, 1)
        pitches = [x[..., a:b] @ part[a:b] for (a, b), part in zip(self.read, gather)]
        return torch.cat(pitches, 3).transpose(2, 3)

    def _level(
        self, features: Float[Tensor, "batch features frames bins"]
    ) -> Float[Tensor, "batch 1 pitches columns"]:
        """Loudness of the sum, which is the first of its trends; these are the last features."""
        first = features.shape[1] - TREND_FEATURES
        level = self._over_pitches(features[:, first : first + 1])
        return F.avg_pool2d(level, self.columns.stride)

    def power(
        self, power: Float[Tensor, "batch stems frames bins"]
    ) -> Float[Tensor, "batch stems columns pitches"]:
        """Power around every pitch, averaged over columns; frames fill whole columns."""
        return F.avg_pool2d(self._over_pitches(power), self.columns.stride).transpose(2, 3)

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
