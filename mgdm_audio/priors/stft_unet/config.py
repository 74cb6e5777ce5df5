"""The configuration that builds the spectral denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_audio.priors.stft_unet.sizes import STFTUNetSizes


@dataclass(frozen=True)
class STFTUNetConfig(STFTUNetSizes):
    """Sizes of an `STFTUNet`, see `STFTUNetSizes`."""

    def build(self) -> STFTUNet:
        """Return the network of these sizes."""
        return STFTUNet(self)
