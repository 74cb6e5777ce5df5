"""The yardstick that needs no diffusion: a Wiener filter with each stem's average spectrum."""

from __future__ import annotations

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Float, Tensor


def average_spectrum_wiener(
    mixture: Float[Tensor, "batch samples"],
    average_power: Float[Tensor, "stems bins"],
    spectral: SpectralTransform,
) -> Float[Tensor, "batch stems samples"]:
    """Share the mixture's spectrum in proportion to the stems' average power, bin by bin.

    The shares sum to one, so the stems sum to the mixture; only ratios of the powers matter.
    """
    power = average_power.to(mixture).clamp_min(1e-20)
    share = power / power.sum(0)
    spectrum = spectral.forward(mixture)
    return spectral.inverse(share[None, :, :, None] * spectrum[:, None], mixture.shape[-1])
