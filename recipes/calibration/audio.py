"""Tiers 2 and 3: separations of stems from the prior itself, and of music it has not heard."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from mgdm_audio.metrics.silence import ACTIVE_RMS, active_stem_improvement
from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_audio.sampling.recalibration import recalibration, spread_of
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.sampling.windowed_prior import windowed
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.conditionals import Tweedie
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import Fraction
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import SumOverChannels
from mgdm_core.samplers import MGDMMarginal, TweedieGibbs
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.conditioning import condition_gaussian
from recipes.calibration import scores
from recipes.calibration.separations import Separations, separate
from recipes.calibration.takes import gains_of_takes

__all__ = ["ONE_DRAW", "VARIANTS", "Piece", "draw_stems", "figures", "measure", "run_piece"]


def _chain(levels: int, variance: str = "shares", start: str = "wiener") -> SamplingSettings:
    """`balanced` with so many levels, drawing at temperature 1; nothing is done to its shares."""
    return replace(
        PRESETS["balanced"],
        settings=TweedieGibbs(levels, Fraction(0.5), Tweedie(draw=True)),
        temperature=1.0,
        start=start,
        variance=variance,
        variance_floor=PRESETS["balanced"].variance_floor if variance == "shares" else 0.0,
        pooling=0.0,
        recalibrated=False,
    )


VARIANTS: dict[str, SamplingSettings] = {
    **{name: PRESETS[name] for name in ("fast", "balanced", "posterior")},
    # Conditional draws of the sampler at temperature 1: with the presets' variance, with that of
    # Tweedie's formula, from noise, and by the library's default.
    "chain 2": _chain(2),
    "chain 8": _chain(8),
    "tweedie 8": _chain(8, "tweedie"),
    "noise 16": _chain(16, "tweedie", "noise"),
    "marginal 8": SamplingSettings(
        "mgdm_marginal", MGDMMarginal(8, products=1), start="noise", variance_floor=0.0
    ),
}
"""What can be asked about: presets, and real draws by chains of the sampler."""

ONE_DRAW = {"exact draw": 1.0, "exact draw x 4": 4.0}
"""More of it: one draw given the mixture around the default's separation, every bin on its own with
the variance M^2 q (1 - q) of its share q of the stems' magnitudes M, times a factor."""


@dataclass(frozen=True)
class Piece:
    """One separation that is to be judged.

    Attributes
    ----------
    name : str
        Variant and song, for progress.
    key : str
        Short name of everything that the figures depend on.
    """

    name: str
    key: str
    variant: str
    index: int
    draws: int
    takes: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """What its record says of it."""
        return {"key": self.key, "name": self.name, "variant": self.variant, "index": self.index}

    @classmethod
    def of(
        cls,
        identity: str,
        index: int,
        variant: str,
        draws: int,
        prior: WaveformPrior,
        takes: bool = False,
    ) -> Piece:
        """The piece of a set with an identity, under a prior."""
        fit = recalibration(prior.checksum)
        told = (identity, index, variant, draws, repr(VARIANTS.get(variant)), prior.checksum)
        told += (fit and fit.shares,)
        told += (spread_of(prior.checksum, prior.stems),) if variant == "posterior" else ()
        told += (ONE_DRAW[variant], repr(sampling_settings())) if variant in ONE_DRAW else ()
        told += ("takes",) if takes else ()
        key = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        return cls(f"{variant}, {identity} {index}", key, variant, index, draws, takes)


def draw_stems(
    prior: WaveformPrior, seconds: float, levels: int, seed: int
) -> Float[Array, "stems samples"]:
    """Stems from the prior alone: from noise down its levels (ancestral sampling), no mixture."""
    sampler = StemSampler(prior, SamplingSettings())
    length = sampler.padded_length(round(seconds * prior.rate))
    long = windowed(prior, sampler.window, sampler.hop)
    schedule, noise = prior.schedule, RandomStreams([seed])
    steps = [int(t) for t in schedule.spaced(levels + 1)]
    steps = sorted(set(steps) - {0}, reverse=True)
    shape = (len(prior.stems), length)
    x = schedule.moments(steps[0])[1] * noise.normal(shape)
    x_0 = x
    for t, below in zip(steps, [*steps[1:], 0]):
        with torch.no_grad():
            x_0 = long.denoise(x, t)
        if below:
            x = bridge_sample(schedule, x_0, x, below, t, noise)
    return x_0[0].float().numpy()[:, : round(seconds * prior.rate)]


