"""DInG, FlowDPS and diffusion within Gibbs: their laws on Gaussian problems, by affine algebra."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import Mask, SumOverChannels
from mgdm_core.sampler import Start
from mgdm_core.samplers.diffusion_gibbs import DiffusionGibbs
from mgdm_core.samplers.ding import DInG
from mgdm_core.samplers.flow_dps import FlowDPS
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.backward import backward_chain

from .closed_forms import ConstantStreams, OneGenerator, assert_moments, condition, normal
from .samplers_support import CoordinatePrior, LinearGaussian, backward_end, draw, noise_at
from .test_samplers_exact import TILTED, mixture_prior

FLOW = NoiseSchedule.flow(400)
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(),
    "ve": NoiseSchedule.karras(steps=400, sigma_min=0.005, sigma_max=40.0, rho=3.0),
    "flow": FLOW,
}


def moments(schedule: NoiseSchedule, *levels: int) -> list[float]:
    """alpha and sigma of each level."""
    return [float(v) for t in levels for v in (schedule.alpha[t], schedule.sigma[t])]


def time(alpha: float, sigma: float) -> float:
    """The flow's time: x / (alpha + sigma) = (1 - u) x_0 + u eps."""
    return sigma / (alpha + sigma)


def gain(problem: LinearGaussian, variance: float) -> torch.Tensor:
    """K of x + K (y - A x), the mean of x given y when x has that variance."""
    a = problem.matrix
    eye = torch.eye(len(a), dtype=torch.float64)
    return variance * a.T @ torch.linalg.inv(variance * a @ a.T + problem.sigma_y**2 * eye)


def affine_law(move, shift, spread, mean, cov):
    return move @ mean + shift, move @ cov @ move.T + spread


def ding_law(problem: LinearGaussian, schedule: NoiseSchedule, count: int, eta: float | None):
    """Moments of DInG's result."""
    levels, d = [*schedule.spaced(count), 0], len(problem.mean)
    eye = torch.eye(d, dtype=torch.float64)
    mean, cov = noise_at(schedule, levels[0], d)
    for t, s in pairwise(levels):
        alpha_t, sigma_t, alpha, sigma = moments(schedule, t, s)
        d_t, h_t = problem.denoiser(schedule, t)
        if s == 0:
            return affine_law(d_t, h_t, 0 * eye, mean, cov)
        dev = sigma * (time(alpha, sigma) if eta is None else eta)
        along = (sigma**2 - dev**2) ** 0.5 / sigma_t
        to_mean, mean_0 = (
            alpha * d_t + along * (eye - alpha_t * d_t),
            (alpha - along * alpha_t) * h_t,
        )
        d_s, h_s = problem.denoiser(schedule, s)
        to_eps, eps_0 = (eye - alpha * d_s) / sigma, -alpha * h_s / sigma
        # eps = to_eps (m + dev z) + eps_0 and u = (m - sigma eps) / alpha, conditioned on y.
        k = gain(problem, (dev / alpha) ** 2)
        rest = eye - k @ problem.matrix
        of_eps = sigma * (eye - rest)
        of_mean = rest + of_eps @ to_eps
        of_z = dev * of_eps @ to_eps
        move = of_mean @ to_mean
        shift = of_mean @ mean_0 + of_eps @ eps_0 + alpha * k @ problem.y
        mean, cov = affine_law(move, shift, of_z @ of_z.T + dev**2 * rest, mean, cov)
    raise AssertionError("the last level is 0")


@pytest.mark.parametrize("eta", [None, 0.6])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_ding_has_the_law_of_its_steps(kind, eta):
    items = 6000
    result = draw(
        mixture_prior(TILTED, SCHEDULES[kind]),
        TILTED.likelihood(items),
        (3,),
        OneGenerator(items),
        DInG(steps=12, eta=eta),
    )
    assert_moments(result.x, *ding_law(TILTED, SCHEDULES[kind], 12, eta))
    assert result.trace.evaluations == 2 * 12 - 1
    assert result.trace.vjps == 0


