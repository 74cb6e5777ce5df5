"""The tests of tier 1: every one is passed by draws from the exact posterior.

All take draws ``(draws, cases, ...)`` beside one truth per case, ``(cases, ...)``, where truth and
observation of a case come from the prior and the likelihood.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from mgdm_core.array_types import Array, Float, Int
from recipes.calibration.scores import ranks, shares_covered

__all__ = [
    "LEVELS",
    "classifier_two_sample",
    "coverage_curve",
    "coverage_z",
    "projected_ranks",
    "rank_counts",
    "rank_test",
    "tarp_ranks",
    "uniform_places",
    "uniform_test",
]

LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Credibility levels of the curves."""


def projected_ranks(
    truth: Float[Array, "cases dim"],
    draws: Float[Array, "draws cases dim"],
    directions: int,
    seed: int = 11,
) -> Int[Array, "directions cases"]:
    """Ranks of the truth along random directions, the same for the same seed and dimension."""
    rng = np.random.default_rng(seed)
    lines = rng.standard_normal((truth.shape[-1], directions))
    lines /= np.linalg.norm(lines, axis=0)
    return np.stack([ranks(truth @ line, draws @ line) for line in lines.T])


def rank_counts(found: Int[Array, " cases"], draws: int, bins: int) -> Int[Array, " bins"]:
    """Histogram of ranks 0..draws; ``bins`` divides the number of ranks, draws + 1."""
    if (draws + 1) % bins:
        raise ValueError(f"bins divide the {draws + 1} ranks; found {bins}")
    return np.bincount(np.asarray(found) * bins // (draws + 1), minlength=bins)


def rank_test(found: Int[Array, " cases"], draws: int, bins: int) -> float:
    """p-value of the chi-square test that all ranks are equally likely."""
    return float(stats.chisquare(rank_counts(found, draws, bins)).pvalue)


def uniform_places(
    found: Int[Array, " cases"], draws: int, seed: int = 5
) -> Float[Array, " cases"]:
    """A random place in the stretch of [0, 1] that each rank stands for: uniform if the ranks are.

    So that curves and tests of continuous numbers can be used with few draws.
    """
    return (found + np.random.default_rng(seed).random(np.shape(found))) / (draws + 1)


def uniform_test(places: Float[Array, " cases"]) -> float:
    """p-value of the Kolmogorov-Smirnov test that places are uniform on [0, 1]."""
    return float(stats.kstest(places, "uniform").pvalue)


def tarp_ranks(
    truth: Float[Array, "cases dim"],
    draws: Float[Array, "draws cases dim"],
    references: Float[Array, "cases dim"],
) -> Int[Array, " cases"]:
    """How many draws are nearer to a random reference point than the truth is.

    Tests of accuracy with random points (Lemos et al., arXiv 2302.03026): uniform for exact draws,
    whatever law the references have, which may look at the observation.
    """
    return ranks(
        np.linalg.norm(truth - references, axis=-1), np.linalg.norm(draws - references, axis=-1)
    )


def coverage_curve(
    places: Float[Array, " cases"], levels: tuple[float, ...] = LEVELS
) -> Float[Array, " levels"]:
    """Share of places below each level: the expected coverage of TARP, level itself if exact."""
    return np.array([float((places < level).mean()) for level in levels])


def coverage_z(found: Int[Array, "directions cases"], draws: int, nominal: float = 0.9) -> float:
    """Coverage of central intervals less the nominal share, in standard errors over cases.

    Directions of one case go together and count once.
    """
    per_case = shares_covered(found, draws, (nominal,))[0].mean(0)
    error = per_case.std(ddof=1) / len(per_case) ** 0.5
    return float((per_case.mean() - nominal) / max(error, 1e-12))


def classifier_two_sample(
    exact: Float[Array, "cases draws features"],
    drawn: Float[Array, "cases draws features"],
    folds: int = 3,
    seed: int = 3,
) -> float:
    """Accuracy with which randomised trees tell draws from exact ones: 0.5 where nothing differs.

    Whole cases are left out in turn, so no observation is seen in training and in testing
    (classifier two-sample test, Lopez-Paz and Oquab, arXiv 1610.06545).

    Parameters
    ----------
    exact, drawn : array, shape (cases, draws, features)
        As many of both.
    """
    # Imported here: only this test needs it.
    from sklearn.ensemble import ExtraTreesClassifier

    cases, draws, features = exact.shape
    points = np.stack([exact, drawn], 1).reshape(cases, 2 * draws, features)
    labels = np.tile(np.repeat([0, 1], draws), (cases, 1))
    order = np.random.default_rng(seed).permutation(cases)
    right = total = 0
    for held in np.array_split(order, folds):
        train = np.setdiff1d(order, held)
        model = ExtraTreesClassifier(30, min_samples_leaf=5, random_state=seed)
        model.fit(points[train].reshape(-1, features), labels[train].ravel())
        said = model.predict(points[held].reshape(-1, features))
        right += int((said == labels[held].ravel()).sum())
        total += said.size
    return right / total
