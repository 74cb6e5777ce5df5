"""DiffPIR, plug-and-play restoration with a diffusion prior (Zhu et al. 2023, arXiv 2305.08995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian, pairs_down, spread
from mgdm_core.trace import Callback

__all__ = ["DiffPIRSettings", "PRESETS", "diffpir"]


@dataclass(frozen=True)
class DiffPIRSettings:
    """Settings of DiffPIR.

    Parameters
    ----------
    steps : int
        Noise levels.
    lam : float
        lambda, the weight of the denoiser's estimate against the data.
    zeta : float
        Share of fresh noise when going to the next level; published: 1 for masks, 0.1 otherwise.
    """

    steps: int = 1000
    lam: float = 1.0
    zeta: float = 0.1

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(self.lam > 0, "lam is positive", self.lam)
        check(0 <= self.zeta <= 1, "zeta lies in [0, 1]", self.zeta)


def diffpir(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: DiffPIRSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Denoise, solve min ||y - A x||^2 + (lam sigma_y^2 / q^2) ||x - D(x_t)||^2, noise again.

    The result is that minimiser at the last level, q = sigma_t / alpha_t. No gradient of a network.
    Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on a linear operator (``proximal``).
    """
    cfg = settings or DiffPIRSettings()
    lik = gaussian(likelihood, "diffpir", "proximal")
    run = Run("diffpir", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    x, top = run.first_state(schedule.last, start)
    for t, s in pairs_down(run, cfg.steps, top):
        weight = float(spread(schedule, t, None)) / (cfg.lam * lik.sigma_y**2)
        x_0 = lik.operator.proximal(run.denoise(x, t), lik.observation, weight)
        eps = (x - float(schedule.alpha[t]) * x_0) / float(schedule.sigma[t])
        mixed = (1 - cfg.zeta) ** 0.5 * eps + cfg.zeta**0.5 * run.noise()
        x = float(schedule.alpha[s]) * x_0 + float(schedule.sigma[s]) * mixed
        run.step(t, x, x_0)
    return run.finish(x)


PRESETS: dict[str, DiffPIRSettings] = {
    "masks": DiffPIRSettings(zeta=1.0),
    "other": DiffPIRSettings(zeta=0.1),
}
