"""PGDM, pseudo-inverse-guided diffusion (Song et al. 2023, ICLR, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import Start, gaussian
from mgdm_core.samplers.descent import Descent
from mgdm_core.settings import one_of, positive, share
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.grids import Pairs, pairs_down, posterior_variance


@dataclass(frozen=True)
class PGDM(Descent):
    """Guide by p(y | x_t) = N(A D(x_t), r_t^2 A A^T + sigma_y^2 I), one VJP a step.

    The pseudo-inverse of the noiseless formula and the solve of the noisy one are both the
    operator's proximal map.

    Parameters
    ----------
    steps : int
        Noise levels.
    eta : float
        Noise of the backward step, 1 for DDPM.
    data_variance : float or None
        Variance v of the data in r_t^2 = q^2 v / (q^2 + v), q = sigma_t / alpha_t; the paper's 1.
        None for r_t^2 = q^2, data of any scale.
    weighting : {"published", "score"}
        ``published``: the guidance is added to x_s after the backward step, alpha_t times, whatever
        the step's length. ``score``: it moves D(x_t) by what Tweedie's formula asks for, which is
        the exact posterior mean of x_0 for data of independent Gaussian coordinates.
    """

    name: ClassVar[str] = "pgdm"
    paper: ClassVar[str] = "Song et al. 2023, ICLR, openreview 9_gsMA8MRKQ"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "linear", "vjp"})

    eta: float = share(1.0)
    data_variance: float | None = positive(1.0)
    weighting: str = one_of(("published", "score"), "published")

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data, from the first that has any signal."""
        return pairs_down(problem, self.steps, start, problem.schedule.top)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, guide, go down."""
        lik = gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        alpha, sigma = problem.schedule.moments(t)
        r2 = posterior_variance(problem.schedule, t, self.data_variance)
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            x_hat = problem.denoise_differentiably(x_in, t)
            x_0 = x_hat.detach()
            # r^2 A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x_0)
            pull = operator.proximal(x_0, lik.observation, r2 / lik.sigma_y**2) - x_0
            (guidance,) = torch.autograd.grad(x_hat, x_in, pull)
        if self.weighting == "score":
            x_0 = x_0 + sigma**2 / (alpha * r2) * guidance
        x = bridge_sample(problem.schedule, x_0, x, s, t, noise, self.eta)
        if self.weighting == "published":
            x = x + alpha * guidance
        return x, x_0


PRESETS: dict[str, PGDM] = {"published": PGDM(), "score": PGDM(weighting="score")}
