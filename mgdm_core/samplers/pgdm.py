"""PGDM, pseudo-inverse-guided diffusion (Song et al. 2023, ICLR, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.kernels import bridge_sample
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian, pairs_down, spread
from mgdm_core.trace import Callback

__all__ = ["PGDMSettings", "PRESETS", "pgdm"]


@dataclass(frozen=True)
class PGDMSettings:
    """Settings of PGDM.

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

    steps: int = 1000
    eta: float = 1.0
    data_variance: float | None = 1.0
    weighting: str = "published"

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)
        check(
            self.data_variance is None or self.data_variance > 0,
            "data_variance is positive or None",
            self.data_variance,
        )
        kinds = ("published", "score")
        check(self.weighting in kinds, "weighting is 'published' or 'score'", self.weighting)


def pgdm(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: PGDMSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Guide by p(y | x_t) = N(A D(x_t), r_t^2 A A^T + sigma_y^2 I), one VJP a step.

    The pseudo-inverse of the noiseless formula and the solve of the noisy one are both the
    operator's proximal map. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on a linear operator (``proximal``).
    """
    cfg = settings or PGDMSettings()
    lik = gaussian(likelihood, "pgdm", "proximal")
    run = Run("pgdm", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    x, top = run.first_state(schedule.last, start)
    for t, s in pairs_down(run, cfg.steps, top):
        alpha, sigma = float(schedule.alpha[t]), float(schedule.sigma[t])
        r2 = float(spread(schedule, t, cfg.data_variance))
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            x_hat = run.denoise_differentiably(x_in, t)
            x_0 = x_hat.detach()
            # r^2 A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x_0)
            pull = lik.operator.proximal(x_0, lik.observation, r2 / lik.sigma_y**2) - x_0
            guidance = run.vjp(x_hat, x_in, pull)
        if cfg.weighting == "score":
            x_0 = x_0 + sigma**2 / (alpha * r2) * guidance
        x = bridge_sample(schedule, x_0, x, s, t, streams, cfg.eta)
        if cfg.weighting == "published":
            x = x + alpha * guidance
        run.step(t, x, x_0)
    return run.finish(x)


PRESETS: dict[str, PGDMSettings] = {
    "published": PGDMSettings(),
    "score": PGDMSettings(weighting="score"),
}
