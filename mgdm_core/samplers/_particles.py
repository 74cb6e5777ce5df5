"""Particles of every item: weights, systematic resampling, spectral observations.

Particles of an item lie next to each other: arrays have shape (batch * particles, *event), and all
their random numbers come from the item's own stream. Log-weights have shape (batch, particles).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Bool, Events, Float, Int, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import SVD, flat
from mgdm_core.precision import wide, widest
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, first_level
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.settings import at_least, share


def effective_size(log_weights: Float[Tensor, "batch particles"]) -> Float[Tensor, " batch"]:
    """Effective sample size 1 / sum w^2 of normalised weights."""
    return torch.softmax(log_weights, -1).square().sum(-1).reciprocal()


def systematic(
    weights: Float[Tensor, "batch particles"], point: Float[Tensor, " batch"]
) -> Int[Tensor, "batch particles"]:
    """Systematic resampling: one uniform number per item places an even comb over the weights."""
    count = weights.shape[1]
    steps = torch.arange(count, dtype=weights.dtype, device=weights.device)
    comb = (steps + point[:, None].to(weights)) / count
    cumulative = weights.cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, comb.contiguous(), right=True).clamp_max(count - 1)


def owners(problem: Problem, count: int) -> Int[Tensor, " rows"]:
    """Item that each particle belongs to."""
    return torch.arange(problem.items, device=problem.device).repeat_interleave(count)


def weigh(
    log_weights: Float[Tensor, "batch particles"], log_increment: Float[Tensor, " rows"]
) -> tuple[Float[Tensor, "batch particles"], Bool[Tensor, " batch"]]:
    """Multiply the weights; also tell which items still have a particle of finite weight."""
    weights = log_weights + wide(log_increment.detach()).reshape(log_weights.shape)
    largest = weights.amax(-1, keepdim=True)
    valid = torch.isfinite(largest[:, 0]) & ~torch.isnan(weights).any(-1)
    return weights - largest, valid


def resample(
    log_weights: Float[Tensor, "batch particles"],
    threshold: float,
    noise: RandomStreams,
    *arrays: Tensor,
) -> tuple[Float[Tensor, "batch particles"], list[Tensor]]:
    """Resample the items whose effective size is below ``threshold`` times their particles.

    Every item draws one uniform number, whether it resamples or not.
    """
    batch, count = log_weights.shape
    device = log_weights.device
    chosen = systematic(torch.softmax(log_weights, -1), noise.uniform((), device))
    low = (effective_size(log_weights) < threshold * count)[:, None]
    chosen = torch.where(low, chosen, torch.arange(count, device=device))
    rows = (chosen + count * torch.arange(batch, device=device)[:, None]).reshape(-1)
    kept = torch.where(low, torch.zeros_like(log_weights), log_weights)
    return kept, [a[rows] for a in arrays]


def best(log_weights: Float[Tensor, "batch particles"], x: Float[Tensor, "rows *event"]) -> Events:
    """The particle of largest weight of every item, for progress and records."""
    batch, count = log_weights.shape
    rows = log_weights.argmax(-1) + count * torch.arange(batch, device=x.device)
    return x[rows]


def told(
    level: int,
    x: Float[Tensor, "rows *event"],
    x_0: Float[Tensor, "rows *event"],
    log_weights: Float[Tensor, "batch particles"],
    valid: Bool[Tensor, " batch"],
) -> Info:
    """What a step of a particle method tells; NaN in any particle stops the run."""
    extra = {"effective_size": effective_size(log_weights)}
    return Info(level, x, best(log_weights, x_0), valid=valid, extra=extra)


@dataclass(frozen=True)
class ParticleSampler(Sampler):
    """A method that keeps several interacting particles per item; its state has their weights.

    Parameters
    ----------
    particles : int
        Per item.
    steps : int
        Noise levels.
    threshold : float
        An item is resampled when its effective size falls below this share of its particles; 1 for
        every step.
    """

    interacting: ClassVar[bool] = True
    particles: int = at_least(1, 64)
    steps: int = at_least(1, 100)
    threshold: float = share(1.0)

    def no_weights(self, problem: Problem) -> Float[Tensor, "batch particles"]:
        """Equal weights."""
        shape = (problem.items, self.particles)
        return torch.zeros(shape, dtype=widest(problem.device), device=problem.device)

    def finish(self, problem: Problem, plan: object, state: object, noise: RandomStreams) -> Result:
        """Draw one particle per item by weight, and resample all for the result's ``particles``."""
        x, log_weights = state.x, state.log_weights  # type: ignore[attr-defined]
        pick = noise.categorical(torch.softmax(log_weights, -1))
        rows = pick + self.particles * torch.arange(problem.items, device=x.device)
        _, (everyone,) = resample(log_weights, 2.0, noise, x)
        return Result(x[rows], everyone.reshape(problem.items, self.particles, *x.shape[1:]))


