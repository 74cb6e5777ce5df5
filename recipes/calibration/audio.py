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

from mgdm_audio.evaluation import calibration as scores
from mgdm_audio.metrics.silence import ACTIVE_RMS, active_stem_improvement
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_audio.sampling.recalibration import spread_of
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.sampling.windowed_prior import windowed
from mgdm_core.array_types import Array, Float
from mgdm_core.conditionals import Tweedie
from mgdm_core.noise import RandomStreams
from mgdm_core.samplers import TweedieGibbs
from mgdm_core.steps.bridge import bridge_sample

__all__ = ["VARIANTS", "Piece", "draw_stems", "figures", "measure", "run_piece", "separate"]

VARIANTS: dict[str, SamplingSettings] = {
    **{name: PRESETS[name] for name in ("fast", "balanced", "posterior")},
    # What a prior that had learnt its noisy states would be sampled with.
    "temperature 1": SamplingSettings(
        settings=TweedieGibbs(8, conditional=Tweedie(draw=True)), variance="shares"
    ),
}
"""What can be asked about: presets, and a chain of real posterior draws."""


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

    @classmethod
    def of(cls, identity: str, index: int, variant: str, draws: int, prior: WaveformPrior) -> Piece:
        """The piece of a set with an identity, under a prior."""
        told = (identity, index, variant, draws, repr(VARIANTS[variant]), prior.checksum)
        told += (spread_of(prior.checksum, prior.stems),) if variant == "posterior" else ()
        key = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        return cls(f"{variant}, {identity} {index}", key, variant, index, draws)


def separate(
    prior: WaveformPrior, sampling: SamplingSettings, mixture: Float[Array, " samples"], seed: int
) -> tuple[Float[Array, "stems samples"], Float[Array, "draws stems samples"]]:
    """Separation and posterior samples of a mixture at the prior's rate and level."""
    sampler = StemSampler(prior, sampling)
    padded = torch.zeros(sampler.padded_length(len(mixture)))
    padded[: len(mixture)] = torch.from_numpy(mixture)
    result = sampler.sample(padded, 0, seed)
    length = len(mixture)
    return result.mean[:, :length].numpy(), result.samples[..., :length].numpy()


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
    piece: Piece, prior: WaveformPrior, truth: Float[Array, "stems samples"]
) -> dict[str, Any]:
    """Separate the sum of the stems and judge the draws."""
    sampling = sampling_settings() if piece.variant not in VARIANTS else VARIANTS[piece.variant]
    sampling = replace(sampling, samples=piece.draws)
    began, processor = time.perf_counter(), time.process_time()
    mean, draws = separate(prior, sampling, truth.sum(0), piece.index)
    spent = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
    }
    names = {"key": piece.key, "name": piece.name, "variant": piece.variant, "index": piece.index}
    return (
        names
        | spent
        | {"audio": truth.shape[-1] / prior.rate}
        | measure(mean, draws, truth, prior.rate, prior.stems, piece.index)
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
