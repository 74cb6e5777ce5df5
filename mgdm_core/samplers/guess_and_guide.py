"""Guess and Guide, guidance without network gradients (Shtanchaev et al. 2026, arXiv 2603.07860).

Built from the method's outline (a warm start at one fixed level by denoise, optimise, renoise; then
guided denoising on a sparse schedule). The paper's own numbers were not at hand: the defaults here
are ours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, draw, first_level
from mgdm_core.samplers.descent import Descent, Position
from mgdm_core.settings import above_0, at_least, positive, share
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.data import pull_to_data
from mgdm_core.steps.grids import posterior_variance


class GuidePlan(NamedTuple):
    """Steps (t, s, guided), those of the warm start with s = t before the others."""

    places: tuple[tuple[int, int, bool], ...]
    steps: int
    top: int


@dataclass(frozen=True)
class GuessAndGuide(Descent):
    """Guess at one level, then guide on a sparse schedule; x_0 alone is moved towards the data.

    Works with any likelihood; gradients reach no further than the likelihood. The warm start's
    level is the start's own if it has one.

    Parameters
    ----------
    warm_share : float
        The warm start's fixed level as a share of T.
    warm_iterations : int
        Rounds of denoise, move, renoise at that level.
    steps : int
        Levels from there to the data.
    every : int
        Every ``every``-th of these is guided; the others are plain backward steps.
    eta : float
        Noise of the plain backward steps.
    data_steps : int
        Gradient steps of a move towards the data where it has no closed form.
    data_variance : float or None
        A move minimises -log g(y | x) + ||x - D(x_t)||^2 / (2 r^2) with r^2 = q^2 v / (q^2 + v),
        v = ``data_variance`` and q = sigma_t / alpha_t; None for r^2 = q^2.
    """

    name: ClassVar[str] = "guess_and_guide"
    paper: ClassVar[str] = "Shtanchaev et al. 2026, arXiv 2603.07860"

    warm_share: float = above_0(0.6)
    warm_iterations: int = at_least(0, 40)
    steps: int = at_least(1, 60)
    every: int = at_least(1, 3)
    eta: float = share(1.0)
    data_steps: int = at_least(1, 20)
    data_variance: float | None = positive(None)

    def plan(self, problem: Problem, start: Start | None = None) -> GuidePlan:
        """The warm start's repetitions, then even levels down to the data."""
        warm = max(1, round(self.warm_share * problem.schedule.last))
        top = first_level(problem, start, warm)
        levels = [*problem.schedule.spaced(self.steps, top), 0]
        down = [(t, s, k % self.every == 0) for k, (t, s) in enumerate(itertools.pairwise(levels))]
        places = (*[(top, top, True)] * self.warm_iterations, *down)
        return GuidePlan(places, len(places), top)

    def step(
        self, problem: Problem, plan: GuidePlan, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Denoise; move and renoise where guided, else take a backward step."""
        schedule, (t, s, guided), x = problem.schedule, plan.places[state.step], state.x
        x_0 = problem.denoise(x, t)
        if guided:
            variance = posterior_variance(schedule, t, self.data_variance)
            x_0 = pull_to_data(problem, x_0, variance, self.data_steps)
            alpha, sigma = schedule.moments(s)
            x = alpha * x_0 + sigma * draw(problem, noise) if s > 0 else x_0
        else:
            x = bridge_sample(schedule, x_0, x, s, t, noise, self.eta)
        return Position(state.step + 1, x), Info(t, x, x_0)


PRESETS: dict[str, GuessAndGuide] = {"default": GuessAndGuide()}
