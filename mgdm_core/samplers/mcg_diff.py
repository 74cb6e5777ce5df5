"""MCGDiff, Monte Carlo guided diffusion (Cardoso et al. 2023, arXiv 2308.07983)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.kernels import bridge_moments
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import gaussian
from mgdm_core.samplers._particles import Population, row_sum, spectral_observation
from mgdm_core.trace import Callback

__all__ = ["MCGDiffSettings", "PRESETS", "mcg_diff"]


@dataclass(frozen=True)
class MCGDiffSettings:
    """Settings of MCGDiff.

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


def mcg_diff(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: MCGDiffSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Sequential Monte Carlo on the observed components, with the optimal proposal.

    The target at level t is the backward chain times N(x_t^i; alpha_t ybar_i, v_t,i) over the
    components seen, v_t,i the variance of x_t^i given x_tau^i = alpha_tau ybar_i (here ``kappa`` of
    the paper is 0: the potential closes on the observation at tau). Asymptotically exact in the
    number of particles for the diffusion with these levels, with sigma_y rounded to a level's
    noise. No gradient of a network. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on an operator with ``svd``.
    """
    cfg = settings or MCGDiffSettings()
    lik = gaussian(likelihood, "mcg_diff", "svd")
    run = Run("mcg_diff", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    pop = Population(run, cfg.particles)
    x, top = pop.first_state(schedule.last, start)
    obs = spectral_observation(run, lik, cfg.steps, top)
    run.steps = len(obs.levels) - 1
    target = obs.target[pop.owners.to(run.device)]
    zero = torch.zeros_like(target)

    c = obs.svd.v_t(x)
    if start is None:
        alpha, sigma2 = float(schedule.alpha[top]), float(schedule.sigma[top]) ** 2
        gain = sigma2 / (sigma2 + obs.deviation2(schedule, top))
        fitted = gain * alpha * target + (1 - gain).sqrt() * c
        c = torch.where(obs.seen(top), fitted, c)
        x = obs.svd.v(c)
    for t, s in zip(obs.levels[:-1], obs.levels[1:]):
        x_0 = run.denoise(x, t)
        mean, dev = bridge_moments(schedule, x_0, x, s, t)
        dev2, m, seen = float(dev) ** 2, obs.svd.v_t(mean), obs.seen(s)
        # Weight: the transition's evidence of the potential at s over the potential at t. It is
        # known before x_s is drawn, so that copies of a particle part at once.
        v_s = obs.deviation2(schedule, s)
        v_t = torch.where(seen, obs.deviation2(schedule, t), torch.ones_like(v_s))
        gap = float(schedule.alpha[s]) * target - m
        old = float(schedule.alpha[t]) * target - c
        total = (dev2 + v_s).clamp_min(1e-30)
        evidence = torch.where(seen, old.square() / v_t - gap.square() / total, zero)
        pop.weigh(0.5 * row_sum(evidence), t)
        m, gap, x_0 = pop.resample(cfg.threshold, m, gap, x_0)
        gain = torch.where(seen, dev2 / total, torch.zeros_like(v_s))
        noise = obs.svd.v_t(pop.noise())
        c = m + gain * gap + float(dev) * (1 - gain).clamp_min(0).sqrt() * noise
        x = obs.svd.v(c)
        pop.step(t, x, x_0)
    return pop.finish(x)


PRESETS: dict[str, MCGDiffSettings] = {"default": MCGDiffSettings()}
