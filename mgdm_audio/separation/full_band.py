"""From the prior's mono estimates to stems at the input's rate, channels and sample count.

Within the prior's band (up to 10 kHz) each stem's part in the mono mixture is the estimate itself,
and `stereo_image` puts it into the channels. Above it there is no estimate, and the rule is: in
every frame and channel the stems share the band above as they share the top tenth of the band
below (9 to 10 kHz), each weighted by its image there. (Shares of the whole top octave are 5 dB
worse on rendered songs, smoothing them over time costs another 0.5 dB: cymbals begin at once.)
What the estimates leave over of the mono mixture takes part as a source of its own, whose image
goes into the residual.

The residual is the input minus the stems as they are stored, computed in float64, so stems and
residual add up to the input whatever happens above. It can be shared among the stems instead, in
proportion to their power in time and frequency.

Memory is bounded: the sound is treated in segments of 6 s that overlap by 1 s, and cross-faded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from mgdm_audio.io.resampling import Resampler
from mgdm_audio.sampling.crossfade import fade_in
from mgdm_audio.sampling.level import Level
from mgdm_audio.separation.stereo_image import ChannelImage, bands, fit_image
from mgdm_core.array_types import Complex, Float, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError

PRIOR_RATE = 22_050
SEGMENT_SECONDS = 6.0
FADE_SECONDS = 1.0
_FFT_SECONDS = 4096 / 44_100
# Both resamplings leave the lower rate's band untouched up to this share of its Nyquist frequency.
_CLEAN = 0.9
_REFERENCE = 0.9
_TINY = 1e-12  # of the mean power, which is 1


class FullBandBlock(NamedTuple):
    """Finished samples at the input's rate; the residual is the input minus the stems."""

    stems: Float[Tensor, "stems channels samples"]
    residual: Float[Tensor, "channels samples"]


def band_top(rate: int, prior_rate: int = PRIOR_RATE) -> float:
    """Frequency in Hz up to which estimates are used; infinite where no resampling is needed."""
    return math.inf if rate == prior_rate else _CLEAN * min(rate, prior_rate) / 2


