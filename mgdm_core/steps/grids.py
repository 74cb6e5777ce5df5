"""Grids of levels and the numbers that come with them: read off the schedule, on the host."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

from mgdm_core.problem import Problem
from mgdm_core.sampler import Start, first_level
from mgdm_core.schedule import NoiseSchedule


class Pairs(NamedTuple):
    """A plan of steps (t, s) that each go from one level to a lower one."""

    pairs: tuple[tuple[int, int], ...]
    steps: int
    top: int

    @classmethod
    def through(cls, levels: list[int]) -> Pairs:
        """Steps from each level to the one after it."""
        pairs = tuple(itertools.pairwise(levels))
        return cls(pairs, len(pairs), levels[0])


def pairs_down(
    problem: Problem, count: int, start: Start | None = None, highest: int | None = None
) -> Pairs:
    """Steps from the first level to the data: ``count`` even levels, then level 0.

    There are fewer where levels would repeat. The first is the start's, else T, at most
    ``highest``.
    """
    first = min(first_level(problem, start), highest or problem.schedule.last)
    levels = problem.schedule.spaced(count, first)
    return Pairs.through([*levels, 0])


def levels_even_in_log(schedule: NoiseSchedule, highest: float, count: int) -> list[int]:
    """Levels nearest to ``count`` noise-to-signal ratios, even in log, descending, none twice.

    From ``highest`` to that of level 1; none where that is higher.
    """
    low = float(schedule.ratio[1])
    if low > highest:
        return []
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    ratios = highest * (low / highest) ** share
    return sorted({schedule.level_of_sigma(float(r)) for r in ratios}, reverse=True)


def karras_levels(
    schedule: NoiseSchedule, count: int, sigma_max: float, sigma_min: float, rho: float = 7.0
) -> list[int]:
    """Levels nearest to the noise-to-signal ratios of Karras et al. 2022, equation 5, descending.

    A prior knows its own levels only, so each ratio becomes the nearest level (whose own ratio is
    then used), and levels met twice are kept once.
    """
    ramp = torch.linspace(0, 1, count, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return sorted({schedule.level_of_sigma(float(v)) for v in sigmas}, reverse=True)


def coupling_levels(
    schedule: NoiseSchedule, count: int, ends: tuple[float, float], decay: float, highest: int
) -> list[int]:
    """Level of each of ``count`` Gibbs sweeps, whose deviation falls by ``decay`` each.

    It is that nearest to the first of ``ends`` times decay^k, not below the second; the deviation
    is then the level's own sigma_t / alpha_t. Sweeps above ``highest`` are left out; where all are,
    one is taken there.
    """
    first, floor = ends
    levels = [schedule.level_of_sigma(max(first * decay**k, floor)) for k in range(count)]
    highest = min(highest, schedule.top)
    return [level for level in levels if level <= highest] or [highest]


def ratio_of(schedule: NoiseSchedule, t: int) -> float:
    """Noise-to-signal ratio sigma_t / alpha_t, infinite where nothing of the signal is left."""
    alpha, sigma = schedule.moments(t)
    return float(sigma) / float(alpha) if alpha > 0 else float("inf")  # type: ignore[operator]


def posterior_variance(schedule: NoiseSchedule, t: int, data_variance: float | None) -> float:
    """Variance of x_0 given x_t: q^2 v / (q^2 + v) with q = sigma_t / alpha_t.

    It is exact for data of independent Gaussian coordinates of variance v = ``data_variance``;
    None stands for a flat prior: q^2 (of the noisiest level with any signal where alpha_t is 0).
    """
    if data_variance is None:
        return ratio_of(schedule, min(t, schedule.top)) ** 2
    square = ratio_of(schedule, t) ** 2
    return 1 / (1 / square + 1 / data_variance)
