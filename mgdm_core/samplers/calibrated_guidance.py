"""Calibrated guidance, by weights or by gradients (Geyfman et al. 2026, arXiv 2602.22428)."""

from __future__ import annotations

from collections.abc import Callable
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
from mgdm_core.settings import at_least, one_of, share
from mgdm_core.steps.backward import even_levels
from mgdm_core.steps.bridge import bridge_coefficients, bridge_sample
from mgdm_core.steps.gradients import slope
from mgdm_core.steps.grids import Pairs


@dataclass(frozen=True)
class CalibratedGuidance(Descent):
    """Backward steps through E[x_0 | x_t, y], estimated from draws of p(x_0 | x_t).

    The exact guidance is the gradient of log E[g(y | x_0) | x_t], of which methods that put the
    mean into g, or the mean of log g in its place, take another. Draws x_0^k from p(x_0 | x_t),
    made by backward steps of the prior, estimate it in two ways, both consistent as their number
    grows. ``weights``: by grad log p(x_0 | x_t) = alpha (x_0 - D(x_t)) / sigma^2 it moves D(x_t) to

        E[x_0 | x_t, y] = sum_k w_k x_0^k,   w_k proportional to g(y | x_0^k),

    for any likelihood, with no gradient at all. ``gradient``: the draws are functions of x_t and of
    their noise, through which the gradient is taken,

        E[x_0 | x_t, y] = D(x_t) + sigma^2 / alpha grad_{x_t} log sum_k g(y | x_0^k(x_t)),

    one vector-Jacobian product per evaluation; where alpha is 0 there is nothing to follow, and the
    weights decide. Where few draws explain y, as at high noise under many observed values, a few
    weights decide (``effective_size`` in the trace); the gradient then still points from those
    draws to y.

    Both are derived here from the identities above: the paper's text was not at hand, only its
    abstract and its authors' description of estimators with and without gradients, with 100 steps
    and 1000 draws.

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
    estimator : {"weights", "gradient"}
        How the draws are used; ``gradient`` asks for a differentiable prior and likelihood.
    """

    name: ClassVar[str] = "calibrated_guidance"
    paper: ClassVar[str] = "Geyfman et al. 2026, arXiv 2602.22428"

    steps: int = at_least(1, 100)
    draws: int = at_least(1, 32)
    prior_steps: int = at_least(1, 4)
    eta: float = share(1.0)
    estimator: str = one_of(("weights", "gradient"), "weights")

    def step(
        self, problem: Problem, plan: Pairs, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Draw, weigh or follow, go down one level."""
        t, s = plan.pairs[state.step]
        alpha, sigma = (float(m) for m in problem.schedule.moments(t))
        if self.estimator == "gradient" and alpha > 0:
            with torch.enable_grad():
                x = state.x.detach().requires_grad_(True)
                mean, _, log_g = self._draws(problem, x, t, noise, problem.denoise_differentiably)
                pull = slope(problem.likelihood, torch.logsumexp(log_g, -1), x)
            x_0, log_g = mean.detach() + sigma**2 / alpha * pull, log_g.detach()
        else:
            _, drawn, log_g = self._draws(problem, state.x, t, noise, problem.denoise)
            weights = torch.softmax(log_g, -1).to(drawn.dtype)
            x_0 = torch.einsum("bk,bk...->b...", weights, drawn)
        x = bridge_sample(problem.schedule, x_0, state.x, s, t, noise, self.eta)
        extra = {"effective_size": effective_size(log_g)}
        return Position(state.step + 1, x), Info(t, x, x_0, extra=extra)

    def _draws(
        self,
        problem: Problem,
        x: Events,
        t: int,
        noise: RandomStreams,
        denoise: Callable[[Events, int], Events],
    ) -> tuple[Events, Float[Tensor, "items draws *event"], Float[Tensor, "items draws"]]:
        """D(x_t), draws of p(x_0 | x_t) and log g of each."""
        mean = denoise(x, t)
        x_0, x = (a.repeat_interleave(self.draws, 0) for a in (mean, x))
        for high, low in pairwise(even_levels(t, self.prior_steps)):
            if high < t:
                x_0 = denoise(x, high)
            if low > 0:
                c_0, c_t, dev = (float(c) for c in bridge_coefficients(problem.schedule, low, high))
                x = c_0 * x_0 + c_t * x + dev * draw(problem, noise, self.draws)
        log_g = wide(problem.likelihood.select(owners(problem, self.draws)).log_prob(x_0))
        shape = (problem.items, self.draws)
        return mean, x_0.reshape(*shape, *problem.shape), log_g.reshape(shape)


PRESETS: dict[str, CalibratedGuidance] = {
    "default": CalibratedGuidance(),
    "thousand-draws": CalibratedGuidance(draws=1000, prior_steps=20),
    "gradient": CalibratedGuidance(estimator="gradient"),
}