class FullBand:
    """Stems of a stream, from aligned blocks of the mixture and of the mono estimates.

    Blocks may have any size, also different ones for mixture and estimates; the result does not
    depend on them. Sample j of an estimate belongs to the time j / prior_rate.

    Parameters
    ----------
    rate, channels, stems : int
        Of the recording (Hz, 1 to 8), and number of estimates.
    prior_rate : int
        Rate of the estimates in Hz.
    level : Level, optional
        Offset and downmix of the recording as the prior heard it; by default no offset and the
        average of the channels. Its gain is not used: estimates come at the recording's scale.
    share_residual : bool
        Whether the stems alone sum to the input.

    Raises
    ------
    SettingsError
        If a number is not positive or the level is of another number of channels.
    """

    def __init__(
        self,
        rate: int,
        channels: int,
        stems: int,
        prior_rate: int = PRIOR_RATE,
        level: Level | None = None,
        share_residual: bool = False,
    ) -> None:
        if min(rate, channels, stems, prior_rate) < 1:
            raise SettingsError(
                f"rates, channels and stems are positive; "
                f"found {rate} Hz, {prior_rate} Hz, {channels} channels, {stems} stems"
            )
        if level is not None and len(level.offset) != channels:
            raise SettingsError(
                f"the level is of {len(level.offset)} channels, the recording of {channels}"
            )
        average = torch.full((channels,), 1 / channels, dtype=torch.float64)
        self._offset = level.offset if level is not None else torch.zeros_like(average)
        self._downmix = level.downmix if level is not None else average
        self._rate, self._prior_rate = rate, prior_rate
        self._share = share_residual
        self._segment = round(SEGMENT_SECONDS * rate)
        self._fade = round(FADE_SECONDS * rate)
        self._masks = _Masks(rate, prior_rate, self._downmix, share_residual)
        self._resampler = Resampler(prior_rate, rate)
        self._mix = torch.zeros(channels, 0)
        self._estimates = torch.zeros(stems, 0)
        self._origin = 0  # first sample in _mix and _estimates
        self._done = 0  # end of the last segment
        self._tail = torch.zeros(stems, channels, 0)  # its last samples, not yet cross-faded
        self._taken = [0, 0]

    def push(
        self,
        mix: Float[Tensor, "channels samples"],
        estimates: Float[Tensor, "stems prior_samples"],
    ) -> FullBandBlock:
        """Take the next blocks; return what is finished, possibly nothing.

        Parameters
        ----------
        mix : Tensor, shape (channels, samples)
            The recording, as it is (its offset included); either block may be empty.
        estimates : Tensor, shape (stems, prior_samples)
            Mono estimates at the prior's rate and the recording's scale.
        """
        if mix.shape[0] != len(self._mix) or estimates.shape[0] != len(self._estimates):
            raise ShapeError(
                f"expected {len(self._mix)} channels and {len(self._estimates)} estimates; "
                f"found {mix.shape[0]} and {estimates.shape[0]}"
            )
        self._taken[0] += mix.shape[1]
        self._taken[1] += estimates.shape[1]
        self._mix = torch.cat([self._mix, mix.detach().to("cpu", torch.float32)], 1)
        if estimates.shape[1]:
            wide = self._resampler.push(estimates.detach().to("cpu", torch.float32))
            self._estimates = torch.cat([self._estimates, wide], 1)
        return self._joined(self._ready())

    def finish(self) -> FullBandBlock:
        """Return what is left; stems and residual then have the mixture's sample count.

        Raises
        ------
        ShapeError
            If the estimates have not the samples that the mixture has at the prior's rate.
        """
        samples, given = self._taken
        wanted = -(-samples * self._prior_rate // self._rate)
        if given != wanted:
            raise ShapeError(
                f"a mixture of {samples} samples at {self._rate} Hz needs estimates of {wanted} "
                f"samples at {self._prior_rate} Hz; found {given}"
            )
        if samples == 0:
            return self._joined([])
        if self._rate != self._prior_rate:
            self._estimates = torch.cat([self._estimates, self._resampler.finish()], 1)
        missing = self._mix.shape[1] - self._estimates.shape[1]
        self._estimates = torch.nn.functional.pad(self._estimates, (0, max(missing, 0)))
        parts = self._ready()
        parts.append(self._process(max(samples - self._segment, 0), samples, last=True))
        return self._joined(parts)

    def _joined(self, parts: list[FullBandBlock]) -> FullBandBlock:
        parts = [FullBandBlock(self._tail[..., :0], self._mix[:, :0]), *parts]
        return FullBandBlock(*(torch.cat(halves, -1) for halves in zip(*parts)))

    def _ready(self) -> list[FullBandBlock]:
        parts = []
        end = self._origin + min(self._mix.shape[1], self._estimates.shape[1])
        # One sample more than a segment: the last segment is laid when the end is known.
        while end > (start := max(self._done - self._fade, 0)) + self._segment:
            parts.append(self._process(start, start + self._segment, last=False))
        # The last segment may need all of a segment's samples before the end.
        drop = self._done - self._segment - self._origin
        if drop > 0:
            self._mix = self._mix[:, drop:].clone()
            self._estimates = self._estimates[:, drop:].clone()
            self._origin += drop
        return parts

    def _process(self, start: int, stop: int, last: bool) -> FullBandBlock:
        """Treat start..stop; emit from the last segment's cross-fade to this one's."""
        at = slice(start - self._origin, stop - self._origin)
        mix = self._mix[:, at] - self._offset.float()[:, None]
        stems = self._masks(mix, self._estimates[:, at])
        # A last segment that reaches far back adds only what is new.
        begin = self._done - self._tail.shape[-1]
        stems = stems[..., begin - start :]
        overlap = self._tail.shape[-1]
        if overlap:
            stems[..., :overlap] = torch.lerp(self._tail, stems[..., :overlap], fade_in(overlap))
        kept = 0 if last else self._fade
        self._tail = stems[..., stems.shape[-1] - kept :].clone()
        self._done = stop
        return self._output(stems[..., : stems.shape[-1] - kept], begin)

    def _output(self, stems: Tensor, begin: int) -> FullBandBlock:
        at = slice(begin - self._origin, begin - self._origin + stems.shape[-1])
        mix = self._mix[:, at].double()
        stems = stems.clone()
        if self._share:
            stems += (self._offset / len(stems)).float()[:, None]
        residual = mix - stems.double().sum(0)
        if self._share and stems.shape[-1]:
            # What rounding left goes to the loudest stem, where it is least.
            loudest = stems.abs().argmax(0, keepdim=True)
            fixed = stems.gather(0, loudest).double() + residual
            stems.scatter_(0, loudest, fixed.float())
            residual = mix - stems.double().sum(0)
        return FullBandBlock(stems, residual.float())


class _Masks:
    """One segment: mixture and estimates at one rate in, stems per channel out."""

    def __init__(self, rate: int, prior_rate: int, downmix: Tensor, share: bool) -> None:
        self._fft = 1 << max(6, round(math.log2(_FFT_SECONDS * rate)))
        self._hop = self._fft // 4
        self._window = torch.hann_window(self._fft)
        frequency = torch.arange(self._fft // 2 + 1) * (rate / self._fft)
        top = band_top(rate, prior_rate)
        self._inside = int((frequency < top).sum())
        self._reference = slice(int((frequency < _REFERENCE * top).sum()) - 1, self._inside)
        self._band: Int[Tensor, " bins"] = bands(self._fft // 2 + 1, rate)[: self._inside]
        self._downmix = downmix.float()
        self._upmix = (downmix / downmix.square().sum()).float()
        self._share = share
        # Two channels with equal weights deviate from their mean by opposite amounts.
        self._pair = len(downmix) == 2 and float(downmix[0]) == float(downmix[1])

    def __call__(
        self, mix: Float[Tensor, "channels samples"], estimates: Float[Tensor, "stems samples"]
    ) -> Float[Tensor, "stems channels samples"]:
        samples = mix.shape[1]
        stems = torch.zeros(len(estimates), len(mix), samples)
        scale = float(mix.square().mean().sqrt())
        if scale == 0.0 or not bool(estimates.any()):
            return stems + mix / len(stems) if self._share else stems
        mix, estimates = mix / scale, estimates / scale
        mono = self._downmix @ mix
        sources = self._spectrum(torch.cat([estimates, (mono - estimates.sum(0))[None]]))
        # Mean power 1 per bin makes the small constants below relative to the sound.
        unit = float(self._spectrum(mix[:1]).abs().square().mean().sqrt()) or 1.0
        sources = sources / unit
        power = sources.abs().square()
        image = None
        for c in range(len(mix)):
            channel = self._spectrum(mix[c : c + 1])[0] / unit
            inside = sources[:, : self._inside]
            deviation = channel[: self._inside] - self._upmix[c] * inside.sum(0)
            if self._pair and image is not None:
                image = image.mirrored()
            elif len(mix) == 1:
                zeros = torch.zeros(len(sources), int(self._band.max()) + 1)
                image = ChannelImage(zeros, zeros)
            else:
                image = fit_image(inside, deviation, self._band)
            spectrum = torch.empty(len(estimates), *channel.shape, dtype=channel.dtype)
            spectrum[:, : self._inside] = self._below(inside, power, deviation, image, c)
            spectrum[:, self._inside :] = self._above(channel, power, image, c)
            if self._share:
                spectrum = _shared(spectrum, channel)
            stems[:, c] = self._signal(spectrum, samples)
        return stems * (scale * unit)

    def _below(
        self,
        sources: Complex[Tensor, "sources bins frames"],
        power: Float[Tensor, "sources all_bins frames"],
        deviation: Complex[Tensor, "bins frames"],
        image: ChannelImage,
        channel: int,
    ) -> Complex[Tensor, "stems bins frames"]:
        pan = image.pan[:, self._band, None]
        variance = image.spread[:, self._band, None] * power[:, : self._inside]
        rest = (deviation - (pan * sources).sum(0)) / (variance.sum(0) + _TINY)
        return ((self._upmix[channel] + pan) * sources + variance * rest)[:-1]

    def _above(
        self,
        channel: Complex[Tensor, "bins frames"],
        power: Float[Tensor, "sources bins frames"],
        image: ChannelImage,
        index: int,
    ) -> Complex[Tensor, "stems upper_bins frames"]:
        reference = power[:, self._reference]
        band = self._band[self._reference]
        gain = (self._upmix[index] + image.pan[:, band]) ** 2 + image.spread[:, band]
        heard = reference.sum(-1)
        gain = (gain * heard).sum(1) / (heard.sum(1) + _TINY)
        shares = gain[:, None] * reference.mean(1)
        shares = shares / (shares.sum(0) + _TINY)
        return shares[:-1, None] * channel[self._inside :]

    def _spectrum(self, x: Float[Tensor, "rows samples"]) -> Complex[Tensor, "rows bins frames"]:
        # At least a window, so that the reflected ends exist.
        x = torch.nn.functional.pad(x, (0, max(self._fft - x.shape[-1], 0)))
        return torch.stft(
            x, self._fft, self._hop, window=self._window, center=True, return_complex=True
        )

    def _signal(
        self, spectrum: Complex[Tensor, "rows bins frames"], samples: int
    ) -> Float[Tensor, "rows samples"]:
        length = max(samples, self._fft)
        x = torch.istft(spectrum, self._fft, self._hop, window=self._window, length=length)
        return x[..., :samples]


def _shared(
    stems: Complex[Tensor, "stems bins frames"], channel: Complex[Tensor, "bins frames"]
) -> Complex[Tensor, "stems bins frames"]:
    """Add what is left of a channel to the stems by their power, equally where all are silent."""
    power = stems.abs().square() + 1e-20
    return stems + power / power.sum(0) * (channel - stems.sum(0))
