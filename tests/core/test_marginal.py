"""x_0 marginalised by matched moments: the solves, the paths' weights, the law of the result."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import (
    BlockMeans,
    FunctionOperator,
    Mask,
    Matrix,
    ReflectBlur,
    SumOverChannels,
    compose,
    half_mask,
    motion_kernel,
)
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Start, gaussian
from mgdm_core.samplers import MGDM, DInG, MGDMMarginal, default_sampler
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.krylov import covariance_at, log_evidence, pull, seen_near
from mgdm_core.trace import failure_signatures

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


def test_the_evidence_is_the_same_through_forward_differentiation():
    """The same map without an adjoint."""
    matrix, y, level = normal((2, 3), 3), normal((2,), 4), 420
    problem, _, _ = gaussian_problem(5, matrix, y, 0.3)
    bent = GaussianLikelihood(FunctionOperator(lambda x: x @ matrix.T), y.expand(5, -1), 0.3)
    x = 2 * normal((5, 3), 5)
    x_0 = problem.denoise(x, level)
    product = covariance_at(problem, x, level, x_0, 0.01)
    other = Problem(problem.prior, bent, (3,))
    got, want = (log_evidence(p, product, x_0) for p in (other, problem))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    # So is what it looks like nearby, in units of sigma_y.
    near = seen_near(other, x_0)
    scaled = gaussian(near)
    v = normal((5, 3), 6)
    torch.testing.assert_close(scaled.operator.forward(v), v @ matrix.T / 0.3)
    torch.testing.assert_close(scaled.observation, y.expand(5, -1) / 0.3)
    torch.testing.assert_close(
        scaled.operator.adjoint(normal((5, 2), 7)), normal((5, 2), 7) @ matrix / 0.3
    )


def test_the_evidence_of_counts_is_the_integral_over_the_image():
    """One observed count under a Gaussian prior: the integral is a sum over a fine line."""
    mean, cov, matrix = torch.tensor([3.0, 2.0]).double(), spd(2, 7), normal((1, 2), 8).abs()
    level, gain = 420, 4.0
    counts = torch.tensor([[12.0], [30.0], [5.0], [0.0]], dtype=torch.float64)
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov[None]), VP)
    problem = Problem(prior, PoissonLikelihood(Matrix(matrix), counts, gain), (2,))
    alpha, sigma = float(VP.alpha[level]), float(VP.sigma[level])
    x = alpha * mean + 0.3 * normal((4, 2), 5)
    x_0 = problem.denoise(x, level)
    got = log_evidence(problem, covariance_at(problem, x, level, x_0, 0.01), x_0)
    line = torch.linspace(1e-4, 30, 300_000, dtype=torch.float64)
    for row, count, value in zip(x, counts[:, 0], got):
        m, c = condition(mean, cov, alpha * torch.eye(2).double(), row, sigma**2)
        normal_part = torch.distributions.Normal(matrix @ m, (matrix @ c @ matrix.T).sqrt()[0])
        log_g = count * (gain * line).log() - gain * line
        want = torch.logsumexp(log_g + normal_part.log_prob(line), 0) + (line[1] - line[0]).log()
        # Laplace's formula with Fisher's information; of no count it keeps the order of magnitude.
        assert abs(float(value - want)) < (0.15 if count > 0 else 1.0)


def test_paths_find_the_weights_of_the_modes_from_counts():
    means = torch.tensor([[2.0, 2.0], [10.0, 2.0], [18.0, 2.0]], dtype=torch.float64)
    mixture = isotropic_mixture(torch.tensor([0.4, 0.3, 0.3]), means)
    operator = FunctionOperator(lambda x: torch.nn.functional.softplus(x[:, :1] / 4))
    n, gain, generator = 1200, 2.0, torch.Generator().manual_seed(0)
    likelihood = PoissonLikelihood(operator, torch.full((n, 1), 6.0).double(), gain)
    # Exact weights and moments: means under g over draws of each component.
    x = means[:, None] + torch.randn(3, 20000, 2, generator=generator, dtype=torch.float64)
    rate = gain * operator.forward(x.flatten(0, 1)).reshape(3, -1)
    share = mixture.weights[:, None] * (6 * rate.log() - rate).exp() / 20000
    share = share / share.sum()
    exact, mean = share.sum(1), (share[..., None] * x).sum((0, 1))
    assert float((exact - mixture.weights).abs().max()) > 0.15
    problem = Problem(GaussianMixturePrior(mixture, VP), likelihood, (2,))
    result = sample(problem, MGDMMarginal(levels=40, budget=800), noise=OneGenerator(n))
    found = torch.cdist(result.x, means).argmin(1).bincount(minlength=3)
    assert float((found / n - exact).abs().max()) < 0.06
    torch.testing.assert_close(result.x.mean(0), mean, rtol=0, atol=0.6)
    assert result.trace.vjps == 0


def test_samples_of_a_bent_observation_of_one_mode():
    """y = sinh(x_1) + noise under a Gaussian prior: the law of x_1 by sums over a fine line."""
    n, sigma_y, y = 1500, 1.0, 3.0
    problem, mean, cov = gaussian_problem(
        n, torch.eye(3).double()[:1], torch.zeros(1).double(), 1.0
    )
    bent = FunctionOperator(lambda x: x[:, :1].sinh())
    likelihood = GaussianLikelihood(bent, torch.full((n, 1), y).double(), sigma_y)
    posed = Problem(problem.prior, likelihood, (3,))
    result = sample(posed, MGDMMarginal(levels=40, budget=400), noise=OneGenerator(n))
    line = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    log_p = torch.distributions.Normal(mean[0], cov[0, 0].sqrt()).log_prob(line)
    p = torch.softmax(log_p - 0.5 * ((y - line.sinh()) / sigma_y) ** 2, 0)
    want = (p * line).sum()
    spread = (p * (line - want) ** 2).sum().sqrt()
    assert float((result.x[:, 0].mean() - want).abs()) < 0.15 * float(spread)
    assert float(result.x[:, 0].std() / spread) == pytest.approx(1.0, abs=0.12)


def test_hardly_any_path_accepted_is_said():
    stuck = [1.0] + [0.0] * 30 + [0.01]
    (told,) = failure_signatures([], 1000, acceptance=stuck)
    assert told.startswith("paths-stuck: 0.0 % of the paths")
    assert failure_signatures([], 1000, acceptance=[1.0] + [0.1] * 31) == []


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


@pytest.mark.parametrize("older", [None, 0.7])
def test_a_step_knows_how_likely_it_was(older):
    """log p / q of the two Gaussians that a path's step is drawn from and weighed by."""
    problem, _, _ = gaussian_problem(4, normal((1, 3), 3), normal((1,), 4), 0.3)
    sampler, t, s = MGDMMarginal(), 700, 600
    x = normal((4, 3), 5)
    x_0 = problem.denoise(x, t)
    before, above = (None if older is None else (older * x_0, 790)), 790
    x_s, same, seen, got = sampler._down(problem, x, t, s, OneGenerator(4, 3), True, before)
    torch.testing.assert_close(same, x_0)
    assert float((seen - x_0).abs().max()) > 0.1
    alpha, sigma = VP.alpha, VP.sigma
    a = alpha[t] / alpha[s]
    step = sigma[t] ** 2 - a**2 * sigma[s] ** 2
    deviation = (sigma[s] ** 2 * step / sigma[t] ** 2).sqrt()

    # The slope of D over log(sigma / alpha), from the level above, for half of this step.
    log_r = (sigma / alpha).log()
    slope = 0 if older is None else (1 - older) * x_0 / (log_r[above] - log_r[t])
    ahead = 0.5 * (log_r[t] - log_r[s]) * slope

    def log_density(centre):
        centre = centre + ahead
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
    assert len(result.trace.extra["path_acceptance"]) >= 2
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
    accepted = result.trace.extra["path_acceptance"]
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

    for rows in (1, 20, 48, 49):
        seen = GaussianLikelihood(Matrix(normal((rows, 40), 1)), normal((1, rows), 2), 0.1)
        assert chosen(seen) == (MGDMMarginal() if rows <= 48 else DInG(400, eta=0.85))
    softplus = FunctionOperator(torch.nn.functional.softplus)
    assert chosen(GaussianLikelihood(softplus, normal((1, 40), 2), 0.1)) == MGDMMarginal()
    assert chosen(PoissonLikelihood(softplus, torch.ones(1, 40))) == MGDMMarginal()
    wide = FunctionOperator(lambda x: torch.cat([x, x.square()], 1))
    assert chosen(PoissonLikelihood(wide, torch.ones(1, 80))) == MGDM()
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, 40))
    assert chosen(own) == MGDM()
    with pytest.raises(CapabilityError, match="local_gaussian"):
        MGDMMarginal().requires(Problem(prior, own, (40,)))


