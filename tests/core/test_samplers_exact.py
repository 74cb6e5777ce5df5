"""Samplers whose law is known where all is linear and Gaussian, against that law.

The backward chain with K levels is an affine map of Gaussian noise, so the law that a method aims
at with these K levels is known exactly, and the bounds below are Monte-Carlo bounds alone. That the
law itself tends to the posterior as K grows is pure algebra and is tested as such.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import Matrix
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior
from mgdm_core.samplers.daps import DAPS
from mgdm_core.samplers.mcg_diff import MCGDiff
from mgdm_core.samplers.pgdm import PGDM
from mgdm_core.samplers.pnp_dm import PnPDM
from mgdm_core.samplers.smc_diff import SMCDiff
from mgdm_core.samplers.twisted_smc import TwistedSMC
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.grids import coupling_levels

from .closed_forms import OneGenerator, assert_moments, condition, spd
from .samplers_support import (
    CoordinatePrior,
    LinearGaussian,
    assert_population,
    backward_end,
    backward_law,
    draw,
    noise_at,
)

VP = NoiseSchedule.vp_linear()
VE = NoiseSchedule.karras(steps=400, sigma_min=0.005, sigma_max=40.0, rho=3.0)
SCHEDULES = {"vp": VP, "ve": VE}

FLAT = LinearGaussian(  # isotropic: what PGDM and DAPS assume
    mean=torch.full((2,), 0.7, dtype=torch.float64),
    cov=1.5 * torch.eye(2, dtype=torch.float64),
    matrix=torch.tensor([[1.0, -0.6]], dtype=torch.float64),
    y=torch.tensor([1.1], dtype=torch.float64),
    sigma_y=0.4,
)
TILTED = LinearGaussian(  # two singular values, correlated coordinates
    mean=torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
    cov=spd(3, 5),
    matrix=torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.4, 0.8]], dtype=torch.float64),
    y=torch.tensor([0.5, 2.0], dtype=torch.float64),
    sigma_y=0.5,
)


def mixture_prior(problem: LinearGaussian, schedule: NoiseSchedule) -> GaussianMixturePrior:
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixturePrior(
        GaussianMixture(one, problem.mean[None], problem.cov[None]), schedule
    )


def flat_prior(schedule: NoiseSchedule) -> CoordinatePrior:
    return CoordinatePrior(schedule, mean=0.7, variance=1.5)


# -- particle methods --------------------------------------------------------------------------


def twisted_target(problem: LinearGaussian, schedule: NoiseSchedule, count: int):
    """Posterior of the chain's own marginal of x_0."""
    levels = [*schedule.spaced(count), 0]
    d = len(problem.mean)
    mean, cov = backward_end(schedule, levels, problem.denoiser, noise_at(schedule, levels[0], d))
    return condition(mean, cov, problem.matrix, problem.y, problem.sigma_y**2)


def spectral(problem: LinearGaussian, schedule: NoiseSchedule, count: int):
    """Levels, and per observed component its level tau, direction and value of x_0."""
    u, values, v_t = torch.linalg.svd(problem.matrix)
    taus = [schedule.level_of_sigma(problem.sigma_y / float(s)) for s in values]
    levels = [*sorted({*schedule.spaced(count), *taus}, reverse=True), 0]
    return levels, taus, v_t[: len(values)], (u.T @ problem.y) / values


def mcg_target(problem: LinearGaussian, schedule: NoiseSchedule, count: int):
    """The chain's x_0 given component i of x_tau(i): alpha_tau (U^T y)_i / s_i."""
    levels, taus, directions, seen = spectral(problem, schedule, count)
    d = len(problem.mean)
    mean, cov = backward_law(schedule, levels, problem.denoiser, noise_at(schedule, levels[0], d))
    rows = torch.zeros(len(taus), len(mean), dtype=torch.float64)
    values = torch.zeros(len(taus), dtype=torch.float64)
    for i, tau in enumerate(taus):
        at = levels.index(tau) * d
        rows[i, at : at + d] = directions[i]
        values[i] = schedule.alpha[tau] * seen[i]
    mean, cov = condition(mean, cov, rows, values)
    return mean[-d:], cov[-d:, -d:]


def smc_diff_target(problem: LinearGaussian, schedule: NoiseSchedule, count: int):
    """The chain's x_0 given a noised path of each component, the path drawn from noising."""
    levels, taus, directions, seen = spectral(problem, schedule, count)
    d = len(problem.mean)
    mean, cov = backward_law(schedule, levels, problem.denoiser, noise_at(schedule, levels[0], d))
    rows, centre, owner, at_level = [], [], [], []
    for i, tau in enumerate(taus):
        for k, level in enumerate(levels):
            if level >= tau:
                row = torch.zeros(len(mean), dtype=torch.float64)
                row[k * d : (k + 1) * d] = directions[i]
                rows.append(row)
                centre.append(schedule.alpha[level] * seen[i])
                owner.append(i)
                at_level.append(level)
    matrix, centre = torch.stack(rows), torch.stack(centre)
    alpha, sigma = schedule.alpha.tolist(), schedule.sigma.tolist()
    path = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for j, (i, level) in enumerate(zip(owner, at_level)):
        own = sigma[level] ** 2 - (alpha[level] / alpha[taus[i]] * sigma[taus[i]]) ** 2
        for k, (other, above) in enumerate(zip(owner, at_level)):
            if i == other and level <= above:
                path[j, k] = path[k, j] = alpha[above] / alpha[level] * own
    gram = matrix @ cov @ matrix.T
    gain = torch.linalg.solve(gram, matrix @ cov).T
    mean, cov = mean + gain @ (centre - matrix @ mean), cov - gain @ matrix @ cov
    cov = cov + gain @ path @ gain.T
    return mean[-d:], cov[-d:, -d:]


