"""One recording on its way through: blocks in, finished pieces of its stems out.

Mixed down, set to the prior's level, resampled, sampled chunk by chunk, averaged, brought back to
the recording's rate and channels, and completed by a residual so that everything sums to the
input. Memory is bounded by a chunk, whatever the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mgdm_audio.io.resampling import Resampler
from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.sampling.chunk_stream import ShiftedStreams
from mgdm_audio.sampling.level import Level
from mgdm_audio.sampling.recalibration import recalibration
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_audio.separation.confidence import Confidence, ConfidenceMeter
from mgdm_audio.separation.full_band import FullBand, FullBandBlock
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.errors import CancelledError, SettingsError, ShapeError
from mgdm_core.trace import Trace

UNCERTAINTY_HOP = 512
"""Samples at the prior's rate per frame of the uncertainty."""


@dataclass(frozen=True)
class StreamOptions:
    """What comes out of a stream.

    Parameters
    ----------
    share_residual : bool
        Share the residual among the stems; the residual is then zero.
    keep_samples : bool
        Bring every posterior sample to full band as well as their mean.
    raw : bool
        The prior's own output, mono at its rate, instead of the input's rate and channels.
    """

    share_residual: bool = False
    keep_samples: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        if self.raw and self.keep_samples:
            raise SettingsError("raw output has no full-band samples; choose one of the two")


@dataclass(frozen=True)
class Piece:
    """A finished stretch of the recording, float32."""

    stems: Float[Tensor, "stems channels n"]
    residual: Float[Tensor, "channels n"]
    samples: Float[Tensor, "draws stems channels n"] | None


