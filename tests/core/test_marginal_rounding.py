"""Products with C by differences of a network that computes in float32."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import Mask, ReflectBlur
from mgdm_core.priors import NoisePredictionPrior
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import MGDMMarginal
from mgdm_core.schedule import NoiseSchedule

VP = NoiseSchedule.vp_linear()
SIZE = 64


def noise_predictor(cov):
    """E[eps | x_t] of N(0, cov), in the state's own precision."""
    values, vectors = torch.linalg.eigh(cov)

    def network(x, t):
        alpha, sigma = VP.at(t + 1, x)
        scales, turn = values.to(x), vectors.to(x)
        x_0 = (x @ turn * (alpha * scales / (alpha**2 * scales + sigma**2))) @ turn.T
        return (x - alpha * x_0) / sigma

    return NoisePredictionPrior(network, VP)


def test_the_default_runs_on_a_float32_noise_predictor():
    """Differences of 0.01 sigma_t drowned in the rounding that 1 / alpha_T magnifies 157 times."""
    deviation = 0.3
    at = torch.arange(SIZE, dtype=torch.float64)
    smooth = torch.exp(-(((at[:, None] - at) / 3) ** 2) / 2)
    cov = deviation**2 * (smooth + 1e-3 * torch.eye(SIZE, dtype=torch.float64))
    keep = torch.zeros(SIZE, dtype=torch.bool)
    keep[::2] = True
    generator = torch.Generator().manual_seed(0)
    truth = torch.linalg.cholesky(cov) @ torch.randn(SIZE, generator=generator, dtype=cov.dtype)
    y = truth[keep].float()[None]
    sigma_y = 0.1 * deviation
    problem = Problem(noise_predictor(cov), GaussianLikelihood(Mask(keep), y, sigma_y), (SIZE,))
    result = sample(problem, MGDMMarginal(), n=24)
    accepted = result.trace.extra["path_acceptance"]
    assert sum(accepted[1:]) > 0.2 * len(accepted[1:])

    gain = cov[:, keep] @ torch.linalg.inv(
        cov[keep][:, keep] + sigma_y**2 * torch.eye(int(keep.sum()), dtype=cov.dtype)
    )
    mean = gain @ y[0].double()
    spread = (cov - gain @ cov[keep]).diagonal().sqrt()
    z = (result.x.double().mean(0) - mean) / spread * len(result.x) ** 0.5
    assert float(z.square().mean().sqrt()) < 1.6
    assert float((result.x.double().std(0) / spread).mean()) == pytest.approx(1.0, abs=0.1)


def test_a_solve_that_ends_far_from_its_solution_is_warned_of():
    blur = ReflectBlur(torch.ones(5, 5, dtype=torch.float64) / 25)
    y = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.warns(UserWarning, match="conjugate gradients left more than 1% of an equation"):
        blur.proximal(torch.zeros_like(y), y, 1e8)