def run_piece(
    piece: Piece, kept: Separations, truth: Float[Array, "stems samples"]
) -> dict[str, Any]:
    """Separate the sum of the stems and judge the draws, and where asked what they are good for."""
    prior, sampling = (
        kept.prior,
        replace(VARIANTS.get(piece.variant, PRESETS["posterior"]), samples=piece.draws),
    )
    began, before = time.process_time(), 0.0
    if sampling.draws == "shares":  # around the default's separation, which may be there already
        mean, before = kept.of(truth)
        began = time.process_time()
        stems = torch.from_numpy(mean)
        if piece.variant in ONE_DRAW:
            draws = _exact_draws(stems, prior, ONE_DRAW[piece.variant], piece).numpy()
        else:
            draws = StemSampler(prior, sampling).around(stems, 0, piece.index).numpy()
    else:
        mean, draws = separate(prior, sampling, truth.sum(0), piece.index)
    facts: dict[str, Any] = {
        "processor_seconds": before + time.process_time() - began,
        "audio": truth.shape[-1] / prior.rate,
    }
    if piece.takes and isinstance(prior, SpectralPrior):
        e, d, t = (torch.from_numpy(x) for x in (mean, draws, truth))
        facts["takes"] = gains_of_takes(e, d, t, prior.rate, prior.spectral)
    return facts | measure(mean, draws, truth, prior.rate, prior.stems, piece.index)


def _exact_draws(
    stems: Float[Tensor, "stems samples"], prior: WaveformPrior, factor: float, piece: Piece
) -> Float[Tensor, "draws stems samples"]:
    """Draws given the sum of some stems, bins independent with a factor times their variance."""
    if not isinstance(prior, SpectralPrior):
        raise SettingsError("only priors on spectra have a variance per bin")
    seeds = range(piece.index, piece.index + piece.draws)
    mean = stems.expand(piece.draws, -1, -1)
    magnitude = prior.spectral.forward(mean).abs()
    return condition_gaussian(
        mean,
        factor * magnitude * (magnitude.sum(1, keepdim=True) - magnitude),
        SumOverChannels(len(stems)),
        mean.sum(1),
        1e-4,
        basis=prior.spectral,  # type: ignore[arg-type]
        noise=RandomStreams(seeds),
    )


def measure(
    separation: Float[Array, "stems samples"],
    draws: Float[Array, "draws stems samples"],
    truth: Float[Array, "stems samples"],
    rate: int,
    stems: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of one piece, per stem; cells in which truth and draws are all inaudible are out."""
    mixture = truth.sum(0)
    levels, sounding = scores.band_levels(draws, mixture, rate)
    true, _ = scores.band_levels(truth, mixture, rate)
    found = scores.dithered_ranks(true, levels, np.random.default_rng(seed))
    asked = sounding & ~((true == scores.FLOOR_DB) & (levels == scores.FLOOR_DB).all(0))
    score = scores.crps(true, levels)
    deviation, error = levels.std(0, ddof=1), np.abs(levels.mean(0) - true)
    mean, whole = torch.from_numpy(separation), torch.from_numpy(truth)
    gained = active_stem_improvement(mean, whole, torch.from_numpy(mixture), rate)
    said = scores.silent_share(draws, rate)
    silent = scores.silent_share(truth[None], rate) > 0
    audible = scores.silent_share(mixture[None, None], rate)[0] == 0  # where something sounds
    out: dict[str, Any] = {}
    for k, stem in enumerate(stems):
        cells = asked[k]
        out[stem] = {
            "cells": int(cells.sum()),
            "rank_counts": np.bincount(found[k][cells], minlength=len(draws) + 1),
            "crps": float(score[k][cells].mean()) if cells.any() else None,
            "deviation": float(deviation[k][cells].mean()) if cells.any() else None,
            "error": float(error[k][cells].mean()) if cells.any() else None,
            "rank_correlation": _spearman(deviation[k][cells], error[k][cells]),
            "silent_said": said[k][audible],
            "silent_true": silent[k][audible],
            "improvement": gained.improvement[k][gained.active[k]].numpy(),
        }
    return {"stems": out, "active_rms": ACTIVE_RMS}


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)  # type: ignore[attr-defined]


def figures(records: Sequence[dict[str, Any]], stem: str) -> dict[str, Any]:
    """Figures of a stem over the pieces of one variant, every cell counted once."""
    own = [record["stems"][stem] for record in records]
    counts = np.sum([row["rank_counts"] for row in own], 0)
    draws = len(counts) - 1
    levels = tuple(round(0.05 * k, 2) for k in range(1, 20))
    covered = scores.shares_covered(np.arange(draws + 1), draws, (*scores.NOMINAL, *levels))
    coverage = covered @ (counts / max(1, counts.sum()))
    weights = [row["cells"] for row in own]

    def mean(name: str) -> float:
        pairs = [(row[name], w) for row, w in zip(own, weights) if row[name] is not None]
        total = sum(w for _, w in pairs)
        return sum(v * w for v, w in pairs) / total if total else float("nan")

    said = np.concatenate([row["silent_said"] for row in own])
    silent = np.concatenate([row["silent_true"] for row in own]).astype(bool)
    gains = np.concatenate([row["improvement"] for row in own])
    score, base = scores.brier(said, silent) if len(said) else (float("nan"), float("nan"))
    return {
        "coverage": coverage[: len(scores.NOMINAL)],
        "curve": coverage[len(scores.NOMINAL) :],
        "levels": levels,
        "rank_shares": counts / max(1, counts.sum()),
        **{name: mean(name) for name in ("crps", "deviation", "error", "rank_correlation")},
        "brier": score,
        "brier_base": base,
        "improvement": float(gains.mean()) if len(gains) else float("nan"),
    }
