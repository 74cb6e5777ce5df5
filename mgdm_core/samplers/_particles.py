"""Populations of particles, one per item: weights, systematic resampling, spectral observations.

Particles of an item lie next to each other: arrays have shape (batch * particles, *event), and all
their random numbers come from the item's own stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import DivergenceError, ShapeError
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import SVD, flat
from mgdm_core.run import Run, SampleResult, Start
from mgdm_core.schedule import NoiseSchedule

__all__ = [
    "Population",
    "SpectralObservation",
    "effective_size",
    "spectral_observation",
    "systematic",
]


def effective_size(log_weights: Float[Tensor, "batch particles"]) -> Float[Tensor, " batch"]:
    """Effective sample size 1 / sum w^2 of normalised weights."""
    return torch.softmax(log_weights, -1).square().sum(-1).reciprocal()


def systematic(
    weights: Float[Tensor, "batch particles"], point: Float[Tensor, " batch"]
) -> Int[Tensor, "batch particles"]:
    """Systematic resampling: one uniform number per item places an even comb over the weights."""
    count = weights.shape[1]
    comb = (torch.arange(count, dtype=weights.dtype) + point[:, None]) / count
    cumulative = weights.cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, comb.contiguous(), right=True).clamp_max(count - 1)


class Population:
    """The particles of every item of a run.

    Parameters
    ----------
    run : Run
    count : int
        Particles per item.
    """

    def __init__(self, run: Run, count: int) -> None:
        self.run, self.count = run, count
        owners = torch.arange(run.batch).repeat_interleave(count)
        self.owners = owners
        self.likelihood = run.likelihood.select(owners)
        self.log_weights = torch.zeros(run.batch, count, dtype=torch.float64)

    def fold(self, x: Float[Tensor, "rows *event"]) -> Float[Tensor, "batch particles *event"]:
        """Give every item its own axis of particles."""
        return x.reshape(self.run.batch, self.count, *x.shape[1:])

    def noise(self) -> Float[Tensor, "rows *event"]:
        """Standard normal numbers for every particle, from its item's stream."""
        run = self.run
        drawn = run.streams.normal((self.count, *run.shape), run.dtype, run.device)
        return drawn.reshape(run.batch * self.count, *run.shape)

    def first_state(
        self, level: int, start: Start | None
    ) -> tuple[Float[Tensor, "rows *event"], int]:
        """Every particle on its own: pure noise, or the start's estimate noised to its level."""
        run = self.run
        if start is not None and start.level is not None:
            level = start.level
        x = float(run.schedule.sigma[level]) * self.noise()
        if start is None:
            return x, level
        if start.x_0.shape != (run.batch, *run.shape):
            raise ShapeError(
                f"the start has shape (batch, *shape) = {(run.batch, *run.shape)}; "
                f"found {tuple(start.x_0.shape)}"
            )
        x_0 = start.x_0.to(run.device, run.dtype)[self.owners.to(run.device)]
        return float(run.schedule.alpha[level]) * x_0 + x, level

    def weigh(self, log_increment: Float[Tensor, " rows"], level: int) -> None:
        """Multiply the weights.

        Raises
        ------
        DivergenceError
            If an item has no particle of finite weight.
        """
        increment = log_increment.detach().to("cpu", torch.float64)
        self.log_weights = self.log_weights + self.fold(increment)
        best = self.log_weights.amax(-1, keepdim=True)
        bad = ~torch.isfinite(best[:, 0]) | torch.isnan(self.log_weights).any(-1)
        if bool(bad.any()):
            items = bad.nonzero()[:, 0].tolist()
            raise DivergenceError(self.run.trace.sampler, level, items)
        self.log_weights = self.log_weights - best

    def resample(self, threshold: float, *arrays: Tensor) -> list[Tensor]:
        """Resample the items whose effective size is below ``threshold`` times their particles.

        Every item draws one uniform number, whether it resamples or not.
        """
        weights = torch.softmax(self.log_weights, -1)
        chosen = systematic(weights, self.run.streams.uniform())
        low = effective_size(self.log_weights) < threshold * self.count
        own = torch.arange(self.count).expand_as(chosen)
        chosen = torch.where(low[:, None], chosen, own)
        self.log_weights = torch.where(
            low[:, None], torch.zeros_like(self.log_weights), self.log_weights
        )
        rows = (chosen + self.count * torch.arange(self.run.batch)[:, None]).reshape(-1)
        return [a[rows.to(a.device)] for a in arrays]

    def best(self, x: Float[Tensor, "rows *event"]) -> Float[Tensor, "batch *event"]:
        """The particle of largest weight of every item, for progress and records."""
        rows = self.log_weights.argmax(-1) + self.count * torch.arange(self.run.batch)
        return x[rows.to(x.device)]

    def step(self, level: int, x: Float[Tensor, "rows *event"], x_0: Tensor) -> None:
        """Record a step; NaN in any particle stops the run."""
        self.run.step(level, self.fold(x), self.best(x_0))

    def finish(self, x: Float[Tensor, "rows *event"]) -> SampleResult:
        """Draw one particle per item by weight, and resample all for the result's ``particles``."""
        run = self.run
        pick = run.streams.categorical(torch.softmax(self.log_weights, -1))
        rows = (pick + self.count * torch.arange(run.batch)).to(x.device)
        run.trace.extra["effective_size"] = effective_size(self.log_weights).tolist()
        (everyone,) = self.resample(2.0, x)
        return run.finish(x[rows], self.fold(everyone).detach())


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
    levels : list of int
        Levels of the run, descending to 0, every tau among them.
    """

    svd: SVD
    target: Tensor
    tau: Tensor
    ratio2: Tensor
    levels: list[int]

    def seen(self, level: int) -> Tensor:
        """Components whose tau is at or below ``level``."""
        return self.tau <= level

    def deviation2(self, schedule: NoiseSchedule, level: int) -> Float[Tensor, " n"]:
        """Variance of component i of x_level given that of x_tau; zero at tau itself."""
        alpha, sigma = float(schedule.alpha[level]), float(schedule.sigma[level])
        return (sigma**2 - alpha**2 * self.ratio2).clamp_min(0)


def spectral_observation(
    run: Run, likelihood: GaussianLikelihood, steps: int, top: int
) -> SpectralObservation:
    """Prepare the observation for methods that know how to meet a noiseless one.

    Up to ``steps`` different levels tau are added to the run's; with more, each tau moves to the
    nearest level of the run. A deviation below level 1's is met at level 1, and one above ``top``'s
    counts as unseen.
    """
    schedule = run.schedule
    svd = likelihood.operator.svd(run.shape, likelihood.observation)
    values = svd.values.to("cpu", torch.float64)
    seen = values > 1e-6 * values.max()
    safe = torch.where(seen, values, torch.ones_like(values))
    ratios = (schedule.sigma / schedule.alpha)[1:].log()
    nearest = 1 + _nearest(ratios, (likelihood.sigma_y / safe).log())
    levels: Sequence[int] = schedule.spaced(steps, top)
    wanted = sorted({int(t) for t in nearest[seen].unique()})
    if len(wanted) <= steps:
        levels = sorted({*levels, *(t for t in wanted if t <= top)}, reverse=True)
    else:
        grid = torch.tensor(sorted(levels))
        nearest = grid[_nearest(grid.double(), nearest.double())]
    unseen = ~seen | (nearest > top)
    tau = torch.where(unseen, torch.full_like(nearest, schedule.last + 1), nearest)
    square = (schedule.sigma / schedule.alpha)[nearest] ** 2
    y = likelihood.observation
    coefficients = svd.u_t(y) / torch.where(seen, values, 1.0).to(y.device, y.dtype)
    return SpectralObservation(
        svd,
        torch.where(unseen.to(y.device), torch.zeros_like(coefficients), coefficients),
        tau.to(y.device),
        torch.where(unseen, torch.zeros_like(square), square).to(y.device, y.dtype),
        [*levels, 0],
    )


def _nearest(grid: Tensor, values: Tensor) -> Tensor:
    """Index into the ascending ``grid`` of the entry nearest to each value."""
    right = torch.searchsorted(grid, values).clamp(1, len(grid) - 1) if len(grid) > 1 else None
    if right is None:
        return torch.zeros_like(values, dtype=torch.long)
    left = right - 1
    return torch.where(values - grid[left] <= grid[right] - values, left, right)


def row_sum(x: Tensor) -> Float[Tensor, " rows"]:
    """Sum over everything but the first axis, float64."""
    return flat(x).double().sum(-1)
