"""What every network that denoises short-time spectra has in common.

A subclass decides bins (:meth:`SpectralNetwork.denoise_bins`); the way to the spectrum and back,
the mask of every bin and what training and sampling ask for stand here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from mgdm_audio.priors.networks import NetworkConfig, check_noisy
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Bool, Complex, Float, Int, Tensor
from mgdm_core.errors import SettingsError


class SpectralConfig(NetworkConfig):
    """Sizes of a network that works on short-time spectra.

    Attributes
    ----------
    n_fft, hop : int
        Window and step of the spectrum in samples.
    """

    n_fft: int
    hop: int


class DenoisedBins(NamedTuple):
    """Clean spectrum of some bins in two parts, and the gain of every bin on itself."""

    real: Float[Tensor, "batch stems frames bins"]
    imaginary: Float[Tensor, "batch stems frames bins"]
    mask: Float[Tensor, "batch stems frames bins"]


class DenoisedSpectrum(NamedTuple):
    """Clean spectrum estimated by the network, and the gain of every bin on itself."""

    spectrum: Complex[Tensor, "batch stems bins frames"]
    mask: Float[Tensor, "batch stems bins frames"]


@dataclass(frozen=True)
class ChannelLayout:
    """How channels lie in a network's weights, so that it can be widened.

    Parameters
    ----------
    blocks : mapping of str to int
        Layers, by a part of their tensors' names, whose outputs lie in so many blocks of equal
        size: 3 for queries, keys and values.
    axes : mapping of str to (int, int)
        Layers, by the first part of their tensors' names, whose outputs and inputs lie on other
        axes than 0 and 1.
    head : int
        Channels of an attention head, which stay together; 0 without attention.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    head: int = 0


class SpectralNetwork(nn.Module, ABC):
    """Waveform denoiser of several stems on their short-time spectra.

    Attributes
    ----------
    spectral : SpectralTransform
        The transform it works in, for samplers that share it.
    average_power : Tensor, shape (stems, bins)
        Average power spectrum of every stem in the training songs, in songs whose mixture has an
        RMS of 0.1; stored with the weights. Until it is filled, sigma_data^2 everywhere.
    """

    average_power: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.spectral = SpectralTransform(config.n_fft, config.hop)
        power = torch.full((config.stems, self.spectral.bins), config.sigma_data**2)
        self.register_buffer("average_power", power)

    # -- what a network is ----------------------------------------------------------------------

    @abstractmethod
    def denoise_bins(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        chosen: Int[Tensor, " chosen"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> DenoisedBins:
        """Denoise some bins below Nyquist's, which is enough for training.

        Parameters
        ----------
        real, imaginary : Tensor, shape (batch, stems, frames, n_fft / 2 + 1)
            Noisy spectrum; frames before bins.
        chosen : Tensor of int, shape (chosen,)
            Bins to decide, each below n_fft / 2.
        absent : Tensor of bool, shape (batch, stems), optional
            Stems that are known to be silent: what the spectrum holds of them says nothing, and
            they get nothing. At least one stem of every item is not.
        """

    @torch.no_grad()
    def start_from_average(self, average_power: Float[Tensor, "stems bins"]) -> None:
        """Take the average spectra of the training songs in, before the first step."""
        self.average_power.copy_(average_power)

    @property
    def channel_layout(self) -> ChannelLayout:
        """How its channels lie, for widening."""
        return ChannelLayout()

    # -- what follows ---------------------------------------------------------------------------

    def denoise_parts(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> DenoisedBins:
        """Denoise all bins; frames before bins. Nyquist's takes the skip of EDM."""
        bins = torch.arange(self.config.n_fft // 2, device=real.device)
        below = self.denoise_bins(real, imaginary, sigma, bins, absent)
        return self.with_nyquist(below, real, imaginary, sigma)

    def with_nyquist(
        self,
        below: DenoisedBins,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
    ) -> DenoisedBins:
        """Add Nyquist's bin, where nothing is left to learn, by the skip of EDM.

        Karras et al. 2022, table 1: sigma_data^2 / (sigma_data^2 + sigma^2).
        """
        bins = self.config.n_fft // 2
        top = 1 / (1 + (sigma.reshape(-1, 1, 1, 1) / self.config.sigma_data) ** 2)
        top = top.expand(*real.shape[:3], 1)
        return DenoisedBins(
            torch.cat([below.real, top * real[..., bins:]], 3),
            torch.cat([below.imaginary, top * imaginary[..., bins:]], 3),
            torch.cat([below.mask, top], 3),
        )

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Denoise: the estimate of E[x_0 | x_0 + sigma eps = x], in the dtype of ``x``.

        Stems have any length from one sample; every item's noise deviation is positive.

        Raises
        ------
        ShapeError
            If the number of stems is not the network's, or ``sigma`` is not one value per item.
        """
        return self.denoise_with_mask(x, sigma)[0]

    def denoise_with_mask(
        self,
        x: Float[Tensor, "batch stems samples"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """As :meth:`forward`, and the gain in [0, 1] of every bin on itself.

        The posterior variance of a clean bin is about ``sigma^2 * mask``: a bin that the network
        keeps could be wrong by as much as its noise, one that it removes by little. Stems that are
        ``absent`` are known to be silent, and silence is their estimate.
        """
        check_noisy(x, sigma, self.config.stems)
        dtype = x.dtype
        spectrum = self.spectral.forward(x.float())
        denoised = self.denoise_spectrum(spectrum, sigma.float(), absent)
        clean = self.spectral.inverse(denoised.spectrum, x.shape[-1]).to(dtype)
        return clean, denoised.mask.to(dtype)

    def denoise_spectrum(
        self,
        spectrum: Complex[Tensor, "batch stems bins frames"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> DenoisedSpectrum:
        """Denoise in the spectral domain, without the way there and back."""
        # A spectrum comes with its bins side by side in memory, and stays so.
        parts = torch.view_as_real(spectrum.transpose(2, 3))
        real, imaginary, mask = self.denoise_parts(
            parts[..., 0].contiguous(), parts[..., 1].contiguous(), sigma, absent
        )
        clean = torch.complex(real, imaginary).transpose(2, 3)
        mask = mask.transpose(2, 3)
        if absent is not None:  # Nyquist's bin is not the network's
            silent = absent[:, :, None, None]
            clean, mask = clean.masked_fill(silent, 0), mask.masked_fill(silent, 0)
        return DenoisedSpectrum(clean, mask)


def build_spectral(config: NetworkConfig) -> SpectralNetwork:
    """Build a network that works on spectra, which is what can be trained.

    Raises
    ------
    SettingsError
        If the configuration builds another kind of network.
    """
    network = config.build()
    if not isinstance(network, SpectralNetwork):
        raise SettingsError(
            f"{type(network).__name__} does not work on spectra; a network that is to be trained "
            f"is a mgdm_audio.priors.spectral_network.SpectralNetwork"
        )
    return network
