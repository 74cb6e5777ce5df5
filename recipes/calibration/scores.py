"""Do error bars hold? Ranks of the truth among draws, coverage, and scores of what they say.

Of audio they are asked in cells of 64 bands by 0.1 s: which share of the mixture is a stem's?
"""

from __future__ import annotations

import numpy as np

from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_core.array_types import Array, Bool, Float, Int
from mgdm_core.errors import ShapeError

BANDS = 64
CELL_SECONDS = 0.1

FLOOR_DB = -30.0
"""Levels below the mixture's that count as equal: nobody hears a difference there."""

QUIET_DB = -60.0
"""Cells of the mixture this far below its mean are not asked about."""

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
    below, equal = _below_and_equal(truth, draws)
    return below + equal // 2


def _below_and_equal(truth: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if draws.shape[1:] != truth.shape:
        raise ShapeError(
            f"draws are (draws, *cases) of a truth (*cases); found {draws.shape} and {truth.shape}"
        )
    return (draws < truth).sum(0), (draws == truth).sum(0)


def central_coverage(
    found: Int[Array, "*cases"], draws: int, nominal: tuple[float, ...] = NOMINAL
) -> Float[Array, " nominal"]:
    """Share of cases whose truth lies in the central interval of so many draws.

    A rank r of L draws puts the truth between the quantiles r / (L + 1) and (r + 1) / (L + 1), and
    it counts with the share of that stretch that lies in the interval. So exact draws cover every
    nominal share exactly on average, however few they are.
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


def dithered_ranks(
    truth: Float[Array, "*cases"],
    draws: Float[Array, "draws *drawn_cases"],
    rng: np.random.Generator,
) -> Int[Array, "*cases"]:
    """As :func:`ranks`, the truth at a random place among the draws that it equals.

    Where values are cut off at a floor, ranks would not be uniform otherwise.
    """
    below, equal = _below_and_equal(truth, draws)
    return below + rng.integers(0, equal + 1)


def crps(
    truth: Float[Array, "*cases"], draws: Float[Array, "draws *cases"]
) -> Float[Array, "*cases"]:
    """Continuous ranked probability score, in the values' unit: smaller is better.

    E|x - truth| - E|x - x'| / 2 with the unbiased mean over pairs of different draws (Gneiting and
    Raftery 2007, eq. 21); of a single number it is the absolute error.
    """
    count = len(draws)
    near = np.abs(draws - truth).mean(0)
    if count == 1:
        return near
    # The sum of |x_i - x_j| over pairs by sorting: the i-th smallest enters 2 i - n + 1 times.
    weight = 2 * np.arange(count) - count + 1
    pairs = np.tensordot(weight, np.sort(draws, 0), 1)
    return near - pairs / (count * (count - 1))


def brier(said: Float[Array, "*cases"], happened: Bool[Array, "*cases"]) -> tuple[float, float]:
    """Mean squared error of probabilities, and that of saying how often it happens all along."""
    base = happened.mean()
    return float(((said - happened) ** 2).mean()), float(base * (1 - base))


def band_energies(
    x: Float[Array, "*leading samples"], rate: int
) -> Float[Array, "*leading bands frames"]:
    """Energy in :data:`BANDS` bands equal on the mel scale, by frames of 0.1 s (Hann)."""
    size = round(CELL_SECONDS * rate)
    frames = x.shape[-1] // size
    blocks = x[..., : frames * size].reshape(*x.shape[:-1], frames, size)
    power = np.abs(np.fft.rfft(blocks * np.hanning(size), axis=-1)) ** 2
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 1) / 2595) - 1)
    first = np.rint(edges[:-1] * size / rate).astype(int)
    return np.add.reduceat(power, first, -1).swapaxes(-1, -2)


def band_levels(
    stems: Float[Array, "*leading stems samples"], mixture: Float[Array, " samples"], rate: int
) -> tuple[Float[Array, "*leading stems bands frames"], Bool[Array, "bands frames"]]:
    """Level of every stem in dB over the mixture's, in every cell, and the cells that sound.

    Levels below :data:`FLOOR_DB` are raised to it.
    """
    whole = band_energies(mixture, rate)
    sounding = whole > 10 ** (QUIET_DB / 10) * whole.mean()
    ratio = band_energies(stems, rate) / np.where(sounding, whole, 1.0)
    return 10 * np.log10(np.maximum(ratio, 10 ** (FLOOR_DB / 10))), sounding


def silent_share(
    draws: Float[Array, "draws stems samples"], rate: int
) -> Float[Array, "stems pieces"]:
    """Share of the draws in which a stem is silent, by pieces of a second.

    Silent is a root mean square below 1e-3 where the mixture's is 0.1, that of priors.
    """
    pieces = draws.shape[-1] // rate
    blocks = draws[..., : pieces * rate].reshape(*draws.shape[:-1], pieces, rate)
    return ((blocks**2).mean(-1) < ACTIVE_RMS**2).mean(0)
