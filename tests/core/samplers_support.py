"""What the sampler tests share: a Gaussian prior of any shape, and backward chains as algebra."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import Matrix
from mgdm_core.problem import Problem
from mgdm_core.sample import SampleResult, sample
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import condition


def draw(prior, likelihood, shape, streams, sampler, **options) -> SampleResult:
    """One sample per item, with these random streams."""
    return sample(Problem(prior, likelihood, shape), sampler, noise=streams, **options)


@dataclass
class CoordinatePrior:
    """Independent N(mean, variance) coordinates in any shape, in closed form and any dtype.

    It notes the levels it is called at, and can refuse to be called with gradients switched on or
    return NaN from a level on downwards.
    """

    schedule: NoiseSchedule
    mean: float = 0.0
    variance: float = 1.0
    refuse_grad: bool = False
    nan_from: int = -1
    levels: list[int] = field(default_factory=list)
    last: torch.Tensor | None = None

    def denoise(self, x, t):
        if self.refuse_grad and torch.is_grad_enabled():
            raise AssertionError("called with gradients switched on")
        t = torch.as_tensor(t, device=x.device).reshape(-1)
        alpha, sigma = self.schedule.at(t, x)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        out = self.mean + gain * (x - alpha * self.mean)
        if x.device.type == "cpu":
            self.levels += t.unique().tolist()
            if int(t.min()) <= self.nan_from:
                out = out * math.nan
        self.last = out.detach()
        return out


@dataclass
class LinearGaussian:
    """x ~ N(mean, cov), y = matrix x + N(0, sigma_y^2)."""

    mean: torch.Tensor
    cov: torch.Tensor
    matrix: torch.Tensor
    y: torch.Tensor
    sigma_y: float

    def posterior(self, extra: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Given y, with ``extra`` A A^T added to the observation's covariance."""
        eye = torch.eye(len(self.y), dtype=torch.float64)
        noise = self.sigma_y**2 * eye + extra * self.matrix @ self.matrix.T
        return condition(self.mean, self.cov, self.matrix, self.y, noise)

    def likelihood(self, items: int) -> GaussianLikelihood:
        return GaussianLikelihood(Matrix(self.matrix), self.y.expand(items, -1), self.sigma_y)

    def denoiser(self, schedule: NoiseSchedule, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """D_t(x) = G x + h."""
        alpha, sigma = schedule.alpha[t], schedule.sigma[t]
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        gain = alpha * self.cov @ torch.linalg.inv(alpha**2 * self.cov + sigma**2 * eye)
        return gain, self.mean - alpha * gain @ self.mean

    def posterior_denoiser(
        self, schedule: NoiseSchedule, t: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E[x_0 | x_t, y] = G x + h: the denoiser of the posterior."""
        mean, cov = self.posterior()
        return LinearGaussian(mean, cov, self.matrix, self.y, self.sigma_y).denoiser(schedule, t)


Estimate = Callable[[NoiseSchedule, int], tuple[torch.Tensor, torch.Tensor]]


def _move(
    schedule: NoiseSchedule, t: int, s: int, estimate: Estimate
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_s = M x_t + c + N(0, v): the bridge at D(x_t), as a product of two Gaussians in x_s."""
    a_t, a_s = schedule.alpha[t], schedule.alpha[s]
    v_t, v_s = schedule.sigma[t] ** 2, schedule.sigma[s] ** 2
    a = a_t / a_s
    noise = v_t - a**2 * v_s
    of_t, of_0, variance = a * v_s / v_t, a_s * noise / v_t, v_s * noise / v_t
    gain, shift = estimate(schedule, t)
    return of_0 * gain + of_t * torch.eye(len(shift), dtype=torch.float64), of_0 * shift, variance


def backward_end(
    schedule: NoiseSchedule,
    levels: list[int],
    estimate: Estimate,
    first: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of the last x of DDPM steps whose estimate of x_0 is affine in x_t."""
    mean, cov = first
    for t, s in pairwise(levels):
        move, shift, variance = _move(schedule, t, s, estimate)
        mean = move @ mean + shift
        cov = move @ cov @ move.T + variance * torch.eye(len(mean), dtype=torch.float64)
    return mean, cov


def backward_law(
    schedule: NoiseSchedule,
    levels: list[int],
    estimate: Estimate,
    first: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of all x along the steps of :func:`backward_end`, stacked in order."""
    d, count = len(first[0]), len(levels)
    eye = torch.eye(d, dtype=torch.float64)
    mean, row = first[0], torch.zeros(d, d * count, dtype=torch.float64)
    row[:, :d] = torch.linalg.cholesky(first[1])
    means, rows = [mean], [row]
    for k, (t, s) in enumerate(pairwise(levels), start=1):
        move, shift, variance = _move(schedule, t, s, estimate)
        mean, row = move @ mean + shift, move @ row
        row[:, k * d : (k + 1) * d] = variance.sqrt() * eye
        means.append(mean)
        rows.append(row.clone())
    factor = torch.cat(rows)
    return torch.cat(means), factor @ factor.T


def noise_at(schedule: NoiseSchedule, level: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of the pure noise that a run starts from."""
    eye = torch.eye(d, dtype=torch.float64)
    return torch.zeros(d, dtype=torch.float64), schedule.sigma[level] ** 2 * eye


def assert_population(
    particles: torch.Tensor,
    mean: torch.Tensor,
    cov: torch.Tensor,
    deviations: float = 4.5,
    bias: float = 0.03,
) -> None:
    """Moments of populations (items, particles, d) within Monte-Carlo bounds.

    The items are independent, so the deviation of an average over them is known from their spread;
    a population of P particles is off by O(1 / P), for which ``bias`` (in posterior deviations) is
    granted. The bound must be narrow enough to mean something.
    """
    items = len(particles)
    spread = cov.diagonal().sqrt()
    centred = particles - mean
    first = centred.mean(1)
    second = torch.einsum("bpi,bpj->bij", centred, centred) / particles.shape[1]
    for found, target, scale in (
        (first, torch.zeros_like(mean), spread),
        (second, cov, spread[:, None] * spread),
    ):
        error = found.std(0) / items**0.5
        assert bool((error < 0.05 * scale).all()), error / scale
        bound = deviations * error + bias * scale
        off = (found.mean(0) - target).abs()
        assert bool((off <= bound).all()), (off / scale, bound / scale)