PARTICLES = {
    "twisted_smc": (TwistedSMC, twisted_target),
    "mcg_diff": (MCGDiff, mcg_target),
    "smc_diff": (SMCDiff, smc_diff_target),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", PARTICLES)
def test_populations_have_the_law_of_the_conditioned_chain(name, kind):
    settings, target = PARTICLES[name]
    schedule, items, particles, levels = SCHEDULES[kind], 150, 128, 14
    result = draw(
        mixture_prior(TILTED, schedule),
        TILTED.likelihood(items),
        (3,),
        OneGenerator(items, 3),
        settings(particles=particles, steps=levels),
    )
    assert result.particles is not None
    assert result.particles.shape == (items, particles, 3)
    mean, cov = target(TILTED, schedule, levels)
    assert_population(result.particles, mean, cov)
    # One particle per item, drawn by weight, has the same law.
    assert_moments(result.x, mean, cov)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", PARTICLES)
def test_the_conditioned_chain_tends_to_the_posterior(name, kind):
    """Its error is of first order in 1 / K: what remains after extrapolation is small."""
    target, schedule = PARTICLES[name][1], SCHEDULES[kind]
    posterior_mean, posterior_cov = TILTED.posterior()
    scale = posterior_cov.diagonal().sqrt()
    (mean, cov), (finer_mean, finer_cov) = (target(TILTED, schedule, k) for k in (56, 112))

    def off(mean, cov):
        first = ((mean - posterior_mean).abs() / scale).max()
        second = ((cov - posterior_cov).abs() / (scale[:, None] * scale)).max()
        return max(float(first), float(second))

    assert off(finer_mean, finer_cov) < 0.7 * off(mean, cov)
    assert off(2 * finer_mean - mean, 2 * finer_cov - cov) < 0.08


@pytest.mark.parametrize("twist", ["plain", "inflated"])
@pytest.mark.parametrize("max_shift", [0.3, float("inf")])
def test_any_twist_and_any_cut_of_the_proposal_leave_the_law(twist, max_shift):
    items, levels = 150, 14
    result = draw(
        mixture_prior(FLAT, VP),
        FLAT.likelihood(items),
        (2,),
        OneGenerator(items, 4),
        TwistedSMC(particles=160, steps=levels, twist=twist, max_shift=max_shift),
    )
    mean, cov = twisted_target(FLAT, VP, levels)
    assert_population(result.particles, mean, cov, bias=0.04)


# Two modes whose weights, 0.3 and 0.7, the observation turns to 0.7 and 0.3.
MODES = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[3.0, -2.0], [-2.0, 0.2]], dtype=torch.float64),
    torch.stack([0.5 * spd(2, 3), 0.4 * spd(2, 4)]),
)


@pytest.mark.parametrize("name", PARTICLES)
def test_populations_find_the_weights_of_the_modes(name):
    """4.5 Monte-Carlo deviations, and 0.05 for 40 levels (it falls as 1 / K) and 128 particles."""
    settings, _ = PARTICLES[name]
    matrix = torch.tensor([[0.8, 1.1]], dtype=torch.float64)
    y, sigma_y, items = torch.tensor([0.3], dtype=torch.float64), 0.4, 60
    posterior = MODES.posterior(matrix, y, sigma_y)
    assert float((posterior.weights - MODES.weights).abs().max()) > 0.4
    result = draw(
        GaussianMixturePrior(MODES, VP),
        GaussianLikelihood(Matrix(matrix), y.expand(items, -1), sigma_y),
        (2,),
        OneGenerator(items, 7),
        settings(particles=128, steps=40),
    )
    share = (result.particles[:, :, 0] > 0.5).double().mean(1)
    error = float(share.std()) / items**0.5
    assert error < 0.03
    assert abs(float(share.mean() - posterior.weights[0])) < 4.5 * error + 0.05


def test_the_prior_alone_would_fail_the_bound():
    """The bound can tell the prior from the posterior."""
    draws = OneGenerator(150, 1).normal((128, 3), torch.float64)
    draws = TILTED.mean + draws @ torch.linalg.cholesky(TILTED.cov).T
    mean, cov = twisted_target(TILTED, VP, 14)
    with pytest.raises(AssertionError):
        assert_population(draws, mean, cov)


