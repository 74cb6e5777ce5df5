"""Jumps with x_0 marginalised: the exact likelihood of x_s, and the weights of the modes."""

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.gaussian_mixture import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.jumps import MarginalJumps
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.run import Run
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator, assert_moments, condition, normal, spd

SCHEDULE = NoiseSchedule.vp_linear()
EYE = torch.eye(2, dtype=torch.float64)


def make_run(prior, likelihood, count):
    return Run("test", prior, likelihood, (prior.mixture.dim,), OneGenerator(count), None, 100)


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
    jumps = MarginalJumps(12, last=0.6, first_index=0.35, index=0.35, stages=1, steps=40)
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
    x_s, level = MarginalJumps(count=30)(run, run.noise())
    alpha = float(SCHEDULE.alpha[level])
    found = torch.cdist(x_s, alpha * means).argmin(1).bincount(minlength=3) / n
    # Overlap at level s, proposals of 15 steps and chance together stay within 0.05.
    assert float((found - exact).abs().max()) < 0.05


def test_the_evidence_of_counts_is_the_integral_over_the_image():
    """One observed count under a Gaussian prior: the integral is a sum over a fine line."""
    mean, cov, matrix = torch.tensor([3.0, 2.0]).double(), spd(2, 7), normal((1, 2), 8).abs()
    level, gain = 420, 4.0
    counts = torch.tensor([[12.0], [30.0], [5.0], [0.0]], dtype=torch.float64)
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), SCHEDULE)
    run = make_run(prior, PoissonLikelihood(Matrix(matrix), counts, gain), 4)
    alpha, sigma = float(SCHEDULE.alpha[level]), float(SCHEDULE.sigma[level])
    x = alpha * mean + 0.3 * normal((4, 2), 5)
    _, got = MarginalJumps.log_evidence(run, x, torch.full((4,), level))
    line = torch.linspace(1e-4, 30, 300_000, dtype=torch.float64)
    for row, count, value in zip(x, counts[:, 0], got):
        m, c = condition(mean, cov, alpha * torch.eye(2).double(), row, sigma**2)
        normal_part = torch.distributions.Normal(matrix @ m, (matrix @ c @ matrix.T).sqrt()[0])
        log_g = count * (gain * line).log() - gain * line
        want = torch.logsumexp(log_g + normal_part.log_prob(line), 0) + (line[1] - line[0]).log()
        # Laplace's formula with Fisher's information; of no count it keeps the order of magnitude.
        assert abs(float(value - want)) < (0.15 if count > 0 else 1.0)


def test_jumps_find_the_weights_of_the_modes_from_counts():
    means = torch.tensor([[2.0, 2.0], [10.0, 2.0], [18.0, 2.0]], dtype=torch.float64)
    mixture = isotropic_mixture(torch.tensor([0.4, 0.3, 0.3]), means)
    operator = FunctionOperator(lambda x: torch.nn.functional.softplus(x[:, :1] / 4))
    n, gain, generator = 1200, 2.0, torch.Generator().manual_seed(0)
    prior = GaussianMixturePrior(mixture, SCHEDULE)
    likelihood = PoissonLikelihood(operator, torch.full((n, 1), 6.0).double(), gain)
    # Exact weights: means of g over draws of each component.
    x = means[:, None] + torch.randn(3, 20000, 2, generator=generator, dtype=torch.float64)
    rate = gain * operator.forward(x.flatten(0, 1)).reshape(3, -1)
    exact = mixture.weights * (6 * rate.log() - rate).exp().mean(1)
    exact = exact / exact.sum()
    assert float((exact - mixture.weights).abs().max()) > 0.15
    run = make_run(prior, likelihood, n)
    x_s, level = MarginalJumps(count=30)(run, run.noise())
    found = torch.cdist(x_s, float(SCHEDULE.alpha[level]) * means).argmin(1).bincount(minlength=3)
    assert float((found / n - exact).abs().max()) < 0.06


def test_s_falls_in_stages():
    jumps = MarginalJumps(count=8, stages=4, first_index=0.5, index=0.2)
    levels = [jumps.level_of(k, SCHEDULE) for k in range(8)]
    assert levels == [500, 500, 400, 400, 300, 300, 200, 200]
    assert jumps.level(SCHEDULE) == 200
    one = MarginalJumps(count=3, stages=1, first_index=0.5, index=0.2)
    assert [one.level_of(k, SCHEDULE) for k in range(3)] == [200] * 3


def test_it_is_offered_for_few_values_that_look_gaussian_nearby():
    jumps = MarginalJumps(max_rows=2)
    few = GaussianLikelihood(Matrix(normal((2, 4), 1)), normal((1, 2), 2), 0.1)
    many = GaussianLikelihood(Matrix(normal((3, 4), 1)), normal((1, 3), 2), 0.1)
    counts = PoissonLikelihood(Matrix(normal((2, 4), 1).abs()), torch.ones(1, 2))
    assert jumps.applies_to(few)
    assert not jumps.applies_to(many)
    assert jumps.applies_to(counts)
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, 2))
    assert not jumps.applies_to(own)
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(1), normal((1, 4), 3)), SCHEDULE)
    run = make_run(prior, many, 1)
    with pytest.raises(CapabilityError, match="at most 2 values"):
        jumps(run, run.noise())


@pytest.mark.parametrize(
    "setting",
    [
        {"count": 0},
        {"steps": 0},
        {"stages": 0},
        {"index": 0.55},
        {"first_index": 0.6},
        {"last": 1.1},
        {"index": 0.0},
    ],
)
def test_settings_outside_their_domain(setting):
    with pytest.raises(SettingsError, match="; found"):
        MarginalJumps(**setting)
