"""DPS, diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.kernels import bridge_sample
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import data_gradient, like_items, pairs_down
from mgdm_core.trace import Callback

__all__ = ["DPSSettings", "PRESETS", "dps"]


@dataclass(frozen=True)
class DPSSettings:
    """Settings of DPS.

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

    steps: int = 1000
    gamma: float = 1.0
    eta: float = 1.0

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(self.gamma > 0, "gamma is positive", self.gamma)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)


def dps(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: DPSSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Backward steps, each followed by a step down the gradient of the data misfit.

    Works with any likelihood; one evaluation and one vector-Jacobian product a step. Parameters as
    in :func:`mgdm_core.samplers.mgdm.mgdm`.
    """
    cfg = settings or DPSSettings()
    run = Run("dps", prior, likelihood, shape, streams, callback, cfg.steps)
    x, top = run.first_state(run.schedule.last, start)
    for t, s in pairs_down(run, cfg.steps, top):
        x_0, pull = _guidance(run, x, t, cfg.gamma)
        x = bridge_sample(run.schedule, x_0, x, s, t, streams, cfg.eta)
        # Level 0 is D(x_t) itself: a step after it would leave the data's manifold.
        x = x - pull if s > 0 else x
        run.step(t, x, x_0)
    return run.finish(x)


def _guidance(
    run: Run, x: Float[Tensor, "batch *event"], t: int, gamma: float
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch *event"]]:
    """Return D(x_t) and the step that is subtracted."""
    likelihood = run.likelihood
    if isinstance(likelihood, GaussianLikelihood):

        def misfit(x_0: Tensor) -> Tensor:
            return flat(likelihood.residual(x_0)).square().sum(-1)

        x_0, square, grad = run.loss_and_grad(x, t, misfit)
        norm = square.double().sqrt().clamp_min(1e-12)
        return x_0, like_items(gamma / norm, x) * grad
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x_0 = run.denoise_differentiably(x, t)
        _, up = data_gradient(likelihood, x_0)
        size = (2 / flat(up).double().norm(dim=-1).clamp_min(1e-300)).clamp_max(1.0)
        grad = run.vjp(x_0, x, -like_items(gamma * size, up) * up)
    return x_0.detach(), grad


PRESETS: dict[str, DPSSettings] = {
    "super-resolution": DPSSettings(gamma=1.0),
    "phase-retrieval": DPSSettings(gamma=0.4),
    "blur": DPSSettings(gamma=0.3),
    "high-dynamic-range": DPSSettings(gamma=0.07),
    "jpeg": DPSSettings(gamma=0.2),
    "audio": DPSSettings(gamma=1.0),
}
