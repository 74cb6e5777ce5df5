"""TDS, the twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.kernels import bridge_moments
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import like_items, pairs_down, spread
from mgdm_core.samplers._particles import Population, row_sum
from mgdm_core.trace import Callback

__all__ = ["PRESETS", "TwistedSMCSettings", "twisted_smc"]


@dataclass(frozen=True)
class TwistedSMCSettings:
    """Settings of the twisted diffusion sampler.

    Parameters
    ----------
    particles : int
        Per item.
    steps : int
        Noise levels.
    threshold : float
        An item is resampled when its effective size falls below this share of its particles.
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

    particles: int = 64
    steps: int = 100
    threshold: float = 0.5
    twist: str = "auto"
    data_variance: float | None = None
    max_shift: float = 5.0

    def __post_init__(self) -> None:
        check(self.particles >= 1, "particles is at least 1", self.particles)
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.threshold <= 1, "threshold lies in [0, 1]", self.threshold)
        check(
            self.twist in ("auto", "inflated", "plain"),
            "twist is one of auto, inflated, plain",
            self.twist,
        )
        check(
            self.data_variance is None or self.data_variance > 0,
            "data_variance is positive or None",
            self.data_variance,
        )
        check(self.max_shift > 0, "max_shift is positive", self.max_shift)


def twisted_smc(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: TwistedSMCSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Sequential Monte Carlo whose proposal follows the gradient of a twisted target.

    Asymptotically exact in the number of particles for the diffusion with these levels, when it
    starts from pure noise. One evaluation and one vector-Jacobian product per particle and step.
    ``result.x`` is one particle per item, drawn by weight. Works with any likelihood. Parameters
    as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        If ``twist="inflated"`` meets a likelihood that is not Gaussian.
    """
    cfg = settings or TwistedSMCSettings()
    run = Run("twisted_smc", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    pop = Population(run, cfg.particles)
    twist = _Twist(run, pop.likelihood, cfg)
    x, top = pop.first_state(schedule.last, start)
    x_0, log_twist, grad = twist(x, top)
    pop.weigh(log_twist, top)

    for t, s in pairs_down(run, cfg.steps, top):
        x, x_0, log_twist, grad = pop.resample(cfg.threshold, x, x_0, log_twist, grad)
        mean, dev = bridge_moments(schedule, x_0, x, s, t)
        deviation = float(dev)
        estimate = x_0
        if s == 0:  # the last step has no noise: D(x_t)
            x, ratio = mean, torch.zeros(len(mean), dtype=torch.float64)
            with torch.no_grad():
                log_new = pop.likelihood.log_prob(x)
        else:
            a = float(schedule.alpha[t] / schedule.alpha[s])
            shift = _shift(grad, a, deviation, cfg.max_shift)
            noise = deviation * pop.noise()
            x = mean + shift + noise
            # log N(x; mean, dev^2) - log N(x; mean + shift, dev^2)
            ratio = -row_sum(shift * (2 * noise + shift)).cpu() / (2 * deviation**2)
            x_0, log_new, grad = twist(x, s)
        pop.weigh((log_new - log_twist).double().cpu() + ratio, s or t)
        log_twist = log_new
        pop.step(t, x, estimate)
    return pop.finish(x)


def _shift(
    grad: Float[Tensor, "rows *event"], a: float, deviation: float, max_shift: float
) -> Float[Tensor, "rows *event"]:
    """What the twist adds to the backward step's mean: its variance times the gradient in x_s.

    The gradient in x_s is taken as a = alpha_t / alpha_s times that in x_t. The longer shift of
    Tweedie's formula is the same for short steps, but leaves a long step's own Gaussian behind.
    """
    shift = a * deviation**2 * grad
    size = flat(shift).double().square().mean(-1).sqrt()
    limit = max_shift * deviation
    return shift * like_items((limit / size.clamp_min(1e-300)).clamp_max(1.0), shift)


class _Twist:
    """D(x_t), log twist and its gradient in x_t, per particle."""

    def __init__(self, run: Run, likelihood: Likelihood, cfg: TwistedSMCSettings) -> None:
        self.run, self.likelihood, self.variance = run, likelihood, cfg.data_variance
        kind = cfg.twist
        if kind == "auto":
            kind = "inflated" if isinstance(likelihood, GaussianLikelihood) else "plain"
        if kind == "inflated" and not isinstance(likelihood, GaussianLikelihood):
            raise CapabilityError(likelihood, "gaussian", "twisted_smc with twist='inflated'")
        self.inflated = kind == "inflated"
        self.svd = None
        if not self.inflated or not isinstance(likelihood, GaussianLikelihood):
            return
        if "svd" in likelihood.operator.capabilities:
            self.svd = likelihood.operator.svd(run.shape, likelihood.observation)
            self.coefficients = self.svd.u_t(likelihood.observation)

    def __call__(
        self, x: Float[Tensor, "rows *event"], t: int
    ) -> tuple[Tensor, Float[Tensor, " rows"], Tensor]:
        """Evaluate at level t."""
        r2 = float(spread(self.run.schedule, t, self.variance))

        def loss(x_0: Tensor) -> Tensor:
            lik = self.likelihood
            if not self.inflated or not isinstance(lik, GaussianLikelihood):
                return -lik.log_prob(x_0)
            if self.svd is None:
                share = lik.sigma_y**2 / (lik.sigma_y**2 + r2)
                return -share * lik.log_prob(x_0)
            values = self.svd.values
            gap = self.coefficients - values * self.svd.v_t(x_0)
            return 0.5 * (gap.square() / (lik.sigma_y**2 + r2 * values**2)).sum(-1)

        x_0, value, grad = self.run.loss_and_grad(x, t, loss)
        return x_0, -value, -grad


PRESETS: dict[str, TwistedSMCSettings] = {
    "default": TwistedSMCSettings(),
    "published-twist": TwistedSMCSettings(twist="plain", max_shift=math.inf),
}
