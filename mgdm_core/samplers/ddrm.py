"""DDRM, denoising diffusion restoration models (Kawar et al. 2022, arXiv 2201.11793)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian, pairs_down
from mgdm_core.trace import Callback

__all__ = ["DDRMSettings", "PRESETS", "ddrm"]


@dataclass(frozen=True)
class DDRMSettings:
    """Settings of DDRM.

    Parameters
    ----------
    steps : int
        Noise levels; the paper's 20.
    eta : float
        Noise of components that the data do not reach, or reach with more noise than the level's.
    eta_b : float
        How far other components are set to the data.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)
        check(0 <= self.eta_b <= 1, "eta_b lies in [0, 1]", self.eta_b)


def ddrm(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: DDRMSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Backward steps on the components of the operator's singular value decomposition.

    Written on x_t / alpha_t with q = sigma_t / alpha_t, where the observed component i is
    ybar_i = (U^T y)_i / s_i with deviation sigma_y / s_i (equations 7 and 8). No gradient of a
    network. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on an operator with ``svd``.
    """
    cfg = settings or DDRMSettings()
    lik = gaussian(likelihood, "ddrm", "svd")
    run = Run("ddrm", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    svd = lik.operator.svd(run.shape, lik.observation)
    seen = svd.values > 1e-6 * svd.values.max()
    safe = torch.where(seen, svd.values, torch.ones_like(svd.values))
    target, noise_dev = svd.u_t(lik.observation) / safe, lik.sigma_y / safe

    x, top = run.first_state(schedule.last, start)
    if start is None:
        q = float(schedule.sigma[top] / schedule.alpha[top])
        shrink = (1 - (noise_dev / q) ** 2).clamp_min(0).sqrt()
        c = svd.v_t(x) / float(schedule.alpha[top])
        c = torch.where(seen & (noise_dev <= q), target + shrink * c, c)
        x = float(schedule.alpha[top]) * svd.v(c)
    for t, s in pairs_down(run, cfg.steps, top):
        q_t, q_s = (float(schedule.sigma[k] / schedule.alpha[k]) for k in (t, s))
        x_0 = run.denoise(x, t)
        c_t, c_0 = svd.v_t(x) / float(schedule.alpha[t]), svd.v_t(x_0)
        z = svd.v_t(run.noise())
        keep = (1 - cfg.eta**2) ** 0.5 * q_s
        free = c_0 + keep * (c_t - c_0) / q_t + cfg.eta * q_s * z
        weak = c_0 + keep * (target - c_0) / noise_dev + cfg.eta * q_s * z
        rest = (q_s**2 - (cfg.eta_b * noise_dev) ** 2).clamp_min(0).sqrt()
        strong = c_0 + cfg.eta_b * (target - c_0) + rest * z
        c = torch.where(seen, torch.where(noise_dev <= q_s, strong, weak), free)
        x = float(schedule.alpha[s]) * svd.v(c)
        run.step(t, x, x_0)
    return run.finish(x)


PRESETS: dict[str, DDRMSettings] = {
    "published": DDRMSettings(),
    "hundred-steps": DDRMSettings(steps=100),
}
