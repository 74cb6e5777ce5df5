"""A denoiser of several stems jointly, D(x; sigma), that works on their short-time spectra.

The waveform goes to a spectrum whose scale is that of noise (`SpectralTransform`), and the
network decides, per time-frequency bin, how much of what it sees belongs to which stem:

1. every stem enters by its magnitude relative to the noise, compressed as log(1 + |X| / v), where
   v is the deviation of the white noise that is really there (the median bin tells) and at most
   sigma, by that times the cosine of its phase against the phase of the sum of the stems (sound
   that leaked from one stem into another is coherent with it, noise is not), and by the share of
   the sum that it has so far; the sum enters by its compressed magnitude and by what that is
   compared with its surroundings in time and frequency (`bin_features`);
2. bins are gathered into bands, narrow where partials lie close and wide above, each with its own
   linear map (`BandEncoder`), and a small two-dimensional U-Net with attention over time and over
   bands at its bottom runs over bands and frames, modulated by log sigma and log v; what it says is
   spread over the bins again, where a perceptron shared by all bins (`BinNetwork`) joins it with
   the bin's own features, and each band adds what it says of its own bins (`BandDecoder`). With
   ``pitch_layers`` a trunk over pitch (`PitchTrunk`) beside the U-Net says something to it as well;
3. every bin gets, per stem, a mask m between 0 and 1 on the noisy spectrum, which takes noise away;
   a gate g says how much of the sum of what is left is shared out anew among the stems, by a
   softmax q:

       D_k = (1 - g) m_k X_k + g q_k sum_j m_j X_j.

   So sound that sits in the wrong stem can move to the right one, and where the gate is open the
   network is a separator of the sum. The logit of the mask is biased by the logarithm of Wiener's
   odds at noise v, that of the gate by the level, that of the shares by average spectra. A network
   that has not been started from average spectra is exactly the skip connection of EDM (Karras et
   al. 2022, table 1):
   D(x; sigma) = sigma_data^2 / (sigma_data^2 + sigma^2) x.

States of samplers with less noise than their level says, sound in wrong places instead, thus begin
as they are or as the Wiener filter of their sum, and training starts there.

The gain of a bin on itself, (1 - g + g q) m, doubles as an estimate of the posterior variance of a
clean bin over sigma^2 (Tweedie's second-order formula, the weights held fixed), as it is for the
Wiener filter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.spectral_network import ChannelLayout, DenoisedBins, SpectralNetwork
from mgdm_audio.priors.stft_unet.bin_features import (
    DETAIL_FEATURES,
    TREND_FEATURES,
    detail_features,
    stem_features,
    wide_features,
)
from mgdm_audio.priors.stft_unet.gains import Gains
from mgdm_audio.priors.stft_unet.layers import (
    Attention,
    BandDecoder,
    BandEncoder,
    BandSpread,
    BinNetwork,
    Blocks,
    NoiseEmbedding,
    Resample,
    ResidualBlock,
)
from mgdm_audio.priors.stft_unet.pitch import PitchTrunk
from mgdm_audio.priors.stft_unet.sizes import STFTUNetSizes
from mgdm_core.array_types import Bool, Float, Int, Tensor

# Noise below this is none: some 46 dB below a stem of a song of RMS 0.1.
_LEAST_NOISE = 3e-4
# Power over the noise's at which a bin of a stem as loud as the noise counts as sound of its own.
# Chosen on rendered songs: 5 to 80 were tried, from 40 on nothing changes.
_CLEARLY_ABOVE = 40.0
# Odds of the gate where the noise is as loud as a stem.
_MOVING = 0.3


class _Seen(NamedTuple):
    """What there is before any trunk has looked; ``padded`` are features in whole columns."""

    real: Tensor
    imaginary: Tensor
    features: Tensor
    padded: Tensor
    embedding: Tensor
    noise: Tensor
    level: Tensor
    absent: Tensor | None


class _State(NamedTuple):
    """What every bin is decided from: all that does not belong to one bin."""

    seen: _Seen
    trends: Tensor
    wide: Tensor
    context: Tensor
    pitches: Tensor | None
    outputs: Tensor


class STFTUNet(SpectralNetwork):
    """The denoiser that the module describes.

    Parameters
    ----------
    config : STFTUNetSizes
        Sizes; ``STFTUNetConfig(...).build()`` makes the network of them.
    """

    config: STFTUNetSizes
    started: Tensor

    def __init__(self, config: STFTUNetSizes) -> None:
        super().__init__(config)
        stems, bins = config.stems, config.n_fft // 2
        self.features = 3 * stems + TREND_FEATURES
        # Per stem a mask and, where stems exchange sound, a share; then one gate for all.
        outputs = 2 * stems + 1 if config.cross_stem else stems
        self.outputs = outputs
        widths = config.widths
        # 1 once the network knows average spectra: it then shares sound out and looks for the noise
        # that is really there.
        self.register_buffer("started", torch.zeros(()))

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
            wider = widths[level + 1]
            self.downs.append(Resample(nn.Conv2d(width, wider, 2, stride=2)))
            self.ups.append(Resample(nn.ConvTranspose2d(wider, width, 2, stride=2)))
        self.bottom = nn.ModuleList()
        for _ in range(config.blocks[-1]):
            self.bottom.append(ResidualBlock(widths[-1], config.embedding))
            self.bottom.append(Attention(widths[-1], config.heads, "time"))
            self.bottom.append(Attention(widths[-1], config.heads, "bands"))
        self.bottom.append(ResidualBlock(widths[-1], config.embedding))
        self.decoder = BandDecoder(
            bins, config.bands, config.min_band, outputs, config.frame_patch, widths[0]
        )
        self.spread = BandSpread(bins, config.bands, config.min_band)
        self.bin_network = BinNetwork(
            self.features + DETAIL_FEATURES,
            bins,
            config.hidden,
            outputs,
            widths[0],
            config.embedding,
        )
        self.pitch = None
        if config.pitch_layers:
            self.pitch = PitchTrunk(
                bins,
                self.features,
                config.frame_patch,
                config.pitch_width,
                config.pitch_layers,
                config.embedding,
                config.hidden,
                config.pitch_tokens,
            )
        # Prior odds of the mask per bin, and how much a bin's own loudness counts against them.
        self.log_prior = nn.Parameter(torch.zeros(stems, 1, bins))
        self.evidence = nn.Parameter(torch.zeros(stems, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, bins))

    def _blocks(self, width: int, count: int) -> Blocks:
        return Blocks(ResidualBlock(width, self.config.embedding) for _ in range(count))

    @property
    def channel_layout(self) -> ChannelLayout:
        """How its channels lie, for widening."""
        return ChannelLayout(
            blocks={"project": 3, "modulation": 2},
            axes={"ups": (1, 0), "encoder": (2, 1), "decoder": (2, 1)},
            head=self.config.widths[-1] // self.config.heads,
        )

    @torch.no_grad()
    def start_from_average(self, average_power: Float[Tensor, "stems bins"]) -> None:
        """Take the average spectra in, and let the masks of every bin start from them.

        A network that was just made is then no longer the skip of EDM but the Wiener filter of
        those spectra against white noise: training starts with what needs no training.
        """
        self.average_power.copy_(average_power)
        ratio = average_power[:, : self.config.n_fft // 2] / self.config.sigma_data**2
        # Beyond this a sigmoid passes no gradient.
        self.log_prior[:, 0] = ratio.clamp(1e-4, 1e4).log()
        self.evidence.fill_(1.0)
        self.started.fill_(1.0)

    # -- the network on real tensors, which torch.compile takes whole ------------------------------

    def denoise_parts(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> DenoisedBins:
        """Real and imaginary part of the clean spectrum, and the gain; frames before bins."""
        bins = self.config.n_fft // 2
        state = self._observe(real, imaginary, sigma, absent)
        # In parts, so that the bin network takes less memory at a time.
        parts = [self._decide(state, c) for c in torch.arange(bins, device=sigma.device).split(128)]
        below = DenoisedBins(*(torch.cat(part, 3) for part in zip(*parts)))
        return self.with_nyquist(below, real, imaginary, sigma)

    def denoise_bins(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        chosen: Int[Tensor, " chosen"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> DenoisedBins:
        """As :meth:`denoise_parts`, at some bins below Nyquist's only: enough for training."""
        return self._decide(self._observe(real, imaginary, sigma, absent), chosen)

    def denoise_and_tell(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        chosen: Int[Tensor, " chosen"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> tuple[DenoisedBins, Float[Tensor, "batch hidden columns pitches"] | None]:
        """As :meth:`denoise_bins`, and what the trunk over pitch tells, for a loss of its own."""
        state = self._observe(real, imaginary, sigma, absent)
        return self._decide(state, chosen), state.pitches

    def tell_pitches(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> Float[Tensor, "batch hidden columns pitches"] | None:
        """What the trunk over pitch tells; no other trunk runs."""
        seen = self._look(real, imaginary, sigma, absent)
        return None if self.pitch is None else self.pitch(seen.padded, seen.embedding)

    def _look(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> _Seen:
        level = sigma.reshape(-1, 1, 1, 1)
        noise = self._noise_level(real, imaginary, level, absent)
        if absent is not None:
            # What a state holds of a stem that is known to be silent says nothing.
            real = real.masked_fill(absent[:, :, None, None], 0)
            imaginary = imaginary.masked_fill(absent[:, :, None, None], 0)
        bins = self.config.n_fft // 2
        re, im = real[..., :bins], imaginary[..., :bins]
        features = stem_features(re, im, noise)
        padded = F.pad(features, (0, 0, 0, -real.shape[2] % self.config.frame_multiple))
        embedding = self._embed(sigma, noise.flatten(), absent)
        return _Seen(re, im, features, padded, embedding, noise, level, absent)

    def _observe(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> _State:
        seen = self._look(real, imaginary, sigma, absent)
        trends = seen.features[:, -TREND_FEATURES:]
        context, outputs = self._read(seen.padded, seen.embedding)
        pitches = None if self.pitch is None else self.pitch(seen.padded, seen.embedding)
        outputs = outputs[:, :, : real.shape[2]]
        return _State(seen, trends, wide_features(trends), context, pitches, outputs)

    def _embed(
        self,
        sigma: Float[Tensor, " batch"],
        noise: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> Float[Tensor, "batch embedding"]:
        """What all layers are told: the level, the noise that is there, the absent stems."""
        return self.embedding(sigma, noise)

    def _decide(self, state: _State, chosen: Int[Tensor, " chosen"]) -> DenoisedBins:
        """Clean spectrum and gain of the chosen bins."""
        seen = state.seen
        features = seen.features.index_select(3, chosen)
        features = torch.cat([features, detail_features(state.trends, state.wide, chosen)], 1)
        frames = features.shape[2]
        padding = -frames % self.config.frame_patch
        told = self.spread(state.context, chosen)
        if self.pitch is not None and state.pitches is not None:
            told = told + self.pitch.spread(state.pitches, chosen)
        told = told[:, :, : (frames + padding) // self.config.frame_patch]
        features = F.pad(features, (0, 0, 0, padding))
        outputs = self.bin_network(features, told, seen.embedding, chosen)[:, :, :frames]
        outputs = outputs + state.outputs.index_select(3, chosen)
        outputs = outputs.float() + self.bias.index_select(2, chosen)
        re, im = seen.real.index_select(3, chosen), seen.imaginary.index_select(3, chosen)
        prior = self.log_prior.index_select(2, chosen)
        return self._gains(seen, outputs, prior, re, im).applied_to(re, im)

    def _noise_level(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
        level: Float[Tensor, "batch 1 1 1"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> Float[Tensor, "batch 1 1 1"]:
        """Deviation of the white noise that is there, at most the nominal level.

        Most bins of a stem are quiet, so their median power is the noise's (ln 2 of its mean for
        complex normal numbers). The nominal level may count cross-talk as well.
        """
        power = (real.detach().square() + imaginary.detach().square()).flatten(2)
        medians = power.median(2).values
        if absent is not None:
            medians = medians.masked_fill(absent, math.inf)
        found = (medians.amin(1) / math.log(2)).sqrt().reshape(-1, 1, 1, 1)
        found = torch.minimum(found.clamp_min(_LEAST_NOISE), level)
        return torch.where(self.started > 0, found, level)

    def _read(
        self,
        features: Float[Tensor, "batch features frames bins"],
        embedding: Float[Tensor, "batch embedding"],
    ) -> tuple[
        Float[Tensor, "batch hidden columns bands"], Float[Tensor, "batch outputs frames bins"]
    ]:
        """What the bands say to the bin network, and what they add to the outputs of the bins."""
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
        return self.bin_network.told(h), self.decoder(h)

    def _gains(
        self,
        seen: _Seen,
        outputs: Float[Tensor, "batch outputs frames bins"],
        log_prior: Float[Tensor, "stems 1 bins"],
        re: Float[Tensor, "batch stems frames bins"],
        im: Float[Tensor, "batch stems frames bins"],
    ) -> Gains:
        """Gains of the chosen bins out of what the network says, a correction of Wiener's."""
        stems, absent, noise = self.config.stems, seen.absent, seen.noise.square()
        # Wiener's odds, signal over noise. Music lies far from its average spectrum, so a bin that
        # stands well above the noise is taken at its own power instead.
        loudness = (re.square() + im.square()) / noise
        odds = log_prior.exp() * (self.config.sigma_data**2 / noise)
        threshold = _CLEARLY_ABOVE * (1 + 1 / odds)
        odds = odds + self.evidence.clamp_min(0) * loudness.square() / (loudness + threshold)
        mask = torch.sigmoid(outputs[:, :stems] + torch.log(odds))
        if absent is not None:
            mask = mask.masked_fill(absent[:, :, None, None], 0)
        if not self.config.cross_stem:
            return Gains(mask, None, None)
        logits = outputs[:, stems : 2 * stems] + log_prior
        if absent is not None:
            logits = logits.masked_fill(absent[:, :, None, None], -math.inf)
        share = torch.softmax(logits, 1)
        # The higher the level, the less it means where a sound is found.
        odds = _MOVING * (seen.level / self.config.sigma_data).square()
        gate = self.started * torch.sigmoid(outputs[:, 2 * stems :] + torch.log(odds))
        return Gains(mask, share, gate)