@pytest.mark.parametrize("kind", SCHEDULES)
def test_ding_s_law_is_near_the_posterior_and_narrower_where_all_noise_is_fresh(kind):
    """With eta 1 its mean tends to the posterior's, and its deviation to sqrt(1/2) of that."""
    mean, cov = TILTED.posterior()
    scale = cov.diagonal().sqrt()
    found, spread = ding_law(TILTED, SCHEDULES[kind], 400, 1.0)
    assert bool(((found - mean).abs() < 0.01 * scale).all())
    assert bool(((spread.diagonal().sqrt() / scale - 0.5**0.5).abs() < 0.01).all())
    found, spread = ding_law(TILTED, SCHEDULES[kind], 400, None)
    assert bool(((found - mean).abs() < 0.35 * scale).all())
    ratio = spread.diagonal().sqrt() / scale
    assert bool(((ratio > 0.75) & (ratio < 1)).all())


def test_ding_on_a_mask_is_the_paper_s_update():
    """Seen entries: (1 - g) m + g (alpha_s y + sigma_s eps), g = v / (v + alpha_s^2 sigma_y^2)."""
    prior = CoordinatePrior(FLOW, mean=0.3, variance=0.8)
    keep = torch.tensor([True, False, True])
    y, sigma_y = normal((2, 2), 3), 0.2
    start = Start(normal((2, 3), 4), 300)
    states = []
    draw(
        prior,
        GaussianLikelihood(Mask(keep), y, sigma_y),
        (3,),
        ConstantStreams(2, 0.0),
        DInG(steps=4),
        start=start,
        callback=lambda progress: states.append(progress.save().state.x),
    )
    t, s = FLOW.spaced(4, 300)[:2]
    alpha_t, sigma_t, alpha, sigma = moments(FLOW, t, s)
    x = alpha_t * start.x_0
    x_0, dev = prior.denoise(x, t), sigma * (1 - alpha)
    m = alpha * x_0 + (sigma**2 - dev**2) ** 0.5 * (x - alpha_t * x_0) / sigma_t
    eps = (m - alpha * prior.denoise(m, s)) / sigma
    g = dev**2 / (dev**2 + alpha**2 * sigma_y**2)
    want = m.clone()
    want[:, keep] = (1 - g) * m[:, keep] + g * (alpha * y + sigma * eps[:, keep])
    assert torch.allclose(states[0], want, rtol=1e-10, atol=1e-10)


def test_ding_by_langevin_steps_comes_close_to_its_closed_form():
    shared, items = {"steps": 6, "eta": 0.5}, 1000
    laws = []
    for kind, steps in (("exact", 1), ("langevin", 80)):
        result = draw(
            mixture_prior(TILTED, FLOW),
            TILTED.likelihood(items),
            (3,),
            OneGenerator(items),
            DInG(**shared, draw=kind, langevin_steps=steps),
        )
        laws.append((result.x.mean(0), result.x.std(0)))
    (mean, std), (other_mean, other_std) = laws
    assert bool(((mean - other_mean).abs() < 0.15 * std).all())
    assert bool(((other_std / std - 1).abs() < 0.12).all())


def flow_dps_law(problem: LinearGaussian, schedule: NoiseSchedule, count: int, fresh: float | None):
    """Moments of FlowDPS' result."""
    levels, d = [*schedule.spaced(count), 0], len(problem.mean)
    eye = torch.eye(d, dtype=torch.float64)
    mean, cov = noise_at(schedule, levels[0], d)
    for t, s in pairwise(levels):
        alpha_t, sigma_t, alpha, sigma = moments(schedule, t, s)
        a, b = moments(schedule, min(t, schedule.top))
        k = time(alpha_t, sigma_t) * gain(problem, (b / a) ** 2)
        d_t, h_t = problem.denoiser(schedule, t)
        w = 1 - time(alpha, sigma) if fresh is None else fresh
        old, rest = sigma * (1 - w) ** 0.5 / sigma_t, eye - k @ problem.matrix
        move = alpha * rest @ d_t + old * (eye - alpha_t * d_t)
        shift = alpha * (rest @ h_t + k @ problem.y) - old * alpha_t * h_t
        mean, cov = affine_law(move, shift, sigma**2 * w * eye, mean, cov)
    return mean, cov


