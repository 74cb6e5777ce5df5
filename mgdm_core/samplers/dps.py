"""DPS, diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import flat
from mgdm_core.precision import wide
from mgdm_core.problem import Problem
from mgdm_core.samplers.descent import Descent
from mgdm_core.schedule import fit
from mgdm_core.settings import positive, share
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.gradients import data_gradient, loss_and_gradient


@dataclass(frozen=True)
class DPS(Descent):
    """Backward steps, each followed by a step down the gradient of the data misfit.

    Works with any likelihood; one evaluation and one vector-Jacobian product a step.

    Parameters
    ----------
    steps : int
        Noise levels.
    gamma : float
        Step: the gradient of ||y - A(D(x_t))||^2 is taken gamma / ||y - A(D(x_t))|| times. For a
        likelihood that is not Gaussian, gamma times the gradient of log g in x_0, cut to length
        2 gamma, is carried to x_t.
    eta : float
        Noise of the backward step, 1 for DDPM.
    """

    name: ClassVar[str] = "dps"
    paper: ClassVar[str] = "Chung et al. 2023, arXiv 2209.14687"
    needs: ClassVar[frozenset[str]] = frozenset({"vjp"})

    gamma: float = positive(1.0)
    eta: float = share(1.0)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, go down, follow the gradient."""
        x_0, pull = _guidance(problem, x, t, self.gamma)
        x = bridge_sample(problem.schedule, x_0, x, s, t, noise, self.eta)
        # Level 0 is D(x_t) itself: a step after it would leave the data's manifold.
        return (x - pull if s > 0 else x), x_0


def _square(likelihood: GaussianLikelihood, x_0: Events) -> Float[Tensor, " batch"]:
    """||y - A(x_0)||^2 in the observation's own units, whatever the deviations of its entries."""
    return flat(likelihood.in_data_units(likelihood.residual(x_0))).square().sum(-1)


def _guidance(problem: Problem, x: Events, t: int, gamma: float) -> tuple[Events, Events]:
    """Return D(x_t) and the step that is subtracted."""
    likelihood = problem.likelihood
    if isinstance(likelihood, GaussianLikelihood):
        x_0, square, grad = loss_and_gradient(problem, x, t, partial(_square, likelihood))
        norm = wide(square).sqrt().clamp_min(1e-12)
        return x_0, fit(gamma / norm, x) * grad
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x_0 = problem.denoise_differentiably(x, t)
        _, up = data_gradient(likelihood, x_0)
        size = (2 / wide(flat(up)).norm(dim=-1).clamp_min(1e-30)).clamp_max(1.0)
        (grad,) = torch.autograd.grad(x_0, x, -fit(gamma * size, up) * up)
    return x_0.detach(), grad


PRESETS: dict[str, DPS] = {
    "super-resolution": DPS(gamma=1.0),
    "phase-retrieval": DPS(gamma=0.4),
    "blur": DPS(gamma=0.3),
    "high-dynamic-range": DPS(gamma=0.07),
    "jpeg": DPS(gamma=0.2),
    "audio": DPS(gamma=1.0),
}
