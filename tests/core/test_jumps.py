"""Jumps with x_0 marginalised: the exact likelihood of x_s, and the weights of the modes."""

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.gaussian_mixture import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.jumps import MarginalJumps
from mgdm_core.likelihoods import GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.run import Run
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator, assert_moments, condition, normal, spd

SCHEDULE = NoiseSchedule.vp_linear()
EYE = torch.eye(2, dtype=torch.float64)


def make_run(prior, likelihood, count):
    shape = likelihood.observation.shape[1:] if prior is None else (prior.mixture.dim,)
    return Run("test", prior, likelihood, shape, OneGenerator(count), None, 100)


@pytest.mark.parametrize("linear", [True, False])
def test_the_evidence_is_the_exact_likelihood_of_x_s_under_a_gaussian_prior(linear):
    mean, cov, matrix = normal((3,), 1), spd(3, 2), normal((2, 3), 3)
    y, level, sigma_y = normal((2,), 4), 420, 0.3
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), SCHEDULE)
    # The same map without an adjoint takes the other way, by forward differentiation.
    operator = Matrix(matrix) if linear else FunctionOperator(lambda x: x @ matrix.T)
    run = make_run(prior, GaussianLikelihood(operator, y.expand(5, 2), sigma_y), 5)
    x = 2 * normal((5, 3), 5)
    x_0, got = MarginalJumps.log_evidence(run, x, torch.full((5,), level))
    alpha, sigma = float(SCHEDULE.alpha[level]), float(SCHEDULE.sigma[level])
    want = []
    for row in x:
        m, c = condition(mean, cov, alpha * torch.eye(3).double(), row, sigma**2)
        seen = matrix @ c @ matrix.T + sigma_y**2 * EYE
        want.append(torch.distributions.MultivariateNormal(matrix @ m, seen).log_prob(y))
    want = torch.stack(want)
    torch.testing.assert_close(got - got[0], want - want[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(x_0, prior.denoise(x, level))


def test_jumps_draw_x_s_given_y():
    mean, cov, matrix = normal((2,), 6), spd(2, 7), normal((1, 2), 8)
    y, n = torch.tensor([1.2], dtype=torch.float64), 2000
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), SCHEDULE)
    run = make_run(prior, GaussianLikelihood(Matrix(matrix), y.expand(n, 1), 0.3), n)
    # Many small backward steps: a proposal is then a draw of the prior's own transition.
    jumps = MarginalJumps(count=12, last=0.6, index=0.35, steps=40)
    x_s, level = jumps(run, run.noise())
    assert level == 350
    posterior, spread = condition(mean, cov, matrix, y, 0.09)
    alpha, sigma = float(SCHEDULE.alpha[350]), float(SCHEDULE.sigma[350])
    assert_moments(x_s, alpha * posterior, alpha**2 * spread + sigma**2 * EYE, deviations=6)
    accepted = run.trace.extra["jump_acceptance"]
    assert len(accepted) == 12
    assert accepted[0] == 1.0
    assert all(0 < a <= 1 for a in accepted)


def test_jumps_find_the_weights_of_the_modes():
    means = torch.tensor([[6.0, 6.0], [-6.0, -6.0], [6.0, -6.0]], dtype=torch.float64)
    mixture = isotropic_mixture(torch.tensor([0.2, 0.2, 0.6]), means)
    matrix, n = torch.tensor([[1.0, 0.9]], dtype=torch.float64), 1500
    y = torch.tensor([6.0], dtype=torch.float64)
    exact = mixture.posterior(matrix, y, 3.0).weights
    assert bool((exact[[0, 2]] > 0.1).all())  # both matter, and unlike the prior's weights
    prior = GaussianMixturePrior(mixture, SCHEDULE)
    run = make_run(prior, GaussianLikelihood(Matrix(matrix), y.expand(n, 1), 3.0), n)
    x_s, level = MarginalJumps(count=30, steps=15)(run, run.noise())
    alpha = float(SCHEDULE.alpha[level])
    found = torch.cdist(x_s, alpha * means).argmin(1).bincount(minlength=3) / n
    # Overlap at level s, proposals of 15 steps and chance together stay within 0.05.
    assert float((found - exact).abs().max()) < 0.05


def test_it_is_offered_for_few_gaussian_values_only():
    jumps = MarginalJumps(max_rows=2)
    few = GaussianLikelihood(Matrix(normal((2, 4), 1)), normal((1, 2), 2), 0.1)
    many = GaussianLikelihood(Matrix(normal((3, 4), 1)), normal((1, 3), 2), 0.1)
    counts = PoissonLikelihood(Matrix(normal((2, 4), 1).abs()), torch.ones(1, 2))
    assert jumps.applies_to(few)
    assert not jumps.applies_to(many)
    assert not jumps.applies_to(counts)
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(1), normal((1, 4), 3)), SCHEDULE)
    run = make_run(prior, many, 1)
    with pytest.raises(CapabilityError, match="at most 2 values"):
        jumps(run, run.noise())


@pytest.mark.parametrize(
    "setting", [{"count": 0}, {"steps": 0}, {"index": 0.6}, {"last": 1.1}, {"index": 0.0}]
)
def test_settings_outside_their_domain(setting):
    with pytest.raises(SettingsError, match="; found"):
        MarginalJumps(**setting)
