"""A rival of the dual-path trunk, for the comparison of networks: convolutions and maps over bands.

Blocks of time-frequency convolutions and time-distributed fully connected layers (TFC-TDF: Choi
et al. 2020, arXiv 1912.02591) in place of attention; all else is the `DualPath`: both trunks read
and feed the same bin network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.dual_path.layers import last_rms_norm
from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.networks import register_network
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError

__all__ = ["TFCTDF", "TFCTDFConfig", "register"]


@dataclass(frozen=True)
class TFCTDFConfig(DualPathConfig):
    """Sizes of a `TFCTDF`; ``path_heads`` and ``path_ratio`` have no meaning here.

    Parameters
    ----------
    path_bottleneck : int
        Bands over the width of the layer between the two maps over bands.
    """

    path_width: int = 96
    path_bottleneck: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.path_bottleneck <= self.bands:
            raise SettingsError(
                f"path_bottleneck must be in 1 to {self.bands}; found {self.path_bottleneck}"
            )

    def build(self) -> nn.Module:
        """Return the network of these sizes."""
        return TFCTDF(self)


class _Layer(nn.Module):
    """Two convolutions over bands and columns, then two maps over all bands of a column."""

    def __init__(self, channels: int, bands: int, bottleneck: int, embedding: int) -> None:
        super().__init__()
        self.scales = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.scales.weight)
        nn.init.zeros_(self.scales.bias)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.inward = nn.Linear(bands, bands // bottleneck)
        self.outward = nn.Linear(bands // bottleneck, bands)
        with torch.no_grad():
            self.second.weight.mul_(0.1)
            self.outward.weight.mul_(0.1)

    def forward(
        self, x: Float[Tensor, "batch bands columns channels"], embedding: Tensor
    ) -> Float[Tensor, "batch bands columns channels"]:
        """Refine."""
        scales = 1 + self.scales(embedding)[:, None, None].unflatten(-1, (2, -1))
        near, far = scales.unbind(-2)
        h = F.silu(last_rms_norm(x) * near).permute(0, 3, 1, 2)
        h = F.silu(last_rms_norm(self.first(h).permute(0, 2, 3, 1)))
        x = x + self.second(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h = F.silu(last_rms_norm(x) * far).transpose(1, 3)
        return x + self.outward(F.silu(self.inward(h))).transpose(1, 3)


class TFCTDF(DualPath):
    """Denoiser whose second trunk is of TFC-TDF blocks.

    Parameters
    ----------
    config : TFCTDFConfig
    """

    config: TFCTDFConfig

    def _layer(self) -> nn.Module:
        c = self.config
        return _Layer(c.path_width, c.bands, c.path_bottleneck, c.embedding)


def register() -> None:
    """Make the kind known to this process, which checkpoints of the comparison name."""
    register_network("tfc_tdf", TFCTDFConfig)
