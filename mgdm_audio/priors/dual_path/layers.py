"""Layers of the dual-path trunk: attention along one axis with rotary positions, gated perceptron.

Values lie as (batch, bands, columns, channels), channels last, so that every map is one matrix
product over all positions: that is what a processor computes fastest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.stft_unet.layers import attend
from mgdm_core.array_types import Float, Tensor

_LONGEST_PERIOD = 10_000.0


def last_rms_norm(x: Float[Tensor, "*leading channels"]) -> Float[Tensor, "*leading channels"]:
    """Each position divided by the root mean square over its channels (the last axis)."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def rotate(x: Float[Tensor, "*leading length channels"]) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of channels turned by place.

    Channel i is paired with channel i + channels / 2.
    """
    length, channels = x.shape[-2:]
    half = channels // 2
    rates = _LONGEST_PERIOD ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class AxialAttention(nn.Module):
    """Self-attention along the last but one axis, all others by themselves."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Float[Tensor, "outer rows length channels"]) -> Tensor:
        """What every position takes from the others of its row."""
        outer, rows, length, channels = x.shape
        h = self.project(x).reshape(outer * rows, length, 3, self.heads, -1)
        q, k, v = h.permute(2, 0, 3, 1, 4)
        h = attend(rotate(q), rotate(k), v)
        return self.out(h.transpose(1, 2).reshape(outer, rows, length, channels))


class GatedPerceptron(nn.Module):
    """Two maps, one of which gates the other (SwiGLU: Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.inward = nn.Linear(channels, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Float[Tensor, "*leading channels"]) -> Tensor:
        """Transform every position by itself."""
        gate, value = self.inward(x).chunk(2, -1)
        return self.out(F.silu(gate) * value)


class DualPathLayer(nn.Module):
    """Attention over time, attention over bands, gated perceptron; the noise scales their inputs.

    Parameters
    ----------
    channels, heads, hidden : int
        Width, attention heads, width of the perceptron.
    embedding : int
        Size of the embedding of the noise.
    """

    def __init__(self, channels: int, heads: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.scales = nn.Linear(embedding, 3 * channels)
        nn.init.zeros_(self.scales.weight)
        nn.init.zeros_(self.scales.bias)
        self.time = AxialAttention(channels, heads)
        self.bands = AxialAttention(channels, heads)
        self.perceptron = GatedPerceptron(channels, hidden)
        with torch.no_grad():
            for part in (self.time, self.bands, self.perceptron):
                part.out.weight.mul_(0.1)

    def forward(
        self, x: Float[Tensor, "batch bands columns channels"], embedding: Tensor
    ) -> Float[Tensor, "batch bands columns channels"]:
        """Refine."""
        scales = 1 + self.scales(embedding)[:, None, None].unflatten(-1, (3, -1))
        time, bands, inner = scales.unbind(-2)
        x = x + self.time(last_rms_norm(x) * time)
        turned = (last_rms_norm(x) * bands).transpose(1, 2)
        x = x + self.bands(turned).transpose(1, 2)
        return x + self.perceptron(last_rms_norm(x) * inner)