class SpectralPlan(NamedTuple):
    """Levels of a run that meets each observed component at a level of its own.

    ``merged``: there were more of those than steps, and each moved to the nearest level.
    """

    levels: tuple[int, ...]
    steps: int
    top: int
    merged: bool


class SpectralObservation(NamedTuple):
    """A linear-Gaussian observation as noiseless ones of x at some levels, component by component.

    Component i of V^T x_0 is seen as ``target`` with deviation sigma_y / s_i. That is the law of
    x_tau / alpha_tau for the level tau whose sigma / alpha is this deviation, so that seeing it is
    the same as knowing component i of x_tau: alpha_tau target (Cardoso et al. 2023, section 3).

    Attributes
    ----------
    svd : SVD
    target : Tensor, shape (batch, n)
        (U^T y) / s, zero where unseen.
    tau : Tensor of int, shape (n,)
        Level per component; one above the last level where unseen.
    ratio2 : Tensor, shape (n,)
        (sigma_tau / alpha_tau)^2, zero where unseen.
    """

    svd: SVD
    target: Tensor
    tau: Tensor
    ratio2: Tensor

    def seen(self, level: int) -> Bool[Tensor, " n"]:
        """Components whose tau is at or below ``level``."""
        return self.tau <= level

    def deviation2(self, schedule: NoiseSchedule, level: int) -> Float[Tensor, " n"]:
        """Variance of component i of x_level given that of x_tau; zero at tau itself."""
        alpha, sigma = schedule.moments(level)
        return (sigma**2 - alpha**2 * self.ratio2).clamp_min(0)


def _nearest_levels(problem: Problem) -> Int[Tensor, " n"]:
    """Level whose noise-to-signal ratio is nearest to each component's deviation."""
    schedule, deviation = problem.schedule, wide(problem.components[-1])
    ratios = schedule.ratio[1 : schedule.top + 1].log().to(deviation)
    return 1 + _nearest(ratios, deviation.log())


def spectral_plan(problem: Problem, steps: int, start: Start | None = None) -> SpectralPlan:
    """Levels for methods that know how to meet a noiseless observation.

    Up to ``steps`` different levels tau are added to the run's; with more, each tau moves to the
    nearest level of the run.
    """
    top = min(first_level(problem, start), problem.schedule.top)
    seen, nearest = problem.components[1], _nearest_levels(problem)
    levels = problem.schedule.spaced(steps, top)
    wanted = {t for t in nearest[seen].unique().tolist() if t <= top}
    merged = len(wanted) > steps
    if not merged:
        levels = sorted({*levels, *wanted}, reverse=True)
    return SpectralPlan((*levels, 0), len(levels), top, merged)


def spectral_observation(problem: Problem, plan: SpectralPlan) -> SpectralObservation:
    """Prepare the observation; nothing is read from the device.

    A deviation below level 1's is met at level 1, and one above the first level's counts as unseen.
    """
    svd, seen, target, _ = problem.components
    nearest = _nearest_levels(problem)
    if plan.merged:
        grid = torch.tensor(sorted(plan.levels[:-1]), device=nearest.device)
        nearest = grid[_nearest(wide(grid), wide(nearest))]
    unseen = ~seen | (nearest > plan.top)
    schedule = problem.schedule
    tau = torch.where(unseen, torch.full_like(nearest, schedule.last + 1), nearest)
    alpha, sigma = schedule.moments(nearest)
    square = (sigma / alpha) ** 2
    return SpectralObservation(
        svd,
        torch.where(unseen, torch.zeros_like(target), target),
        tau,
        torch.where(unseen, torch.zeros_like(square), square).to(target.dtype),  # type: ignore
    )


def _nearest(grid: Tensor, values: Tensor) -> Tensor:
    """Index into the ascending ``grid`` of the entry nearest to each value."""
    if len(grid) == 1:
        return torch.zeros_like(values, dtype=torch.long)
    right = torch.searchsorted(grid, values).clamp(1, len(grid) - 1)
    left = right - 1
    return torch.where(values - grid[left] <= grid[right] - values, left, right)


def row_sum(x: Tensor) -> Float[Tensor, " rows"]:
    """Sum over everything but the first axis, wide."""
    return wide(flat(x)).sum(-1)


@dataclass(frozen=True)
class SpectralSMC(ParticleSampler):
    """Particles that meet each observed component at the level of its own noise.

    Those levels are added to the run's ``steps``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "spectral"})

    def plan(self, problem: Problem, start: Start | None = None) -> SpectralPlan:
        """Even levels, and those at which components are met."""
        return spectral_plan(problem, self.steps, start)
