"""A denoiser of several stems jointly, D(x; sigma), that works on their short-time spectra.

The waveform goes to a spectrum whose scale is that of noise (`SpectralTransform`), and the
network decides, per time-frequency bin, how much of what it sees belongs to which stem:

1. every stem enters by its magnitude relative to the noise, compressed as log(1 + |X| / sigma),
   and by that times the cosine and sine of its phase against the phase of the sum of the stems
   (sound that leaked from one stem into another is coherent with it, noise is not); the sum
   enters by its compressed magnitude;
2. bins are gathered into bands, narrow where partials lie close and wide above, each with its own
   linear map (`BandEncoder`), and a small two-dimensional U-Net with attention over time and over
   bands at its bottom runs over bands and frames, modulated by log sigma;
3. every bin gets, per stem, a mask between 0 and 1 on the noisy spectrum, weights on the other
   stems' spectra, and a small complex residual. The logit of the mask is biased by
   log(sigma_data^2 / sigma^2), so that an untrained network is exactly the skip connection of EDM
   (Karras et al. 2022, table 1): D(x; sigma) = sigma_data^2 / (sigma_data^2 + sigma^2) x.

The mask doubles as an estimate of the posterior variance of a clean bin, sigma^2 times the mask,
as it is for the Wiener filter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.priors.stft_unet_config import STFTUNetConfig
from mgdm_audio.priors.stft_unet_layers import (
    Attention,
    BandDecoder,
    BandEncoder,
    Blocks,
    Downsample,
    NoiseEmbedding,
    ResidualBlock,
    Upsample,
)
from mgdm_core.array_types import Complex, Float, Tensor
from mgdm_core.errors import ShapeError

__all__ = ["DenoisedSpectrum", "STFTUNet", "STFTUNetConfig"]

_TINY = 1e-8
# Power over the noise's at which a bin of a stem as loud as the noise counts as sound of its own.
# Chosen on rendered songs: 5 to 80 were tried, from 40 on nothing changes.
_CLEARLY_ABOVE = 40.0


class DenoisedSpectrum(NamedTuple):
    """Clean spectrum estimated by the network and the mask it rests on."""

    spectrum: Complex[Tensor, "batch stems bins frames"]
    mask: Float[Tensor, "batch stems bins frames"]


class STFTUNet(nn.Module):
    """Waveform denoiser of several stems on their short-time spectra.

    Parameters
    ----------
    config : STFTUNetConfig
        Sizes. ``STFTUNet(STFTUNetConfig.from_dict(d))`` rebuilds a stored network.

    Attributes
    ----------
    spectral : SpectralTransform
        The transform it works in, for samplers that share it.
    average_power : Tensor, shape (stems, bins)
        Average power spectrum of every stem in the training songs, in songs whose mixture has an
        RMS of 0.1; stored with the weights. Until it is filled, sigma_data^2 everywhere.
    """

    average_power: Tensor

    def __init__(self, config: STFTUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = STFTUNetConfig() if config is None else config
        self.spectral = SpectralTransform(config.n_fft, config.hop)
        stems, bins = config.stems, config.n_fft // 2
        self.features = 3 * stems + 1
        self.outputs_per_stem = 1 + (stems - 1 if config.cross_stem else 0) + 2
        outputs = stems * self.outputs_per_stem
        widths = config.widths
        power = torch.full((stems, bins + 1), config.sigma_data**2)
        self.register_buffer("average_power", power)

        self.embedding = NoiseEmbedding(config.embedding)
        self.encoder = BandEncoder(
            bins, config.bands, config.min_band, self.features, config.frame_patch, widths[0]
        )
        self.positions = nn.ParameterList(
            nn.Parameter(torch.zeros(width, config.bands >> level, 1))
            for level, width in enumerate(widths)
        )
        self.down_blocks = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level, width in enumerate(widths[:-1]):
            count = config.blocks[level]
            self.down_blocks.append(self._blocks(width, count))
            self.up_blocks.append(self._blocks(width, count))
            self.downs.append(Downsample(width, widths[level + 1]))
            self.ups.append(Upsample(widths[level + 1], width))
        self.bottom = nn.ModuleList()
        for _ in range(config.blocks[-1]):
            self.bottom.append(ResidualBlock(widths[-1], config.embedding))
            self.bottom.append(Attention(widths[-1], config.heads, "time"))
            self.bottom.append(Attention(widths[-1], config.heads, "bands"))
        self.bottom.append(ResidualBlock(widths[-1], config.embedding))
        self.decoder = BandDecoder(
            bins, config.bands, config.min_band, outputs, config.frame_patch, widths[0]
        )
        # Prior odds of the mask per bin, and how much a bin's own loudness counts against them.
        self.log_prior = nn.Parameter(torch.zeros(stems, bins, 1))
        self.evidence = nn.Parameter(torch.zeros(stems, 1, 1))
        # What a single bin shows decides much of its mask: it goes to the output directly, by
        # weights that depend on the noise level.
        self.bin_skip = nn.Linear(config.embedding, outputs * (self.features + 1))
        nn.init.zeros_(self.bin_skip.weight)
        nn.init.zeros_(self.bin_skip.bias)

    def _blocks(self, width: int, count: int) -> Blocks:
        return Blocks(ResidualBlock(width, self.config.embedding) for _ in range(count))

    # -- public ---------------------------------------------------------------------------------

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Denoise: the estimate of E[x_0 | x_0 + sigma eps = x].

        Parameters
        ----------
        x : Tensor, shape (batch, stems, samples)
            Noisy stems, any length from one sample.
        sigma : Tensor, shape (batch,)
            Noise deviation of every item, positive.

        Returns
        -------
        Tensor, shape (batch, stems, samples)
            Clean stems, in the dtype of ``x``.

        Raises
        ------
        ShapeError
            If the number of stems is not the network's, or ``sigma`` is not one value per item.
        """
        return self.denoise_with_mask(x, sigma)[0]

    def denoise_with_mask(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """As :meth:`forward`, and the spectral mask in [0, 1].

        The posterior variance of a clean bin is about ``sigma^2 * mask``: a bin that the network
        keeps could be wrong by as much as its noise, one that it removes by little.
        """
        if x.ndim != 3 or x.shape[1] != self.config.stems:
            raise ShapeError(
                f"this network denoises (batch, {self.config.stems}, samples); "
                f"found shape {tuple(x.shape)}"
            )
        if sigma.shape != x.shape[:1]:
            raise ShapeError(
                f"sigma must have one value per item, shape {tuple(x.shape[:1])}; "
                f"found {tuple(sigma.shape)}"
            )
        dtype = x.dtype
        denoised = self.denoise_spectrum(self.spectral.forward(x.float()), sigma.float())
        clean = self.spectral.inverse(denoised.spectrum, x.shape[-1]).to(dtype)
        return clean, denoised.mask.to(dtype)

    def denoise_spectrum(
        self,
        spectrum: Complex[Tensor, "batch stems bins frames"],
        sigma: Float[Tensor, " batch"],
    ) -> DenoisedSpectrum:
        """Denoise in the spectral domain, without the way there and back."""
        parts = torch.view_as_real(spectrum)
        real, imaginary, mask = self.denoise_parts(parts[..., 0], parts[..., 1], sigma)
        return DenoisedSpectrum(torch.complex(real, imaginary), mask)

    @torch.no_grad()
    def start_from_average(self, average_power: Float[Tensor, "stems bins"]) -> None:
        """Take the average spectra in, and let the masks of every bin start from them.

        A network that was just made is then no longer the skip of EDM but the Wiener filter of
        those spectra against white noise: training starts with what needs no training.
        """
        self.average_power.copy_(average_power)
        ratio = average_power[:, : self.config.n_fft // 2] / self.config.sigma_data**2
        # Beyond this a sigmoid passes no gradient.
        self.log_prior[:, :, 0] = ratio.clamp(1e-4, 1e4).log()
        self.evidence.fill_(1.0)

    # -- the network on real tensors, which torch.compile takes whole ------------------------------

    def denoise_parts(
        self,
        real: Float[Tensor, "batch stems bins frames"],
        imaginary: Float[Tensor, "batch stems bins frames"],
        sigma: Float[Tensor, " batch"],
    ) -> tuple[
        Float[Tensor, "batch stems bins frames"],
        Float[Tensor, "batch stems bins frames"],
        Float[Tensor, "batch stems bins frames"],
    ]:
        """Real and imaginary part of the clean spectrum, and the mask."""
        frames = real.shape[-1]
        step = self.config.frame_multiple
        padding = -frames % step
        level = sigma.reshape(-1, 1, 1, 1)
        # Above Nyquist's bin nothing is left to learn: it takes the skip of EDM.
        skip = 1 / (1 + (level / self.config.sigma_data) ** 2)
        bins = self.config.n_fft // 2
        re, im = (F.pad(part[:, :, :bins], (0, padding)) for part in (real, imaginary))
        sum_re, sum_im = re.sum(1, keepdim=True), im.sum(1, keepdim=True)
        sum_abs = (sum_re.square() + sum_im.square() + _TINY**2).sqrt()
        cos_sum, sin_sum = sum_re / sum_abs, sum_im / sum_abs

        features = self._features(re, im, cos_sum, sin_sum, sum_abs, level)
        embedding = self.embedding(sigma)
        outputs = self._outputs(features, embedding).float()
        clean_re, clean_im, mask = self._assemble(outputs, re, im, cos_sum, sin_sum, level)

        top = skip.expand(*real.shape[:2], 1, frames)
        clean_re = torch.cat([clean_re[..., :frames], top * real[:, :, bins:]], 2)
        clean_im = torch.cat([clean_im[..., :frames], top * imaginary[:, :, bins:]], 2)
        return clean_re, clean_im, torch.cat([mask[..., :frames], top], 2)

    def _features(self, re, im, cos_sum, sin_sum, sum_abs, level):
        magnitude = (re.square() + im.square() + _TINY**2).sqrt()
        compressed = torch.log1p(magnitude / level)
        ratio = compressed / magnitude
        along = (re * cos_sum + im * sin_sum) * ratio
        across = (im * cos_sum - re * sin_sum) * ratio
        total = torch.log1p(sum_abs / (level * math.sqrt(self.config.stems)))
        return torch.cat([compressed, along, across, total], 1)

    def _outputs(self, features, embedding):
        h = self.encoder(features)
        skips = []
        for level, (blocks, down) in enumerate(zip(self.down_blocks, self.downs)):
            h = h + self.positions[level]
            h = blocks(h, embedding)
            skips.append(h)
            h = down(h)
        h = h + self.positions[-1]
        for layer in self.bottom:
            h = layer(h, embedding)
        for blocks, up in zip(reversed(self.up_blocks), reversed(self.ups)):
            h = up(h) + skips.pop()
            h = blocks(h, embedding)
        outputs = self.decoder(h)
        batch, _, bins, frames = features.shape
        weights = 0.1 * self.bin_skip(embedding).reshape(batch, -1, self.features + 1)
        direct = torch.bmm(weights[..., :-1], features.reshape(batch, self.features, -1))
        direct = direct + weights[..., -1:]
        return outputs + direct.reshape(batch, -1, bins, frames)

    def _assemble(self, outputs, re, im, cos_sum, sin_sum, level):
        stems = self.config.stems
        prior = self.config.sigma_data**2
        # Wiener's odds, signal over noise. Music lies far from its average spectrum, so a bin that
        # stands well above the noise is taken at its own power instead.
        loudness = (re.square() + im.square()) / level.square()
        odds = self.log_prior.exp() * prior / level.square()
        threshold = _CLEARLY_ABOVE * (1 + 1 / odds)
        odds = odds + self.evidence.clamp_min(0) * loudness.square() / (loudness + threshold)
        mask = torch.sigmoid(outputs[:, :stems] + torch.log(odds))
        clean_re, clean_im = mask * re, mask * im
        if self.config.cross_stem:
            crossing = torch.tanh(outputs[:, 3 * stems :])
            for offset in range(1, stems):
                weight = crossing[:, (offset - 1) * stems : offset * stems]
                clean_re = clean_re + weight * re.roll(-offset, 1)
                clean_im = clean_im + weight * im.roll(-offset, 1)
        # The residual turns with the phase of the sum, so that the whole network does.
        scale = level * self.config.sigma_data / (level.square() + prior).sqrt()
        a, b = scale * outputs[:, stems : 2 * stems], scale * outputs[:, 2 * stems : 3 * stems]
        clean_re = clean_re + a * cos_sum - b * sin_sum
        clean_im = clean_im + a * sin_sum + b * cos_sum
        return clean_re, clean_im, mask
