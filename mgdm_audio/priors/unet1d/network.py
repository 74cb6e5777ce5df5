"""The waveform network of MSDM (Mariani et al. 2023, arXiv 2302.02257), as a denoiser D(x; sigma).

A U-Net over the samples of all stems at once: the waveform is folded into channels, shortened
level by level with residual blocks modulated by the noise level, attends to itself at the lower
levels, and comes back up over skip connections. Around it stands the scaling of Karras et al.
2022 (equation 7, table 1). Weights trained with audio-diffusion-pytorch 0.0.43 fit it after a
renaming of keys (`msdm.keys`), and give the same outputs.
"""

from __future__ import annotations

import torch
from torch import nn

from mgdm_audio.priors.networks import check_noisy
from mgdm_audio.priors.unet1d.layers import (
    Attention,
    Fold,
    NoiseEmbedding,
    ResidualBlock,
    TransformerBlock,
    Unfold,
    downsampler,
    upsampler,
)
from mgdm_audio.priors.unet1d.sizes import UNet1dSizes
from mgdm_core.array_types import Float, Tensor


class _Down(nn.Module):
    """One level on the way down: shorten, residual blocks, perhaps a transformer block."""

    def __init__(self, config: UNet1dSizes, level: int, features: int) -> None:
        super().__init__()
        width_in = config.channels * config.multipliers[level]
        width = config.channels * config.multipliers[level + 1]
        self.resample = downsampler(
            width_in, width, config.factors[level], config.kernel_multiplier_downsample
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width, config.resnet_groups, features)
            for _ in range(config.num_blocks[level])
        )
        self.transformer = _transformer(config, width) if config.attentions[level] else None

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.resample(x)
        skips = []
        for block in self.blocks:
            x = block(x, embedding)
            skips.append(x)
        if self.transformer is not None:
            x = self.transformer(x)
            skips.append(x)
        return x, skips


class _Up(nn.Module):
    """One level on the way up: a residual block per skip, perhaps a transformer block, lengthen."""

    def __init__(self, config: UNet1dSizes, level: int, features: int) -> None:
        super().__init__()
        width = config.channels * config.multipliers[level + 1]
        width_out = config.channels * config.multipliers[level]
        self.skip_scale = 2**-0.5 if config.use_skip_scale else 1.0
        self.blocks = nn.ModuleList(
            ResidualBlock(2 * width, width, config.resnet_groups, features)
            for _ in range(config.num_blocks[level] + config.attentions[level])
        )
        self.transformer = _transformer(config, width) if config.attentions[level] else None
        self.resample = upsampler(
            width, width_out, config.factors[level], config.use_nearest_upsample
        )

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop() * self.skip_scale], dim=1), embedding)
        if self.transformer is not None:
            x = self.transformer(x)
        return self.resample(x)


class _Bottom(nn.Module):
    """Residual block, perhaps attention, residual block."""

    def __init__(self, config: UNet1dSizes, features: int) -> None:
        super().__init__()
        width = config.channels * config.multipliers[-1]
        self.first = ResidualBlock(width, width, config.resnet_groups, features)
        self.attention = (
            Attention(width, config.attention_heads, config.attention_features)
            if config.use_attention_bottleneck
            else None
        )
        self.last = ResidualBlock(width, width, config.resnet_groups, features)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.first(x, embedding)
        if self.attention is not None:
            # The published network adds nothing back here, unlike in its transformer blocks.
            x = self.attention(x.transpose(1, 2)).transpose(1, 2)
        return self.last(x, embedding)


def _transformer(config: UNet1dSizes, width: int) -> TransformerBlock:
    return TransformerBlock(
        width, config.attention_heads, config.attention_features, config.attention_multiplier
    )


class UNet1d(nn.Module):
    """Waveform denoiser of several stems jointly; ``UNet1dConfig(...).build()`` makes it."""

    def __init__(self, config: UNet1dSizes) -> None:
        super().__init__()
        self.config = config
        features = 4 * config.channels
        levels = range(len(config.factors))
        self.embedding = NoiseEmbedding(config.channels // 2, features)
        self.fold = nn.ModuleList(
            Fold(a, b, config.patch_factor, features) for a, b in config.patch_widths()
        )
        self.down = nn.ModuleList(_Down(config, level, features) for level in levels)
        self.bottom = _Bottom(config, features)
        self.up = nn.ModuleList(_Up(config, level, features) for level in reversed(levels))
        self.unfold = nn.ModuleList(
            Unfold(b, a, config.patch_factor, features) for a, b in reversed(config.patch_widths())
        )

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Keep the weights of convolutions and linear maps in ``dtype``, for use under autocast.

        It saves autocast their conversion at every call, and half their memory. The embedding
        of the noise level and the normalisations stay in float32.
        """
        kinds = (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)
        embedding = set(self.embedding.modules())
        for module in self.modules():
            if isinstance(module, kinds) and module not in embedding:
                module.to(dtype)

    def predict(
        self, x: Float[Tensor, "batch stems samples"], level: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Raw network F of the scaled input, without the scaling around it.

        ``samples`` is a multiple of ``config.multiple``, ``level`` is log(sigma) / 4.
        """
        with torch.autocast(x.device.type, enabled=False):
            embedding = self.embedding(level.float())
        for fold in self.fold:
            x = fold(x, embedding)
        folded, skips = x, []
        for down in self.down:
            x, kept = down(x, embedding)
            skips.append(kept)
        x = self.bottom(x, embedding)
        for up in self.up:
            x = up(x, skips.pop(), embedding)
        x = x + folded
        for unfold in self.unfold:
            x = unfold(x, embedding)
        return x

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Denoise: the estimate of E[x_0 | x_0 + sigma eps = x], each item's sigma positive.

        Stems have any length; what the network cannot fold is mirrored at its end to the next
        length that it can. The estimate is clamped to full scale unless ``config.clip`` is off.

        Raises
        ------
        ShapeError
            If the number of stems is not the network's, or ``sigma`` is not one value per item.
        """
        check_noisy(x, sigma, self.config.in_channels)
        samples = x.shape[-1]
        wide = sigma[:, None, None]
        data = self.config.sigma_data
        total = wide.square() + data**2
        padded = _mirror(x, -samples % self.config.multiple)
        inner = self.predict(padded * total.rsqrt(), sigma.log() / 4)[..., :samples]
        estimate = data**2 / total * x + wide * data * total.rsqrt() * inner.to(x.dtype)
        return self._limit(estimate)

    def _limit(self, estimate: Tensor) -> Tensor:
        if not self.config.clip:
            return estimate
        if self.config.dynamic_threshold == 0:
            return estimate.clamp(-1, 1)
        magnitude = estimate.abs().flatten(1)
        limit = magnitude.quantile(self.config.dynamic_threshold, dim=1).clamp_min(1)
        limit = limit[:, None, None]
        return estimate.clamp(-limit, limit) / limit


def _mirror(x: Tensor, padding: int) -> Tensor:
    """Lengthen at the end by mirroring, as often as it takes."""
    if not padding:
        return x
    samples = x.shape[-1]
    period = max(2 * (samples - 1), 1)
    place = torch.arange(samples + padding, device=x.device) % period
    return x[..., torch.minimum(place, period - place)]
