"""MCGDiff, Monte Carlo guided diffusion (Cardoso et al. 2023, arXiv 2308.07983)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, draw, first_state
from mgdm_core.samplers._particles import (
    SpectralPlan,
    SpectralSMC,
    owners,
    resample,
    row_sum,
    spectral_observation,
    told,
    weigh,
)
from mgdm_core.steps.bridge import bridge_coefficients


class MCGState(NamedTuple):
    """Particles and their log-weights."""

    step: int
    x: Float[Tensor, "rows *event"]
    log_weights: Float[Tensor, "batch particles"]


@dataclass(frozen=True)
class MCGDiff(SpectralSMC):
    """Sequential Monte Carlo on the observed components, with the optimal proposal.

    The target at level t is the backward chain times N(x_t^i; alpha_t ybar_i, v_t,i) over the
    components seen, v_t,i the variance of x_t^i given x_tau^i = alpha_tau ybar_i (here ``kappa`` of
    the paper is 0: the potential closes on the observation at tau). Asymptotically exact in the
    number of particles for the diffusion with these levels, with sigma_y rounded to a level's
    noise. No gradient of a network.

    Parameters
    ----------
    particles, steps, threshold
        As in :class:`mgdm_core.samplers._particles.ParticleSampler`.
    """

    name: ClassVar[str] = "mcg_diff"
    paper: ClassVar[str] = "Cardoso et al. 2023, arXiv 2308.07983"

    def init(
        self, problem: Problem, plan: SpectralPlan, noise: RandomStreams, start: Start | None = None
    ) -> MCGState:
        """Noise conditioned on the components seen there, or the start."""
        x = first_state(problem, plan.top, noise, start, self.particles)
        if start is None:
            obs = spectral_observation(problem, plan)
            alpha, sigma = problem.schedule.moments(plan.top)
            gain = sigma**2 / (sigma**2 + obs.deviation2(problem.schedule, plan.top))
            target = obs.target[owners(problem, self.particles)]
            c = obs.svd.v_t(x)
            fitted = gain * alpha * target + (1 - gain).sqrt() * c
            x = obs.svd.v(torch.where(obs.seen(plan.top), fitted, c))
        return MCGState(0, x, self.no_weights(problem))

    def step(
        self, problem: Problem, plan: SpectralPlan, state: MCGState, noise: RandomStreams
    ) -> tuple[MCGState, Info]:
        """Weigh, resample, draw from the optimal proposal."""
        schedule, x = problem.schedule, state.x
        obs = spectral_observation(problem, plan)
        t, s = plan.levels[state.step], plan.levels[state.step + 1]
        target = obs.target[owners(problem, self.particles)]
        x_0 = problem.denoise(x, t)
        c_0, c_t, dev = bridge_coefficients(schedule, s, t)
        dev2, m, seen = dev**2, obs.svd.v_t(c_0 * x_0 + c_t * x), obs.seen(s)
        # Weight: the transition's evidence of the potential at s over the potential at t. It is
        # known before x_s is drawn, so that copies of a particle part at once.
        v_s = obs.deviation2(schedule, s)
        v_t = torch.where(seen, obs.deviation2(schedule, t), torch.ones_like(v_s))
        gap = schedule.moments(s)[0] * target - m
        old = schedule.moments(t)[0] * target - obs.svd.v_t(x)
        total = (dev2 + v_s).clamp_min(1e-30)
        evidence = old.square() / v_t - gap.square() / total
        evidence = torch.where(seen, evidence, torch.zeros_like(evidence))
        log_weights, valid = weigh(state.log_weights, 0.5 * row_sum(evidence))
        log_weights, (m, gap, x_0) = resample(log_weights, self.threshold, noise, m, gap, x_0)
        gain = torch.where(seen, dev2 / total, torch.zeros_like(v_s))
        z = obs.svd.v_t(draw(problem, noise, self.particles))
        x = obs.svd.v(m + gain * gap + dev * (1 - gain).clamp_min(0).sqrt() * z)
        return MCGState(state.step + 1, x, log_weights), told(t, x, x_0, log_weights, valid)


PRESETS: dict[str, MCGDiff] = {"default": MCGDiff()}
