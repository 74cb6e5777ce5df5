"""TDS, the twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import SpectralOperator, flat
from mgdm_core.precision import wide, widest
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, draw, first_state, require
from mgdm_core.samplers._particles import ParticleSampler, owners, resample, row_sum, told, weigh
from mgdm_core.schedule import fit
from mgdm_core.settings import one_of, positive, share
from mgdm_core.steps.bridge import bridge_coefficients
from mgdm_core.steps.gradients import loss_and_gradient
from mgdm_core.steps.grids import Pairs, pairs_down, posterior_variance


class TwistedState(NamedTuple):
    """Particles with D(x), the log-twist and its gradient, and their log-weights."""

    step: int
    x: Float[Tensor, "rows *event"]
    x_0: Float[Tensor, "rows *event"]
    log_twist: Float[Tensor, " rows"]
    grad: Float[Tensor, "rows *event"]
    log_weights: Float[Tensor, "batch particles"]


@dataclass(frozen=True)
class TwistedSMC(ParticleSampler):
    """Sequential Monte Carlo whose proposal follows the gradient of a twisted target.

    Asymptotically exact in the number of particles for the diffusion with these levels, when it
    starts from pure noise. One evaluation and one vector-Jacobian product per particle and step.
    ``result.x`` is one particle per item, drawn by weight. Works with any likelihood.

    Parameters
    ----------
    particles, steps, threshold
        As in :class:`mgdm_core.samplers._particles.ParticleSampler`.
    twist : {"auto", "inflated", "plain"}
        ``plain``: g(y | D(x_t)). ``inflated``: N(y; A D(x_t), sigma_y^2 I + r_t^2 A A^T), r_t^2 the
        variance of x_0 given x_t (without singular values, sigma_y^2 + r_t^2 on every value);
        ``auto``: inflated for Gaussian likelihoods. Any twist leaves the method asymptotically
        exact: at level 0 it is the likelihood itself.
    data_variance : float or None
        v in r_t^2 = q^2 v / (q^2 + v), q = sigma_t / alpha_t; None for q^2. Too small a value
        makes the twist sharper than the posterior at high noise, and the modes' weights suffer.
    max_shift : float
        The proposal's mean moves at most this many of its deviations per coordinate (root mean
        square). The weights account for it.
    """

    name: ClassVar[str] = "twisted_smc"
    paper: ClassVar[str] = "Wu et al. 2023, arXiv 2306.17775"
    needs: ClassVar[frozenset[str]] = frozenset({"vjp"})

    threshold: float = share(0.5)
    twist: str = one_of(("auto", "inflated", "plain"), "auto")
    data_variance: float | None = positive(None)
    max_shift: float = positive(5.0)

    def requires(self, problem: Problem) -> None:
        """An inflated twist asks for a Gaussian likelihood."""
        if self.twist == "inflated":
            require(problem, "twisted_smc with twist='inflated'", "gaussian")

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data."""
        return pairs_down(problem, self.steps, start)

    def init(
        self, problem: Problem, plan: Pairs, noise: RandomStreams, start: Start | None = None
    ) -> TwistedState:
        """Particles at the first level, weighed by their twist."""
        x = first_state(problem, plan.top, noise, start, self.particles)
        x_0, log_twist, grad = self._twist(problem, x, plan.top)
        log_weights, _ = weigh(self.no_weights(problem), log_twist)
        return TwistedState(0, x, x_0, log_twist, grad, log_weights)

    def step(
        self, problem: Problem, plan: Pairs, state: TwistedState, noise: RandomStreams
    ) -> tuple[TwistedState, Info]:
        """Resample, move along the twist's gradient, weigh."""
        schedule, (t, s) = problem.schedule, plan.pairs[state.step]
        log_weights, (x, x_0, log_twist, grad) = resample(
            state.log_weights,
            self.threshold,
            noise,
            state.x,
            state.x_0,
            state.log_twist,
            state.grad,
        )
        c_0, c_t, dev = bridge_coefficients(schedule, s, t)
        mean, estimate = c_0 * x_0 + c_t * x, x_0
        if s == 0:  # the last step has no noise: D(x_t)
            x, ratio = mean, torch.zeros(len(mean), dtype=widest(x.device), device=x.device)
            log_new = problem.likelihood.select(owners(problem, self.particles)).log_prob(x)
        else:
            a = schedule.moments(t)[0] / schedule.moments(s)[0]
            shift = _shift(grad, float(a), float(dev), self.max_shift)
            z = dev * draw(problem, noise, self.particles)
            x = mean + shift + z
            # log N(x; mean, dev^2) - log N(x; mean + shift, dev^2)
            ratio = -row_sum(shift * (2 * z + shift)) / (2 * dev**2)
            x_0, log_new, grad = self._twist(problem, x, s)
        log_weights, valid = weigh(log_weights, wide(log_new - log_twist) + ratio)
        moved = TwistedState(state.step + 1, x, x_0, log_new, grad, log_weights)
        return moved, told(s or t, x, estimate, log_weights, valid)

    def _twist(
        self, problem: Problem, x: Float[Tensor, "rows *event"], t: int
    ) -> tuple[Tensor, Float[Tensor, " rows"], Tensor]:
        """D(x_t), log twist and its gradient in x_t, per particle."""
        likelihood = problem.likelihood.select(owners(problem, self.particles))
        r2 = posterior_variance(problem.schedule, t, self.data_variance)
        x_0, value, grad = loss_and_gradient(problem, x, t, partial(self._loss, likelihood, r2))
        return x_0, -value, -grad

    def _loss(self, lik: Likelihood, r2: float, x_0: Events) -> Float[Tensor, " rows"]:
        """Minus log twist, where x_0 has the variance ``r2`` around D(x_t)."""
        if self.twist == "plain" or not isinstance(lik, GaussianLikelihood):
            return -lik.log_prob(x_0)
        if not isinstance(lik.operator, SpectralOperator):
            variance = lik.deviation**2
            return -variance / (variance + r2) * lik.log_prob(x_0)
        svd = lik.operator.svd(x_0.shape[1:], lik.observation)
        gap = svd.u_t(lik.observation) - svd.values * svd.v_t(x_0)
        return 0.5 * (gap.square() / (lik.sigma_y**2 + r2 * svd.values**2)).sum(-1)


def _shift(
    grad: Float[Tensor, "rows *event"], a: float, deviation: float, max_shift: float
) -> Float[Tensor, "rows *event"]:
    """What the twist adds to the backward step's mean: its variance times the gradient in x_s.

    The gradient in x_s is taken as a = alpha_t / alpha_s times that in x_t. The longer shift of
    Tweedie's formula is the same for short steps, but leaves a long step's own Gaussian behind.
    """
    shift = a * deviation**2 * grad
    size = wide(flat(shift)).square().mean(-1).sqrt()
    limit = max_shift * deviation
    return shift * fit((limit / size.clamp_min(1e-30)).clamp_max(1.0), shift)


PRESETS: dict[str, TwistedSMC] = {
    "default": TwistedSMC(),
    "published-twist": TwistedSMC(twist="plain", max_shift=math.inf),
}
