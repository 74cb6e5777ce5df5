"""The problems: a mixture of 25 Gaussians seen through a few noisy numbers, posterior known.

A problem is fixed by its number: the mixture's weights, the observation and the two exact sample
sets come from one generator seeded by it and by the dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

import mgdm_core
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Mask, Matrix, SumOverChannels
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior, Prior, isotropic_mixture
from mgdm_core.schedule import NoiseSchedule
from recipes.exact_posterior.quadrature import GridPosterior

__all__ = ["TASKS", "Case", "Problem", "ShapedPrior", "build", "mixture_of_25", "stems_of"]

SPACING = 8.0
RANGE_SCALE = 16.0
COUNTS_GAIN = 10.0


class Case(NamedTuple):
    """Names one problem. ``noise`` is sigma_y; a Poisson observation has none."""

    task: str
    dim: int
    observations: int
    noise: float | None
    problem: int

    def title(self) -> str:
        """For progress and pictures."""
        noise = "" if self.noise is None else f", sigma_y {self.noise:g}"
        return f"{self.task}, d = {self.dim}, {self.observations} observed{noise}"


@dataclass(frozen=True)
class Problem:
    """A prior, an observation and the exact posterior.

    Attributes
    ----------
    likelihood : callable
        Takes a number of items, each of which sees the same observation.
    exact, again : Tensor, shape (samples, dim)
        Two independent sets of exact samples: the reference and the floor.
    label : callable
        Mode that each of (n, dim) points belongs to.
    weights : Tensor
        Exact posterior weight of each mode.
    shape : tuple of int or None
        Shape of one event where it is not (dim,).
    """

    case: Case
    prior: Prior
    likelihood: Callable[[int], Likelihood]
    exact: torch.Tensor
    again: torch.Tensor
    label: Callable[[torch.Tensor], torch.Tensor]
    weights: torch.Tensor
    shape: tuple[int, ...] | None = None

    def posed(self, count: int) -> mgdm_core.Problem:
        """The problem of the samplers, ``count`` times the same observation."""
        shape = self.shape or (self.case.dim,)
        return mgdm_core.Problem(self.prior, self.likelihood(count), shape)


class ShapedPrior:
    """A prior over vectors as one over arrays with as many numbers."""

    def __init__(self, prior: Prior) -> None:
        self._prior, self.schedule = prior, prior.schedule

    def denoise(self, x: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        """The prior's own, in the other shape."""
        return self._prior.denoise(x.flatten(1), t).reshape(x.shape)


