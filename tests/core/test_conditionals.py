"""Draws of x_s given (x_0, x_t, y) against the closed forms of the linear Gaussian case."""

import pytest
import torch

from mgdm_core.conditionals import CONDITIONALS, Linearised, Place, Tweedie, Variational
from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import FunctionOperator, Mask, Matrix
from mgdm_core.priors import (
    Denoised,
    GaussianMixture,
    GaussianMixturePrior,
    VariancePrior,
    isotropic_mixture,
)
from mgdm_core.problem import Meter, Problem
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.bridge import bridge_moments

from .closed_forms import OneGenerator, assert_moments, condition, normal, spd

SCHEDULE = NoiseSchedule.vp_linear()
DIM, ROWS, SIGMA_Y = 3, 2, 0.4
MEAN, COV = normal((DIM,), 1), spd(DIM, 2)
MATRIX, Y = normal((ROWS, DIM), 3), 2 * normal((ROWS,), 4)
X_0, X_T = normal((DIM,), 5), normal((DIM,), 6)
S, T = 300, 450
EYE = torch.eye(DIM, dtype=torch.float64)


class KnownVariancePrior(GaussianMixturePrior):
    """A Gaussian with a diagonal covariance, which hands out its posterior variance."""

    def denoise_with_variance(self, x, t):
        alpha, sigma = self.schedule.at(t, x)
        v = self.mixture.covariances[0].diagonal()
        return Denoised(self.denoise(x, t), v * sigma**2 / (alpha**2 * v + sigma**2), None)


def gaussian_prior(cov=COV, kind=GaussianMixturePrior):
    return kind(GaussianMixture(torch.ones(1), MEAN[None], cov[None]), SCHEDULE)


def start(count: int, prior=None, streams=None, likelihood=None) -> tuple:
    if likelihood is None:
        likelihood = GaussianLikelihood(Matrix(MATRIX), Y.expand(count, ROWS), SIGMA_Y)
    prior = gaussian_prior() if prior is None else prior
    problem = Problem(prior, likelihood, (DIM,), Meter(count))
    noise = OneGenerator(count) if streams is None else streams
    where = (X_0.expand(count, DIM), X_T.expand(count, DIM), S, Place(T, T + 50, T - 50, 0, 10))
    return problem, *where, noise


def affine_denoiser(cov=COV) -> tuple[torch.Tensor, torch.Tensor]:
    """D_s(x) = J x + c of the Gaussian prior."""
    alpha, sigma = SCHEDULE.alpha[S], SCHEDULE.sigma[S]
    j = alpha * torch.linalg.solve(alpha**2 * cov + sigma**2 * EYE, cov).T
    return j, MEAN - alpha * j @ MEAN


