"""The stochastic sampler of MSDM (Mariani et al. 2024, arXiv 2302.02257) around a derivative.

Euler steps of Karras et al. 2022, algorithm 2, on u = x / alpha against q = sigma / alpha, each
taken several times with fresh noise in between. A prior knows its own levels only: each q of the
Karras grid, and each q raised by the churn, becomes that of the nearest level.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import SumOverChannels
from mgdm_core.run import Run, Start, check
from mgdm_core.samplers._common import gaussian, karras_levels

__all__ = ["MSDMSettings", "integrate", "mixing"]


@dataclass(frozen=True)
class MSDMSettings:
    """Settings that both separators of MSDM share.

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

    steps: int = 150
    sigma_max: float = 1.0
    sigma_min: float = 1e-4
    rho: float = 7.0
    s_churn: float = 20.0
    resamples: int = 2

    def __post_init__(self) -> None:
        check(self.steps >= 2, "steps is at least 2", self.steps)
        check(
            0 < self.sigma_min < self.sigma_max,
            "0 < sigma_min < sigma_max",
            (self.sigma_min, self.sigma_max),
        )
        check(self.rho > 0, "rho is positive", self.rho)
        check(self.s_churn >= 0, "s_churn is not negative", self.s_churn)
        check(self.resamples >= 1, "resamples is at least 1", self.resamples)


def mixing(likelihood: Likelihood, who: str) -> GaussianLikelihood:
    """Return a Gaussian likelihood on the mixing operator.

    Raises
    ------
    CapabilityError
        Naming ``gaussian`` or ``mixing`` if it is not one.
    """
    lik = gaussian(likelihood, who)
    if not isinstance(lik.operator, SumOverChannels):
        raise CapabilityError(lik.operator, "mixing", who)
    return lik


# (u, D(x), q) -> du/dq, and a last correction of the result.
Derivative = Callable[[Tensor, Tensor, float], Tensor]


def integrate(
    run: Run,
    cfg: MSDMSettings,
    derivative: Derivative,
    constrain: Callable[[Tensor], Tensor],
    start: Start | None,
) -> Float[Tensor, "batch *event"]:
    """Go down the grid; ``constrain`` is applied to u before each evaluation and at the end."""
    schedule = run.schedule

    def ratio(t: int) -> float:
        return float(schedule.sigma[t] / schedule.alpha[t])

    levels = karras_levels(schedule, cfg.steps, cfg.sigma_max, cfg.sigma_min, cfg.rho)
    x, top = run.first_state(levels[0], start)
    levels = [top, *(level for level in levels if level < top), 0]
    u = x / float(schedule.alpha[top])
    growth = 1 + min(cfg.s_churn / cfg.steps, 2**0.5 - 1)
    run.steps = len(levels) - 1
    for t, s in itertools.pairwise(levels):
        raised = max(t, schedule.level_of_sigma(ratio(t) * growth))
        q, q_hat, q_next = ratio(t), ratio(raised), ratio(s)
        for k in range(cfg.resamples):
            u = constrain(u + (q_hat**2 - q**2) ** 0.5 * run.noise())
            x_0 = run.denoise(float(schedule.alpha[raised]) * u, raised)
            u = u + (q_next - q_hat) * derivative(u, x_0, q_hat)
            if k + 1 < cfg.resamples:
                u = u + (q**2 - q_next**2) ** 0.5 * run.noise()
        run.step(t, u, x_0)
    return constrain(u)
