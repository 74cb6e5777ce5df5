"""What a worker of the evaluation does with a track: load it, separate it, score it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mgdm_audio.datasets.tracks import Mixture, Track
from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.estimators import Estimates, Estimator, EstimatorSpec, Job
from mgdm_audio.evaluation.nothing import rows_of_nothing
from mgdm_audio.evaluation.run_folder import Variant
from mgdm_audio.evaluation.track_scores import nothing_of, record_of
from mgdm_audio.metrics.si_sdr import SLAKH_RATE, WindowScores, score_windows
from mgdm_audio.metrics.silence import active_stems
from mgdm_core.errors import SettingsError

LISTEN_SECONDS = 12.0


@dataclass(frozen=True)
class EvaluationSettings:
    """What decides the scores, besides the estimates.

    Attributes
    ----------
    rate : int
        Samples per second at which tracks are separated and scored; 22 050 as published.
    mixture : {"sum", "mix"}
        What is separated: the sum of the reference stems, as published, or the data set's mixture.
    seed : int
        Of the random numbers, the same for every track: ``mgdm-separate --seed`` with the same
        number gives the same stems.
    bss : bool
        Whether to run BSSEval (museval) as well.
    keep : {"listen", "all", "none"}
        Sound to keep: excerpts of the best and worst tracks; also all estimates; nothing.
    """

    rate: int = SLAKH_RATE
    mixture: Mixture = "sum"
    seed: int = 0
    bss: bool = True
    keep: Literal["listen", "all", "none"] = "listen"

    def __post_init__(self) -> None:
        if not 1_000 <= self.rate <= 768_000:
            raise SettingsError(f"the rate lies in 1000..768000 Hz; found {self.rate}")
        if not 0 <= self.seed < 2**62:
            raise SettingsError(f"the seed lies in 0..2**62 - 1; found {self.seed}")
        for name, allowed in (("mixture", ("sum", "mix")), ("keep", ("listen", "all", "none"))):
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class TrackResult:
    """What a worker sends back for one track.

    ``excerpt`` holds mixture, references and estimates around the worst window; ``estimates`` are
    empty where nobody asked for them.
    """

    key: str
    record: dict[str, Any]
    estimates: dict[str, np.ndarray]
    excerpt: dict[str, np.ndarray]


@dataclass(frozen=True)
class EvaluationWork:
    """What a worker does: load tracks, separate them, score them.

    Items are ``(variant, track)``. An error becomes the track's record.
    """

    spec: EstimatorSpec
    settings: EvaluationSettings

    def start(self, device: str) -> Callable[[tuple[Variant, Track]], TrackResult]:
        """Load the estimator; see :class:`mgdm_audio.compute.engines.Work`."""
        estimator = self.spec.load(device)
        return lambda item: self._evaluate(estimator, device, *item)

    def _evaluate(
        self, estimator: Estimator, device: str, variant: Variant, track: Track
    ) -> TrackResult:
        try:
            audio = track.load(self.settings.rate, self.settings.mixture)
            job = Job(track, audio, variant, self.settings.seed)
            started = time.perf_counter()
            estimates = estimator(job)
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            return self._score(job, estimates, time.perf_counter() - started, device)
        except Exception as error:
            return failure(track, variant, type(error).__name__, str(error))

    def _score(self, job: Job, estimates: Estimates, seconds: float, device: str) -> TrackResult:
        audio = job.audio
        names = [name for name in audio.stems if name in estimates.stems]
        if not names:
            raise AudioError(
                f"the separator gives {', '.join(estimates.stems)} and the data set has "
                f"{', '.join(audio.stems)}; none is common, so nothing can be scored"
            )
        guess = {name: _checked(name, estimates.stems[name], len(audio.mixture)) for name in names}
        # All references go in, because whether a window counts depends on all of them.
        silence = np.zeros_like(audio.mixture)
        stacked = np.stack([guess.get(name, silence) for name in audio.stems])
        truth, mixture = (torch.from_numpy(x).to(device) for x in (audio.stacked(), audio.mixture))
        scores = score_windows(torch.from_numpy(stacked).to(device), truth, mixture, audio.rate)
        nothing = rows_of_nothing(truth, mixture, audio.rate)
        for row, stems in estimates.nothing.items():
            stacked = np.stack([stems.get(name, silence) for name in audio.stems])
            guessed = torch.from_numpy(stacked).to(device)
            nothing[row] = score_windows(guessed, truth, mixture, audio.rate)
        every = list(audio.stems)
        record = {
            **_head(job.track, job.variant),
            "seconds_audio": audio.seconds,
            "rate": audio.rate,
            "samples": len(audio.mixture),
            "stems": names,
            **record_of(scores, every, names),
            "nothing": {row: nothing_of(held, every, names) for row, held in nothing.items()},
            "evaluations": estimates.evaluations,
            "vjps": estimates.vjps,
            "seconds": seconds,
            "device": device,
            "notes": list(audio.notes),
            "warnings": list(estimates.warnings),
            "error": None,
        }
        excerpt: dict[str, np.ndarray] = {}
        if self.settings.keep != "none":
            rows = [every.index(name) for name in names]
            start, stop = _excerpt(scores, rows, len(audio.mixture), audio.rate)
            record["excerpt"] = [start, stop]
            excerpt = {"mixture": audio.mixture[start:stop]}
            for name in names:
                excerpt[f"{name}.reference"] = audio.stems[name][start:stop]
                excerpt[f"{name}.estimate"] = guess[name][start:stop]
        wanted = self.settings.bss or self.settings.keep == "all"
        return TrackResult(job.track.key, record, guess if wanted else {}, excerpt)


def _checked(name: str, signal: Any, n: int) -> np.ndarray:
    """An estimate as mono float32 of the right length, or an error that names it."""
    if isinstance(signal, torch.Tensor):
        signal = signal.detach().cpu().numpy()
    signal = np.asarray(signal, dtype=np.float32)
    signal = signal.mean(axis=0) if signal.ndim == 2 else signal
    if signal.shape != (n,):
        raise AudioError(f"the estimate of {name} needs shape ({n},), found {signal.shape}")
    if not np.isfinite(signal).all():
        raise AudioError(f"the estimate of {name} holds NaN or infinity; it has no score")
    return signal


def _head(track: Track, variant: Variant) -> dict[str, Any]:
    return {"track": track.key, "name": track.name, "split": track.split, "variant": variant.label}


def failure(track: Track, variant: Variant, kind: str, message: str) -> TrackResult:
    """What stands for a track that could not be evaluated."""
    line = " ".join(message.split()) or kind
    record = {**_head(track, variant), "error": {"type": kind, "message": line}}
    return TrackResult(track.key, record, {}, {})


def _excerpt(scores: WindowScores, rows: list[int], n: int, rate: int) -> tuple[int, int]:
    """First and last sample of what is kept for listening: around the worst window."""
    length = min(n, round(LISTEN_SECONDS * rate))
    scored = active_stems(scores)[rows]
    count = scored.sum(dim=0)
    total = torch.where(scored, scores.improvement[rows], 0.0).sum(dim=0)
    mean = torch.where(count > 0, total / count, math.inf)
    if not torch.isfinite(mean).any():
        return 0, length
    start, stop = scores.windows[int(mean.argmin())]
    begin = min(max(0, (start + stop - length) // 2), n - length)
    return begin, begin + length
