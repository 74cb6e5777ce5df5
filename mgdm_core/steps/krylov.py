"""Moments of x_0 given x_t seen through A, from products with the denoiser's Jacobian.

By Tweedie's formulas x_0 | x_t has mean D_t(x_t) and covariance C = (sigma_t^2 / alpha_t) J, J the
Jacobian of D_t. C is symmetric, so a difference of two evaluations is a product with it: no
gradient of a network is taken, and a network without one will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import LinearOperator, flat
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian

__all__ = ["Covariance", "covariance_at", "log_evidence", "pull"]

Covariance = Callable[[Tensor], Tensor]
"""Multiplies an event per item by C, at one evaluation."""


def covariance_at(
    problem: Problem,
    x: Float[Tensor, "batch *event"],
    t: int,
    x_0: Float[Tensor, "batch *event"],
    reach: float,
) -> Covariance:
    """Products with C at x_t = ``x``, where D_t(x) = ``x_0``; alpha_t is positive.

    ``reach`` is the length of the difference in units of sigma_t, over which p_t changes little.
    """
    alpha, sigma = problem.schedule.moments(t)
    scale = float(sigma**2 / alpha)

    def product(v: Tensor) -> Tensor:
        length = flat(v).norm(dim=-1).clamp_min(1e-20).reshape((-1,) + (1,) * (v.ndim - 1))
        h = reach * float(sigma) / length
        return scale * ((problem.denoise(x + h * v, t) - x_0) / h)

    return product


def _linear(problem: Problem) -> tuple[GaussianLikelihood, LinearOperator]:
    likelihood = gaussian(problem)
    return likelihood, likelihood.operator  # type: ignore[return-value]


def pull(
    problem: Problem,
    covariance: Covariance,
    misfit: Float[Tensor, "batch ..."],
    ratio: float,
    products: int,
    tolerance: float,
) -> Float[Tensor, "batch *event"]:
    r"""C A^T (A C A^T + sigma_y^2 I)^-1 misfit by conjugate gradients, a product with C each.

    The preconditioner is (r^2 A A^T + sigma_y^2 I)^-1, r = sigma_t / alpha_t = ``ratio``: C is at
    most about r^2 I, and is that where the noise is far below the data's own scale, so that one
    product is enough there. An item rests once its residual is below ``tolerance`` of where it
    began; on the CPU, where looking costs nothing, the loop ends when all rest.
    """
    likelihood, operator = _linear(problem)
    variance = likelihood.sigma_y**2

    def precondition(v: Tensor) -> Tensor:
        return operator.solve_gram(v, ratio**2 / variance, problem.shape) / variance

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (flat(a) * flat(b)).sum(-1)

    def fit(value: Tensor, x: Tensor) -> Tensor:
        return value.reshape((-1,) + (1,) * (x.ndim - 1))

    residual = misfit
    conditioned = precondition(residual)
    direction = conditioned
    energy = dot(residual, conditioned)
    goal = energy * tolerance**2
    tiny = torch.finfo(misfit.dtype).tiny
    total: Tensor | None = None
    for _ in range(min(products, flat(misfit).shape[1])):
        if total is not None and energy.device.type == "cpu" and bool((energy <= goal).all()):
            break
        moved = covariance(operator.adjoint(direction))
        image = operator.forward(moved) + variance * direction
        curvature = dot(direction, image)
        # A network's Jacobian need not be positive: an item that meets that rests.
        step = torch.where(
            (curvature > 0) & (energy > goal), energy / curvature.clamp_min(tiny), 0 * energy
        )
        more = fit(step, moved) * moved
        total = more if total is None else total + more
        residual = residual - fit(step, residual) * image
        conditioned = precondition(residual)
        after = dot(residual, conditioned)
        direction = conditioned + fit(after / energy.clamp_min(tiny), residual) * direction
        energy = after
    assert total is not None
    return total


def log_evidence(
    problem: Problem,
    covariance: Covariance,
    x_0: Float[Tensor, "batch *event"],
) -> Float[Tensor, " batch"]:
    """log N(y; A D, A C A^T + sigma_y^2 I) in float64: a product per number observed."""
    likelihood, operator = _linear(problem)
    y = likelihood.observation
    unit = torch.zeros_like(flat(y))
    seen = []
    for j in range(unit.shape[1]):
        one = unit.clone()
        one[:, j] = 1
        seen.append(flat(operator.forward(covariance(operator.adjoint(one.reshape(y.shape))))))
    cov = torch.stack(seen, 1).double()
    values, vectors = torch.linalg.eigh((0.5 * (cov + cov.mT)).nan_to_num())
    values = values.clamp_min(0) + likelihood.sigma_y**2
    misfit = flat(likelihood.residual(x_0)).double()
    turned = (vectors.mT @ misfit[:, :, None])[:, :, 0]
    return -0.5 * (turned.square() / values + values.log()).sum(-1)
