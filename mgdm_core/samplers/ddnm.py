"""DDNM and DDNM+, range-null-space decomposition (Wang et al. 2023, arXiv 2212.00490)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Tensor
from mgdm_core.kernels import bridge_moments
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian, pairs_down
from mgdm_core.trace import Callback

__all__ = ["DDNMSettings", "PRESETS", "ddnm"]


@dataclass(frozen=True)
class DDNMSettings:
    """Settings of DDNM.

    Parameters
    ----------
    steps : int
        Noise levels.
    eta : float
        Noise of the backward step.
    noise_aware : bool
        DDNM+ (section 3.3): a component whose observation is noisier than the backward step allows
        is corrected in part, and the noise that the observation brings is taken off the step's own;
        needs singular values. Otherwise plain DDNM, which ends with A x = y.
    """

    steps: int = 1000
    eta: float = 0.85
    noise_aware: bool = True

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)
        check(
            self.eta > 0 or not self.noise_aware,
            "noise_aware=True corrects within the backward step's noise and needs eta > 0",
            self.eta,
        )


def ddnm(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: DDNMSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Replace the part of D(x_t) that the data determine, then take the backward step.

    No gradient of a network. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on an operator with ``svd`` (not noise-aware:
        ``adjoint``).
    """
    cfg = settings or DDNMSettings()
    lik = gaussian(likelihood, "ddnm", "svd" if cfg.noise_aware else "adjoint")
    run = Run("ddnm", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    x, top = run.first_state(schedule.last, start)
    correct = (_noisy if cfg.noise_aware else _noiseless)(run, lik)
    for t, s in pairs_down(run, cfg.steps, top):
        x_0 = run.denoise(x, t)
        # The bridge's mean is a x_0 + b x_t: a is what an error of x_0 is carried on with.
        _, dev = bridge_moments(schedule, x_0, x, s, t, cfg.eta)
        dev = float(dev)
        along = max(float(schedule.sigma[s]) ** 2 - dev**2, 0) ** 0.5 / float(schedule.sigma[t])
        a = float(schedule.alpha[s]) - along * float(schedule.alpha[t])
        x_0, noise = correct(x_0, a, dev)
        x = bridge_moments(schedule, x_0, x, s, t, cfg.eta)[0] + noise
        run.step(t, x, x_0)
    return run.finish(x)


Correct = Callable[[Tensor, float, float], tuple[Tensor, Tensor]]


def _noiseless(run: Run, lik: GaussianLikelihood) -> Correct:
    def correct(x_0: Tensor, a: float, dev: float) -> tuple[Tensor, Tensor]:
        back = lik.operator.pseudo_inverse(lik.residual(x_0), run.shape)
        return x_0 + back, dev * run.noise()

    return correct


def _noisy(run: Run, lik: GaussianLikelihood) -> Correct:
    svd = lik.operator.svd(run.shape, lik.observation)
    values = svd.values
    seen = values > 1e-6 * values.max()
    safe = torch.where(seen, values, torch.ones_like(values))
    target = svd.u_t(lik.observation) / safe
    noise_dev = lik.sigma_y / safe

    def correct(x_0: Tensor, a: float, dev: float) -> tuple[Tensor, Tensor]:
        limit = (dev / (abs(a) * noise_dev).clamp_min(1e-30)).clamp_max(1.0)
        share = torch.where(seen, limit, torch.zeros_like(limit))
        gap = target - svd.v_t(x_0)
        own = (dev**2 - (a * share * noise_dev) ** 2).clamp_min(0).sqrt()
        noise = svd.v(own * svd.v_t(run.noise()))
        return x_0 + svd.v(share * gap), noise

    return correct


PRESETS: dict[str, DDNMSettings] = {
    "published": DDNMSettings(),
    "noiseless": DDNMSettings(noise_aware=False),
}
