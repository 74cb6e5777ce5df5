"""The U-net of Dhariwal and Nichol (2021, arXiv 2105.05233, section 3), of any width.

Its modules bear the names that the published checkpoints use, so those load as they are. The
shipped digits prior is the same class at small width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mgdm_core.array_types import Float, Shaped, Tensor
from recipes.images.errors import PriorError

__all__ = ["UNet", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-net.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels in and out; twice as many out as in where the variance is learned.
    model_channels : int
        Width of the first level.
    channel_mult : tuple of int
        Width of each level over ``model_channels``.
    res_blocks : int
        Residual blocks per level (one more on the way up).
    attention : tuple of bool
        Which levels attend; the middle always does.
    head_channels : int
        Channels of one attention head.
    scale_shift : bool
        Time enters as a scale and a shift of the second normalisation instead of being added.
    resample_blocks : bool
        Residual blocks change the resolution; otherwise a strided and an upsampling convolution.
    norm_groups : int
        Groups of every normalisation.
    interleaved_heads : bool
        Rows of the joint query-key-value map are sorted by head first (the published order).
    """

    in_channels: int = 3
    out_channels: int = 6
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    res_blocks: int = 1
    attention: tuple[bool, ...] = (False, False, False, False, True, False)
    head_channels: int = 64
    scale_shift: bool = True
    resample_blocks: bool = True
    norm_groups: int = 32
    interleaved_heads: bool = True

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.channel_mult):
            raise PriorError(
                f"a U-net says for each of its {len(self.channel_mult)} levels whether it "
                f"attends; found {len(self.attention)} answers"
            )
        for mult in self.channel_mult:
            if mult * self.model_channels % self.norm_groups:
                raise PriorError(
                    f"widths are multiples of norm_groups = {self.norm_groups}; "
                    f"found {mult * self.model_channels}"
                )

    @property
    def stride(self) -> int:
        """Image sides are multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)


def _time_features(time: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Cosines, then sines, of the time at geometric frequencies 1 .. 1 / 10000."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    angle = time.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], 1)


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _ResBlock(nn.Module):
    """Two normalised convolutions with the time between; may halve or double the resolution."""

    def __init__(self, n_in: int, n_out: int, config: UNetConfig, resample: str = "") -> None:
        super().__init__()
        emb = 4 * config.model_channels
        self.scale_shift, self.resample = config.scale_shift, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb, 2 * n_out if config.scale_shift else n_out)
        )
        last = nn.Conv2d(n_out, n_out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        # The third entry keeps the place of the published network's dropout.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, n_out), nn.SiLU(), nn.Identity(), last
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        if self.resample == "up":
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self._resize(act(norm(x))))
        time = self.emb_layers(emb)[:, :, None, None]
        norm, act, _, conv = self.out_layers
        if self.scale_shift:
            scale, shift = time.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + time)
        return self.skip_connection(self._resize(x)) + conv(act(h))


class _Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        if channels % config.head_channels:
            raise PriorError(
                f"attention of {channels} channels does not split into heads of "
                f"{config.head_channels}; give head_channels"
            )
        self.heads = channels // config.head_channels
        self.interleaved = config.interleaved_heads
        self.norm = nn.GroupNorm(config.norm_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        flat = x.reshape(batch, channels, -1)
        qkv = self.qkv(self.norm(flat))
        if self.interleaved:
            parts = qkv.reshape(batch, self.heads, 3, channels // self.heads, -1).unbind(2)
        else:
            parts = qkv.reshape(batch, 3, self.heads, channels // self.heads, -1).unbind(1)
        q, k, v = (part.transpose(-1, -2) for part in parts)
        seen = functional.scaled_dot_product_attention(q, k, v)
        seen = seen.transpose(-1, -2).reshape(batch, channels, -1)
        return (flat + self.proj_out(seen)).reshape(x.shape)


class _Stage(nn.Sequential):
    """Modules in a row, of which the residual blocks also receive the time."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for module in self:
            x = module(x, emb) if isinstance(module, _ResBlock) else module(x)
        return x


class UNet(nn.Module):
    """Network of (x, time).

    Parameters
    ----------
    config : UNetConfig
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        now = width * config.channel_mult[0]
        stages = [_Stage(nn.Conv2d(config.in_channels, now, 3, padding=1))]
        skips = [now]
        levels = list(enumerate(config.channel_mult))
        for level, mult in levels:
            for _ in range(config.res_blocks):
                parts: list[nn.Module] = [_ResBlock(now, mult * width, config)]
                now = mult * width
                if config.attention[level]:
                    parts.append(_Attention(now, config))
                stages.append(_Stage(*parts))
                skips.append(now)
            if level != len(levels) - 1:
                down = (
                    _ResBlock(now, now, config, "down")
                    if config.resample_blocks
                    else _Downsample(now)
                )
                stages.append(_Stage(down))
                skips.append(now)
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = _Stage(
            _ResBlock(now, now, config), _Attention(now, config), _ResBlock(now, now, config)
        )
        stages = []
        for level, mult in reversed(levels):
            for k in range(config.res_blocks + 1):
                parts = [_ResBlock(now + skips.pop(), mult * width, config)]
                now = mult * width
                if config.attention[level]:
                    parts.append(_Attention(now, config))
                if level > 0 and k == config.res_blocks:
                    parts.append(
                        _ResBlock(now, now, config, "up")
                        if config.resample_blocks
                        else _Upsample(now)
                    )
                stages.append(_Stage(*parts))
        self.output_blocks = nn.ModuleList(stages)
        last = nn.Conv2d(now, config.out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.GroupNorm(config.norm_groups, now), nn.SiLU(), last)

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draw every weight anew from a generator: uniform by fan-in, zero where a block ends."""
        with torch.no_grad():
            for name, module in self.named_modules():
                ends = name.endswith(("out_layers.3", "proj_out")) or name == "out.2"
                if isinstance(module, nn.GroupNorm):
                    module.weight.fill_(1.0)
                    module.bias.zero_()
                elif isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Linear)):
                    bound = 0.0 if ends else module.weight[0].numel() ** -0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
                    if module.bias is not None:
                        module.bias.uniform_(-bound, bound, generator=generator)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], time: Shaped[Tensor, " batch"]
    ) -> Float[Tensor, "batch out height width"]:
        """Prediction for noisy images at network times, one per item."""
        stride = self.config.stride
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise PriorError(
                f"this U-net takes images whose sides are multiples of {stride}; "
                f"found {x.shape[-2]} x {x.shape[-1]}"
            )
        emb = self.time_embed(_time_features(time, self.config.model_channels).to(x.dtype))
        saved = []
        for stage in self.input_blocks:
            x = stage(x, emb)
            saved.append(x)
        x = self.middle_block(x, emb)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, saved.pop()], 1), emb)
        return self.out(x)
