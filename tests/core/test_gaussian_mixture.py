"""The exact prior: its denoiser against autograd, its posterior against quadrature."""

import pytest
import torch

from mgdm_core.errors import SettingsError
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior, Prior, isotropic_mixture
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import assert_moments, condition, normal, spd

SCHEDULES = {"vp": NoiseSchedule.vp_linear(), "ve": NoiseSchedule.karras()}


def crooked(dim: int = 2, components: int = 3) -> GaussianMixture:
    covariances = torch.stack([spd(dim, 10 + k) for k in range(components)])
    weights = torch.tensor([2.0, 1.0, 3.0, 0.5])[:components]
    return GaussianMixture(weights, 2 * normal((components, dim), 3), covariances)


def round_mixture(dim: int = 2, variance: float = 0.6) -> GaussianMixture:
    return isotropic_mixture(torch.tensor([0.2, 0.5, 0.3]), 3 * normal((3, dim), 4), variance)


def noised(mixture: GaussianMixture, alpha: float, sigma: float) -> GaussianMixture:
    eye = torch.eye(mixture.dim, dtype=torch.float64)
    return GaussianMixture(
        mixture.weights, alpha * mixture.means, alpha**2 * mixture.covariances + sigma**2 * eye
    )


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("mixture", [crooked(), round_mixture(), crooked(5), round_mixture(5)])
def test_denoiser_is_tweedies_formula_on_the_log_density(mixture, schedule):
    prior = GaussianMixturePrior(mixture, schedule)
    assert isinstance(prior, Prior)
    for t in (1, 50, 400, 900):
        alpha, sigma = float(schedule.alpha[t]), float(schedule.sigma[t])
        x = alpha * 2 * normal((6, mixture.dim), 5) + sigma * normal((6, mixture.dim), 6)
        x.requires_grad_(True)
        (score,) = torch.autograd.grad(noised(mixture, alpha, sigma).log_prob(x).sum(), x)
        want = (x.detach() + sigma**2 * score) / alpha
        torch.testing.assert_close(prior.denoise(x.detach(), t), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixture", [crooked(3), round_mixture(3)])
def test_one_level_per_item_and_level_zero(mixture):
    prior = GaussianMixturePrior(mixture, SCHEDULES["vp"])
    x, t = normal((4, 3), 7), torch.tensor([0, 1, 500, 1000])
    together = prior.denoise(x, t)
    assert torch.equal(together[0], x[0])
    for i in range(1, 4):
        torch.testing.assert_close(
            prior.denoise(x[i : i + 1], int(t[i]))[0], together[i], rtol=1e-12, atol=1e-12
        )
    assert torch.equal(prior.denoise(x, 0), x)


def test_round_and_general_paths_agree():
    round_one = round_mixture(4)
    shaken = round_one.covariances.clone()
    shaken[0, 0, 1] = shaken[0, 1, 0] = 1e-13  # takes the general path
    general = GaussianMixture(round_one.weights, round_one.means, shaken)
    x = 2 * normal((8, 4), 1)
    for t in (1, 300, 1000):
        torch.testing.assert_close(
            GaussianMixturePrior(round_one, SCHEDULES["vp"]).denoise(x, t),
            GaussianMixturePrior(general, SCHEDULES["vp"]).denoise(x, t),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("mixture", [crooked(3), round_mixture(3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_inputs(mixture, dtype):
    prior = GaussianMixturePrior(mixture, SCHEDULES["vp"])
    x = normal((6, 3), 8).to(dtype)
    out = prior.denoise(x, 300)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(
        out.double(), prior.denoise(x.double(), 300), rtol=tolerance, atol=tolerance
    )


def test_density_integrates_to_one_and_draws_have_its_moments():
    mixture = crooked()
    grid = torch.linspace(-12, 12, 481, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    mass = mixture.log_prob(points).exp() * (grid[1] - grid[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    draws, which = mixture.sample(40000, torch.Generator().manual_seed(1))
    mean = mass @ points
    centred = points - mean
    assert_moments(draws, mean, centred.T @ (mass[:, None] * centred), deviations=6)
    shares = torch.bincount(which, minlength=3) / 40000
    assert bool(((shares - mixture.weights).abs() < 4.5 * 0.5 / 200).all())


@pytest.mark.parametrize("sigma_y", [0.3, 1.0])
@pytest.mark.parametrize("mixture", [crooked(), round_mixture()], ids=["crooked", "round"])
def test_posterior_is_bayes_rule_on_a_grid(mixture, sigma_y):
    matrix, y = normal((1, 2), 9), torch.tensor([0.7], dtype=torch.float64)
    grid = torch.linspace(-14, 14, 701, dtype=torch.float64)
    cell = (grid[1] - grid[0]) ** 2
    points = torch.cartesian_prod(grid, grid)
    joint = mixture.log_prob(points) - 0.5 * ((points @ matrix.T - y)[:, 0] / sigma_y) ** 2
    want = torch.softmax(joint, 0) / cell
    posterior = mixture.posterior(matrix, y, sigma_y)
    got = posterior.log_prob(points).exp()
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


def test_posterior_of_one_component_is_gaussian_conditioning():
    m, c, matrix = normal((4,), 1), spd(4, 2), normal((2, 4), 3)
    y = normal((2,), 4)
    posterior = GaussianMixture(torch.ones(1), m[None], c[None]).posterior(matrix, y, 0.1)
    mean, cov = condition(m, c, matrix, y, 0.01)
    torch.testing.assert_close(posterior.means[0], mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(posterior.covariances[0], cov, rtol=1e-8, atol=1e-10)


def test_observing_twice_is_observing_both():
    mixture, matrix, y = crooked(4), normal((3, 4), 5), normal((3,), 6)
    both = mixture.posterior(matrix, y, 0.2)
    twice = mixture.posterior(matrix[:1], y[:1], 0.2).posterior(matrix[1:], y[1:], 0.2)
    torch.testing.assert_close(both.weights, twice.weights, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(both.means, twice.means, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(both.covariances, twice.covariances, rtol=1e-7, atol=1e-9)


def test_the_benchmarks_posterior_stays_positive_definite():
    dim = 200
    grid = torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3)).double() * 8
    mixture = isotropic_mixture(torch.ones(25), grid.repeat(1, dim // 2))
    posterior = mixture.posterior(normal((3, dim), 1), normal((3,), 2), 0.05)
    draws, _ = posterior.sample(10, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(draws).all())
    off = draws @ normal((3, dim), 1).T - normal((3,), 2)
    assert float(off.abs().max()) < 5 * 0.05


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0]])
def test_weights_outside_their_domain(weights):
    with pytest.raises(SettingsError, match="non-negative with a positive sum"):
        isotropic_mixture(torch.tensor(weights), torch.zeros(2, 2))
