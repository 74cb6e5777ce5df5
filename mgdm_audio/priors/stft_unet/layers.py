"""Layers of the spectral denoiser: bands, residual blocks, attention, embedding of the noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mgdm_core.array_types import Float, Tensor

_BAND_GROUPS = 5


def band_edges(bins: int, bands: int, min_band: int) -> list[int]:
    """Edges of bands whose width grows from ``min_band`` bins as c sinh(b min_band / c) does.

    Returns
    -------
    list of int, length bands + 1
        Strictly increasing from 0 to ``bins``.
    """
    if bands * min_band >= bins:
        return [round(bins * b / bands) for b in range(bands + 1)]
    low, high = bands * min_band / 600, 1e4 * bins
    for _ in range(200):
        c = math.sqrt(low * high)
        reach = c * math.sinh(bands * min_band / c)
        low, high = (c, high) if reach > bins else (low, c)
    c = math.sqrt(low * high)
    edges = [round(c * math.sinh(b * min_band / c)) for b in range(bands)]
    return [*edges, bins]


def rms_norm(x: Tensor) -> Tensor:
    """Each position divided by the root mean square over its channels (axis 1)."""
    scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
    return x * scale.to(x.dtype)


def band_groups(bins: int, bands: int, min_band: int) -> list[tuple[int, int]]:
    """Bands in a few groups of one width each, which follow the widths of :func:`band_edges`.

    One width per group makes a group a slice of the spectrum and its linear maps one batched
    matrix product, with nothing to gather: on a CPU that is twice as fast.

    Returns
    -------
    list of (int, int)
        Number of bands and their width in bins, from low to high. Together they cover the bins;
        only the last band may reach beyond them.
    """
    edges = band_edges(bins, bands, min_band)
    groups = min(_BAND_GROUPS, bands)
    cuts = [round(bands * g / groups) for g in range(groups + 1)]
    found: list[tuple[int, int]] = []
    covered = 0
    for first, last in itertools.pairwise(cuts[:-1]):
        count = last - first
        width = max(min_band, (edges[last] - edges[first]) // count)
        found.append((count, width))
        covered += count * width
    count = cuts[-1] - cuts[-2]
    found.append((count, max(1, -(-(bins - covered) // count))))
    return found


class _Bands(nn.Module):
    """Where the groups of bands begin and end."""

    def __init__(self, bins: int, bands: int, min_band: int) -> None:
        super().__init__()
        self.bins = bins
        self.groups: list[tuple[int, int, int]] = []
        first = 0
        for count, width in band_groups(bins, bands, min_band):
            self.groups.append((first, count, width))
            first += count * width


class BandEncoder(_Bands):
    """Features of bins and frames to channels of bands and columns, one linear map per band."""

    def __init__(
        self, bins: int, bands: int, min_band: int, features: int, patch: int, channels: int
    ) -> None:
        super().__init__(bins, bands, min_band)
        self.patch = patch
        self.weights = nn.ParameterList()
        for _, count, width in self.groups:
            fan_in = features * width * patch
            weight = torch.empty(count, fan_in, channels)
            if not weight.is_meta:  # which keeps no values; to draw them torch imports its compiler
                nn.init.normal_(weight, std=fan_in**-0.5)
            self.weights.append(nn.Parameter(weight))
        self.bias = nn.Parameter(torch.zeros(bands, 1, channels))

    def forward(
        self, x: Float[Tensor, "batch features frames bins"]
    ) -> Float[Tensor, "batch channels bands columns"]:
        """Gather bins into bands and frames into columns."""
        batch, features, frames, bins = x.shape
        columns = frames // self.patch
        gathered = []
        for weight, (first, count, width) in zip(self.weights, self.groups):
            stop = first + count * width
            part = x[..., first:stop]
            if stop > bins:
                part = F.pad(part, (0, stop - bins))
            part = part.reshape(batch, features, columns, self.patch, count, width)
            part = part.permute(4, 0, 2, 1, 3, 5).reshape(count, batch * columns, -1)
            gathered.append(torch.bmm(part, weight))
        h = torch.cat(gathered) + self.bias
        h = h.reshape(h.shape[0], batch, columns, -1)
        # Channels last in memory, which is what convolutions like.
        return h.permute(1, 0, 2, 3).contiguous().permute(0, 3, 1, 2)


class BandDecoder(_Bands):
    """Channels of bands and columns to outputs of bins and frames, one linear map per band.

    The way back of `BandEncoder`; the maps start at zero.
    """

    def __init__(
        self, bins: int, bands: int, min_band: int, outputs: int, patch: int, channels: int
    ) -> None:
        super().__init__(bins, bands, min_band)
        self.patch = patch
        self.outputs = outputs
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(count, channels, patch * outputs * width))
            for _, count, width in self.groups
        )

    def forward(
        self, x: Float[Tensor, "batch channels bands columns"]
    ) -> Float[Tensor, "batch outputs frames bins"]:
        """Spread bands over their bins and columns over their frames."""
        batch, _, _, columns = x.shape
        h = F.silu(rms_norm(x)).permute(2, 0, 3, 1).flatten(1, 2)
        spread = []
        start = 0
        for weight, (_, count, width) in zip(self.weights, self.groups):
            part = torch.bmm(h[start : start + count], weight)
            part = part.reshape(count, batch, columns, self.patch, self.outputs, width)
            part = part.permute(1, 4, 2, 3, 0, 5)
            spread.append(part.reshape(batch, self.outputs, columns * self.patch, count * width))
            start += count
        return torch.cat(spread, 3)[..., : self.bins]


class BandSpread(nn.Module):
    """Channels of bands to channels of bins, linear between the centres of the bands."""

    weights: Tensor

    def __init__(self, bins: int, bands: int, min_band: int) -> None:
        super().__init__()
        widths = [
            width for count, width in band_groups(bins, bands, min_band) for _ in range(count)
        ]
        centres = np.cumsum(widths) - 0.5 * np.array(widths) - 0.5
        # A band that is 1 where the others are 0 gives the column of its weights.
        rows = [np.interp(np.arange(bins), centres, row) for row in np.eye(bands)]
        weights = torch.tensor(np.stack(rows).tolist())
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channels columns bands"], chosen: Tensor
    ) -> Float[Tensor, "batch channels columns chosen"]:
        """Values at the chosen bins."""
        return x @ self.weights.index_select(1, chosen).to(x.dtype)


class BinNetwork(nn.Module):
    """A small perceptron, the same in every bin but for its first bias, told what the bands say.

    Parameters
    ----------
    features : int
        Features per bin.
    bins : int
        Number of bins.
    hidden : int
        Width.
    outputs : int
        Outputs per bin; they start at zero.
    context : int
        Channels per band of the network that sees the whole.
    embedding : int
        Size of the embedding of the noise, which scales and shifts the first layer.
    """

    def __init__(
        self, features: int, bins: int, hidden: int, outputs: int, context: int, embedding: int
    ) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden, bias=False)
        self.place = nn.Parameter(torch.zeros(hidden, 1, 1, bins))
        self.context = nn.Conv2d(context, hidden, 1)
        self.modulation = nn.Linear(embedding, 2 * hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs, bias=False)
        nn.init.zeros_(self.last.weight)

    def told(
        self, context: Float[Tensor, "batch channels bands columns"]
    ) -> Float[Tensor, "batch hidden columns bands"]:
        """What the bands say, before it is spread over the bins."""
        return self.context(F.silu(rms_norm(context))).transpose(2, 3).contiguous()

    def forward(
        self,
        features: Float[Tensor, "batch features frames chosen"],
        told: Float[Tensor, "batch hidden columns chosen"],
        embedding: Float[Tensor, "batch size"],
        chosen: Tensor,
    ) -> Float[Tensor, "batch outputs frames chosen"]:
        """Outputs of the chosen bins."""
        batch, _, frames, count = features.shape
        columns = told.shape[2]
        scale, shift = self.modulation(embedding)[:, :, None].chunk(2, 1)
        h = torch.baddbmm(shift, (1 + scale) * self.first.weight, features.flatten(2))
        h = h.reshape(batch, -1, columns, frames // columns, count)
        h = h + (told[:, :, :, None] + self.place.index_select(3, chosen))
        h = F.silu(h).flatten(2)
        more = torch.baddbmm(self.second.bias[:, None], self.second.weight.expand(batch, -1, -1), h)
        h = h + F.silu(more)
        out = torch.bmm(self.last.weight.expand(batch, -1, -1), h)
        return out.reshape(batch, -1, frames, count)


class NoiseEmbedding(nn.Module):
    """Fourier features of the logarithms of the level and of the noise found, two linear layers."""

    rates: Tensor

    def __init__(self, size: int, frequencies: int = 32) -> None:
        super().__init__()
        # Periods from 16 down to 1/2 in natural logarithm: smooth in sigma, yet it tells levels.
        # On the CPU, for the meta device would have torch import its compiler.
        periods = torch.logspace(math.log10(16.0), math.log10(0.5), frequencies, device="cpu")
        self.register_buffer("rates", 2 * math.pi / periods, persistent=False)
        self.first = nn.Linear(4 * frequencies, size)
        self.second = nn.Linear(size, size)

    def forward(
        self, sigma: Float[Tensor, " batch"], noise: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch size"]:
        """Embed noise deviations: the nominal one, and the one that is really there."""
        angles = torch.stack([sigma, noise], 1).log()[:, :, None] * self.rates
        waves = torch.cat([angles.cos(), angles.sin()], 2).flatten(1)
        return F.silu(self.second(F.silu(self.first(waves))))


class ResidualBlock(nn.Module):
    """Two convolutions with channel RMS norms; the noise level scales and shifts."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(
        self, x: Float[Tensor, "batch channels bands columns"], embedding: Tensor
    ) -> Float[Tensor, "batch channels bands columns"]:
        """Refine."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(F.silu(rms_norm(x) * (1 + scale) + shift))
        return x + self.second(F.silu(rms_norm(h)))


class Blocks(nn.ModuleList):
    """Residual blocks, one after the other."""

    def forward(
        self, x: Float[Tensor, "batch channels bands columns"], embedding: Tensor
    ) -> Float[Tensor, "batch channels bands columns"]:
        """Refine by every block."""
        for block in self:
            x = block(x, embedding)
        return x


def attend(
    query: Float[Tensor, "*rows length channels"],
    key: Float[Tensor, "*rows length channels"],
    value: Float[Tensor, "*rows length channels"],
) -> Float[Tensor, "*rows length channels"]:
    """Scaled dot-product attention along the last but one axis.

    Where a processor trains, the products are written out: rows are short here, and the backward
    pass of torch's fused kernel takes five to ten times as long on them in bfloat16.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value)
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    return weights.to(value.dtype) @ value


class Attention(nn.Module):
    """Self-attention along one axis, every position of the other axis by itself."""

    def __init__(self, channels: int, heads: int, axis: str) -> None:
        super().__init__()
        self.heads = heads
        self.axis = axis
        self.project = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(
        self, x: Float[Tensor, "batch channels bands columns"], embedding: Tensor
    ) -> Float[Tensor, "batch channels bands columns"]:
        """Mix along the axis; the embedding is not used (the blocks around it are modulated)."""
        order = (0, 2, 3, 1) if self.axis == "time" else (0, 3, 2, 1)
        h = rms_norm(x).permute(*order)
        outer, rows, length, channels = h.shape
        h = self.project(h).reshape(outer * rows, length, 3, self.heads, -1)
        q, k, v = h.permute(2, 0, 3, 1, 4)
        h = attend(q, k, v)
        h = self.out(h.transpose(1, 2).reshape(outer, rows, length, channels))
        return x + (h.permute(0, 3, 1, 2) if self.axis == "time" else h.permute(0, 3, 2, 1))


class Resample(nn.Module):
    """Half or twice the bands and columns, by a convolution whose steps do not overlap."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Float[Tensor, "batch channels bands columns"]) -> Tensor:
        """Down or up one level."""
        return self.conv(x)
