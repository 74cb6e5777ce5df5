"""The exact draw of a linearised problem, one vector-Jacobian product per number observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.conditionals.protocol import ConditionalDraw, Place
from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, flat
from mgdm_core.problem import Problem
from mgdm_core.sampler import check
from mgdm_core.schedule import Level, fit
from mgdm_core.steps.bridge import bridge_moments

__all__ = ["Linearisation", "Linearised", "linearise", "seen_covariance"]


class Linearisation(NamedTuple):
    """x_0 = D_s(x), ``image`` A(x_0) flattened, its ``jacobian`` in x (batch, rows, n), -log g."""

    x_0: Tensor
    image: Tensor
    jacobian: Tensor
    loss: Tensor


def locally_gaussian(problem: Problem, who: str) -> ImageLikelihood:
    """Return the likelihood as one that looks Gaussian near a point, or say that it does not."""
    if not isinstance(problem.likelihood, ImageLikelihood):
        raise CapabilityError(problem.likelihood, "local_gaussian", who)
    return problem.likelihood


def linearise(problem: Problem, x: Float[Tensor, "batch *event"], s: Level) -> Linearisation:
    """Linearise x -> A(D_s(x)): one evaluation and one vector-Jacobian product per row."""
    likelihood = locally_gaussian(problem, "the linearised conditional")
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x_0 = problem.denoise_differentiably(x, s)
        image = flat(likelihood.operator.forward(x_0))
        rows = image.shape[1]
        gradients = [
            torch.autograd.grad(image[:, j].sum(), x, retain_graph=j + 1 < rows)[0]
            for j in range(rows)
        ]
    image = image.detach()
    jacobian = torch.stack([flat(g) for g in gradients], 1)
    return Linearisation(x_0.detach(), image, jacobian, -likelihood.image_log_prob(image))


def seen_covariance(
    problem: Problem,
    x_0: Float[Tensor, "batch *event"],
    jacobian: Float[Tensor, "batch rows size"],
    s: Level,
) -> Float[Tensor, "batch rows rows"]:
    """Covariance of A(x_0) given x_s by Tweedie: J_A C J_A^T with C = sigma_s^2 / alpha_s J_D.

    The rows of J_A J_D are at hand; a nonlinear A is differentiated once more, forwards, at the
    cost of A alone.
    """
    operator = locally_gaussian(problem, "the covariance seen by the observation").operator

    def image(row: Tensor) -> Tensor:
        tangent = row.reshape(x_0.shape)
        if isinstance(operator, LinearOperator):
            return flat(operator.forward(tangent))
        return flat(torch.func.jvp(operator.forward, (x_0,), (tangent,))[1])  # type: ignore

    seen = torch.stack([image(row) for row in jacobian.unbind(1)], 1)
    alpha, sigma = problem.schedule.moments(s)
    cov = fit(sigma**2 / alpha, seen) * 0.5 * (seen + seen.mT)
    # NaN would stop the factorisation; it is still in the Jacobian, for the run's check to find.
    values, vectors = torch.linalg.eigh(cov.nan_to_num())
    return vectors @ (values.clamp_min(0)[:, :, None] * vectors.mT)


@dataclass(frozen=True)
class Linearised:
    """Gauss-Newton passes on x -> A(D_s(x)), then an exact draw of the Gaussian that results.

    Each pass costs one evaluation and one vector-Jacobian product per number observed, so it is
    meant for few of them. A likelihood that is not Gaussian is replaced at every pass by the
    Gaussian that it looks like at A(D_s(x)) (Fisher scoring).

    Parameters
    ----------
    passes : int
        Times that the map is linearised anew.
    inflate : float
        Share of the posterior covariance of x_0 given x_s (Tweedie: sigma^2 J / alpha) that is
        added, seen through A, to the observation's variance.
    max_rows : int
        Largest number of observed values accepted.
    """

    passes: int = 3
    inflate: float = 0.0
    max_rows: int = 256

    def __post_init__(self) -> None:
        check(self.passes >= 1, "passes is at least 1", self.passes)
        check(self.inflate >= 0, "inflate is not negative", self.inflate)

    def requires(self, problem: Problem) -> None:
        """A likelihood that looks Gaussian near a point, and few observed values."""
        locally_gaussian(problem, "the linearised conditional")
        if problem.rows > self.max_rows:
            raise SettingsError(
                f"the linearised conditional takes one Jacobian product per observed value, at "
                f"most {self.max_rows}; found {problem.rows}; use 'variational' or 'tweedie'"
            )

    def __call__(
        self,
        problem: Problem,
        x_0: Float[Tensor, "batch *event"],
        x_t: Float[Tensor, "batch *event"],
        s: Level,
        place: Place,
        noise: RandomStreams,
    ) -> ConditionalDraw:
        """Linearise, solve, draw."""
        likelihood = locally_gaussian(problem, "the linearised conditional")
        shape = x_0.shape
        mean, dev = bridge_moments(problem.schedule, x_0, x_t, s, place.t)
        mean, dev = flat(mean), dev.reshape(-1, 1)
        x, losses = mean, []
        prior_draw = mean + dev * flat(noise.normal_like(x_0))
        y_noise = flat(noise.normal_like(likelihood.observation))
        for k in range(self.passes):
            at = linearise(problem, x.reshape(shape), s)
            losses.append(at.loss)
            jac = at.jacobian
            seen, noise_var = likelihood.local_gaussian(at.image)
            target = seen - at.image + torch.einsum("bmn,bn->bm", jac, x)
            cov_y = torch.diag_embed(noise_var)
            if self.inflate > 0:
                cov_y = cov_y + self.inflate * seen_covariance(problem, at.x_0, jac, s)
            gram = dev[:, :, None] ** 2 * jac @ jac.mT + cov_y
            last = k + 1 == self.passes
            base = prior_draw if last else mean
            misfit = target - torch.einsum("bmn,bn->bm", jac, base)
            if last:
                factor = torch.linalg.cholesky_ex(cov_y)[0]
                misfit = misfit + torch.einsum("bij,bj->bi", factor, y_noise)
            solved = torch.linalg.solve_ex(gram, misfit[:, :, None])[0]
            x = base + dev**2 * (jac.mT @ solved)[:, :, 0]
        return ConditionalDraw(x.reshape(shape), losses[0], losses[-1])