# -- single-chain methods ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEDULES)
def test_pgdm_with_the_score_s_weight_has_the_law_of_the_guided_chain(kind):
    schedule, items = SCHEDULES[kind], 6000
    cfg = PGDM(steps=15, data_variance=1.5, weighting="score")
    result = draw(flat_prior(schedule), FLAT.likelihood(items), (2,), OneGenerator(items), cfg)
    levels = [*schedule.spaced(15), 0]
    mean, cov = backward_end(
        schedule, levels, FLAT.posterior_denoiser, noise_at(schedule, levels[0], 2)
    )
    assert_moments(result.x, mean, cov)


def test_the_guided_chain_tends_to_the_posterior():
    levels = [*VP.spaced(500), 0]
    mean, cov = backward_end(VP, levels, FLAT.posterior_denoiser, noise_at(VP, 1000, 2))
    post_mean, post_cov = FLAT.posterior()
    assert torch.allclose(mean, post_mean, atol=0.02)
    assert torch.allclose(cov, post_cov, atol=0.03)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_daps_is_exact_at_any_number_of_levels(kind):
    """With D as the estimate and the right variance every draw of x_0 | x_t, y is exact."""
    schedule, items = SCHEDULES[kind], 6000
    cfg = DAPS(levels=6, ode_steps=1, data_variance=1.5)
    result = draw(flat_prior(schedule), FLAT.likelihood(items), (2,), OneGenerator(items), cfg)
    assert_moments(result.x, *FLAT.posterior())
    assert result.trace.evaluations == 6


def test_daps_by_langevin_steps_comes_close():
    """Unadjusted steps: a deviation of up to 8 % on top of the Monte-Carlo bound."""
    items = 1500
    cfg = DAPS(levels=6, ode_steps=1, data_variance=1.5, draw="langevin", langevin_steps=80)
    result = draw(flat_prior(VP), FLAT.likelihood(items), (2,), OneGenerator(items), cfg)
    mean, cov = FLAT.posterior()
    assert_population(result.x[:, None], mean, cov, bias=0.08)


def sweeps(schedule: NoiseSchedule, cfg: PnPDM) -> list[int]:
    """Levels of the sweeps of ``cfg``."""
    ends = (cfg.rho, cfg.floor)
    return coupling_levels(schedule, cfg.iterations, ends, cfg.decay, schedule.last)


def pnp_dm_law(problem: LinearGaussian, schedule: NoiseSchedule, cfg: PnPDM):
    """Moments of x after the sweeps of ``cfg``, by affine algebra."""
    levels, denoiser = sweeps(schedule, cfg), cache(problem.denoiser)
    d = len(problem.mean)
    eye = torch.eye(d, dtype=torch.float64)
    q = float(schedule.sigma[levels[0]] / schedule.alpha[levels[0]])
    mean, cov = torch.zeros(d, dtype=torch.float64), q**2 * eye
    for t in levels:
        rho2 = float(schedule.sigma[t] / schedule.alpha[t]) ** 2
        precision = problem.matrix.T @ problem.matrix / problem.sigma_y**2 + eye / rho2
        inverse = torch.linalg.inv(precision)
        pull = inverse @ problem.matrix.T @ problem.y / problem.sigma_y**2
        mean = inverse @ mean / rho2 + pull
        cov = inverse @ cov @ inverse / rho2**2 + inverse
        steps = [-((-t * (cfg.prior_steps - k)) // cfg.prior_steps) for k in range(cfg.prior_steps)]
        chain = [*sorted(set(steps), reverse=True), 0]
        first = (schedule.alpha[t] * mean, schedule.alpha[t] ** 2 * cov)
        mean, cov = backward_end(schedule, chain, denoiser, first)
    return mean, cov


def test_pnp_dm_has_the_law_of_its_sweeps():
    items = 6000
    cfg = PnPDM(iterations=8, rho=3.0, decay=0.7, floor=0.4, prior_steps=5)
    result = draw(flat_prior(VP), FLAT.likelihood(items), (2,), OneGenerator(items), cfg)
    assert_moments(result.x, *pnp_dm_law(FLAT, VP, cfg))


def test_pnp_dm_s_sweeps_tend_to_the_posterior_with_the_coupling_s_noise_added():
    cfg = PnPDM(iterations=40, rho=3.0, decay=0.8, floor=0.4, prior_steps=80)
    mean, cov = pnp_dm_law(FLAT, VP, cfg)
    t = sweeps(VP, cfg)[-1]
    want_mean, want_cov = FLAT.posterior(extra=float(VP.sigma[t] / VP.alpha[t]) ** 2)
    assert torch.allclose(mean, want_mean, atol=0.02)
    assert torch.allclose(cov, want_cov, atol=0.04)


def test_pnp_dm_by_langevin_steps_comes_close():
    """The coupling pulls towards x with the sweep's own rho; the wrong sign would diverge."""
    items = 2000
    shared = {"iterations": 6, "rho": 2.0, "decay": 0.7, "floor": 0.4, "prior_steps": 5}
    cfg = PnPDM(**shared, draw="langevin", langevin_steps=80)
    result = draw(flat_prior(VP), FLAT.likelihood(items), (2,), OneGenerator(items), cfg)
    assert_population(result.x[:, None], *pnp_dm_law(FLAT, VP, cfg), bias=0.08)
