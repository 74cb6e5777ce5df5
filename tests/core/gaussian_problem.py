"""A Gaussian prior in two dimensions, one of them observed."""

import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import Matrix
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal, spd
from .gaussian_mgdm import Problem

SCHEDULE = NoiseSchedule.vp_linear()


PROBLEM = Problem(
    normal((2,), 1), spd(2, 2), normal((1, 2), 3), torch.tensor([1.5], dtype=torch.float64), 0.3
)


def gaussian_prior(problem: Problem = PROBLEM) -> GaussianMixturePrior:
    return GaussianMixturePrior(
        GaussianMixture(torch.ones(1), problem.mean[None], problem.cov[None]), SCHEDULE
    )


def gaussian_likelihood(count: int, problem: Problem = PROBLEM) -> GaussianLikelihood:
    return GaussianLikelihood(
        Matrix(problem.matrix), problem.y.expand(count, len(problem.y)), problem.sigma_y
    )
