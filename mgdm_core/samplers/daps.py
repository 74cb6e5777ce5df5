"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, draw, first_level, first_state, gaussian, require
from mgdm_core.samplers.descent import DrawsGivenData, Position
from mgdm_core.settings import above_0, at_least, check, positive
from mgdm_core.steps.backward import backward_chain
from mgdm_core.steps.grids import Pairs, karras_levels, posterior_variance


@dataclass(frozen=True)
class DAPS(DrawsGivenData):
    """At each level: estimate x_0, draw x_0 given x_t and y, noise it to the next level.

    x_0 given x_t is taken as a Gaussian around the estimate; with ``ode_steps=1`` and
    ``data_variance`` this is exact for data of independent Gaussian coordinates of that variance.
    Works with any likelihood; no gradient of a network. The ODE's steps are even in the levels.

    Parameters
    ----------
    levels : int
        Annealing levels.
    ode_steps : int
        Steps of the probability-flow ODE from x_t to an estimate of x_0; one step is D(x_t).
    draw, langevin_steps, learning_rate
        As in :class:`mgdm_core.samplers.descent.DrawsGivenData`; the largest step falls linearly
        over the run to ``rate_floor`` times itself.
    rate_floor : float
    tau : float or None
        Deviation of the observation in the Langevin steps, of its entries in the mean where they
        differ; None for the likelihood's own.
    data_variance : float or None
        The variance of x_0 given x_t is q^2 v / (q^2 + v) with v = ``data_variance``; None for the
        published q^2, q = sigma_t / alpha_t.
    sigma_max, sigma_min : float or None
        Ends of a Karras grid of levels (rho 7); None for evenly spaced levels from T.
    """

    name: ClassVar[str] = "daps"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2407.01521"

    levels: int = at_least(1, 200)
    ode_steps: int = at_least(1, 5)
    rate_floor: float = above_0(0.01)
    tau: float | None = positive(None)
    data_variance: float | None = positive(None)
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (self.sigma_max, self.sigma_min)
        given = self.sigma_max is not None and self.sigma_min is not None
        check(
            ends == (None, None) or (given and 0 < ends[1] < ends[0]),  # type: ignore[operator]
            "sigma_max and sigma_min are both None, or 0 < sigma_min < sigma_max",
            ends,
        )

    def requires(self, problem: Problem) -> None:
        """Further, ``tau`` asks for a Gaussian likelihood."""
        super().requires(problem)
        if self.tau is not None:
            require(problem, "daps with tau", "gaussian")

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Karras levels between the two deviations, or even ones."""
        if self.sigma_max is not None and self.sigma_min is not None:
            levels = karras_levels(problem.schedule, self.levels, self.sigma_max, self.sigma_min)
        else:
            levels = problem.schedule.spaced(self.levels)
        top = first_level(problem, start, levels[0])
        return Pairs.through([top, *(level for level in levels if level < top), 0])

    def init(
        self, problem: Problem, plan: Pairs, noise: RandomStreams, start: Start | None = None
    ) -> Position:
        """x at the first level."""
        return Position(0, first_state(problem, plan.top, noise, start))

    def step(
        self, problem: Problem, plan: Pairs, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Estimate, draw, noise."""
        schedule, k = problem.schedule, state.step
        t, s = plan.pairs[k]
        x_0 = backward_chain(schedule, problem.denoise, state.x, t, self.ode_steps, method="ddim")
        x_0 = self.given_data(
            self._with_tau(problem),
            x_0,
            posterior_variance(schedule, t, self.data_variance),
            noise,
            rate_share=1 - (1 - self.rate_floor) * k / plan.steps,
        )
        alpha, sigma = schedule.moments(s)
        x = alpha * x_0 + sigma * draw(problem, noise) if s > 0 else x_0
        return Position(k + 1, x), Info(t, x, x_0)

    def _with_tau(self, problem: Problem) -> Problem:
        if self.tau is None:
            return problem
        return replace(problem, likelihood=gaussian(problem).with_deviation(self.tau))


_PUBLISHED = DAPS(draw="langevin", rate_floor=1e-3)
PRESETS: dict[str, DAPS] = {
    "images": replace(_PUBLISHED, learning_rate=5e-5, tau=0.01, sigma_max=100.0, sigma_min=0.1),
    "super-resolution": replace(
        _PUBLISHED, learning_rate=1e-4, tau=0.01, sigma_max=100.0, sigma_min=0.1
    ),
    "audio": replace(_PUBLISHED, learning_rate=1e-5, tau=0.005, sigma_max=20.0, sigma_min=0.001),
}
