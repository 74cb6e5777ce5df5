"""SMC-Diff, particle filtering on a noised observation (Trippe et al. 2022, arXiv 2206.04119)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, draw, first_state
from mgdm_core.samplers._particles import (
    SpectralObservation,
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


class SMCState(NamedTuple):
    """Particles, their log-weights, and the noised path of the item's observation."""

    step: int
    x: Float[Tensor, "rows *event"]
    log_weights: Float[Tensor, "batch particles"]
    path: Float[Tensor, "batch n"]


@dataclass(frozen=True)
class SMCDiff(SpectralSMC):
    """Noise the observation once, put it in place at every level, weigh by how likely it was.

    All particles of an item share one noised path of the observed components. The result is exact
    on average over paths (over items), for many particles and levels, when forward and backward
    process agree; the particles of one item alone follow the posterior given its path. Components
    are those of the operator's singular value decomposition; noise is met as in ``mcg_diff``. No
    gradient of a network.

    Parameters
    ----------
    particles, steps, threshold
        As in :class:`mgdm_core.samplers._particles.ParticleSampler`.
    """

    name: ClassVar[str] = "smc_diff"
    paper: ClassVar[str] = "Trippe et al. 2022, arXiv 2206.04119"

    def init(
        self, problem: Problem, plan: SpectralPlan, noise: RandomStreams, start: Start | None = None
    ) -> SMCState:
        """Noise, or the start, with the path's first components in place."""
        x = first_state(problem, plan.top, noise, start, self.particles)
        obs = spectral_observation(problem, plan)
        path = path_down(problem, obs, None, plan.top, plan.top, noise)
        placed = path[owners(problem, self.particles)]
        x = obs.svd.v(torch.where(obs.seen(plan.top), placed, obs.svd.v_t(x)))
        return SMCState(0, x, self.no_weights(problem), path)

    def step(
        self, problem: Problem, plan: SpectralPlan, state: SMCState, noise: RandomStreams
    ) -> tuple[SMCState, Info]:
        """Go down the path, weigh, resample, draw the free components."""
        schedule, x = problem.schedule, state.x
        obs = spectral_observation(problem, plan)
        t, s = plan.levels[state.step], plan.levels[state.step + 1]
        path = path_down(problem, obs, state.path, t, s, noise)
        placed = path[owners(problem, self.particles)]
        x_0 = problem.denoise(x, t)
        c_0, c_t, dev = bridge_coefficients(schedule, s, t)
        m, seen = obs.svd.v_t(c_0 * x_0 + c_t * x), obs.seen(s)
        gap = torch.where(seen, placed - m, torch.zeros_like(m))
        increment = -0.5 * row_sum(gap.square()) / max(float(dev) ** 2, 1e-30)
        log_weights, valid = weigh(state.log_weights, increment)
        # x_s is not drawn before resampling, so that copies of a particle part at once.
        log_weights, (m, x_0) = resample(log_weights, self.threshold, noise, m, x_0)
        free = m + dev * obs.svd.v_t(draw(problem, noise, self.particles))
        x = obs.svd.v(torch.where(seen, placed, free))
        return SMCState(state.step + 1, x, log_weights, path), told(t, x, x_0, log_weights, valid)


def path_down(
    problem: Problem,
    obs: SpectralObservation,
    path: Float[Tensor, "batch n"] | None,
    t: int,
    s: int,
    noise: RandomStreams,
) -> Float[Tensor, "batch n"]:
    """The noised observation at s given itself at t (None: at the top), components seen at s.

    The path starts at tau with alpha_tau ybar. Drawn from the top down it is a Gaussian bridge:
    with a = alpha_t / alpha_s its mean is alpha_s ybar + (a v_s / v_t) (path_t - alpha_t ybar) and
    its variance v_s (1 - a^2 v_s / v_t).
    """
    schedule = problem.schedule
    alpha_s, alpha_t = schedule.moments(s)[0], schedule.moments(t)[0]
    v_s = obs.deviation2(schedule, s)
    mean = alpha_s * obs.target
    z = obs.svd.v_t(draw(problem, noise))
    if path is None:
        return mean + v_s.sqrt() * z
    v_t = obs.deviation2(schedule, t).clamp_min(1e-30)
    a = alpha_t / alpha_s
    pull = a * v_s / v_t
    rest = (v_s - pull * a * v_s).clamp_min(0)
    drawn = mean + pull * (path - alpha_t * obs.target) + rest.sqrt() * z
    return torch.where(obs.seen(s), drawn, path)


PRESETS: dict[str, SMCDiff] = {"default": SMCDiff()}
