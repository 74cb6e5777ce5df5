"""Diffusion within Gibbs, one stem at a time (Zhang, Guo and Eldar 2025, arXiv 2509.12857)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Sampler, Start, draw, first_level, first_state, gaussian
from mgdm_core.samplers.descent import Position
from mgdm_core.settings import above_0, at_least, positive
from mgdm_core.steps.backward import even_levels
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.grids import coupling_levels


class GibbsPlan(NamedTuple):
    """Level and stem of every step; the first level."""

    places: tuple[tuple[int, int], ...]
    steps: int
    top: int


@dataclass(frozen=True)
class DiffusionGibbs(Sampler):
    """Draw each stem given the mixture and the others: denoising what they leave of the mixture.

    y - sum_{j != k} x_j is stem k with noise of deviation sigma_y, so its conditional is drawn by
    backward steps from the level with that noise. For stems that are independent under the prior
    this is a Gibbs sampler of the posterior, exact as the backward steps are; a prior that knows
    the stems together is given the other stems noised to the level, which is an approximation. The
    deviation falls to sigma_y over the sweeps, since stems that mix with little noise hardly move.
    No gradient of a network. A start gives the stems, and skips sweeps at levels above its own.

    Parameters
    ----------
    iterations : int
        Gibbs sweeps over all stems.
    rho : float
        Deviation of the first sweep.
    decay : float
        Factor per sweep, down to the likelihood's sigma_y.
    prior_steps : int
        Backward steps of a stem's draw.
    """

    name: ClassVar[str] = "diffusion_gibbs"
    paper: ClassVar[str] = "Zhang, Guo and Eldar 2025, arXiv 2509.12857"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "mixing"})

    iterations: int = at_least(1, 60)
    rho: float = positive(10.0)
    decay: float = above_0(0.85)
    prior_steps: int = at_least(1, 10)

    def plan(self, problem: Problem, start: Start | None = None) -> GibbsPlan:
        """Every stem at the level of every sweep, none above the start's."""
        ends, top = (self.rho, gaussian(problem).sigma_y), first_level(problem, start)
        levels = coupling_levels(problem.schedule, self.iterations, ends, self.decay, top)
        places = tuple((level, k) for level in levels for k in range(problem.shape[0]))
        return GibbsPlan(places, len(places), levels[0])

    def init(
        self, problem: Problem, plan: GibbsPlan, noise: RandomStreams, start: Start | None = None
    ) -> Position:
        """All stems at the first sweep's noise."""
        alpha, _ = problem.schedule.moments(plan.top)
        return Position(0, first_state(problem, plan.top, noise, start) / alpha)

    def step(
        self, problem: Problem, plan: GibbsPlan, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Draw one stem."""
        schedule, (t, k), x = problem.schedule, plan.places[state.step], state.x
        stem = schedule.moments(t)[0] * (x[:, k] + gaussian(problem).residual(x))
        for level, below in pairwise(even_levels(t, self.prior_steps)):
            alpha, sigma = schedule.moments(level)
            noisy = _with(alpha * x + sigma * draw(problem, noise), k, stem)
            x_0 = problem.denoise(noisy, level)[:, k]
            stem = bridge_sample(schedule, x_0, stem, below, level, noise)
        x = _with(x, k, stem)
        return Position(state.step + 1, x), Info(t, x, x)


def _with(
    x: Float[Tensor, "batch stems *rest"], k: int, stem: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch stems *rest"]:
    """X with stem k replaced."""
    return torch.cat([x[:, :k], stem[:, None], x[:, k + 1 :]], 1)


PRESETS: dict[str, DiffusionGibbs] = {"default": DiffusionGibbs()}