def mixture_of_25(dim: int, generator: torch.Generator) -> GaussianMixture:
    """25 unit Gaussians at (8i, 8j, 8i, 8j, ...), i and j from -2 to 2, with random weights."""
    if dim < 2 or dim % 2:
        raise ValueError(f"the means repeat pairs (8i, 8j): dim is even; found {dim}")
    pairs = torch.tensor([(i, j) for i in range(-2, 3) for j in range(-2, 3)], dtype=torch.float64)
    weights = torch.rand(25, generator=generator, dtype=torch.float64)
    return isotropic_mixture(weights, SPACING * pairs.repeat(1, dim // 2))


def _linear(case: Case, samples: int) -> Problem:
    """y = A x + sigma_y eps with a random Gaussian A, or the first coordinates (``masked``).

    The posterior is a mixture again.
    """
    assert case.noise is not None
    noise = case.noise
    generator = torch.Generator().manual_seed(1000 * case.problem + case.dim)
    mixture = mixture_of_25(case.dim, generator)
    shape = (case.observations, case.dim)
    if case.task == "masked":
        matrix = torch.eye(*shape, dtype=torch.float64)
        operator = Mask(torch.arange(case.dim) < case.observations)
    else:
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        operator = Matrix(matrix)
    x, _ = mixture.sample(1, generator)
    eps = torch.randn(case.observations, generator=generator, dtype=torch.float64)
    y = matrix @ x[0] + noise * eps
    posterior = mixture.posterior(matrix, y, noise)
    exact, _ = posterior.sample(samples, generator)
    again, _ = posterior.sample(samples, generator)
    return Problem(
        case,
        GaussianMixturePrior(mixture, NoiseSchedule.vp_linear()),
        lambda count: GaussianLikelihood(operator, y.expand(count, -1).clone(), noise),
        exact,
        again,
        lambda points: posterior.component_log_prob(points).argmax(1),
        posterior.weights,
    )


def stems_of(dim: int) -> int:
    """Channels that the mixing problem splits ``dim`` numbers into."""
    return 4 if dim % 4 == 0 else 2


def _mix(case: Case, samples: int) -> Problem:
    """y = sum over stems + sigma_y eps, the separation of music in small: 2 or 4 stems."""
    assert case.noise is not None
    noise, stems = case.noise, stems_of(case.dim)
    length = case.dim // stems
    if case.observations != length:
        raise ValueError(
            f"{stems} stems of {length} numbers have {length} sums; found {case.observations}"
        )
    generator = torch.Generator().manual_seed(1000 * case.problem + case.dim + 7)
    mixture = mixture_of_25(case.dim, generator)
    matrix = torch.eye(length, dtype=torch.float64).repeat(1, stems)
    x, _ = mixture.sample(1, generator)
    eps = torch.randn(length, generator=generator, dtype=torch.float64)
    y = matrix @ x[0] + noise * eps
    posterior = mixture.posterior(matrix, y, noise)
    exact, _ = posterior.sample(samples, generator)
    again, _ = posterior.sample(samples, generator)
    operator = SumOverChannels(stems)
    return Problem(
        case,
        ShapedPrior(GaussianMixturePrior(mixture, NoiseSchedule.vp_linear())),
        lambda count: GaussianLikelihood(operator, y.expand(count, -1).clone(), noise),
        exact,
        again,
        lambda points: posterior.component_log_prob(points).argmax(1),
        posterior.weights,
        (stems, length),
    )


def _ranges(case: Case, samples: int) -> Problem:
    """y_k = |x - c_k|^2 / 16 + sigma_y eps: squared distances to the origin and random points."""
    assert case.noise is not None
    noise = case.noise
    generator = torch.Generator().manual_seed(1000 * case.problem + 3)
    mixture = mixture_of_25(case.dim, generator)
    centres = SPACING * torch.randn(
        case.observations, case.dim, generator=generator, dtype=torch.float64
    )
    centres[0] = 0

    def squares(x: torch.Tensor) -> torch.Tensor:
        return (x[:, None] - centres).square().sum(-1) / RANGE_SCALE

    x, _ = mixture.sample(1, generator)
    eps = torch.randn(case.observations, generator=generator, dtype=torch.float64)
    y = squares(x)[0] + noise * eps

    def log_likelihood(points: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((y - squares(points)) / noise).square().sum(-1)

    # The slope of a square reaches |x - c| / 8: a cell must stay below noise over that.
    posterior = GridPosterior(mixture, log_likelihood, min(0.05, 0.2 * noise))
    operator = FunctionOperator(squares)
    return _planar(
        case,
        samples,
        mixture,
        posterior,
        generator,
        lambda count: GaussianLikelihood(operator, y.expand(count, -1).clone(), noise),
    )


def _counts(case: Case, samples: int) -> Problem:
    """y_k ~ Poisson(10 softplus(a_k x / 8)): counts that fade to nothing on one side."""
    generator = torch.Generator().manual_seed(1000 * case.problem + 5)
    mixture = mixture_of_25(case.dim, generator)
    shape = (case.observations, case.dim)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)

    def brightness(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(x @ matrix.T / 8)

    x, _ = mixture.sample(1, generator)
    y = torch.poisson(COUNTS_GAIN * brightness(x), generator=generator)[0]
    operator = FunctionOperator(brightness)

    def likelihood(count: int) -> PoissonLikelihood:
        return PoissonLikelihood(operator, y.expand(count, -1).clone(), COUNTS_GAIN)

    posterior = GridPosterior(
        mixture, lambda points: likelihood(len(points)).log_prob(points), 0.05
    )
    return _planar(case, samples, mixture, posterior, generator, likelihood)


def _planar(
    case: Case,
    samples: int,
    mixture: GaussianMixture,
    posterior: GridPosterior,
    generator: torch.Generator,
    likelihood: Callable[[int], Likelihood],
) -> Problem:
    return Problem(
        case,
        GaussianMixturePrior(mixture, NoiseSchedule.vp_linear()),
        likelihood,
        posterior.sample(samples, generator),
        posterior.sample(samples, generator),
        posterior.label,
        posterior.weights,
    )


TASKS: dict[str, Callable[[Case, int], Problem]] = {
    "linear": _linear,
    "masked": _linear,
    "mixing": _mix,
    "nonlinear": _ranges,
    "poisson": _counts,
}


def build(case: Case, samples: int) -> Problem:
    """Return the problem that ``case`` names, with two exact sets of ``samples`` each."""
    if case.task in ("nonlinear", "poisson") and case.dim != 2:
        raise ValueError(f"{case.task} problems live in the plane, dim 2; found {case.dim}")
    return TASKS[case.task](case, samples)
