"""SMC-Diff, particle filtering on a noised observation (Trippe et al. 2022, arXiv 2206.04119)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.kernels import bridge_moments
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian
from mgdm_core.samplers._particles import (
    Population,
    SpectralObservation,
    row_sum,
    spectral_observation,
)
from mgdm_core.trace import Callback

__all__ = ["PRESETS", "SMCDiffSettings", "smc_diff"]


@dataclass(frozen=True)
class SMCDiffSettings:
    """Settings of SMC-Diff.

    Parameters
    ----------
    particles : int
        Per item.
    steps : int
        Noise levels (those at which a component is observed are added).
    threshold : float
        An item is resampled when its effective size falls below this share of its particles; 1 for
        every step, as published.
    """

    particles: int = 64
    steps: int = 100
    threshold: float = 1.0

    def __post_init__(self) -> None:
        check(self.particles >= 1, "particles is at least 1", self.particles)
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.threshold <= 1, "threshold lies in [0, 1]", self.threshold)


def smc_diff(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: SMCDiffSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Noise the observation once, put it in place at every level, weigh by how likely it was.

    All particles of an item share one noised path of the observed components. The result is exact
    on average over paths (over items), for many particles and levels, when forward and backward
    process agree; the particles of one item alone follow the posterior given its path. Components
    are those of the operator's singular value decomposition; noise is met as in ``mcg_diff``. No
    gradient of a network. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on an operator with ``svd``.
    """
    cfg = settings or SMCDiffSettings()
    lik = gaussian(likelihood, "smc_diff", "svd")
    run = Run("smc_diff", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    pop = Population(run, cfg.particles)
    x, top = pop.first_state(schedule.last, start)
    obs = spectral_observation(run, lik, cfg.steps, top)
    run.steps = len(obs.levels) - 1
    owners = pop.owners.to(run.device)

    path = _path_down(run, obs, None, top, top)
    x = obs.svd.v(torch.where(obs.seen(top), path[owners], obs.svd.v_t(x)))
    for t, s in zip(obs.levels[:-1], obs.levels[1:]):
        path = _path_down(run, obs, path, t, s)
        x_0 = run.denoise(x, t)
        mean, dev = bridge_moments(schedule, x_0, x, s, t)
        seen = obs.seen(s)
        m = obs.svd.v_t(mean)
        gap = torch.where(seen, path[owners] - m, torch.zeros_like(m))
        pop.weigh(-0.5 * row_sum(gap.square()) / max(float(dev) ** 2, 1e-30), t)
        # x_s is not drawn before resampling, so that copies of a particle part at once.
        m, x_0 = pop.resample(cfg.threshold, m, x_0)
        free = m + float(dev) * obs.svd.v_t(pop.noise())
        x = obs.svd.v(torch.where(seen, path[owners], free))
        pop.step(t, x, x_0)
    return pop.finish(x)


def _path_down(
    run: Run, obs: SpectralObservation, path: Tensor | None, t: int, s: int
) -> Float[Tensor, "batch n"]:
    """The noised observation at s given itself at t (None: at the top), components seen at s.

    The path starts at tau with alpha_tau ybar. Drawn from the top down it is a Gaussian bridge:
    with a = alpha_t / alpha_s its mean is alpha_s ybar + (a v_s / v_t) (path_t - alpha_t ybar) and
    its variance v_s (1 - a^2 v_s / v_t).
    """
    schedule = run.schedule
    v_s = obs.deviation2(schedule, s)
    mean = float(schedule.alpha[s]) * obs.target
    noise = obs.svd.v_t(run.noise())
    if path is None:
        return mean + v_s.sqrt() * noise
    v_t = obs.deviation2(schedule, t).clamp_min(1e-30)
    a = float(schedule.alpha[t] / schedule.alpha[s])
    pull = a * v_s / v_t
    rest = (v_s - pull * a * v_s).clamp_min(0)
    drawn = mean + pull * (path - float(schedule.alpha[t]) * obs.target) + rest.sqrt() * noise
    return torch.where(obs.seen(s), drawn, path)


PRESETS: dict[str, SMCDiffSettings] = {"default": SMCDiffSettings()}