@pytest.mark.parametrize(
    "setting",
    [
        {"levels": 1},
        {"split": 0.0},
        {"budget": -1},
        {"most_paths": 0},
        {"products": 0},
        {"passes": 0},
        {"plain_steps": 0},
        {"tolerance": 0.0},
        {"max_rows": -1},
        {"reach": 0.0},
    ],
)
def test_settings_outside_their_domain(setting):
    with pytest.raises(SettingsError, match="; found"):
        MGDMMarginal(**setting)


def test_the_default_tells_entries_that_nothing_is_seen_of():
    """Behind a mask the noise predicted for what is hidden knows nothing of what is seen."""
    prior = CoordinatePrior(VP)

    def chosen(operator, shape):
        y = operator.forward(normal((2, *shape), 1))
        return default_sampler(Problem(prior, GaussianLikelihood(operator, y, 0.1), shape))

    image = (1, 16, 16)
    keep = half_mask(16, 16)[None]
    blur = ReflectBlur(motion_kernel(5, torch.Generator().manual_seed(0)))
    everywhere = DInG(400, eta=0.85)
    for operator in (Mask(torch.ones(image, dtype=torch.bool)), BlockMeans(2, 16, 16), blur):
        assert chosen(operator, image) == everywhere
    assert chosen(SumOverChannels(2), (2, 100)) == everywhere
    for operator in (Mask(keep), compose(Mask(keep), blur)):
        # The blur carries the seen half over its edge by its own width alone.
        assert chosen(operator, image).conditional.begin == "data"


def test_coarse_paths_are_as_wide_as_the_prior():
    """Bridges through D alone leave out the variance of x_0 | x_t: a fifth of it in the end."""
    n, v = 4000, 25.0
    prior = GaussianMixturePrior(
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), v * torch.eye(2)[None]), VP
    )
    nothing = GaussianLikelihood(Matrix(torch.ones(1, 2)), torch.zeros(n, 1), 1e4)
    result = sample(Problem(prior, nothing, (2,)), MGDMMarginal(levels=40, most_paths=2), seed=4)
    assert abs(float(result.samples.double().var() / v) - 1) < 0.05
