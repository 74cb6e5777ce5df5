"""x_0 marginalised by matched moments: the solves, the paths' weights, the law of the result."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.errors import SettingsError
from mgdm_core.likelihoods import GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Start, gaussian
from mgdm_core.samplers import MGDM, DInG, MGDMJumps, MGDMMarginal, default_sampler
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.krylov import covariance_at, log_evidence, pull

from .closed_forms import OneGenerator, condition, normal, spd
from .samplers_support import CoordinatePrior, assert_population

VP = NoiseSchedule.vp_linear()
SCHEDULES = {
    "vp": VP,
    "ve": NoiseSchedule.karras(500, 0.01, 50.0),
    "flow": NoiseSchedule.flow(500),
}


def gaussian_problem(n, matrix, y, sigma_y, schedule=VP, dim=3):
    mean, cov = normal((dim,), 1), spd(dim, 2)
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), schedule)
    likelihood = GaussianLikelihood(Matrix(matrix), y.expand(n, -1), sigma_y)
    return Problem(prior, likelihood, (dim,)), mean, cov


def test_the_pull_and_the_evidence_are_exact_under_a_gaussian_prior():
    matrix, y, level, sigma_y = normal((2, 3), 3), normal((2,), 4), 420, 0.3
    problem, mean, cov = gaussian_problem(5, matrix, y, sigma_y)
    x = 2 * normal((5, 3), 5)
    x_0 = problem.denoise(x, level)
    product = covariance_at(problem, x, level, x_0, 0.01)
    alpha, sigma = float(VP.alpha[level]), float(VP.sigma[level])
    misfit = gaussian(problem).residual(x_0)
    moved = pull(problem, product, misfit, sigma / alpha, 2, 1e-8)
    got, want = log_evidence(problem, product, x_0), []
    eye = torch.eye(3, dtype=torch.float64)
    for row, x_row, pulled in zip(x, x_0, moved):
        m, c = condition(mean, cov, alpha * eye, row, sigma**2)
        seen, _ = condition(m, c, matrix, y, sigma_y**2)
        torch.testing.assert_close(x_row + pulled, seen, rtol=1e-6, atol=1e-7)
        spread = matrix @ c @ matrix.T + sigma_y**2 * eye[:2, :2]
        want.append(torch.distributions.MultivariateNormal(matrix @ m, spread).log_prob(y))
    want = torch.stack(want)
    torch.testing.assert_close(got - got[0], want - want[0], rtol=1e-6, atol=1e-6)


def test_one_product_is_enough_far_below_the_scale_of_the_data():
    """C tends to r^2 I there, which the preconditioner knows."""
    counts = {}
    for level in (5, 700):
        problem, _, _ = gaussian_problem(6, normal((3, 3), 3), normal((3,), 4), 0.05)
        x = VP.alpha[level] * normal((6, 3), 5)
        asked = []
        x_0 = problem.denoise(x, level)
        exact = covariance_at(problem, x, level, x_0, 0.01)

        def product(v, exact=exact, asked=asked):
            asked.append(1)
            return exact(v)

        ratio = float(VP.ratio[level])
        pull(problem, product, gaussian(problem).residual(x_0), ratio, 3, 1e-3)
        counts[level] = len(asked)
    assert counts[5] == 1 < counts[700]


def test_a_step_knows_how_likely_it_was():
    """log p / q of the two Gaussians that a path's step is drawn from and weighed by."""
    problem, _, _ = gaussian_problem(4, normal((1, 3), 3), normal((1,), 4), 0.3)
    sampler, t, s = MGDMMarginal(), 700, 600
    x = normal((4, 3), 5)
    x_s, seen, got = sampler._down(problem, x, t, s, OneGenerator(4, 3))
    x_0 = problem.denoise(x, t)
    assert float((seen - x_0).abs().max()) > 0.1
    alpha, sigma = VP.alpha, VP.sigma
    a = alpha[t] / alpha[s]
    step = sigma[t] ** 2 - a**2 * sigma[s] ** 2
    deviation = (sigma[s] ** 2 * step / sigma[t] ** 2).sqrt()

    def log_density(centre):
        mean = (alpha[s] * step * centre + a * sigma[s] ** 2 * x) / sigma[t] ** 2
        return torch.distributions.Normal(mean, deviation).log_prob(x_s).sum(-1)

    torch.testing.assert_close(got, log_density(x_0) - log_density(seen))


@pytest.mark.parametrize(("kind", "rows"), [("vp", 1), ("ve", 3), ("flow", 3)])
def test_samples_of_a_gaussian_posterior(kind, rows):
    matrix, sigma_y, n = normal((rows, 3), 3), 0.2, 1200
    y = matrix @ (normal((3,), 1) + torch.tensor([0.7, -0.4, 0.5], dtype=torch.float64))
    problem, mean, cov = gaussian_problem(n, matrix, y, sigma_y, SCHEDULES[kind])
    result = sample(problem, MGDMMarginal(levels=40, budget=300), noise=OneGenerator(n))
    assert result.trace.vjps == 0
    assert len(result.trace.extra["jump_acceptance"]) >= 2
    want_mean, want_cov = condition(mean, cov, matrix, y, sigma_y**2)
    assert_population(result.x[:, None], want_mean, want_cov, bias=0.1)


