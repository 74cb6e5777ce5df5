"""From a mono mixture at the prior's rate to posterior samples of its stems, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.recalibration import recalibrated, spread_of
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK, PositionStreams
from mgdm_audio.sampling.share_draws import draw_shares
from mgdm_audio.sampling.share_pooling import pool_shares
from mgdm_audio.sampling.wiener import average_spectrum_wiener
from mgdm_audio.sampling.windowed_prior import VARIANCES, Pinned, windowed
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import SumOverChannels
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Sampler, Start
from mgdm_core.samplers import get_sampler
from mgdm_core.settings import Settings, check, one_of, share, within
from mgdm_core.trace import Trace

DRAWS = ("chain", "shares")

_OTHER_STREAM = 1 << 61
"""Added to seeds of the draws around a run, so that they share no number with the run itself."""


@dataclass(frozen=True)
class SamplingSettings(Settings):
    """How the stems of a chunk are sampled.

    Parameters
    ----------
    sampler : str
        Name in :data:`mgdm_core.samplers.SAMPLERS`.
    settings : Sampler or None
        The sampler itself, whose fields are its settings; its defaults when None.
    samples : int
        Posterior samples that are averaged.
    start : {"wiener", "noise"}
        Begin at the average-spectrum Wiener estimate noised to ``start_sigma``, or at pure noise.
    start_sigma : float
        Noise deviation of the start, for mixtures of RMS 0.1.
    temperature : float
        Deviation of the noise that the sampler draws over what its levels say. A prior that has
        seen cross-talk in quiet states reads the mixture better there; 1 is the method as
        published.
    sigma_y : float
        Deviation of the observation, a setting of the method: the mixture itself is exact.
    variance, variance_floor : str, float
        See :class:`~mgdm_audio.sampling.windowed_prior.SpectralWindowedPrior`.
    window, overlap : float or None
        Seconds of a window (the prior's own when None) and the share that neighbours have in
        common.
    chunk : float
        Seconds sampled jointly; memory grows with it, not with the recording.
    shifts : int
        Separations that are averaged, each with its windows elsewhere; the cost grows with it.
    draws : {"chain", "shares"}
        ``chain``: every posterior sample is a run of the sampler. ``shares``: one run, and samples
        around it that differ in whose a bin is
        (:func:`~mgdm_audio.sampling.share_draws.draw_shares`), as wide as was fitted for the prior
        (:mod:`~mgdm_audio.sampling.recalibration`); the separation is the run itself.
    pooling : float
        Bandwidth at which the shares of frames that sound alike are averaged after a run
        (:func:`~mgdm_audio.sampling.share_pooling.pool_shares`); 0 leaves them as they are. A
        prior that knows no spectra has none.
    recalibrated : bool
        Whether shares are then corrected as was fitted for the prior
        (:func:`~mgdm_audio.sampling.share_recalibration.recalibrate_shares`); without a fit they
        stay as they are.
    """

    sampler: str = "tweedie_gibbs"
    settings: Any = None
    samples: int = within(1, 64, 1, whole=True)
    start: str = one_of(("wiener", "noise"), "wiener")
    start_sigma: float = within(1e-9, 1e3, 0.3)
    temperature: float = share(1.0)
    sigma_y: float = within(1e-9, 1e3, 1e-4)
    variance: str = one_of(VARIANCES, "tweedie")
    variance_floor: float = share(0.1)
    window: float | None = within(1, 60, None, unit="s")
    overlap: float = within(0, 0.75, 0.25)
    # What is sampled jointly is held in memory some twenty times over.
    chunk: float = within(1, 600, 40.0, unit="s")
    shifts: int = within(1, 32, 1, whole=True)
    draws: str = one_of(DRAWS, "chain")
    pooling: float = 0.0
    recalibrated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = get_sampler(self.sampler)
        if self.settings is not None and not isinstance(self.settings, kind):
            raise SettingsError(
                f"sampler {self.sampler!r} takes {kind.__name__}; "
                f"found {type(self.settings).__name__}"
            )
        fits = self.pooling == 0 or 1e-4 <= self.pooling <= 1
        check(fits, "pooling is 0 or lies in [0.0001, 1]", self.pooling)

    @property
    def runs(self) -> int:
        """How often the sampler runs for all posterior samples together."""
        return self.samples if self.draws == "chain" else 1

    @property
    def rows(self) -> int:
        """Rows of a chunk: the samples, and before them what they are drawn around."""
        return self.samples + (self.draws == "shares")

    @property
    def chosen(self) -> Sampler:
        """The sampler with its settings."""
        return get_sampler(self.sampler)() if self.settings is None else self.settings


@dataclass(frozen=True)
class ChunkResult:
    """Posterior samples of one chunk.

    Attributes
    ----------
    samples : Tensor, shape (samples, stems, length)
    trace : Trace or None
        None for a silent chunk, which is not sampled.
    centre : Tensor or None, shape (stems, length)
        The separation that the samples are drawn around, where they are.
    """

    samples: Float[Tensor, "samples stems length"]
    trace: Trace | None
    centre: Float[Tensor, "stems length"] | None = None

    @property
    def mean(self) -> Float[Tensor, "stems length"]:
        """The separation: what samples are drawn around, else their mean."""
        return self.samples.mean(0) if self.centre is None else self.centre

    @property
    def rows(self) -> Float[Tensor, "rows stems length"]:
        """The separation and the samples around it, or the samples alone."""
        if self.centre is None:
            return self.samples
        return torch.cat([self.centre[None], self.samples])


@dataclass
class StemSampler:
    """Samples chunks of a mono mixture at the prior's rate.

    Parameters
    ----------
    batch_size : int
        Windows evaluated at once; halved for good when the device runs out of memory.
    on_note : callable, optional
        Receives one line when something worth saying happens.
    """

    prior: WaveformPrior
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    batch_size: int = 4
    on_note: Callable[[str], None] | None = None

    @property
    def window(self) -> int:
        """Window length in samples, a multiple of the noise block."""
        seconds = self.settings.window
        wanted = self.prior.window if seconds is None else seconds * self.prior.rate
        return NOISE_BLOCK * max(2, round(wanted / NOISE_BLOCK))

    @property
    def hop(self) -> int:
        """Step between windows in samples, a multiple of the noise block."""
        overlap = max(1, round(self.settings.overlap * self.window / NOISE_BLOCK))
        return self.window - NOISE_BLOCK * overlap

    @property
    def shifts(self) -> list[int]:
        """By how many samples the windows of each of the averaged separations begin earlier."""
        count, blocks = self.settings.shifts, self.hop // NOISE_BLOCK
        return [NOISE_BLOCK * (k * blocks // count) for k in range(count)]

    def chunk_length(self) -> int:
        """Samples of a full chunk: window + k hop, near the chunk setting."""
        wanted = self.settings.chunk * self.prior.rate
        return self.window + self.hop * max(0, round((wanted - self.window) / self.hop))

    def padded_length(self, samples: int) -> int:
        """Smallest length of a chunk that holds ``samples``."""
        if samples <= self.window:
            return NOISE_BLOCK * -(-samples // NOISE_BLOCK)
        return self.window + self.hop * -(-(samples - self.window) // self.hop)

    def sample(
        self,
        mixture: Float[Tensor, " length"],
        origin: int,
        seed: int,
        *,
        heard: slice = slice(None),
        pinned: Float[Tensor, "samples stems overlap"] | None = None,
        on_windows: Callable[[int], None] | None = None,
    ) -> ChunkResult:
        """Draw posterior samples of the stems of one chunk.

        Parameters
        ----------
        mixture : Tensor, shape (length,)
            Mono, at the prior's rate, at the prior's level (RMS about 0.1); a length that
            :meth:`padded_length` returned.
        origin : int
            Position of the chunk in the recording, in samples; a multiple of the noise block.
        seed : int
            Posterior sample j of every chunk uses seed + j.
        heard : slice
            Samples of the recording itself; what lies outside is its reflection.
        pinned : Tensor, optional
            What the chunk before said of this chunk's first samples.
        on_windows : callable, optional
            Called after every evaluation of the network with the windows that it took; may raise
            to stop.
        """
        while True:
            try:
                return self._sample(mixture, origin, seed, heard, pinned, on_windows)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                torch.cuda.empty_cache()
                if self.on_note is not None:
                    self.on_note(
                        f"the device ran out of memory; going on with batches of "
                        f"{self.batch_size} window(s)"
                    )

    def _sample(
        self,
        mixture: Tensor,
        origin: int,
        seed: int,
        heard: slice,
        pinned: Tensor | None,
        on_windows: Callable[[int], None] | None,
    ) -> ChunkResult:
        cfg, prior = self.settings, self.prior
        count, stems, length = cfg.runs, len(prior.stems), mixture.shape[-1]
        y = mixture.to(prior.device, torch.float32)[None].expand(count, -1).contiguous()
        long_prior = windowed(
            prior,
            self.window,
            self.hop,
            batch_size=self.batch_size,
            # Of samples around a run only the first row, the run itself, is known.
            pinned=None if pinned is None else Pinned(pinned[:count].to(y)),
            variance=cfg.variance,
            variance_floor=cfg.variance_floor,
            on_windows=on_windows,
        )
        likelihood = GaussianLikelihood(SumOverChannels(stems), y, cfg.sigma_y)
        streams = PositionStreams(range(seed, seed + count), origin, length, cfg.temperature)

        result = sample(
            Problem(long_prior, likelihood, (stems, length)),
            cfg.chosen,
            noise=streams,
            start=self._start(y),
        )
        x = result.x.float()
        if isinstance(prior, SpectralPrior):
            if cfg.pooling > 0:
                x = torch.stack([pool_shares(one, prior.spectral, cfg.pooling, heard) for one in x])
            if cfg.recalibrated:
                x = torch.stack([recalibrated(one, prior, prior.checksum) for one in x])
        x = x.cpu()
        if cfg.draws == "chain":
            return ChunkResult(x, result.trace)
        return ChunkResult(self.around(x[0], origin, seed), result.trace, x[0])

    def around(
        self, stems: Float[Tensor, "stems length"], origin: int, seed: int
    ) -> Float[Tensor, "samples stems length"]:
        """Draws of whose a bin is, around a separation of the stretch that begins at ``origin``."""
        prior, count = self.prior, self.settings.samples
        if not isinstance(prior, SpectralPrior):
            raise SettingsError(
                f"draws of shares need a prior on spectra; {prior.name or 'this prior'} has a "
                f"{type(prior.network).__name__}; choose draws='chain'"
            )
        seeds = range(seed + _OTHER_STREAM, seed + _OTHER_STREAM + count)
        streams = PositionStreams(seeds, origin, stems.shape[-1])
        white = streams.normal(tuple(stems.shape))
        spread = torch.tensor(spread_of(prior.checksum, prior.stems))
        return draw_shares(stems, white, spread, prior.spectral)

    def _start(self, y: Float[Tensor, "samples length"]) -> Start | None:
        cfg, prior = self.settings, self.prior
        if cfg.start == "noise":
            return None
        level = prior.schedule.level_of_sigma(cfg.start_sigma)
        if isinstance(prior, SpectralPrior):
            estimate = average_spectrum_wiener(y[:1], prior.average_power, prior.spectral)
            estimate = estimate.expand(len(y), -1, -1)
        else:  # a prior that knows no spectra starts from equal shares
            share = y[:, None] / len(prior.stems)
            estimate = share.expand(-1, len(prior.stems), -1)
        return Start(estimate, level)
