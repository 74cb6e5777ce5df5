"""Moments of x_0 given x_t seen through A, from products with the denoiser's Jacobian.

By Tweedie's formulas x_0 | x_t has mean D_t(x_t) and covariance C = (sigma_t^2 / alpha_t) J, J the
Jacobian of D_t. C is symmetric, so a difference of two evaluations is a product with it: no
gradient of a network is taken, and a network without one will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import LinearOperator, Operator, flat
from mgdm_core.operators.base import dot
from mgdm_core.precision import wide
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian, locally_gaussian
from mgdm_core.schedule import fit
from mgdm_core.steps.data import solves_linear

NEWTON_STEPS = 8

# Rounding of the state, times r^2, that a difference is to be above: a hundredth of a product along
# one of some tens of entries.
_ROUNDING = 900.0

Covariance = Callable[[Tensor], Tensor]
"""Multiplies an event per item by C, at one evaluation."""


def covariance_at(problem: Problem, x: Events, t: int, x_0: Events, reach: float) -> Covariance:
    """Products with C at x_t = ``x``, where D_t(x) = ``x_0``; alpha_t is positive.

    ``reach`` is the length of the difference in units of sigma_t, over which p_t changes little. A
    network that predicts noise knows x_0 to eps r only, r = sigma_t / alpha_t, and a product with
    C is r^2 times smaller than that of a difference: where r is large the difference is longer,
    up to sigma_t, so that rounding stays below the products (of data of deviation near one).
    """
    alpha, sigma = problem.schedule.moments(t)
    rounding = _ROUNDING * torch.finfo(x.dtype).eps * float(sigma / alpha) ** 2
    length = max(reach, min(1.0, rounding)) * float(sigma)
    return partial(_product, problem, x, t, x_0, float(sigma**2 / alpha), length)


def _product(
    problem: Problem, x: Events, t: int, x_0: Events, scale: float, length: float, v: Events
) -> Events:
    h = length / fit(flat(v).norm(dim=-1).clamp_min(1e-20), v)
    return scale * ((problem.denoise(x + h * v, t) - x_0) / h)


class Tangent(LinearOperator):
    """The derivative of an operator at a point per item, flat, times a factor per number.

    Parameters
    ----------
    operator : Operator
    at : Tensor, shape (batch, *event)
    factors : Tensor, shape (batch, rows)
    """

    def __init__(
        self, operator: Operator, at: Events, factors: Float[Tensor, "batch rows"]
    ) -> None:
        self.operator, self.at, self.factors = operator, at, factors

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch rows"]:
        """Multiply by the Jacobian: forward differentiation of the operator alone."""
        turned = torch.func.jvp(self.operator.forward, (self.at,), (x,))[1]  # type: ignore
        return self.factors * flat(turned)

    def adjoint(self, y: Float[Tensor, "batch rows"]) -> Events:
        """Multiply by its transpose."""
        with torch.enable_grad():
            at = self.at.detach().requires_grad_(True)
            image = flat(self.operator.forward(at))
            return torch.autograd.grad(image, at, self.factors * y)[0]


def seen_near(problem: Problem, x_0: Events) -> Problem:
    """The linear, Gaussian problem that a problem looks like near ``x_0``; often itself.

    A is linearised there, and the likelihood is replaced by the Gaussian with its slope and
    information at A(x_0); the noise has deviation one.
    """
    if solves_linear(problem):
        return problem
    likelihood = locally_gaussian(problem, "an observation that is not linear and Gaussian")
    image = flat(likelihood.operator.forward(x_0))
    centre, variance = likelihood.local_gaussian(image)
    factors = variance.rsqrt()
    tangent = Tangent(likelihood.operator, x_0, factors)
    seen = factors * (centre - image) + tangent.forward(x_0)
    return replace(problem, likelihood=GaussianLikelihood(tangent, seen, 1.0))


def pull(
    problem: Problem,
    covariance: Covariance,
    misfit: Float[Tensor, "batch ..."],
    ratio: float,
    products: int,
    tolerance: float,
) -> Events:
    r"""C A^T (A C A^T + sigma_y^2 I)^-1 misfit by conjugate gradients, a product with C each.

    The preconditioner is (r^2 A A^T + sigma_y^2 I)^-1, r = sigma_t / alpha_t = ``ratio``: C is at
    most about r^2 I, and is that where the noise is far below the data's own scale, so that one
    product is enough there. An item rests once its residual is below ``tolerance`` of where it
    began; on the CPU, where looking costs nothing, the loop ends when all rest.
    """
    likelihood = gaussian(problem)
    operator: LinearOperator = likelihood.operator  # type: ignore[assignment]
    variance = likelihood.sigma_y**2
    precondition = partial(operator.solve_gram, weight=ratio**2 / variance, shape=problem.shape)
    residual = misfit
    conditioned = precondition(residual) / variance
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
        conditioned = precondition(residual) / variance
        after = dot(residual, conditioned)
        direction = conditioned + fit(after / energy.clamp_min(tiny), residual) * direction
        energy = after
    assert total is not None
    return total


def log_evidence(problem: Problem, covariance: Covariance, x_0: Events) -> Float[Tensor, " batch"]:
    """log g_t(y | x_t) up to a constant, wide: a product per number observed.

    The image u = A(x_0) is taken as N(A(D), S), S = J C J^T, J the derivative of A at D = ``x_0``.
    Newton steps in u find the mode of g(y | u) N(u; A(D), S), and Laplace's formula gives the
    integral over u: exact, after one step, for a linear A and a Gaussian g.
    """
    likelihood = locally_gaussian(problem, "the evidence at a level")
    operator, y = likelihood.operator, likelihood.observation
    mean = flat(operator.forward(x_0))
    if not isinstance(operator, LinearOperator):
        operator, y = Tangent(operator, x_0, torch.ones_like(mean)), mean
    seen = []
    for unit in torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device):
        row = operator.adjoint(unit.expand_as(mean).reshape(y.shape))
        seen.append(flat(operator.forward(covariance(row))))
    cov = wide(torch.stack(seen, 1))
    # NaN would stop the factorisation; it is still in x_0, for the run's check to find.
    values, vectors = torch.linalg.eigh((0.5 * (cov + cov.mT)).nan_to_num())
    cov, mean = vectors @ (values.clamp_min(0)[:, :, None] * vectors.mT), wide(mean)

    image = mean
    for _ in range(1 if isinstance(likelihood, GaussianLikelihood) else NEWTON_STEPS):
        centre, variance = likelihood.local_gaussian(image)
        factor = torch.linalg.cholesky_ex(cov + torch.diag_embed(variance))[0]
        pulled = torch.cholesky_solve((centre - mean)[:, :, None], factor)
        move = (cov @ pulled)[:, :, 0]
        image = mean + move
    # log N(image; A(D), S) = -pulled^T S pulled / 2; no inverse of S is needed.
    square = (pulled[:, :, 0] * move).sum(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * variance.log().sum(-1)
    return wide(likelihood.image_log_prob(image)) - 0.5 * square - log_det
