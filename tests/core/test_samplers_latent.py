"""PSLD, ReSample and calibrated guidance: their steps and laws, in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import FunctionOperator, Mask, Matrix, compose
from mgdm_core.priors import LatentPrior
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import DPS, PSLD, CalibratedGuidance, ReSample
from mgdm_core.samplers.descent import Position
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.backward import backward_chain, even_levels
from mgdm_core.steps.bridge import bridge_coefficients

from .closed_forms import ConstantStreams, OneGenerator, assert_moments, normal
from .samplers_support import CoordinatePrior, draw, noise_at
from .test_samplers_exact import TILTED, mixture_prior
from .test_samplers_rivals import SCHEDULES, affine_law, gain, moments

VP = NoiseSchedule.vp_linear()
DECODE = normal((5, 3), 31)  # latents of 3 numbers, data of 5
ENCODE = torch.linalg.pinv(DECODE) + 0.1 * normal((3, 5), 32)
SEEN = normal((2, 5), 33)


def latent_problem(items: int, prior=None) -> Problem:
    prior = prior or CoordinatePrior(VP, mean=0.2, variance=0.6)
    latent = LatentPrior(prior, lambda x: x @ ENCODE.T, lambda z: z @ DECODE.T)
    operator = compose(Matrix(SEEN), latent.decoder_operator())
    return Problem(latent, GaussianLikelihood(operator, normal((items, 2), 34), 0.3), (3,))


# -- PSLD ------------------------------------------------------------------------------------------


def test_without_gluing_and_autoencoder_psld_is_dps():
    prior = CoordinatePrior(VP, mean=0.2, variance=0.6)
    likelihood = GaussianLikelihood(Matrix(SEEN), normal((4, 2), 1), 0.3)
    runs = [
        draw(prior, likelihood, (5,), RandomStreams.from_seed(3, 4), sampler)
        for sampler in (PSLD(20, eta=0.8, gamma=0.0), DPS(20, gamma=0.4))
    ]
    torch.testing.assert_close(runs[0].x, runs[1].x, rtol=1e-9, atol=1e-10)


def test_psld_s_pulls_are_the_gradients_of_both_norms():
    """With linear maps all round both gradients are products of matrices."""
    problem, eta, gamma = latent_problem(2), 0.7, 0.4
    sampler = PSLD(10, eta=eta, gamma=gamma, ddim_eta=0.0)
    plan = sampler.plan(problem)
    t, s = plan.pairs[4]
    x, streams = normal((2, 3), 5), RandomStreams.from_seed(0, 2)
    state, _ = sampler.step(problem, plan, Position(4, x), streams)

    alpha_t, sigma_t, alpha, sigma = moments(VP, t, s)
    slope = alpha_t * 0.6 / (alpha_t**2 * 0.6 + sigma_t**2)
    z = 0.2 + slope * (x - 0.2 * alpha_t)
    ddim = alpha * z + sigma * (x - alpha_t * z) / sigma_t
    y, eye = problem.likelihood.observation, torch.eye(5, dtype=torch.float64)
    r = y - z @ (SEEN @ DECODE).T
    glue = z - (y @ SEEN + z @ DECODE.T @ (eye - SEEN.T @ SEEN)) @ ENCODE.T
    to_glue = torch.eye(3, dtype=torch.float64) - ENCODE @ (eye - SEEN.T @ SEEN) @ DECODE
    want = ddim + eta * slope * (r / r.norm(dim=1, keepdim=True)) @ (SEEN @ DECODE)
    want = want - gamma * slope * (glue / glue.norm(dim=1, keepdim=True)) @ to_glue
    torch.testing.assert_close(state.x, want, rtol=1e-9, atol=1e-10)


def test_gluing_leaves_codes_that_the_encoder_gives_back_alone():
    """E inverts D and the data are met exactly: both pulls vanish, and nothing is NaN."""
    prior = CoordinatePrior(VP, mean=0.0, variance=1.0)
    latent = LatentPrior(prior, lambda x: x / 2, lambda z: 2 * z)
    keep = torch.tensor([True, False, True])
    operator = compose(Mask(keep), latent.decoder_operator())
    x, sampler = normal((2, 3), 6), PSLD(10, ddim_eta=0.0)
    quiet = PSLD(10, eta=0.0, gamma=0.0, ddim_eta=0.0)
    plain = Problem(latent, GaussianLikelihood(operator, torch.zeros(2, 2).double(), 0.1), (3,))
    plan = sampler.plan(plain)
    z_0 = plain.denoise(x, plan.pairs[4][0])
    problem = plain.observing(operator.forward(z_0))
    streams = RandomStreams.from_seed(0, 2)
    moved, still = (k.step(problem, plan, Position(4, x), streams)[0].x for k in (sampler, quiet))
    torch.testing.assert_close(moved, still, rtol=1e-9, atol=1e-9)


def test_what_psld_asks_of_a_latent_problem():
    latent = latent_problem(1).prior
    bent = compose(FunctionOperator(lambda x: x[:, :2] ** 2), latent.decoder_operator())
    for likelihood, error, says in (
        (GaussianLikelihood(bent, normal((1, 2), 1), 0.1), CapabilityError, "psld needs 'linear'"),
        (
            GaussianLikelihood(Matrix(normal((2, 3), 2)), normal((1, 2), 1), 0.1),
            SettingsError,
            "compose",
        ),
        (CallableLikelihood(lambda x, y: -x.sum(-1), normal((1, 2), 1)), SettingsError, "compose"),
    ):
        with pytest.raises(error, match=says):
            sample(Problem(latent, likelihood, (3,)), PSLD(3))


@pytest.mark.parametrize("sampler", [PSLD(6), ReSample(6, every=2, data_steps=5)])
def test_what_comes_after_the_decoder_may_be_scaled_and_composed(sampler):
    """One problem in four forms: a matrix, a product of two, and noise per entry around each."""
    latent, y = latent_problem(2).prior, normal((2, 2), 34)
    decoder, half = latent.decoder_operator(), Matrix(0.5 * torch.eye(2, dtype=torch.float64))
    forms = (compose(Matrix(SEEN), decoder), compose(half, compose(Matrix(2 * SEEN), decoder)))
    runs = [
        sample(Problem(latent, GaussianLikelihood(operator, y, sigma_y), (3,)), sampler, seed=3).x
        for operator in forms
        for sigma_y in (1.0, torch.ones(1, 2).double())
    ]
    for x in runs[1:]:
        torch.testing.assert_close(x, runs[0], rtol=1e-9, atol=1e-9)


# -- ReSample --------------------------------------------------------------------------------------


def resample_law(schedule: NoiseSchedule, cfg: ReSample):
    """Moments of the result on TILTED, where every step is affine."""
    problem = TILTED
    levels, d = [*schedule.spaced(cfg.steps), 0], len(problem.mean)
    eye, count = torch.eye(d, dtype=torch.float64), len(levels) - 1
    mean, cov = noise_at(schedule, levels[0], d)
    for k, (t, s) in enumerate(pairwise(levels)):
        alpha_t, sigma_t, alpha, sigma = moments(schedule, t, s)
        g, h = problem.denoiser(schedule, t)
        along = sigma / sigma_t
        move, shift = alpha * g + along * (eye - alpha_t * g), (alpha - along * alpha_t) * h
        spread = 0 * eye
        left = count - 1 - k
        if left == 0 or (left % cfg.every == 0 and k / count >= cfg.quiet):
            # The paper's form on levels that preserve the variance, bar = alpha^2.
            r_t, r_s = sigma_t / max(alpha_t, 1e-300), sigma / alpha
            bar_t, bar_s = 1 / (1 + r_t**2), 1 / (1 + r_s**2)
            part = 1.0
            if s > 0 and alpha_t > 0:
                v = cfg.gamma * (1 - bar_s) / bar_t * (1 - bar_t / bar_s)
                part = v / (v + 1 - bar_s)
            elif s == 0:
                part = cfg.gamma * r_t**2 / (1 + cfg.gamma * r_t**2)
            a, b = moments(schedule, min(t, schedule.top))
            gained = gain(problem, (b / a) ** 2)
            rest = eye - gained @ problem.matrix
            move = part * alpha * rest @ g + (1 - part) * move
            shift = part * alpha * (rest @ h + gained @ problem.y) + (1 - part) * shift
            spread = part * sigma**2 * eye
        mean, cov = affine_law(move, shift, spread, mean, cov)
    return mean, cov


@pytest.mark.parametrize("kind", SCHEDULES)
def test_resample_has_the_law_of_its_steps(kind):
    items, cfg = 6000, ReSample(steps=12, every=3, gamma=2.0)
    result = draw(
        mixture_prior(TILTED, SCHEDULES[kind]),
        TILTED.likelihood(items),
        (3,),
        OneGenerator(items),
        cfg,
    )
    assert_moments(result.x, *resample_law(SCHEDULES[kind], cfg))
    assert (result.trace.evaluations, result.trace.vjps) == (12, 0)


def test_between_meetings_resample_is_ddim():
    """The data are met at the last step alone, and from level 1 a pull moves next to nothing."""
    levels = NoiseSchedule.vp_linear(200)
    prior = CoordinatePrior(levels, mean=0.3, variance=0.8)
    likelihood = GaussianLikelihood(Mask(torch.ones(4, dtype=torch.bool)), normal((2, 4), 1), 3.0)
    streams = RandomStreams.from_seed(3, 2)
    result = draw(prior, likelihood, (4,), streams, ReSample(200, every=400))
    x = RandomStreams.from_seed(3, 2).normal((4,), torch.float64) * levels.sigma[-1]
    want = backward_chain(levels, prior.denoise, x, 200, 200, method="ddim")
    torch.testing.assert_close(result.x, want, rtol=1e-3, atol=1e-3)


def test_latents_meet_the_data_as_images_first_and_then_as_they_are():
    """In the second third E(x + prox(D(z))), in the last the least misfit over z."""
    problem = latent_problem(2)
    sampler = ReSample(steps=9, every=1, gamma=1e12, data_steps=400)
    plan, x = sampler.plan(problem), normal((2, 3), 7)
    y, sigma_y = problem.likelihood.observation, problem.likelihood.sigma_y
    for k, on_images in ((4, True), (7, False)):
        t, _ = plan.pairs[k]
        z = problem.denoise(x, t)
        _, info = sampler.step(problem, plan, Position(k, x), RandomStreams.from_seed(0, 2))
        a, b = moments(VP, t)
        matrix = SEEN if on_images else SEEN @ DECODE
        start = z @ DECODE.T if on_images else z
        weight = (b / a) ** 2 / sigma_y**2
        gram = weight * matrix @ matrix.T + torch.eye(2, dtype=torch.float64)
        met = start + weight * torch.linalg.solve(gram, (y - start @ matrix.T).T).T @ matrix
        want = met @ ENCODE.T if on_images else met
        torch.testing.assert_close(info.x_0, want, rtol=2e-2, atol=2e-2)


def test_resample_says_before_the_first_step_that_images_cannot_meet_the_data():
    latent, asked = latent_problem(1).prior, []
    latent.latent_prior = CoordinatePrior(VP, mean=0.2, variance=0.6)
    latent.denoise = lambda x, t: asked.append(t) or latent.latent_prior.denoise(x, t)
    likelihood = CallableLikelihood(lambda z, y: -(z - y).square().sum(-1), normal((1, 3), 1))
    problem = Problem(latent, likelihood, (3,))
    with pytest.raises(SettingsError, match="compose"):
        sample(problem, ReSample(9))
    assert asked == []
    sample(problem, ReSample(9, on_images=0.0, data_steps=3))  # latents meet it as they are


def test_a_run_on_latents_meets_the_data():
    problem = latent_problem(20)
    blind, *seeing = (
        float(problem.residual(sample(problem, sampler, seed=1).x).mean())
        for sampler in (
            PSLD(100, eta=0.0, gamma=0.0),
            ReSample(100, every=5),
            PSLD(300, eta=0.02, gamma=0.002),
        )
    )
    assert max(seeing) < 0.5 * blind, (seeing, blind)


# -- calibrated guidance ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["weights", "gradient"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_its_mean_is_the_posterior_s(kind, estimator):
    """E[x_0 | x_t, y] of a Gaussian at a middling level, from many draws of fine chains."""
    schedule, items = SCHEDULES[kind], 3
    prior = mixture_prior(TILTED, schedule)
    sampler = CalibratedGuidance(steps=2, draws=8000, prior_steps=60, estimator=estimator)
    level = schedule.level_of_sigma(0.8)
    alpha, _ = moments(schedule, level)
    x = alpha * TILTED.mean + 0.5 * normal((items, 3), 8)
    problem = Problem(prior, TILTED.likelihood(items), (3,))
    plan = sampler.plan(problem)._replace(pairs=((level, level // 2),))
    _, info = sampler.step(problem, plan, Position(0, x), OneGenerator(items))
    slope, shift = TILTED.posterior_denoiser(schedule, level)
    scale = TILTED.posterior()[1].diagonal().sqrt()
    assert bool(((info.x_0 - (x @ slope.T + shift)).abs() < 0.15 * scale).all())
    assert bool((info.extra["effective_size"] > 100).all())


@pytest.mark.parametrize("estimator", ["weights", "gradient"])
def test_calibrated_guidance_s_law_is_the_posterior_as_its_draws_grow(estimator):
    """One observation of prior's own weight: half way, and half the variance."""
    schedule, items = SCHEDULES["vp"], 300
    likelihood = GaussianLikelihood(
        Mask(torch.ones(2, dtype=torch.bool)), torch.full((items, 2), 1.0).double(), 1.0
    )
    prior = CoordinatePrior(schedule, mean=0.0, variance=1.0)
    sampler = CalibratedGuidance(steps=40, draws=60, prior_steps=40, estimator=estimator)
    x = draw(prior, likelihood, (2,), OneGenerator(items), sampler).x
    assert bool(((x.mean(0) - 0.5).abs() < 0.12).all())
    assert bool(((x.std(0) / 0.5**0.5 - 1).abs() < 0.12).all())