def target(noise: torch.Tensor, cov=COV) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of pi(x_s | x_0, x_t, y), where A(D_s(x_s)) is observed with ``noise``."""
    mean, dev = bridge_moments(SCHEDULE, X_0[None], X_T[None], S, T)
    j, c = affine_denoiser(cov)
    return condition(mean[0], float(dev) ** 2 * EYE, MATRIX @ j, Y - MATRIX @ c, noise)


WHITE = SIGMA_Y**2 * torch.eye(ROWS, dtype=torch.float64)


# -- linearised ------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 3])
def test_linearised_is_exact_for_a_gaussian_prior(passes):
    mean, cov = target(WHITE)
    problem, *where = start(20000)
    draw = Linearised(passes=passes)(problem, *where)
    assert_moments(draw.x_s, mean, cov)
    assert problem.meter.evaluations == passes
    assert problem.meter.vjps == passes * ROWS


def test_linearised_solves_a_nonlinear_observation_to_its_mode():
    curve = FunctionOperator(lambda x: x @ MATRIX.T + 0.1 * (x @ MATRIX.T) ** 3)
    likelihood = GaussianLikelihood(curve, Y.expand(1, ROWS), 1e-3)
    problem, *where = start(1, likelihood=likelihood)
    draw = Linearised(passes=10)(problem, *where)
    assert float(problem.residual(problem.denoise(draw.x_s, S))) < 5e-3
    assert float(draw.loss_after) < 1e-3 * float(draw.loss_before)


def test_linearised_refuses_too_many_rows():
    problem, *_ = start(2)
    with pytest.raises(SettingsError, match="at most 1; found 2; use 'variational' or 'tweedie'"):
        Linearised(max_rows=1).requires(problem)


# -- variational -----------------------------------------------------------------------------------


def test_variational_finds_the_best_diagonal_gaussian():
    # Of a Gaussian target with precision P the best diagonal Gaussian has its mean and 1 / P_ii.
    mean, cov = target(WHITE)
    problem, x_0, x_t, _, _, noise = start(64)
    bridge, dev = bridge_moments(SCHEDULE, x_0, x_t, S, T)
    best = torch.linalg.inv(cov).diagonal().rsqrt()
    fit = Variational().fit(problem, bridge, dev, S, 500, 0.015, noise)
    m, rho = fit[0].mean(0), fit[1].mean(0)
    # 64 runs: what Adam's noise leaves averages out.
    torch.testing.assert_close(m, mean, rtol=0, atol=0.02 * float(best.max()))
    torch.testing.assert_close(rho.exp(), best, rtol=0.02, atol=0)
    # It is neither the bridge's deviation nor the target's marginal one.
    assert bool((best < 0.9 * float(dev[0])).any())
    assert bool(((cov.diagonal().sqrt() / best - 1).abs() > 0.05).any())


@pytest.mark.parametrize("begin", ["bridge", "data"])
def test_variational_that_begins_at_the_data_meets_them_in_few_steps(begin):
    """A bridge in the wrong one of two far modes: short steps alone do not leave it."""
    means = 8 * torch.tensor([[1.0] * 6, [-1.0] * 6], dtype=torch.float64)
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(2), means), SCHEDULE)
    keep = torch.arange(6) < 4
    likelihood = GaussianLikelihood(Mask(keep), means[:1, :4].expand(50, 4), 0.1)
    problem = Problem(prior, likelihood, (6,), Meter(50))
    alpha, sigma = SCHEDULE.moments(800)
    noise = RandomStreams.from_seed(0, 50)
    x_t = alpha * means[1] + sigma * noise.normal((6,), torch.float64)
    place = Place(800, 850, 750, 0, 10)
    settings = Variational(learning_rate=0.1, stated_for="bridge", begin=begin)
    draw = settings(problem, means[1].expand(50, 6), x_t, 500, place, noise)
    share = float((problem.residual(problem.denoise(draw.x_s, 500)) < 8).double().mean())
    assert problem.meter.evaluations == 6 + (begin == "data")
    assert share > 0.8 if begin == "data" else share < 0.2


def test_variational_at_the_data_asks_for_a_closed_form():
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, DIM))
    problem, *_ = start(1, likelihood=own)
    Variational().requires(problem)
    with pytest.raises(CapabilityError, match="begin='data'"):
        Variational(begin="data").requires(problem)


@pytest.mark.parametrize("steps", [1, 7])
def test_variational_takes_the_steps_of_adam_on_the_elbo(steps):
    """The same reparameterised objective by autograd and torch's own Adam."""
    seeds, rate = [3, 4], 0.05
    problem, x_0, x_t, _, _, noise = start(2, streams=RandomStreams(seeds))
    mean, dev = bridge_moments(SCHEDULE, x_0, x_t, S, T)
    m, rho, first, last = Variational().fit(problem, mean, dev, S, steps, rate, noise)

    want_m = mean.clone().requires_grad_(True)
    want_rho = dev.log().expand_as(mean).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([want_m, want_rho], lr=rate)
    streams, prior, losses = RandomStreams(seeds), gaussian_prior(), []
    for _ in range(steps):
        z = streams.normal((DIM,), torch.float64)
        x_s = want_m + want_rho.exp() * z
        off = Y - prior.denoise(x_s, S) @ MATRIX.T
        nll = off.square().sum(1) / (2 * SIGMA_Y**2)
        kl = ((want_rho.exp() ** 2 + (want_m - mean) ** 2) / (2 * dev**2) - want_rho).sum(1)
        losses.append(nll.detach())
        optimiser.zero_grad()
        (nll + kl).sum().backward()
        optimiser.step()
    torch.testing.assert_close(m, want_m.detach(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(rho, want_rho.detach(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(first, losses[0])
    torch.testing.assert_close(last, losses[-1])
    assert problem.meter.vjps == problem.meter.evaluations == steps


def test_the_published_plan_of_steps():
    image = Variational(learning_rate=0.03, early_learning_rate=0.01, early=0.11)

    def plan(conditional, step, steps=100):
        return conditional.at(Place(5, 6, 4, step, steps))

    assert plan(image, 0) == (5, 0.01)
    assert plan(image, 10) == (5, 0.01)
    assert plan(image, 11) == (5, 0.03)
    assert plan(image, 69) == (5, 0.03)
    assert plan(image, 70) == (20, 0.03)
    latent = Variational(steps=3, every=10)
    assert [plan(latent, k)[0] for k in (0, 1, 9, 10, 20, 70)] == [20, 3, 3, 20, 20, 20]
    audio = Variational(steps=3, late_from=0.5, learning_rate=0.005)
    assert [plan(audio, k, 20)[0] for k in (0, 9, 10, 19)] == [3, 3, 20, 20]


# -- without a vector-Jacobian product -------------------------------------------------------------

ROUND, SKEWED = 0.7 * EYE, torch.diag(torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64))


def x_0_given_x_s_and_y(cov, x_s):
    alpha, sigma = float(SCHEDULE.alpha[S]), float(SCHEDULE.sigma[S])
    mean, left = condition(MEAN, cov, alpha * EYE, x_s, sigma**2)
    return condition(mean, left, MATRIX, Y, SIGMA_Y**2)


@pytest.mark.parametrize(
    ("conditional", "cov", "kind", "evaluations"),
    [
        (Tweedie("isotropic", data_variance=0.7), ROUND, GaussianMixturePrior, 1),
        (Tweedie("prior"), SKEWED, KnownVariancePrior, 1),
        (Tweedie("auto"), SKEWED, KnownVariancePrior, 1),
        (Tweedie("probe"), ROUND, GaussianMixturePrior, 2),
        (Tweedie("auto"), ROUND, GaussianMixturePrior, 2),
    ],
)
def test_tweedie_conditions_x_0_exactly(conditional, cov, kind, evaluations):
    n, prior = 20000, gaussian_prior(cov, kind)
    assert isinstance(prior, VariancePrior) == (kind is KnownVariancePrior)
    problem, _, _, _, _, noise = start(n, prior)
    x_s = X_T.expand(n, DIM)
    mean, spread = x_0_given_x_s_and_y(cov, X_T)
    assert_moments(conditional.condition(problem, x_s, S, noise), mean, spread)
    assert problem.meter.evaluations == evaluations
    assert problem.meter.vjps == 0


def test_the_draw_keeps_the_joint_law_of_x_0_and_x_s():
    """Bridge, condition, bridge is a Gibbs sweep: it leaves p(x_0, x_s | x_t, y) invariant."""
    n, conditional = 20000, Tweedie("isotropic", data_variance=0.7)
    alpha, sigma = float(SCHEDULE.alpha[T]), float(SCHEDULE.sigma[T])
    mean, left = condition(MEAN, ROUND, alpha * EYE, X_T, sigma**2)
    mean, left = condition(mean, left, MATRIX, Y, SIGMA_Y**2)
    x_0 = mean + OneGenerator(n, 9).normal((DIM,), torch.float64) @ torch.linalg.cholesky(left).T
    problem, _, *where = start(n, gaussian_prior(ROUND))
    x_s = conditional(problem, x_0, *where).x_s
    # x_s | x_t, y: the bridge averaged over x_0 | x_t, y.
    zero, dev = bridge_moments(SCHEDULE, mean[None], X_T[None], S, T)
    one, _ = bridge_moments(SCHEDULE, (mean + 1)[None], X_T[None], S, T)
    slope = float((one - zero)[0, 0])
    assert_moments(x_s, zero[0], slope**2 * left + float(dev) ** 2 * EYE)


def test_the_mean_is_taken_when_no_draw_is_wanted():
    prior = gaussian_prior(SKEWED, KnownVariancePrior)
    problem, _, _, _, _, noise = start(2, prior)
    got = Tweedie("prior", draw=False).condition(problem, X_T.expand(2, DIM), S, noise)
    mean, _ = x_0_given_x_s_and_y(SKEWED, X_T)
    torch.testing.assert_close(got, mean.expand(2, DIM), rtol=1e-5, atol=1e-6)


def test_a_floor_keeps_every_coefficient_uncertain():
    prior = gaussian_prior(1e-12 * EYE, KnownVariancePrior)
    for floor, moved in ((0.0, False), (0.1, True)):
        problem, _, _, _, _, noise = start(1, prior)
        wide = Tweedie("prior", draw=False, floor=floor)
        got = wide.condition(problem, X_T[None], S, noise)
        assert (float((got - MEAN).abs().max()) > 1e-3) == moved


def test_no_graph_is_built_without_a_vector_jacobian_product():
    seen = []

    class Watched(KnownVariancePrior):
        def denoise(self, x, t):
            seen.append(torch.is_grad_enabled() or x.requires_grad)
            return super().denoise(x, t)

    for kind in ("prior", "isotropic", "probe"):
        problem, *where = start(2, gaussian_prior(SKEWED, Watched))
        draw = Tweedie(kind)(problem, *where)
        assert not draw.x_s.requires_grad
        assert problem.meter.vjps == 0
    assert seen
    assert not any(seen)


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONDITIONALS)
def test_an_items_draw_is_its_own(name):
    conditional, seeds = CONDITIONALS[name](), [5, 6, 7]
    s = torch.tensor([1, 200, 449])
    x_0, x_t = normal((3, DIM), 7), normal((3, DIM), 8)
    y = normal((3, ROWS), 9)

    def draw(items):
        likelihood = GaussianLikelihood(Matrix(MATRIX), y[items], SIGMA_Y)
        noise = RandomStreams([seeds[i] for i in items])
        problem, *_ = start(len(items), None, noise, likelihood)
        place = Place(T, T + 50, T - 50, 2, 10)
        return conditional(problem, x_0[items], x_t[items], s[items], place, noise).x_s

    together = draw([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(draw([i])[0], together[i], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "needs"), [("linearised", "local_gaussian"), ("tweedie", "gaussian")]
)
def test_the_likelihood_s_form_is_asked_for_by_name(name, needs):
    own = CallableLikelihood(lambda x, y: -x.square().sum(-1), torch.ones(1, ROWS).double())
    problem, *_ = start(1, likelihood=own)
    with pytest.raises(CapabilityError, match=f"'{needs}', which CallableLikelihood"):
        CONDITIONALS[name]().requires(problem)


def test_linearised_draws_around_the_mode_of_counts():
    """Many counts make log g nearly quadratic: the draw's mean is then where its slope vanishes."""
    n, gain = 4000, 50.0
    rate = FunctionOperator(lambda x: (x[:, :ROWS] / 4).exp())
    counts = torch.arange(1, ROWS + 1).double() * 40
    many = PoissonLikelihood(rate, counts.expand(n, -1), gain)
    problem, *where = start(n, likelihood=many)
    draws = Linearised(12)(problem, *where).x_s
    mean, dev = bridge_moments(SCHEDULE, X_0[None], X_T[None], S, T)
    single = PoissonLikelihood(rate, counts[None], gain)

    def loss(x):
        x_0 = gaussian_prior().denoise(x[None], S)
        return -single.log_prob(x_0)[0] + 0.5 * ((x - mean[0]) / dev).square().sum()

    mode = draws.mean(0)
    for _ in range(20):
        hessian = torch.autograd.functional.hessian(loss, mode)
        slope = torch.autograd.functional.jacobian(loss, mode)
        mode = mode - torch.linalg.solve(hessian, slope)
    spread = torch.linalg.inv(torch.autograd.functional.hessian(loss, mode))
    # A twentieth of the spread for the skew that a Gaussian cannot have, and chance.
    bound = 0.05 + 5 / n**0.5
    assert bool(((draws.mean(0) - mode).abs() < bound * spread.diagonal().sqrt()).all())
    torch.testing.assert_close(torch.cov(draws.T), spread, rtol=0.2, atol=0.05)


def test_variational_takes_any_likelihood():
    counts = PoissonLikelihood(Matrix(MATRIX.abs()), torch.ones(1, ROWS, dtype=torch.float64))
    problem, *where = start(1, likelihood=counts)
    assert bool(torch.isfinite(Variational()(problem, *where).x_s).all())


def test_settings_outside_their_domain():
    for kind, setting in (
        (Variational, {"steps": 0}),
        (Variational, {"learning_rate": 0.0}),
        (Variational, {"late_from": 1.5}),
        (Linearised, {"passes": 0}),
        (Tweedie, {"variance": "other"}),
        (Tweedie, {"data_variance": 0.0}),
        (Tweedie, {"floor": -0.1}),
    ):
        with pytest.raises(SettingsError, match="; found"):
            kind(**setting)
    problem, *_ = start(1)
    with pytest.raises(CapabilityError, match="denoise_with_variance"):
        Tweedie("prior").requires(problem)


def test_a_rate_is_translated_by_the_scale_of_the_state():
    """At one noise-to-signal ratio a VE state is 1 / alpha_VP times a VP one: so are its moves."""
    ratio = float(SCHEDULE.ratio[S])
    ve = NoiseSchedule.from_sigmas(SCHEDULE.ratio[1:])
    moves = {}
    for name, schedule in (("vp", SCHEDULE), ("ve", ve)):
        mixture = GaussianMixture(torch.ones(1), MEAN[None], COV[None])
        likelihood = GaussianLikelihood(Matrix(MATRIX), Y.expand(1, ROWS), SIGMA_Y)
        problem = Problem(GaussianMixturePrior(mixture, schedule), likelihood, (DIM,))
        alpha = float(schedule.alpha[S])
        mean = alpha * X_0[None]
        dev = torch.full((1, 1), 0.3 * alpha, dtype=torch.float64)
        fit = Variational().fit(problem, mean, dev, S, 3, 0.02, RandomStreams([1]))
        moves[name] = (fit[0] - mean) / alpha
    assert ratio > 0.5
    torch.testing.assert_close(moves["ve"], moves["vp"], rtol=1e-5, atol=1e-7)