@pytest.mark.parametrize("fresh", [None, 0.3])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_flow_dps_has_the_law_of_its_steps(kind, fresh):
    items = 6000
    result = draw(
        mixture_prior(TILTED, SCHEDULES[kind]),
        TILTED.likelihood(items),
        (3,),
        OneGenerator(items),
        FlowDPS(steps=12, fresh=fresh),
    )
    assert_moments(result.x, *flow_dps_law(TILTED, SCHEDULES[kind], 12, fresh))
    assert (result.trace.evaluations, result.trace.vjps) == (12, 0)


def test_flow_dps_s_law_is_near_the_posterior():
    """Not more than a quarter of a deviation off in the mean, deviations from 0.85 to 1.25."""
    mean, cov = TILTED.posterior()
    scale = cov.diagonal().sqrt()
    found, spread = flow_dps_law(TILTED, NoiseSchedule.flow(1000), 28, None)
    assert bool(((found - mean).abs() < 0.25 * scale).all())
    ratio = spread.diagonal().sqrt() / scale
    assert bool(((ratio > 0.85) & (ratio < 1.25)).all())


def test_flow_dps_without_data_and_fresh_noise_is_the_flow_s_ode():
    prior, start = CoordinatePrior(FLOW, mean=0.3, variance=0.8), Start(normal((2, 4), 4), 40)
    likelihood = GaussianLikelihood(Mask(torch.ones(4, dtype=torch.bool)), normal((2, 4), 1), 1e9)
    streams = RandomStreams.from_seed(3, 2)
    result = draw(prior, likelihood, (4,), streams, FlowDPS(steps=40, fresh=0.0), start=start)
    alpha, sigma = moments(FLOW, 40)
    z = RandomStreams.from_seed(3, 2).normal((4,), torch.float64)
    x = alpha * start.x_0 + sigma * z
    want = backward_chain(FLOW, prior.denoise, x, 40, 40, method="ddim")
    assert torch.allclose(result.x, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [DInG(steps=8), FlowDPS(steps=8)], ids=["ding", "flow_dps"])
def test_any_likelihood_pulls(sampler):
    """A likelihood that is a function only: the result is nearer to its peak than the prior's."""

    def log_prob(x, y):
        return -8 * (x.square().sum(-1) - y).square()

    y = torch.full((50,), 4.0, dtype=torch.float64)
    prior = CoordinatePrior(FLOW, mean=0.0, variance=1.0)
    result = draw(prior, CallableLikelihood(log_prob, y), (3,), OneGenerator(50), sampler)
    found = (result.x.square().sum(-1) - 4).abs().mean()
    alone = (torch.randn(5000, 3, generator=OneGenerator(1).generator).square().sum(-1) - 4).abs()
    assert float(found) < 0.5 * float(alone.mean())


# -- diffusion within Gibbs --------------------------------------------------------------------

STEMS = 3
ONE = LinearGaussian(  # one stem
    mean=torch.tensor([0.7], dtype=torch.float64),
    cov=torch.tensor([[1.5]], dtype=torch.float64),
    matrix=torch.ones(1, 1, dtype=torch.float64),
    y=torch.zeros(1, dtype=torch.float64),
    sigma_y=0.4,
)
Y = 3.4


