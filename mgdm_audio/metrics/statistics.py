"""Intervals and tests over tracks: the unit that is sampled from the world is the track.

Windows of one song resemble each other, so they are never resampled one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgdm_core.array_types import Array, Float
from mgdm_core.errors import ShapeError

Figure = np.ndarray | float
"""One value, or one per draw."""

RESAMPLES = 10_000
_BLOCK = 500


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Attributes
    ----------
    low, high : float
        Bounds; NaN where there are fewer than two tracks to resample.
    """

    value: float
    low: float
    high: float
    tracks: int


def known_mean(values: Sequence[float]) -> float:
    """Mean of those values that are no NaN; NaN where there is none."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def pooled_mean(
    sums: Float[Array, "*draws tracks"], counts: Float[Array, "*draws tracks"]
) -> Figure:
    """Mean over all windows of all tracks, from each track's sum and count, along the last axis."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(axis=-1) / counts.sum(axis=-1)


def track_median(values: Float[Array, "*draws tracks"]) -> Figure:
    """Median over tracks along the last axis; NaN is left out."""
    return np.nanmedian(values, axis=-1)


def bootstrap(
    figure: Callable[..., Figure],
    *arrays: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a figure over tracks: its 95 % interval.

    Parameters
    ----------
    figure : callable
        Takes the arrays with the last axis resampled (and a further axis for the resamples before
        it) and gives one value per resample, such as :func:`pooled_mean`.
    *arrays : ndarray
        ``[..., tracks]`` each. Tracks that are NaN or empty in all of them should be left out
        before.
    resamples : int
        Number of draws of as many tracks as there are, with replacement.
    seed : int
        Of the draws: the same results give the same interval.

    Notes
    -----
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
    """
    tracks = arrays[0].shape[-1]
    if any(a.shape[-1] != tracks for a in arrays):
        raise ShapeError(
            f"all arrays need the same number of tracks, found {[a.shape[-1] for a in arrays]}"
        )
    if tracks == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    value = float(figure(*arrays))
    if tracks < 2:
        return Interval(value, math.nan, math.nan, tracks)
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, _BLOCK):
        chosen = rng.integers(tracks, size=(min(_BLOCK, resamples - start), tracks))
        draws.append(np.asarray(figure(*(a[..., chosen] for a in arrays))))
    drawn = np.concatenate(draws)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(value, math.nan, math.nan, tracks)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), tracks)


@dataclass(frozen=True)
class PairedComparison:
    """Two runs on the same tracks.

    Attributes
    ----------
    difference : Interval
        Mean over tracks of B less A, with its bootstrap interval.
    median : float
        Median over tracks of B less A.
    better, worse : int
        Number of tracks on which B is above and below A.
    p_value : float
        Two-sided Wilcoxon signed-rank test of no difference; NaN for fewer than two tracks.
    """

    difference: Interval
    median: float
    better: int
    worse: int
    p_value: float


def compare_paired(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compare two runs track by track; pairs with a NaN are left out.

    Raises
    ------
    ShapeError
        If the lengths differ.

    Notes
    -----
    Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1(6), 1945; as
    scipy.stats.wilcoxon, ties at zero split by Pratt's method, exact where the sample allows.
    """
    if len(a) != len(b):
        raise ShapeError(f"paired scores need one length, found {len(a)} and {len(b)}")
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    if n < 2:
        p_value = math.nan
    elif not difference.any():
        p_value = 1.0
    else:
        from scipy.stats import wilcoxon

        result: Any = wilcoxon(difference, zero_method="pratt")
        p_value = float(result.pvalue)
    return PairedComparison(
        bootstrap(lambda x: x.mean(axis=-1), difference),
        float(np.median(difference)) if n else math.nan,
        int((difference > 0).sum()),
        int((difference < 0).sum()),
        p_value,
    )