def test_paths_find_the_weights_of_the_modes():
    """Unequal covariances: the evidence needs its determinant, the paths their weights."""
    means = torch.tensor([[6.0, 6.0], [-6.0, -6.0], [6.0, -6.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    covs = torch.stack([0.1 * eye, eye, 3.0 * eye])
    mixture = GaussianMixture(torch.tensor([0.2, 0.2, 0.6]), means, covs)
    matrix, n = torch.tensor([[1.0, 0.9]], dtype=torch.float64), 800
    y = torch.tensor([7.0], dtype=torch.float64)
    posterior = mixture.posterior(matrix, y, 3.0)
    exact = posterior.weights
    assert bool((exact[[0, 2]] > 0.1).all())
    assert float((exact - mixture.weights).abs().max()) > 0.1
    prior = GaussianMixturePrior(mixture, VP)
    problem = Problem(prior, GaussianLikelihood(Matrix(matrix), y.expand(n, 1), 3.0), (2,))
    result = sample(problem, MGDMMarginal(levels=40, budget=800), noise=OneGenerator(n))
    which = posterior.component_log_prob(result.x).argmax(1)
    found = which.bincount(minlength=3) / n
    assert float((found - exact).abs().max()) < 0.06
    accepted = result.trace.extra["jump_acceptance"]
    assert accepted[0] == 1.0
    assert all(0.1 < a < 1 for a in accepted[1:])


def test_the_budget_settles_the_number_of_paths():
    def plan(rows, sampler, start=None):
        matrix, y = normal((rows, 80), 3), normal((rows,), 4)
        likelihood = GaussianLikelihood(Matrix(matrix), y.expand(1, -1), 0.1)
        return sampler.plan(Problem(CoordinatePrior(VP), likelihood, (80,)), start)

    one, three, ten = (plan(rows, MGDMMarginal()) for rows in (1, 3, 10))
    assert one.paths > three.paths > ten.paths > 1
    assert all(p.paths * (len(p.path) * 2 + 2) <= 2800 for p in (one, three, ten))
    first, last = one.path[0], one.path[-1]
    assert first[0] == VP.last
    assert float(VP.ratio[last[1]]) >= 0.5 > float(VP.ratio[one.below[0][1]])
    assert one.below[0][0] == last[1]
    assert one.below[-1][1] == 0
    ratios = [float(VP.ratio[s] / VP.ratio[t]) for t, s in one.path]
    assert max(ratios) - min(ratios) < 0.05  # even in log
    # Many values, no budget, or a start from below: one walk down.
    start = Start(torch.zeros(1, 80, dtype=torch.float64), VP.level_of_sigma(0.3))
    for walk in (
        plan(70, MGDMMarginal()),
        plan(1, MGDMMarginal(budget=0)),
        plan(1, MGDMMarginal(), start),
    ):
        assert walk.paths == 0
        assert walk.steps == len(walk.below)


def test_the_cost_is_below_the_published_setting_s():
    """4663 evaluations, a product counted as two; here at most, as conjugate gradients stop."""
    for rows in (1, 3, 10, 20, 40, 70):
        likelihood = GaussianLikelihood(Matrix(normal((rows, 80), 3)), normal((1, rows), 4), 0.1)
        plan = MGDMMarginal().plan(Problem(CoordinatePrior(VP), likelihood, (80,)))
        solve = min(rows, 6)
        path = len(plan.path) * (1 + solve) + 1 + rows
        assert plan.paths * path + len(plan.below) * (2 + solve) < 3300, rows


def test_the_default_is_one_choice_by_what_the_problem_says():
    prior = CoordinatePrior(VP)

    def chosen(likelihood):
        return default_sampler(Problem(prior, likelihood, (40,)))

    for rows in (1, 20, 64, 65):
        seen = GaussianLikelihood(Matrix(normal((rows, 40), 1)), normal((1, rows), 2), 0.1)
        assert chosen(seen) == (MGDMMarginal() if rows <= 64 else DInG(400, eta=0.5))
    bent = FunctionOperator(lambda x: x[:, :2].square())
    assert isinstance(chosen(GaussianLikelihood(bent, normal((1, 2), 2), 0.1)), MGDMJumps)
    counts = PoissonLikelihood(FunctionOperator(torch.nn.functional.softplus), torch.ones(1, 40))
    assert chosen(counts) == MGDM()


@pytest.mark.parametrize(
    "setting",
    [
        {"levels": 1},
        {"split": 0.0},
        {"budget": -1},
        {"most_paths": 0},
        {"products": 0},
        {"tolerance": 0.0},
        {"max_rows": -1},
        {"reach": 0.0},
    ],
)
def test_settings_outside_their_domain(setting):
    with pytest.raises(SettingsError, match="; found"):
        MGDMMarginal(**setting)