def gibbs_law(schedule: NoiseSchedule, cfg: DiffusionGibbs):
    """Moments of the stems after all sweeps: each draw is affine in the others."""
    rhos = [max(cfg.rho * cfg.decay**k, ONE.sigma_y) for k in range(cfg.iterations)]
    levels = [schedule.level_of_sigma(rho) for rho in rhos]
    eye = torch.eye(STEMS, dtype=torch.float64)
    alpha, sigma = moments(schedule, levels[0])
    mean, cov = torch.zeros(STEMS, dtype=torch.float64), (sigma / alpha) ** 2 * eye
    zero, none = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    chains = {}
    for t in set(levels):
        count = min(cfg.prior_steps, t)
        grid = [-(-t * (count - i) // count) for i in range(count + 1)]
        shift, spread = backward_end(schedule, grid, ONE.denoiser, (zero, none))
        slope = backward_end(schedule, grid, ONE.denoiser, (zero + 1, none))[0] - shift
        chains[t] = shift, spread, slope
    for t in levels:
        alpha, (shift, spread, slope) = moments(schedule, t)[0], chains[t]
        for k in range(STEMS):
            move = eye.clone()
            move[k] = -slope * alpha * (1 - eye[k])
            mean, cov = affine_law(
                move, (shift + slope * alpha * Y) * eye[k], spread * torch.outer(eye[k], eye[k]),
                mean, cov,
            )  # fmt: skip
    return mean, cov


def gibbs_posterior():
    eye = torch.eye(STEMS, dtype=torch.float64)
    ones = torch.ones(1, STEMS, dtype=torch.float64)
    y = torch.tensor([Y], dtype=torch.float64)
    return condition(ONE.mean.expand(STEMS), 1.5 * eye, ones, y, ONE.sigma_y**2)


def gibbs_run(schedule: NoiseSchedule, cfg: DiffusionGibbs, items: int, **options):
    y = torch.full((items, 1), Y, dtype=torch.float64)
    likelihood = GaussianLikelihood(SumOverChannels(STEMS), y, ONE.sigma_y)
    prior = CoordinatePrior(schedule, mean=0.7, variance=1.5)
    return draw(prior, likelihood, (STEMS, 1), OneGenerator(items), cfg, **options)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_diffusion_within_gibbs_has_the_law_of_its_sweeps(kind):
    items, cfg = 6000, DiffusionGibbs(iterations=4, rho=2.0, decay=0.6, prior_steps=5)
    result = gibbs_run(SCHEDULES[kind], cfg, items)
    assert_moments(result.x[..., 0], *gibbs_law(SCHEDULES[kind], cfg))
    assert (result.trace.evaluations, result.trace.vjps) == (4 * STEMS * 5, 0)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_its_sweeps_tend_to_the_posterior(kind):
    """The error is of first order in 1 / M for M backward steps: extrapolated, little is left.

    What is left is sigma_y rounded to a level, and the second order.
    """
    (mean, cov), (finer_mean, finer_cov) = (
        gibbs_law(SCHEDULES[kind], DiffusionGibbs(60, rho=1.5, decay=0.7, prior_steps=m))
        for m in (40, 80)
    )
    want, want_cov = gibbs_posterior()
    scale = want_cov.diagonal().sqrt()
    assert bool(((2 * finer_mean - mean - want).abs() < 0.02 * scale).all())
    off = 2 * finer_cov - cov - want_cov
    assert bool((off.abs() < 0.02 * scale[:, None] * scale).all()), off


def test_a_start_skips_the_sweeps_above_its_level():
    start = Start(torch.full((2, STEMS, 1), 1.1, dtype=torch.float64), 30)
    cfg = DiffusionGibbs(iterations=10, rho=5.0, decay=0.5, prior_steps=2)
    result = gibbs_run(FLOW, cfg, 2, start=start)
    assert all(record.level <= 30 for record in result.trace.records)


def test_settings_and_needs_are_checked():
    with pytest.raises(SettingsError, match="eta lies in"):
        DInG(eta=0.0)
    with pytest.raises(SettingsError, match="fresh lies in"):
        FlowDPS(fresh=1.5)
    with pytest.raises(SettingsError, match="decay lies in"):
        DiffusionGibbs(decay=0.0)
    prior, streams = CoordinatePrior(FLOW), RandomStreams.from_seed(0, 1)
    with pytest.raises(CapabilityError, match="mixing"):
        draw(prior, TILTED.likelihood(1), (3,), streams, DiffusionGibbs())
    likelihood = CallableLikelihood(lambda x, y: -x.square().sum(-1), normal((1, 1), 0))
    with pytest.raises(CapabilityError, match="gaussian"):
        draw(prior, likelihood, (3,), streams, DInG(draw="exact"))
