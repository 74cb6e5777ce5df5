"""Do error bars hold? Ranks of the truth among draws, and coverage of their central intervals."""

from __future__ import annotations

import numpy as np

from mgdm_core.array_types import Array, Float, Int
from mgdm_core.errors import ShapeError

__all__ = ["NOMINAL", "central_coverage", "ranks", "shares_covered"]

NOMINAL = (0.5, 0.8, 0.9, 0.95)
"""Shares that central intervals are asked to hold."""


def ranks(
    truth: Float[Array, "*cases"], draws: Float[Array, "draws *drawn_cases"]
) -> Int[Array, "*cases"]:
    """How many draws lie below the truth: 0 to the number of draws.

    Where truth and draws come from one law and are independent, every rank is equally likely
    (simulation-based calibration, Talts et al., arXiv 1804.06788). Of draws that equal the truth
    half count, rounded down.

    Raises
    ------
    ShapeError
        If there is not one truth per case.
    """
    if draws.shape[1:] != truth.shape:
        raise ShapeError(
            f"draws are (draws, *cases) of a truth (*cases); found {draws.shape} and {truth.shape}"
        )
    return (draws < truth).sum(0) + (draws == truth).sum(0) // 2


def central_coverage(
    found: Int[Array, "*cases"], draws: int, nominal: tuple[float, ...] = NOMINAL
) -> Float[Array, " nominal"]:
    """Share of cases whose truth lies in the central interval of so many draws.

    A rank r of L draws puts the truth between the quantiles r / (L + 1) and (r + 1) / (L + 1), and
    it counts with the share of that stretch that lies in the interval. So exact draws cover every
    nominal share exactly on average, however few they are.

    Parameters
    ----------
    found : array
        Ranks, as :func:`ranks` gives them.
    draws : int
        How many draws they are among.
    nominal : tuple of float
        Shares that the intervals should hold.

    Returns
    -------
    array, shape (nominal,)
    """
    return shares_covered(found, draws, nominal).mean(tuple(range(1, 1 + np.ndim(found))))


def shares_covered(
    found: Int[Array, "*cases"], draws: int, nominal: tuple[float, ...] = NOMINAL
) -> Float[Array, "nominal *cases"]:
    """What every case counts in :func:`central_coverage`, from 0 to 1."""
    low = np.asarray(found, float) / (draws + 1)
    high = low + 1 / (draws + 1)
    rows = []
    for share in nominal:
        inside = np.minimum(high, (1 + share) / 2) - np.maximum(low, (1 - share) / 2)
        rows.append(np.clip(inside, 0, None) * (draws + 1))
    return np.stack(rows)