class SeparationStream:
    """Separates one recording block by block; see :meth:`.separator.Separator.open_stream`."""

    def __init__(
        self,
        sampler: StemSampler,
        level: Level,
        rate: int,
        channels: int,
        frames: int,
        *,
        seed: int,
        options: StreamOptions,
        on_progress: Callable[[float], object] | None = None,
    ) -> None:
        prior = sampler.prior
        self.level, self.rate, self.channels, self.frames = level, rate, channels, frames
        self.options = options
        self._stems = len(prior.stems)
        self._down = Resampler(rate, prior.rate)
        self._chunks = ShiftedStreams(sampler, seed, self._down.length(frames), on_progress)
        self._on_progress = on_progress
        self._received = 0
        self._deviation = _Deviation(self._stems)
        self._confidence = _meter(sampler)
        draws = sampler.settings.samples if options.keep_samples else 0
        self._bands: list[FullBand] = []
        if not options.raw and not level.silent:
            self._bands = [
                FullBand(
                    rate,
                    channels,
                    self._stems,
                    prior.rate,
                    level,
                    share_residual=options.share_residual and k == 0,
                )
                for k in range(1 + draws)
            ]
        self._raw_mix = torch.zeros(0)  # what the raw stems have not yet been taken from

    @property
    def traces(self) -> list[Trace]:
        """One per chunk that was sampled."""
        return self._chunks.traces

    @property
    def out_rate(self) -> int:
        """Rate of what comes out."""
        return self._chunks.sampler.prior.rate if self.options.raw else self.rate

    def uncertainty(self) -> dict[str, Float[Array, " frames"]] | None:
        """Deviation between the draws per stem and frame, at the recording's level."""
        if self._chunks.sampler.settings.samples < 2:
            return None
        rows = self._deviation.result() / self.level.gain
        return {n: rows[k].numpy() for k, n in enumerate(self._chunks.sampler.prior.stems)}

    @property
    def fitted(self) -> bool:
        """Whether something was fitted for the prior, so that it says how sure it is."""
        return self._confidence is not None

    def confidence(self) -> Confidence | None:
        """Expected improvement; None for silence and for a prior without a fit."""
        if self._confidence is None or self.level.silent:
            return None
        return self._confidence.result()

    def push(self, block: Float[Array, "channels n"]) -> list[Piece]:
        """Take the next block of the recording; return what is finished."""
        if block.shape[0] != self.channels:
            raise ShapeError(
                f"the recording has {self.channels} channels; found a block of {block.shape[0]}"
            )
        self._received += block.shape[1]
        if self._received > self.frames:
            raise ShapeError(
                f"the recording has {self.frames} frames; found {self._received} and more"
            )
        mix = torch.from_numpy(np.ascontiguousarray(block, dtype=np.float32))
        if self.level.silent:
            return [self._silent(mix)]
        mono = self._down.push(self.level.to_prior(mix))
        nothing = torch.zeros(self._stems, 0)
        pieces = self._pieces([band.push(mix, nothing) for band in self._bands])
        pieces += self._advance(mono)
        if self._received == self.frames:
            pieces += self._advance(self._down.finish())
        return pieces

    def finish(self) -> list[Piece]:
        """Check that the whole recording has come, and return what is left.

        Raises
        ------
        ShapeError
            If fewer frames came than were announced.
        """
        if self._received != self.frames:
            raise ShapeError(f"the recording has {self.frames} frames; found only {self._received}")
        if self.level.silent or self.options.raw:
            return []
        return self._pieces([band.finish() for band in self._bands])

    def _silent(self, mix: Tensor) -> Piece:
        tell = self._on_progress
        if tell is not None and tell(self._received / self.frames) is False:
            raise CancelledError("the separation was cancelled")
        if self.options.raw:
            # Nothing to resample: raw output of silence is silence of the right length.
            before = self._down.length(self._received - mix.shape[-1])
            mix = torch.zeros(1, self._down.length(self._received) - before)
        stems = torch.zeros(self._stems, *mix.shape)
        draws = self._chunks.sampler.settings.samples
        kept = torch.zeros(draws, *stems.shape) if self.options.keep_samples else None
        if self.options.share_residual:
            stems = stems + mix / self._stems
            return Piece(stems, mix - stems.sum(0), kept)
        return Piece(stems, mix, kept)

    def _advance(self, mono: Tensor) -> Iterator[Piece]:
        if self.options.raw:
            self._raw_mix = torch.cat([self._raw_mix, mono])
        around = self._chunks.sampler.settings.draws == "shares"
        for rows in self._chunks.push(mono):
            mean, draws = (rows[0], rows[1:]) if around else (rows.mean(0), rows)
            self._deviation.add(draws)
            if self._confidence is not None:
                self._confidence.add(mean)
            if self.options.raw:
                yield self._raw_piece(mean)
                continue
            estimates = [mean, *draws][: len(self._bands)]
            nothing = torch.zeros(self.channels, 0)
            yield from self._pieces(
                [
                    band.push(nothing, self.level.from_prior(estimate))
                    for band, estimate in zip(self._bands, estimates)
                ]
            )

    def _raw_piece(self, mean: Tensor) -> Piece:
        size = mean.shape[-1]
        mix = self.level.from_prior(self._raw_mix[:size])[None]
        self._raw_mix = self._raw_mix[size:]
        stems = self.level.from_prior(mean)[:, None]
        if self.options.share_residual:
            stems = stems + (mix - stems.sum(0)) / self._stems
        return Piece(stems, mix - stems.sum(0), None)

    def _pieces(self, outputs: list[FullBandBlock]) -> list[Piece]:
        if not outputs or outputs[0].stems.shape[-1] == 0:
            return []
        main, *draws = outputs
        samples = torch.stack([draw.stems for draw in draws]) if draws else None
        return [Piece(main.stems, main.residual, samples)]


def _meter(sampler: StemSampler) -> ConfidenceMeter | None:
    prior = sampler.prior
    fit = recalibration(prior.checksum)
    if fit is None or not isinstance(prior, SpectralPrior):
        return None
    return ConfidenceMeter(prior.stems, prior.rate, prior.spectral, fit)


class _Deviation:
    """Root mean square deviation between draws per frame of a stream."""

    def __init__(self, stems: int) -> None:
        self._rows: list[Tensor] = []
        self._held = torch.zeros(stems, 0)

    def add(self, draws: Float[Tensor, "draws stems n"]) -> None:
        if len(draws) < 2:
            return
        held = torch.cat([self._held, draws.var(0)], -1)
        whole = held.shape[-1] - held.shape[-1] % UNCERTAINTY_HOP
        frames = held[:, :whole].reshape(len(held), -1, UNCERTAINTY_HOP)
        self._rows.append(frames.mean(-1).sqrt())
        self._held = held[:, whole:]

    def result(self) -> Tensor:
        rows = list(self._rows)
        if self._held.shape[-1]:
            rows.append(self._held.mean(-1, keepdim=True).sqrt())
        return torch.cat(rows, -1) if rows else self._held
