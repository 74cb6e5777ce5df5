"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import (
    Info,
    Sampler,
    Start,
    check,
    draw,
    first_level,
    first_state,
    gaussian,
    lacks,
)
from mgdm_core.steps.backward import backward_chain
from mgdm_core.steps.data import draw_given_data, require_exact, solves_linear
from mgdm_core.steps.grids import karras_levels, posterior_variance

__all__ = ["PRESETS", "DAPS"]


class DAPSPlan(NamedTuple):
    """Levels, down to 0, and whether the draw given the data is in closed form."""

    levels: tuple[int, ...]
    steps: int
    exact: bool


class DAPSState(NamedTuple):
    """x at the level that the next step starts from."""

    step: int
    x: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class DAPS(Sampler):
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
    langevin_steps : int
        Langevin steps on x_0 given x_t and y.
    learning_rate : float or None
        Largest Langevin step; it falls linearly over the run to ``rate_floor`` times itself.
        None for the largest that is stable, whatever the data's scale.
    rate_floor : float
    draw : {"auto", "exact", "langevin"}
        ``exact`` draws x_0 given x_t and y in closed form (linear, Gaussian); ``auto`` does where
        it can.
    tau : float or None
        Deviation of the observation in the Langevin steps; None for the likelihood's own.
    data_variance : float or None
        The variance of x_0 given x_t is q^2 v / (q^2 + v) with v = ``data_variance``; None for the
        published q^2, q = sigma_t / alpha_t.
    sigma_max, sigma_min : float or None
        Ends of a Karras grid of levels (rho 7); None for evenly spaced levels from T.
    """

    name: ClassVar[str] = "daps"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2407.01521"

    levels: int = 200
    ode_steps: int = 5
    langevin_steps: int = 50
    learning_rate: float | None = None
    rate_floor: float = 0.01
    draw: str = "auto"
    tau: float | None = None
    data_variance: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        check(self.levels >= 1, "levels is at least 1", self.levels)
        check(self.ode_steps >= 1, "ode_steps is at least 1", self.ode_steps)
        check(self.langevin_steps >= 1, "langevin_steps is at least 1", self.langevin_steps)
        check(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate is positive or None",
            self.learning_rate,
        )
        check(0 < self.rate_floor <= 1, "rate_floor lies in (0, 1]", self.rate_floor)
        check(
            self.draw in ("auto", "exact", "langevin"),
            "draw is one of auto, exact, langevin",
            self.draw,
        )
        check(self.tau is None or self.tau > 0, "tau is positive or None", self.tau)
        check(
            self.data_variance is None or self.data_variance > 0,
            "data_variance is positive or None",
            self.data_variance,
        )
        ends = (self.sigma_max, self.sigma_min)
        given = self.sigma_max is not None and self.sigma_min is not None
        check(
            ends == (None, None) or (given and 0 < ends[1] < ends[0]),  # type: ignore[operator]
            "sigma_max and sigma_min are both None, or 0 < sigma_min < sigma_max",
            ends,
        )

    def requires(self, problem: Problem) -> None:
        """An exact draw asks for a linear Gaussian problem, ``tau`` for a Gaussian likelihood."""
        if self.tau is not None and lacks(problem, "gaussian"):
            raise CapabilityError(problem.likelihood, "gaussian", "daps with tau")
        if self.draw == "exact":
            require_exact(problem, self.name)

    def plan(self, problem: Problem, start: Start | None = None) -> DAPSPlan:
        """Karras levels between the two deviations, or even ones."""
        if self.sigma_max is not None and self.sigma_min is not None:
            levels = karras_levels(problem.schedule, self.levels, self.sigma_max, self.sigma_min)
        else:
            levels = problem.schedule.spaced(self.levels)
        top = first_level(problem, start, levels[0])
        levels = [top, *(level for level in levels if level < top), 0]
        exact = self.draw == "exact" or (self.draw == "auto" and solves_linear(problem))
        return DAPSPlan(tuple(levels), len(levels) - 1, exact)

    def init(
        self, problem: Problem, plan: DAPSPlan, noise: RandomStreams, start: Start | None = None
    ) -> DAPSState:
        """x at the first level."""
        return DAPSState(0, first_state(problem, plan.levels[0], noise, start))

    def step(
        self, problem: Problem, plan: DAPSPlan, state: DAPSState, noise: RandomStreams
    ) -> tuple[DAPSState, Info]:
        """Estimate, draw, noise."""
        schedule, k = problem.schedule, state.step
        t, s = plan.levels[k], plan.levels[k + 1]
        x_0 = backward_chain(schedule, problem.denoise, state.x, t, self.ode_steps, method="ddim")
        share = 1 - (1 - self.rate_floor) * k / plan.steps
        x_0 = draw_given_data(
            self._with_tau(problem),
            x_0,
            posterior_variance(schedule, t, self.data_variance),
            noise,
            exact=plan.exact,
            steps=self.langevin_steps,
            rate=None if self.learning_rate is None else share * self.learning_rate,
        )
        alpha, sigma = schedule.moments(s)
        x = alpha * x_0 + sigma * draw(problem, noise) if s > 0 else x_0
        return DAPSState(k + 1, x), Info(t, x, x_0)

    def _with_tau(self, problem: Problem) -> Problem:
        if self.tau is None:
            return problem
        lik = gaussian(problem)
        return replace(
            problem, likelihood=GaussianLikelihood(lik.operator, lik.observation, self.tau)
        )


_PUBLISHED = DAPS(draw="langevin", rate_floor=1e-3)
PRESETS: dict[str, DAPS] = {
    "images": replace(_PUBLISHED, learning_rate=5e-5, tau=0.01, sigma_max=100.0, sigma_min=0.1),
    "super-resolution": replace(
        _PUBLISHED, learning_rate=1e-4, tau=0.01, sigma_max=100.0, sigma_min=0.1
    ),
    "audio": replace(_PUBLISHED, learning_rate=1e-5, tau=0.005, sigma_max=20.0, sigma_min=0.001),
}
