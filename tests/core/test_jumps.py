"""Jumps with x_0 marginalised: the exact likelihood of x_s, and the weights of the modes."""

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.problem import Problem
from mgdm_core.samplers import MGDMJumps, default_sampler
from mgdm_core.samplers.mgdm_jumps import log_evidence
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.trace import failure_signatures

from .closed_forms import OneGenerator, assert_moments, condition, normal, spd

SCHEDULE = NoiseSchedule.vp_linear()
EYE = torch.eye(2, dtype=torch.float64)


def posed(prior, likelihood):
    return Problem(prior, likelihood, (prior.mixture.dim,))


def jumped(prior, likelihood, sampler):
    """x_s after the last jump, its level, and the share that accepted each."""
    problem, noise = posed(prior, likelihood), OneGenerator(len(likelihood.observation))
    plan = sampler.plan(problem)
    state, accepted = sampler.init(problem, plan, noise), []
    with torch.no_grad():
        for _ in plan.jumps:
            state, info = sampler.step(problem, plan, state, noise)
            accepted.append(float(info.extra["jump_acceptance"].double().mean()))
    return state.x_s, plan.jumps[-1][1], accepted


@pytest.mark.parametrize("linear", [True, False])
def test_the_evidence_is_the_exact_likelihood_of_x_s_under_a_gaussian_prior(linear):
    mean, cov, matrix = normal((3,), 1), spd(3, 2), normal((2, 3), 3)
    y, level, sigma_y = normal((2,), 4), 420, 0.3
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), SCHEDULE)
    # The same map without an adjoint takes the other way, by forward differentiation.
    operator = Matrix(matrix) if linear else FunctionOperator(lambda x: x @ matrix.T)
    problem = posed(prior, GaussianLikelihood(operator, y.expand(5, 2), sigma_y))
    x = 2 * normal((5, 3), 5)
    x_0, got = log_evidence(problem, x, level)
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
    likelihood = GaussianLikelihood(Matrix(matrix), y.expand(n, 1), 0.3)
    # Many small backward steps: a proposal is then a draw of the prior's own transition.
    jumps = MGDMJumps(12, last=0.6, first_index=0.35, index=0.35, stages=1, steps=40)
    x_s, level, accepted = jumped(prior, likelihood, jumps)
    assert level == 350
    posterior, spread = condition(mean, cov, matrix, y, 0.09)
    alpha, sigma = float(SCHEDULE.alpha[350]), float(SCHEDULE.sigma[350])
    assert_moments(x_s, alpha * posterior, alpha**2 * spread + sigma**2 * EYE, deviations=6)
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
    likelihood = GaussianLikelihood(Matrix(matrix), y.expand(n, 1), 3.0)
    x_s, level, _ = jumped(prior, likelihood, MGDMJumps(30))
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
    problem = posed(prior, PoissonLikelihood(Matrix(matrix), counts, gain))
    alpha, sigma = float(SCHEDULE.alpha[level]), float(SCHEDULE.sigma[level])
    x = alpha * mean + 0.3 * normal((4, 2), 5)
    _, got = log_evidence(problem, x, level)
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
    x_s, level, _ = jumped(prior, likelihood, MGDMJumps(30))
    found = torch.cdist(x_s, float(SCHEDULE.alpha[level]) * means).argmin(1).bincount(minlength=3)
    assert float((found / n - exact).abs().max()) < 0.06


def few_values(rows):
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(1), normal((1, 4), 3)), SCHEDULE)
    y = normal((1, rows), 2)
    return posed(prior, GaussianLikelihood(Matrix(normal((rows, 4), 1)), y, 0.1))


def few_bent_values(rows):
    """The same map without an adjoint, which the linear default does not take."""
    linear, matrix = few_values(rows), normal((rows, 4), 1)
    y = linear.likelihood.observation
    return posed(linear.prior, GaussianLikelihood(FunctionOperator(lambda x: x @ matrix.T), y, 0.1))


def test_s_falls_in_stages():
    plan = MGDMJumps(8, stages=4, first_index=0.5, index=0.2).plan(few_values(1))
    assert [s for _, s, _ in plan.jumps] == [500, 500, 400, 400, 300, 300, 200, 200]
    assert plan.then.top == 200
    one = MGDMJumps(3, stages=1, first_index=0.5, index=0.2).plan(few_values(1))
    assert [s for _, s, _ in one.jumps] == [200] * 3


def test_it_asks_for_few_values_that_look_gaussian_nearby():
    jumps = MGDMJumps(max_rows=2)
    jumps.requires(few_values(2))
    with pytest.raises(SettingsError, match="at most max_rows = 2 values; found 3"):
        jumps.requires(few_values(3))
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, 2))
    with pytest.raises(CapabilityError, match="local_gaussian"):
        jumps.requires(Problem(few_values(2).prior, own, (4,)))


def test_the_default_never_spends_thousands_of_products_unasked():
    """Sixteen values used to cost 160 jumps of 16 products each; the published setting has 945."""
    assert isinstance(default_sampler(few_bent_values(1)), MGDMJumps)
    for rows in (1, 4, 5, 16, 40):
        sampler = default_sampler(few_bent_values(rows))
        jumps = sampler.jumps * rows if isinstance(sampler, MGDMJumps) else 0
        assert jumps <= 945, rows


def test_hardly_any_jump_accepted_is_said():
    stuck = [1.0] + [0.0] * 30 + [0.01]
    (told,) = failure_signatures([], 1000, acceptance=stuck)
    assert told.startswith("jumps-stuck: 0.0 % of the jumps")
    assert failure_signatures([], 1000, acceptance=[1.0] + [0.1] * 31) == []


@pytest.mark.parametrize(
    "setting",
    [
        {"jumps": 0},
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
        MGDMJumps(**setting)
