"""A prior that costs nothing: stems are stationary Gaussian noise of known spectra.

Its denoiser is the Wiener filter, so posteriors are known, and its mask is exact.
"""

import torch
from torch import nn

from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.priors.waveform_prior import make_prior

STEMS = ("bass", "drums", "guitar", "piano")
WINDOW = 65_536


class SpectralGaussian(nn.Module):
    """Denoises every bin of every stem by its own Wiener gain."""

    def __init__(self, power: torch.Tensor, spectral: SpectralTransform) -> None:
        super().__init__()
        self.register_buffer("average_power", power)
        self.spectral = spectral
        self.calls = 0

    def forward(self, x, sigma):
        return self.denoise_with_mask(x, sigma)[0]

    def denoise_with_mask(self, x, sigma):
        self.calls += len(x)
        spectrum = self.spectral.forward(x)
        power = self.average_power[None, :, :, None].to(x)
        gain = power / (power + sigma.reshape(-1, 1, 1, 1) ** 2)
        mask = gain.expand(*spectrum.shape)
        return self.spectral.inverse(mask * spectrum, x.shape[-1]), mask.to(x.dtype)


def band_power(spectral: SpectralTransform, stems: int = 4, rms: float = 0.05) -> torch.Tensor:
    """Each stem has most of its power in a band of its own."""
    bins = spectral.bins
    power = torch.full((stems, bins), 1e-7)
    edges = [0, 24, 80, 200, bins]
    for k in range(stems):
        power[k, edges[k] : edges[k + 1]] = rms**2 * bins / (edges[k + 1] - edges[k]) / 4
    return power


def toy_prior(window: int = WINDOW, n_fft: int = 1024, hop: int = 256, rate: int = 22_050):
    spectral = SpectralTransform(n_fft, hop)
    network = SpectralGaussian(band_power(spectral), spectral)
    return make_prior(
        network,
        stems=STEMS,
        rate=rate,
        window=window,
        levels=Levels(kind="karras", sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=1000),
        name="toy",
        checksum="0" * 64,
    )


def draw_stems(length: int, seed: int = 0) -> torch.Tensor:
    """A sample of the toy prior, shape (stems, length)."""
    spectral = SpectralTransform(1024, 256)
    g = torch.Generator().manual_seed(seed)
    white = torch.randn(4, length, generator=g)
    power = band_power(spectral)
    spectrum = spectral.forward(white) * power.sqrt()[:, :, None]
    return spectral.inverse(spectrum, length)
