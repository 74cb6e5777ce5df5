"""The yardstick that needs no diffusion: a Wiener filter with each stem's average spectrum."""

from __future__ import annotations

import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Complex, Float, Tensor

__all__ = ["wiener_shares", "wiener_separate", "wiener_spectra"]


def wiener_shares(average_power: Float[Tensor, "stems bins"]) -> Float[Tensor, "stems bins"]:
    """Share of every stem in a bin, its average power over that of all; they sum to 1."""
    power = average_power.clamp_min(1e-12)
    return power / power.sum(0, keepdim=True)


def wiener_spectra(
    mixture: Complex[Tensor, "batch bins frames"], average_power: Float[Tensor, "stems bins"]
) -> Complex[Tensor, "batch stems bins frames"]:
    """Spectra of the stems out of the spectrum of the mixture."""
    return wiener_shares(average_power)[None, :, :, None] * mixture[:, None]


def wiener_separate(
    mixture: Float[Tensor, "batch samples"],
    average_power: Float[Tensor, "stems bins"],
    spectral: SpectralTransform,
) -> Float[Tensor, "batch stems samples"]:
    """Stems out of mixtures; they sum to the mixture."""
    spectra = wiener_spectra(spectral.forward(mixture), average_power)
    with torch.no_grad():
        return spectral.inverse(spectra, mixture.shape[-1])
