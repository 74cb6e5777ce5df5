"""The law of MGDM's result, and how near it is to the posterior."""

from dataclasses import replace

import pytest
import torch

import mgdm_core
from mgdm_core.conditionals import Linearised, Tweedie
from mgdm_core.errors import DivergenceError
from mgdm_core.index_laws import Fraction, NextLevel, UniformFraction
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import Mask, Matrix
from mgdm_core.priors import GaussianMixturePrior, isotropic_mixture
from mgdm_core.sampler import Start
from mgdm_core.samplers import MGDM, TweedieGibbs
from mgdm_core.samplers.mgdm import PRESETS
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator, assert_moments, normal
from .gaussian_mgdm import AffineMGDM
from .gaussian_problem import PROBLEM, SCHEDULE, gaussian_likelihood, gaussian_prior
from .samplers_support import CoordinatePrior, draw

HALF, NEXT = Fraction(0.5), NextLevel()


def half(t: int, below: int) -> int:
    return min(max(1, round(0.5 * t)), t - 1)


def following(t: int, below: int) -> int:
    return min(max(1, below), t - 1)


@pytest.mark.parametrize(
    ("law", "index", "renoise"),
    [
        (HALF, half, "between"),
        (HALF, half, "forward"),
        (NEXT, following, "forward"),
        (NEXT, following, "between"),
    ],
)
def test_the_result_has_the_law_that_matrix_algebra_gives(law, index, renoise):
    """Gaussian prior, linear observation: MGDM is an affine chain and its law a Gaussian."""
    n, levels, gibbs, steps = 10000, 6, 2, 4
    settings = MGDM(
        levels=levels,
        gibbs=gibbs,
        denoising_steps=steps,
        index_law=law,
        conditional=Linearised(passes=1),
        renoise=renoise,
    )
    result = draw(gaussian_prior(), gaussian_likelihood(n), (2,), OneGenerator(n), settings)
    chain = AffineMGDM(PROBLEM, SCHEDULE)
    mean, cov = chain.run(SCHEDULE.spaced(levels, stop=2), gibbs, steps, index, 0.0, renoise)
    assert_moments(result.x, mean, cov)


def test_that_law_tends_to_the_posterior_with_gibbs_steps_and_the_exact_likelihood():
    # With p(y | x_s) itself (inflate 1) only unfinished mixing and the DDPM steps stand between
    # MGDM and the posterior; with the paper's g(y | D(x_s)) a bias stays however many steps.
    mean, cov = PROBLEM.posterior()
    levels, errors = SCHEDULE.spaced(12, stop=2), {}
    for inflate in (0.0, 1.0):
        for gibbs in (1, 3, 9):
            chain = AffineMGDM(PROBLEM, SCHEDULE)
            m, c = chain.run(levels, gibbs, 12, half, inflate)
            errors[inflate, gibbs] = (
                float((m - mean).norm()),
                float((c - cov).norm() / cov.norm()),
            )
    assert errors[1.0, 3][0] < 0.5 * errors[1.0, 1][0]
    assert errors[1.0, 9][0] < 0.25 * errors[1.0, 1][0]
    assert errors[1.0, 9][1] < 0.5 * errors[1.0, 1][1]
    assert errors[0.0, 9][0] > 1.8 * errors[1.0, 9][0]
    # That bias is a seventh of the posterior's largest deviation here.
    assert errors[0.0, 9][0] < 0.2 * float(cov.diagonal().max().sqrt())


def test_one_conditioned_estimate_from_pure_noise_is_a_draw_of_the_posterior():
    """N(0, d I) has exactly the variance that ``isotropic`` takes, and x_T says next to nothing."""
    n, d = 20_000, 2.5
    problem = replace(PROBLEM, mean=torch.zeros(2).double(), cov=d * torch.eye(2).double())
    settings = TweedieGibbs(levels=1, conditional=Tweedie("isotropic", data_variance=d))
    prior, likelihood = gaussian_prior(problem), gaussian_likelihood(n, problem)
    result = draw(prior, likelihood, (2,), OneGenerator(n), settings)
    assert result.trace.evaluations == 1
    assert_moments(result.x, *problem.posterior())


