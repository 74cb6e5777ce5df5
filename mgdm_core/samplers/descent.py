"""What samplers share that hold one x and take it down the levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Sampler, Start, first_state, gaussian, require
from mgdm_core.settings import at_least, one_of, positive
from mgdm_core.steps.conditioning import condition_gaussian
from mgdm_core.steps.data import langevin, solves_linear
from mgdm_core.steps.grids import Pairs, pairs_down


class Position(NamedTuple):
    """x at the level that the next step starts from."""

    step: int
    x: Events


@dataclass(frozen=True)
class Descent(Sampler):
    """From noise, or a start, down even levels to the data: a subclass is one :meth:`move`.

    Parameters
    ----------
    steps : int
        Noise levels.
    """

    steps: int = at_least(1, 1000)

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data."""
        return pairs_down(problem, self.steps, start)

    def init(
        self, problem: Problem, plan: Any, noise: RandomStreams, start: Start | None = None
    ) -> Position:
        """x at the first level."""
        return Position(0, first_state(problem, plan.top, noise, start))

    def step(
        self, problem: Problem, plan: Pairs, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Go down one level."""
        t, s = plan.pairs[state.step]
        x, x_0 = self.move(problem, state.x, t, s, noise)
        return Position(state.step + 1, x), Info(t, x, x_0)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """x_s (at s = 0 the result) from x = x_t, and an estimate of x_0."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DrawsGivenData(Sampler):
    """A sampler that draws x_0 from a Gaussian times the likelihood.

    Parameters
    ----------
    draw : {"auto", "exact", "langevin"}
        ``exact`` draws in closed form and asks for a Gaussian likelihood on a linear operator;
        ``auto`` does where it can, and takes Langevin steps elsewhere.
    langevin_steps : int
        Langevin steps of one draw.
    learning_rate : float or None
        Largest Langevin step; None for the largest that is stable, whatever the data's scale.
    """

    draw: str = one_of(("auto", "exact", "langevin"), "auto")
    langevin_steps: int = at_least(1, 50)
    learning_rate: float | None = positive(None)

    def requires(self, problem: Problem) -> None:
        """An exact draw asks for a Gaussian likelihood on a linear operator."""
        super().requires(problem)
        if self.draw == "exact":
            require(problem, f"{self.name} with draw='exact'", "gaussian", "linear")

    def given_data(
        self,
        problem: Problem,
        centre: Events,
        variance: float,
        noise: RandomStreams,
        x_0: Events | None = None,
        rate_share: float = 1.0,
    ) -> Events:
        """Draw x from N(x; centre, variance I) g(y | x); Langevin steps begin at ``x_0``."""
        if self.draw == "langevin" or not solves_linear(problem):
            rate = None if self.learning_rate is None else rate_share * self.learning_rate
            first = centre if x_0 is None else x_0
            return langevin(problem, first, centre, variance, self.langevin_steps, rate, noise)
        likelihood = gaussian(problem)
        return condition_gaussian(
            centre,
            centre.new_full((len(centre),), variance),
            likelihood.operator,  # type: ignore[arg-type]
            likelihood.observation,
            likelihood.sigma_y,
            noise=noise,
        )
