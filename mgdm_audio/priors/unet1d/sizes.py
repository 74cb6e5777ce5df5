"""Sizes of the waveform U-Net, as they are stored beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from mgdm_audio.priors.networks import NetworkConfig
from mgdm_core.errors import SettingsError

_LARGEST = 1 << 16


@dataclass(frozen=True)
class UNet1dSizes(NetworkConfig):
    """Sizes of a `UNet1d`; the defaults are those of the published four-stem MSDM network.

    Parameters
    ----------
    in_channels : int
        Stems denoised jointly.
    channels : int
        Width of the first level; even.
    patch_factor, patch_blocks : int
        The waveform is folded by ``patch_factor`` into channels, ``patch_blocks`` times.
    multipliers : tuple of int
        Width of each level over ``channels``; one more than ``factors``.
    factors : tuple of int
        How much each level shortens its input.
    num_blocks : tuple of int
        Residual blocks per level.
    attentions : tuple of bool
        Which levels end in a transformer block.
    attention_heads, attention_features : int
        Heads, and features per head.
    attention_multiplier : int
        Width of a transformer block's feed-forward part over its channels.
    resnet_groups : int
        Groups of every group normalisation but those of the patches.
    kernel_multiplier_downsample : int
        A level that shortens by f does so with a kernel of f times this plus 1; even.
    use_nearest_upsample : bool
        Lengthen by repetition and a convolution instead of a transposed convolution.
    use_skip_scale : bool
        Multiply skip connections by 1/sqrt(2).
    use_attention_bottleneck : bool
        Attention at the bottom.
    sigma_data : float
        Deviation of the data in the scaling of Karras et al. 2022, table 1.
    dynamic_threshold : float
        0: the estimate is clamped to -1..1. Above 0: it is clamped to, and divided by, this
        quantile of its own magnitude where that exceeds 1.
    clip : bool
        Whether any of that is done.

    Raises
    ------
    SettingsError
        If the sizes do not fit each other.
    """

    in_channels: int = 4
    channels: int = 256
    patch_factor: int = 16
    patch_blocks: int = 1
    multipliers: tuple[int, ...] = (1, 2, 4, 4, 4, 4, 4)
    factors: tuple[int, ...] = (4, 4, 4, 2, 2, 2)
    num_blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 2)
    attentions: tuple[bool, ...] = (False, False, False, True, True, True)
    attention_heads: int = 8
    attention_features: int = 128
    attention_multiplier: int = 2
    resnet_groups: int = 8
    kernel_multiplier_downsample: int = 2
    use_nearest_upsample: bool = False
    use_skip_scale: bool = True
    use_attention_bottleneck: bool = True
    sigma_data: float = 0.2
    dynamic_threshold: float = 0.0
    clip: bool = True

    def __post_init__(self) -> None:
        for key in ("multipliers", "factors", "num_blocks", "attentions"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        self._check_types(vars(self))
        levels = len(self.factors)
        lengths = (len(self.num_blocks), len(self.attentions), len(self.multipliers) - 1)
        if not 1 <= levels <= 16 or lengths != (levels,) * 3:
            raise SettingsError(
                f"factors, num_blocks and attentions have one entry per level (1 to 16 levels), "
                f"multipliers one more; found {levels}, {lengths[0]}, {lengths[1]} and "
                f"{lengths[2] + 1}"
            )
        if self.channels % 2:
            raise SettingsError(f"channels must be even; found {self.channels}")
        if self.kernel_multiplier_downsample % 2:
            raise SettingsError(
                f"kernel_multiplier_downsample must be even; "
                f"found {self.kernel_multiplier_downsample}"
            )
        if self.multipliers[0] != 1:
            raise SettingsError(f"the first multiplier is 1; found {self.multipliers[0]}")
        widths = [self.channels * m for m in self.multipliers]
        if max(widths) > _LARGEST or self.multiple > 1 << 24:
            raise SettingsError(
                f"the network is too large: widths up to {max(widths)}, shortened "
                f"{self.multiple} times in all"
            )
        if any(width % self.resnet_groups for width in widths):
            raise SettingsError(
                f"every width must be divisible by resnet_groups {self.resnet_groups}; "
                f"found {widths}"
            )
        for width_in, width_out in self.patch_widths():
            groups = min(self.patch_factor, width_in)
            inner, odd = divmod(width_out, self.patch_factor)
            if odd or not inner or width_in % groups or inner % groups:
                raise SettingsError(
                    f"patches by {self.patch_factor} do not fit {self.in_channels} stems and "
                    f"{self.channels} channels: {width_in} to {inner} channels in {groups} groups"
                )
        if not (self.sigma_data > 0 and math.isfinite(self.sigma_data)):
            raise SettingsError(f"sigma_data must be positive; found {self.sigma_data}")
        if not 0 <= self.dynamic_threshold <= 1:
            raise SettingsError(f"dynamic_threshold is within 0..1; found {self.dynamic_threshold}")

    @classmethod
    def _check_types(cls, settings: Mapping[str, Any]) -> None:
        for item in fields(cls):
            if item.name not in settings:
                continue
            value = settings[item.name]
            many = "tuple" in str(item.type)
            values = value if many and isinstance(value, tuple) else (value,)
            kind = (
                "bool" if "bool" in str(item.type) else "float" if item.type == "float" else "int"
            )
            if many != isinstance(value, tuple) or not all(_fits(kind, v) for v in values):
                what = {"bool": "true or false", "float": "a number"}
                rule = what.get(kind, f"whole numbers within 1..{_LARGEST}")
                shape = "a list of " if many else ""
                raise SettingsError(f"{item.name} must be {shape}{rule}; found {value!r:.80}")

    @property
    def stems(self) -> int:
        """Stems denoised jointly."""
        return self.in_channels

    @property
    def multiple(self) -> int:
        """Lengths are padded to a multiple of this inside the network."""
        return self.patch_factor**self.patch_blocks * math.prod(self.factors)

    def patch_widths(self) -> list[tuple[int, int]]:
        """Channels before and after each folding, from the waveform inwards."""
        widths = [self.in_channels * self.patch_factor**i for i in range(self.patch_blocks)]
        widths.append(self.channels)
        return list(pairwise(widths))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNet1dSizes:
        """Back from :meth:`to_dict`; a key that is not a setting is an error."""
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        cls._check_types(settings)  # first of all, as widths of the wrong kind cannot be checked
        return super().from_dict(settings)  # type: ignore[return-value]


def _fits(kind: str, value: Any) -> bool:
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float)
    return isinstance(value, int) and 1 <= value <= _LARGEST