@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_draw_is_followed_by_the_algebra_of_its_chain(kind):
    """With one draw the gradient is J^T grad log g of an affine chain, whatever its noise."""
    schedule, prior_steps = SCHEDULES[kind], 4
    level = schedule.level_of_sigma(1.5)
    alpha, sigma = moments(schedule, level)
    x, matrix = alpha * TILTED.mean[None] + normal((1, 3), 9), torch.eye(3, dtype=torch.float64)
    problem = Problem(mixture_prior(TILTED, schedule), TILTED.likelihood(1), (3,))
    drawn, jacobian = x, matrix
    for t, s in pairwise(even_levels(level, prior_steps)):
        move, shift = TILTED.denoiser(schedule, t)
        c_0, c_t, _ = (float(c) for c in bridge_coefficients(schedule, s, t))
        step = move if s == 0 else c_0 * move + c_t * matrix
        drawn = drawn @ step.T + (shift if s == 0 else c_0 * shift)
        jacobian = step @ jacobian
    pull = (TILTED.y - drawn @ TILTED.matrix.T) @ TILTED.matrix / TILTED.sigma_y**2
    slope, shift = TILTED.denoiser(schedule, level)
    expected = x @ slope.T + shift + sigma**2 / alpha * pull @ jacobian
    sampler = CalibratedGuidance(2, draws=1, prior_steps=prior_steps, estimator="gradient")
    plan = sampler.plan(problem)._replace(pairs=((level, level // 2),))
    _, info = sampler.step(problem, plan, Position(0, x), ConstantStreams(1, 0.0))
    torch.testing.assert_close(info.x_0, expected, rtol=1e-9, atol=1e-9)


def test_where_alpha_is_0_the_weights_decide():
    schedule, items = SCHEDULES["flow"], 4
    assert float(schedule.alpha[schedule.last]) == 0
    prior = CoordinatePrior(schedule, mean=0.4, variance=0.5)
    likelihood = GaussianLikelihood(
        Mask(torch.ones(1, dtype=torch.bool)), torch.ones(items, 1).double(), 0.5
    )
    problem = Problem(prior, likelihood, (1,))
    means = []
    for estimator in ("weights", "gradient"):
        sampler = CalibratedGuidance(3, draws=8, estimator=estimator)
        plan = sampler.plan(problem)
        noise = RandomStreams.from_seed(5, items)
        _, info = sampler.step(problem, plan, sampler.init(problem, plan, noise), noise)
        assert info.level == schedule.last
        means.append(info.x_0)
    torch.testing.assert_close(*means)


def test_the_gradient_asks_for_a_prior_that_has_one():
    class Detached(CoordinatePrior):
        def denoise(self, x, t):
            return super().denoise(x, t).detach()

    prior, likelihood = Detached(VP), TILTED.likelihood(1)
    with pytest.raises(CapabilityError, match="vjp"):
        draw(prior, likelihood, (3,), OneGenerator(1), CalibratedGuidance(3, estimator="gradient"))
    draw(prior, likelihood, (3,), OneGenerator(1), CalibratedGuidance(3))


def test_data_that_say_nothing_leave_the_prior():
    schedule, items = SCHEDULES["flow"], 2000
    likelihood = GaussianLikelihood(
        Mask(torch.ones(1, dtype=torch.bool)), torch.zeros(items, 1).double(), 1e6
    )
    prior = CoordinatePrior(schedule, mean=0.4, variance=0.5)
    sampler = CalibratedGuidance(steps=40, draws=16, prior_steps=10)
    result = draw(prior, likelihood, (1,), OneGenerator(items), sampler)
    assert abs(float(result.x.mean()) - 0.4) < 0.08
    assert abs(float(result.x.std()) / 0.5**0.5 - 1) < 0.12
