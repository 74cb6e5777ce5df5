"""Steps on x_0 that see the data and no network."""

from __future__ import annotations

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, flat
from mgdm_core.precision import wide
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian, lacks
from mgdm_core.schedule import Level, fit
from mgdm_core.steps.gradients import data_gradient


def solves_linear(problem: Problem) -> bool:
    """Whether a Gaussian centred anywhere can be conditioned on the data in closed form."""
    return not lacks(problem, "gaussian") and not lacks(problem, "linear")


def _secant(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Float[Tensor, " batch"]:
    """Curvature between two points per item, ||grad difference|| / ||difference||, wide."""
    rise = wide(flat(grad_a - grad_b)).norm(dim=-1)
    run = wide(flat(a - b)).norm(dim=-1)
    return torch.where(run > 0, rise / run.clamp_min(1e-30), torch.zeros_like(rise))


def langevin(
    problem: Problem,
    x_0: Events,
    centre: Events,
    variance: float,
    steps: int,
    rate: float | None,
    noise: RandomStreams,
) -> Events:
    """Unadjusted Langevin steps on log g(y | x) + log N(x; centre, variance I), from ``x_0``.

    The step h of x + h grad + sqrt(2 h) noise is a tenth of ``variance``, or a quarter of the
    inverse of the largest curvature of log g that the item has met so far (by secants) if that is
    less, or ``rate`` if that is less still. Longer steps would inflate the spread, and blow up
    from 2 / curvature on.
    """
    likelihood = problem.likelihood
    x = x_0
    _, grad = data_gradient(likelihood, x)
    probe = x + 1e-2 * variance**0.5 * noise.normal_like(x)
    curvature = _secant(x, probe, grad, data_gradient(likelihood, probe)[1])
    longest = 0.1 * variance if rate is None else min(rate, 0.1 * variance)
    for _ in range(steps):
        h = (0.25 / curvature.clamp_min(1e-30)).clamp_max(longest)
        h = fit(h, x)
        new = x + h * (grad + (centre - x) / variance)
        new = new + (2 * h) ** 0.5 * noise.normal_like(x)
        _, new_grad = data_gradient(likelihood, new)
        curvature = torch.maximum(curvature, _secant(x, new, grad, new_grad))
        x, grad = new, new_grad
    return x


def decouple(
    problem: Problem, mean: Events, dev: Tensor | float, s: Level, noise: RandomStreams
) -> tuple[Events, Events]:
    """The noise predicted at a proxy, a draw of N(mean, dev^2 I) at level s, and x_0 by that noise.

    With the noise held the likelihood of x_s is g(y | (x_s - sigma_s eps) / alpha_s), in which
    ``mean`` stands for the second that is returned (Moufad et al. 2025, arXiv 2512.18365).
    """
    alpha, sigma = (fit(moment, mean) for moment in problem.schedule.moments(s))
    proxy = mean + dev * noise.normal_like(mean)
    eps = (proxy - alpha * problem.denoise(proxy, s)) / sigma
    return eps, (mean - sigma * eps) / alpha


def pull_to_data(problem: Problem, centre: Events, variance: float, steps: int) -> Events:
    """Minimise -log g(y | x) + ||x - centre||^2 / (2 variance) over x.

    In closed form by the proximal map where the problem is linear and Gaussian, else by ``steps``
    gradient steps of length 1 / (1 / variance + curvature), curvature by secants per item.
    """
    likelihood = problem.likelihood
    if solves_linear(problem):
        lik = gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        return operator.proximal(centre, lik.observation, variance / lik.sigma_y**2)
    x = centre
    _, grad = data_gradient(likelihood, x)
    length = wide(flat(grad)).norm(dim=-1).clamp_min(1e-30)
    probe = x + fit(1e-2 * variance**0.5 / length, x) * grad
    curvature = _secant(x, probe, grad, data_gradient(likelihood, probe)[1])
    for _ in range(steps):
        h = fit(1 / (1 / variance + curvature), x)
        new = x + h * (grad + (centre - x) / variance)
        _, new_grad = data_gradient(likelihood, new)
        curvature = torch.maximum(curvature, _secant(x, new, grad, new_grad))
        x, grad = new, new_grad
    return x
