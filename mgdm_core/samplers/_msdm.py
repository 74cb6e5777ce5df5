"""The stochastic sampler of MSDM (Mariani et al. 2024, arXiv 2302.02257) around a derivative.

Euler steps of Karras et al. 2022, algorithm 2, on u = x / alpha against q = sigma / alpha, each
taken several times with fresh noise in between. A prior knows its own levels only: each q of the
Karras grid, and each q raised by the churn, becomes that of the nearest level.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Events, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, draw, first_level, first_state
from mgdm_core.settings import at_least, check, not_negative, positive
from mgdm_core.steps.grids import karras_levels, ratio_of


class MSDMPlan(NamedTuple):
    """Levels (t, raised, s) of every step: from t, raised by the churn, down to s."""

    triples: tuple[tuple[int, int, int], ...]
    steps: int
    top: int


class MSDMState(NamedTuple):
    """u = x / alpha."""

    step: int
    u: Events


@dataclass(frozen=True)
class MSDM(Sampler):
    """What both separators of MSDM share; no gradient of a network.

    Parameters
    ----------
    steps : int
        Length of the Karras grid (levels met twice are kept once).
    sigma_max, sigma_min, rho : float
        The grid, in sigma / alpha.
    s_churn : float
        Noise added before each step: sigma grows by min(s_churn / steps, sqrt(2) - 1).
    resamples : int
        Times that each step is taken.
    """

    paper: ClassVar[str] = "Mariani et al. 2024, arXiv 2302.02257"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "mixing"})

    steps: int = at_least(2, 150)
    sigma_max: float = positive(1.0)
    sigma_min: float = positive(1e-4)
    rho: float = positive(7.0)
    s_churn: float = not_negative(20.0)
    resamples: int = at_least(1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (self.sigma_min, self.sigma_max)
        check(self.sigma_min < self.sigma_max, "0 < sigma_min < sigma_max", ends)

    def constrain(self, problem: Problem, u: Tensor) -> Tensor:
        """Correct u before each evaluation and at the end."""
        return u

    def derivative(self, problem: Problem, u: Tensor, x_0: Tensor, q: float) -> Tensor:
        """du/dq at u, where x_0 = D(x)."""
        raise NotImplementedError

    def plan(self, problem: Problem, start: Start | None = None) -> MSDMPlan:
        """Karras levels from the first, or the start's, down to the data."""
        schedule = problem.schedule
        grid = karras_levels(schedule, self.steps, self.sigma_max, self.sigma_min, self.rho)
        top = min(first_level(problem, start, grid[0]), schedule.top)
        growth = 1 + min(self.s_churn / self.steps, 2**0.5 - 1)
        pairs = itertools.pairwise([top, *(level for level in grid if level < top), 0])
        triples = tuple(
            (t, max(t, schedule.level_of_sigma(ratio_of(schedule, t) * growth)), s)
            for t, s in pairs
        )
        return MSDMPlan(triples, len(triples), top)

    def init(
        self, problem: Problem, plan: MSDMPlan, noise: RandomStreams, start: Start | None = None
    ) -> MSDMState:
        """Noise, or the start, at the first level."""
        alpha, _ = problem.schedule.moments(plan.top)
        return MSDMState(0, first_state(problem, plan.top, noise, start) / alpha)

    def step(
        self, problem: Problem, plan: MSDMPlan, state: MSDMState, noise: RandomStreams
    ) -> tuple[MSDMState, Info]:
        """Raise, denoise, go down, as many times as ``resamples`` says."""
        schedule, u = problem.schedule, state.u
        t, raised, s = plan.triples[state.step]
        q, q_hat, q_next = (ratio_of(schedule, level) for level in (t, raised, s))
        alpha, _ = schedule.moments(raised)
        x_0 = u
        for k in range(self.resamples):
            u = self.constrain(problem, u + (q_hat**2 - q**2) ** 0.5 * draw(problem, noise))
            x_0 = problem.denoise(alpha * u, raised)
            u = u + (q_next - q_hat) * self.derivative(problem, u, x_0, q_hat)
            if k + 1 < self.resamples:
                u = u + (q**2 - q_next**2) ** 0.5 * draw(problem, noise)
        return MSDMState(state.step + 1, u), Info(t, u, x_0)

    def finish(
        self, problem: Problem, plan: MSDMPlan, state: MSDMState, noise: RandomStreams
    ) -> Result:
        """The last u, corrected."""
        return Result(self.constrain(problem, state.u))
