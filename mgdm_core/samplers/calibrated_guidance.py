"""Calibrated guidance, without gradients (Geyfman et al. 2026, arXiv 2602.22428)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.precision import wide
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, draw
from mgdm_core.samplers._particles import effective_size, owners
from mgdm_core.samplers.descent import Descent, Position
from mgdm_core.settings import at_least, share
from mgdm_core.steps.backward import even_levels
from mgdm_core.steps.bridge import bridge_coefficients, bridge_sample
from mgdm_core.steps.grids import Pairs


@dataclass(frozen=True)
class CalibratedGuidance(Descent):
    """Backward steps through E[x_0 | x_t, y], estimated from draws of p(x_0 | x_t).

    The exact guidance is the gradient of log E[g(y | x_0) | x_t], of which methods that put the
    mean into g, or the mean of log g in its place, take another. By grad log p(x_0 | x_t) =
    alpha (x_0 - D(x_t)) / sigma^2 it moves D(x_t) to

        E[x_0 | x_t, y] = sum_k w_k x_0^k,   w_k proportional to g(y | x_0^k),

    for x_0^k from p(x_0 | x_t): consistent as their number grows. They are drawn by backward
    steps of the prior. Any likelihood; no gradient at all. Where few draws explain y, as at high
    noise under many observed values, a few weights decide (``effective_size`` in the trace).

    The estimator is derived here from the identity above; the paper's text was not at hand, only
    its abstract and its authors' description of a gradient-free estimator with 100 steps and 1000
    draws. Its estimator with gradients is not here.

    Parameters
    ----------
    steps : int
        Noise levels.
    draws : int
        Draws of x_0 given x_t, per item and step.
    prior_steps : int
        Backward steps of one draw.
    eta : float
        Noise of the backward step, 1 for DDPM.
    """

    name: ClassVar[str] = "calibrated_guidance"
    paper: ClassVar[str] = "Geyfman et al. 2026, arXiv 2602.22428"

    steps: int = at_least(1, 100)
    draws: int = at_least(1, 32)
    prior_steps: int = at_least(1, 4)
    eta: float = share(1.0)

    def step(
        self, problem: Problem, plan: Pairs, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Draw, weigh, go down one level."""
        t, s = plan.pairs[state.step]
        drawn = self._drawn(problem, state.x, t, noise)
        rows = problem.likelihood.select(owners(problem, self.draws))
        log_g = wide(rows.log_prob(drawn)).reshape(problem.items, self.draws)
        shape = (problem.items, self.draws, *problem.shape)
        weights = torch.softmax(log_g, -1).to(drawn.dtype)
        x_0 = torch.einsum("bk,bk...->b...", weights, drawn.reshape(shape))
        x = bridge_sample(problem.schedule, x_0, state.x, s, t, noise, self.eta)
        extra = {"effective_size": effective_size(log_g)}
        return Position(state.step + 1, x), Info(t, x, x_0, extra=extra)

    def _drawn(
        self, problem: Problem, x: Events, t: int, noise: RandomStreams
    ) -> Float[Tensor, "rows *event"]:
        """Draws of p(x_0 | x_t), those of an item next to each other."""
        x = x.repeat_interleave(self.draws, 0)
        for high, low in pairwise(even_levels(t, self.prior_steps)):
            x_0 = problem.denoise(x, high)
            c_0, c_t, dev = (float(c) for c in bridge_coefficients(problem.schedule, low, high))
            x = c_0 * x_0 + c_t * x + dev * draw(problem, noise, self.draws) if low > 0 else x_0
        return x


PRESETS: dict[str, CalibratedGuidance] = {
    "default": CalibratedGuidance(),
    "thousand-draws": CalibratedGuidance(draws=1000, prior_steps=20),
}