@pytest.mark.parametrize("transition", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("conditional", ["variational", "linearised"])
def test_every_transition_ends_near_the_posterior(transition, conditional):
    n = 500
    settings = MGDM(
        levels=12,
        denoising_steps=5,
        conditional=conditional,
        transition=transition,
        index_law=HALF,
    )
    result = draw(gaussian_prior(), gaussian_likelihood(n), (2,), OneGenerator(n), settings)
    mean, cov = PROBLEM.posterior()
    # The bias of g(y | D(x_s)) and of few steps, as in the chain above: not exact, but near.
    assert float((result.x.mean(0) - mean).norm()) < 0.7 * float(cov.diagonal().max().sqrt())
    off = result.x @ PROBLEM.matrix.T - PROBLEM.y
    want = (
        PROBLEM.matrix @ cov @ PROBLEM.matrix.T + (PROBLEM.matrix @ mean - PROBLEM.y) ** 2
    ) ** 0.5
    assert float(off.square().mean().sqrt()) < 1.5 * float(want)


@pytest.mark.parametrize("levels", [10, 20, 40])
def test_few_levels_meet_the_data_under_the_defaults(levels):
    """Two modes in 48 dimensions, half of them seen: x_0 has to leave the wrong mode.

    Adam's steps at the rate stated for 100 levels carried x_s a fifth as far in 20: a third of the
    samples stayed in the mode that the data rule out, 2.4 off where 0.5 is the noise.
    """
    means = torch.tensor([[-3.0], [3.0]]).expand(2, 48)
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(2), means), SCHEDULE)
    seen = Mask(torch.arange(48) < 24)
    likelihood = GaussianLikelihood(seen, torch.full((1, 24), 3.0), 0.5)
    problem = mgdm_core.Problem(prior, likelihood, (48,))
    result = mgdm_core.sample(problem, MGDM(levels), n=20)
    assert result.trace.warnings == []
    assert bool((result.x.mean(1) > 0).all())
    # Unseen, they are N(3, 1) there.
    assert float((result.x[:, 24:].mean() - 3).abs()) < 0.2
    assert float(result.x[:, 24:].std(0).mean()) == pytest.approx(1.0, abs=0.15)


def posterior_deviation(schedule, **options):
    """Deviation of the samples over the exact one: one coordinate, seen with a hundredth noise."""
    items, sigma_y = 400, 0.05
    prior = CoordinatePrior(schedule, 0.0, 1.0)
    y = torch.full((items, 1), 0.3, dtype=torch.float64)
    likelihood = GaussianLikelihood(Matrix(torch.eye(1, dtype=torch.float64)), y, sigma_y)
    published = PRESETS["imagenet-pixel"]
    result = draw(prior, likelihood, (1,), OneGenerator(items), published, **options)
    exact = sigma_y / (1 + sigma_y**2) ** 0.5
    return float(result.x.std()) / exact, result.trace


EDM_40, EDM_1000 = (NoiseSchedule.karras(n, 0.002, 80.0, 7.0) for n in (40, 1000))


@pytest.mark.parametrize("schedule", [SCHEDULE, EDM_40, EDM_1000], ids=["ddpm", "edm40", "edm1000"])
def test_the_published_preset_means_the_same_on_other_schedules(schedule):
    """It gave 4 times the deviation with 40 EDM levels and a fifth of it with 1000."""
    ratio, _ = posterior_deviation(schedule)
    assert 0.5 < ratio < 1.9


def test_phases_are_those_of_the_levels_that_a_start_leaves():
    start = Start(torch.full((400, 1), 0.3, dtype=torch.float64), 50)
    ratio, trace = posterior_deviation(SCHEDULE, start=start)
    assert ratio < 1.6
    steps = len(trace.records)
    late = [r.index for r in trace.records[round(0.7 * steps) :]]
    grid = [r.level for r in trace.records]
    assert late == [*grid[round(0.7 * steps) + 1 :], grid[-1] // 2]


def test_two_levels_still_meet_the_data_and_are_checked():
    calls = []
    broken = CoordinatePrior(SCHEDULE, nan_from=1000)
    with pytest.raises(DivergenceError):
        draw(broken, gaussian_likelihood(1), (2,), RandomStreams([0]), MGDM(levels=2))
    prior = CoordinatePrior(NoiseSchedule.from_sigmas([0.5]))  # no level lies below
    settings = MGDM(levels=2)
    draw(prior, gaussian_likelihood(1), (2,), RandomStreams([0]), settings, callback=calls.append)
    assert len(calls) == 1
    broken = CoordinatePrior(NoiseSchedule.from_sigmas([0.5]), nan_from=1)
    with pytest.raises(DivergenceError):
        draw(broken, gaussian_likelihood(1), (2,), RandomStreams([0]), settings)


def test_the_default_for_few_values_meets_the_data_near_level_1():
    """Levels that are even, under a law that keeps s near t, leave a residual: that is said."""
    items, sigma_y = 200, 0.05
    prior = CoordinatePrior(SCHEDULE, 0.0, 4.0)
    matrix = normal((1, 20), 3)
    y = torch.full((items, 1), 2.0, dtype=torch.float64)
    likelihood = GaussianLikelihood(Matrix(matrix), y, sigma_y)
    even = MGDM(40, denoising_steps=8, conditional=Linearised(), index_law=UniformFraction(0.5))
    for settings in (None, even):
        result = draw(prior, likelihood, (20,), OneGenerator(items), settings)
        residual = float((y - result.x @ matrix.T).square().mean().sqrt())
        told = [w for w in result.trace.warnings if w.startswith("data-not-met")]
        if settings is even:
            assert residual > 2 * sigma_y
            assert f"{residual:.3g} off" in told[0]
        else:
            assert residual == pytest.approx(sigma_y, rel=0.15)
            assert told == []
