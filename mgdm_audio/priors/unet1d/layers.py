"""Parts of the waveform U-Net. All work on (batch, channels, length) but the attention's inside."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_core.array_types import Float, Tensor


class NoiseEmbedding(nn.Module):
    """Features of the noise level: itself, and sines and cosines of learned frequencies."""

    def __init__(self, frequencies: int, features: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.empty(frequencies))
        if not self.frequencies.is_meta:  # which keeps no values; to draw them torch imports sympy
            nn.init.normal_(self.frequencies)
        self.project = nn.Linear(2 * frequencies + 1, features)
        self.first = nn.Linear(features, features)
        self.second = nn.Linear(features, features)

    def forward(self, level: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        """Embed one number per item."""
        column = level[:, None]
        angles = column * self.frequencies * (2 * math.pi)
        h = self.project(torch.cat([column, angles.sin(), angles.cos()], dim=1))
        return F.gelu(self.second(F.gelu(self.first(F.gelu(h)))))


class ResidualBlock(nn.Module):
    """Two times group normalisation, SiLU and convolution; the second modulated by the level.

    ``features`` is the size of the embedding of the noise level.
    """

    def __init__(self, width_in: int, width_out: int, groups: int, features: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv1d(width_in, width_out, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * width_out)
        self.norm2 = nn.GroupNorm(groups, width_out)
        self.conv2 = nn.Conv1d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Conv1d(width_in, width_out, 1) if width_in != width_out else None

    def forward(
        self, x: Float[Tensor, "batch width_in n"], embedding: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch width_out n"]:
        """Apply the block."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(F.silu(embedding))[..., None].chunk(2, dim=1)
        h = self.conv2(F.silu(torch.addcmul(shift.to(h.dtype), self.norm2(h), 1 + scale)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Attention(nn.Module):
    """Attention of every position to every other, normalised before and after."""

    def __init__(self, width: int, heads: int, head_features: int) -> None:
        super().__init__()
        inner = heads * head_features
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.output_norm = nn.LayerNorm(width, bias=False)

    def forward(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n width"]:
        """Attend; positions are the second axis here."""
        h = self.norm(x)
        parts = (self.query(h), *self.key_value(h).chunk(2, dim=-1))
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output_norm(self.output(attended.transpose(1, 2).flatten(-2)))


class TransformerBlock(nn.Module):
    """Attention and a two-layer map at every position, each added to its input.

    Between its layers the map is ``multiplier`` times as wide.
    """

    def __init__(self, width: int, heads: int, head_features: int, multiplier: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_features)
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.expand = nn.Linear(width, multiplier * width, bias=False)
        self.norm2 = nn.LayerNorm(multiplier * width, bias=False)
        self.contract = nn.Linear(multiplier * width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch width n"]) -> Float[Tensor, "batch width n"]:
        """Apply both."""
        h = x.transpose(1, 2)
        h = self.attention(h) + h
        h = self.contract(self.norm2(F.gelu(self.expand(self.norm1(h))))) + h
        return h.transpose(1, 2)


class Fold(nn.Module):
    """A residual block, then every ``factor`` neighbours become channels."""

    def __init__(self, width_in: int, width_out: int, factor: int, features: int) -> None:
        super().__init__()
        self.factor = factor
        groups = min(factor, width_in)
        self.block = ResidualBlock(width_in, width_out // factor, groups, features)

    def forward(
        self, x: Float[Tensor, "batch width_in n"], embedding: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch width_out m"]:
        """Shorten by ``factor``."""
        h = self.block(x, embedding).unflatten(-1, (-1, self.factor))
        return h.transpose(-1, -2).flatten(1, 2)


class Unfold(nn.Module):
    """Every ``factor`` channels become neighbours, then a residual block."""

    def __init__(self, width_in: int, width_out: int, factor: int, features: int) -> None:
        super().__init__()
        self.factor = factor
        groups = min(factor, width_out)
        self.block = ResidualBlock(width_in // factor, width_out, groups, features)

    def forward(
        self, x: Float[Tensor, "batch width_in m"], embedding: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch width_out n"]:
        """Lengthen by ``factor``."""
        h = x.unflatten(1, (-1, self.factor)).transpose(-1, -2).flatten(-2)
        return self.block(h, embedding)


def downsampler(width_in: int, width_out: int, factor: int, multiplier: int) -> nn.Module:
    """Convolution that shortens by ``factor`` with a kernel of ``factor * multiplier + 1``."""
    kernel, padding = factor * multiplier + 1, factor * (multiplier // 2)
    return nn.Conv1d(width_in, width_out, kernel, stride=factor, padding=padding)


def upsampler(width_in: int, width_out: int, factor: int, nearest: bool) -> nn.Module:
    """Convolution that lengthens by ``factor``: transposed, or after repeating samples."""
    if factor == 1:
        return nn.Conv1d(width_in, width_out, 3, padding=1)
    if nearest:
        repeat = nn.Upsample(scale_factor=float(factor), mode="nearest")
        return nn.Sequential(repeat, nn.Conv1d(width_in, width_out, 3, padding=1))
    odd = factor % 2
    return nn.ConvTranspose1d(
        width_in, width_out, 2 * factor, factor, padding=factor // 2 + odd, output_padding=odd
    )
