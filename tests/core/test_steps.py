"""Bridge, noising and backward transitions against brute-force Gaussian conditioning."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.backward import backward_chain, backward_step, chain_levels
from mgdm_core.steps.bridge import (
    between_sample,
    bridge_moments,
    bridge_sample,
    noise_to,
    noising_moments,
)

from .closed_forms import (
    ConstantStreams,
    OneGenerator,
    assert_moments,
    chain_joint,
    condition,
    normal,
    spd,
)

SCHEDULES = {
    "vp_linear": NoiseSchedule.vp_linear(),
    "vp_cosine": NoiseSchedule.vp_cosine(),
    "karras": NoiseSchedule.karras(),
    "flow": NoiseSchedule.flow(1000),
}
TRIPLES = [(1, 2, 3), (1, 500, 1000), (100, 101, 900), (700, 850, 999)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("s", "t", "u"), TRIPLES)
def test_noising_in_two_steps_is_noising_in_one(name, s, t, u):
    schedule = SCHEDULES[name]
    for low, mid, high in ((0, s, t), (0, t, u), (s, t, u)):
        a, dev = noising_moments(schedule, low, high)
        a_1, dev_1 = noising_moments(schedule, low, mid)
        a_2, dev_2 = noising_moments(schedule, mid, high)
        assert a_2 * a_1 == pytest.approx(a, rel=1e-13)
        assert (a_2 * dev_1) ** 2 + dev_2**2 == pytest.approx(dev**2, rel=1e-9, abs=1e-15)
    a, dev = noising_moments(schedule, 0, u)
    assert float(a) == float(schedule.alpha[u])
    assert float(dev) == pytest.approx(float(schedule.sigma[u]), rel=1e-14)


def test_noising_draws_compose_in_law():
    schedule, n = SCHEDULES["vp_linear"], 20000
    streams = OneGenerator(n)
    x_0 = torch.full((n, 1), 3.0, dtype=torch.float64)
    x_s = noise_to(schedule, x_0, 0, 200, streams)
    x_t = noise_to(schedule, x_s, 200, 450, streams)
    mean, cov = chain_joint(schedule, [200, 450], 3.0)
    assert_moments(torch.cat([x_s, x_t], 1), mean, cov)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("s", "t"), [(1, 2), (1, 1000), (400, 401), (650, 900), (0, 300)])
def test_bridge_is_the_conditional_of_the_forward_process(name, s, t):
    schedule = SCHEDULES[name]
    x_0 = torch.tensor([[-1.3, 2.0]], dtype=torch.float64)
    x_t = torch.tensor([[0.4, -5.0]], dtype=torch.float64)
    mean, dev = bridge_moments(schedule, x_0, x_t, s, t)
    if s == 0:
        assert torch.equal(mean, x_0)
        assert float(dev) == 0
        return
    for j in range(2):
        m, cov = chain_joint(schedule, [s, t], float(x_0[0, j]))
        row = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        want, spread = condition(m, cov, row, x_t[0, j : j + 1])
        assert float(mean[0, j]) == pytest.approx(float(want[0]), rel=1e-9, abs=1e-12)
        assert float(dev) ** 2 == pytest.approx(float(spread[0, 0]), rel=1e-8, abs=1e-14)


@given(
    st.integers(1, 998),
    st.integers(1, 1000),
    st.just(0.0) | st.floats(1e-6, 1),
    st.sampled_from(sorted(SCHEDULES)),
)
def test_every_eta_keeps_the_marginal(s, gap, eta, name):
    # If x_t ~ N(alpha_t x_0, sigma_t^2) then x_s through the bridge is N(alpha_s x_0, sigma_s^2).
    schedule, t = SCHEDULES[name], min(1000, s + gap)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    along, dev = bridge_moments(schedule, zero, one, s, t, eta)
    sigma_s, sigma_t = schedule.sigma[s], schedule.sigma[t]
    total = (along * sigma_t) ** 2 + dev**2
    torch.testing.assert_close(total[0, 0], sigma_s**2, rtol=1e-9, atol=0)
    mean, _ = bridge_moments(schedule, one, schedule.alpha[t] * one, s, t, eta)
    torch.testing.assert_close(mean[0, 0], schedule.alpha[s], rtol=1e-12, atol=0)
    assert (float(dev) == 0) == (eta == 0)


def test_bridges_compose():
    # u -> t -> s with x_0 held is u -> s: coefficients of x_u and variances agree.
    schedule = SCHEDULES["vp_linear"]
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for s, t, u in TRIPLES:
        by_t, dev_t = bridge_moments(schedule, zero, one, t, u)
        by_s, dev_s = bridge_moments(schedule, zero, one, s, t)
        direct, dev = bridge_moments(schedule, zero, one, s, u)
        torch.testing.assert_close(by_s * by_t, direct, rtol=1e-7, atol=1e-13)
        torch.testing.assert_close((by_s * dev_t) ** 2 + dev_s**2, dev**2, rtol=1e-8, atol=1e-14)


def test_bridge_with_one_level_per_item_and_draws():
    schedule, n = SCHEDULES["karras"], 20000
    x_0, x_t = normal((2, 3), 1), 4 * normal((2, 3), 2)
    s, t = torch.tensor([30, 500]), torch.tensor([600, 900])
    mean, dev = bridge_moments(schedule, x_0, x_t, s, t)
    for i in range(2):
        alone, dev_alone = bridge_moments(
            schedule, x_0[i : i + 1], x_t[i : i + 1], int(s[i]), int(t[i])
        )
        torch.testing.assert_close(alone[0], mean[i], rtol=1e-13, atol=1e-14)
        assert float(dev_alone) == pytest.approx(float(dev[i]), rel=1e-13)
    streams = OneGenerator(n)
    draws = bridge_sample(schedule, x_0[1:].expand(n, 3), x_t[1:].expand(n, 3), 500, 900, streams)
    assert_moments(draws, mean[1], float(dev[1]) ** 2 * torch.eye(3, dtype=torch.float64))


def test_eta_outside_its_domain():
    x = torch.zeros(1, 1)
    with pytest.raises(SettingsError, match=r"eta lies in \[0, 1\]; found 1.5"):
        bridge_moments(SCHEDULES["karras"], x, x, 1, 2, 1.5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("s", "t", "u"), TRIPLES)
def test_between_is_the_conditional_on_both_neighbours(name, s, t, u):
    schedule = SCHEDULES[name]
    x_s = torch.tensor([[0.7]], dtype=torch.float64)
    x_u = torch.tensor([[-2.0]], dtype=torch.float64)

    def draw(value):
        return float(between_sample(schedule, x_s, x_u, s, t, u, ConstantStreams(1, value)))

    # x_0 drops out: whatever it is, x_t given x_s and x_u is the same.
    for x_0 in (0.0, 5.0):
        mean, cov = chain_joint(schedule, [s, t, u], x_0)
        rows = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
        want, spread = condition(mean, cov, rows, torch.cat([x_s[0], x_u[0]]))
        assert draw(0.0) == pytest.approx(float(want[1]), rel=1e-7, abs=1e-9)
        assert draw(1.0) - draw(0.0) == pytest.approx(float(spread[1, 1]) ** 0.5, rel=1e-5)


def test_mixed_levels_between():
    schedule, x_s, x_u = SCHEDULES["vp_linear"], normal((3, 2), 3), normal((3, 2), 4)
    s = torch.tensor([1, 40, 299])
    together = between_sample(schedule, x_s, x_u, s, 300, 400, RandomStreams([7, 8, 9]))
    for i in range(3):
        alone = between_sample(
            schedule, x_s[i : i + 1], x_u[i : i + 1], int(s[i]), 300, 400, RandomStreams([7 + i])
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm_mean_is_the_posterior_mean_under_a_gaussian_prior(name):
    # The bridge's mean is linear in x_0, so through D it is E[x_s | x_t] exactly.
    schedule, s, t = SCHEDULES[name], 300, 420
    m, c = normal((2,), 1), spd(2, 2)
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), m[None], c[None]), schedule)
    x_t = normal((1, 2), 3)
    alpha, sigma = schedule.alpha, schedule.sigma
    eye = torch.eye(2, dtype=torch.float64)
    cov_s = alpha[s] ** 2 * c + sigma[s] ** 2 * eye
    a = alpha[t] / alpha[s]
    noise = (sigma[t] ** 2 - a**2 * sigma[s] ** 2) * eye
    mean, cov = condition(alpha[s] * m, cov_s, a * eye, x_t[0], noise)
    zero = backward_step(schedule, prior.denoise, x_t, t, s, ConstantStreams(1, 0.0))
    torch.testing.assert_close(zero[0], mean, rtol=1e-10, atol=1e-12)
    one = backward_step(schedule, prior.denoise, x_t, t, s, ConstantStreams(1, 1.0))
    # Its variance is the bridge's: the true one less the part that D leaves out.
    _, dev = bridge_moments(schedule, x_t, x_t, s, t)
    torch.testing.assert_close((one - zero)[0], dev[0].expand(2), rtol=1e-9, atol=0)
    assert float(dev) ** 2 < float(cov.diagonal().min())


def test_ddim_follows_eta_zero_and_draws_nothing():
    schedule = SCHEDULES["vp_linear"]
    x_t, x_0 = normal((2, 3), 1), normal((2, 3), 2)
    out = backward_step(schedule, lambda x, t: x_0, x_t, 600, 200, None, "ddim")
    eps = (x_t - schedule.alpha[600] * x_0) / schedule.sigma[600]
    want = schedule.alpha[200] * x_0 + schedule.sigma[200] * eps
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)


def test_a_step_says_what_it_misses():
    schedule, x = SCHEDULES["karras"], torch.zeros(1, 1)
    with pytest.raises(SettingsError, match="random streams"):
        backward_step(schedule, lambda x, t: x, x, 5, 4, None, "ddpm")
    with pytest.raises(SettingsError, match="euler"):
        backward_step(schedule, lambda x, t: x, x, 5, 4, None, "euler")
    with pytest.raises(SettingsError, match="at least one step"):
        chain_levels(torch.tensor([5]), 0)


def _exact_ode(schedule, x, mean, var, start, stop):
    """Probability-flow solution under N(mean, var): (u - m) / sqrt(var + r^2) stays constant."""
    alpha, ratio = schedule.alpha, schedule.sigma / schedule.alpha
    centred = (x / alpha[start] - mean) / (var + ratio[start] ** 2).sqrt()
    return alpha[stop] * (mean + centred * (var + ratio[stop] ** 2).sqrt())


def _vp_from_ratios(ratios: torch.Tensor) -> NoiseSchedule:
    return NoiseSchedule.from_alphas_cumprod(1 / (1 + ratios**2))


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize(("method", "order"), [("ddim", 1.0), ("heun", 2.0), ("dpmpp_2m", 2.0)])
def test_order_of_convergence_of_the_deterministic_chain(kind, method, order):
    mean, var = torch.tensor(0.8, dtype=torch.float64), torch.tensor(2.25, dtype=torch.float64)
    errors = []
    for steps in (40, 80, 160):
        ratios = torch.logspace(-1, 1.3, steps, dtype=torch.float64)
        schedule = NoiseSchedule.from_sigmas(ratios) if kind == "ve" else _vp_from_ratios(ratios)
        mixture = GaussianMixture(torch.ones(1), mean.reshape(1, 1), var.reshape(1, 1, 1))
        prior = GaussianMixturePrior(mixture, schedule)
        x = schedule.sigma[-1] * torch.tensor([[1.7]], dtype=torch.float64)
        last = steps  # the last of the steps goes from level 1 to 0 and returns D there
        out = backward_chain(schedule, prior.denoise, x, last, steps, None, method)
        want = prior.denoise(_exact_ode(schedule, x, mean, var, last, 1), 1)
        errors.append(float((out - want).abs()))
    slopes = [torch.tensor(a / b).log2() for a, b in itertools.pairwise(errors)]
    assert abs(float(slopes[-1]) - order) < 0.2, (errors, slopes)


def test_second_order_is_better_at_equal_cost():
    schedule = NoiseSchedule.vp_linear()
    mean, var = torch.tensor(0.8, dtype=torch.float64), torch.tensor(2.25, dtype=torch.float64)
    prior = GaussianMixturePrior(
        GaussianMixture(torch.ones(1), mean.reshape(1, 1), var.reshape(1, 1, 1)), schedule
    )
    x = torch.tensor([[1.7]], dtype=torch.float64)
    want = _exact_ode(schedule, x, mean, var, 1000, 0)
    errors = {}
    for method, steps in (("ddim", 40), ("heun", 20), ("dpmpp_2m", 40)):
        out = backward_chain(schedule, prior.denoise, x, 1000, steps, None, method)
        errors[method] = float((out - want).abs())
    assert errors["heun"] < errors["ddim"] / 2
    assert errors["dpmpp_2m"] < errors["ddim"] / 2


def test_ddpm_chain_recovers_a_gaussian_prior():
    schedule, n = NoiseSchedule.vp_linear(), 2000
    m, c = torch.tensor([1.0, -0.5], dtype=torch.float64), spd(2, 4)
    prior = GaussianMixturePrior(GaussianMixture(torch.ones(1), m[None], c[None]), schedule)
    streams = OneGenerator(n)
    x = backward_chain(
        schedule, prior.denoise, streams.normal((2,), torch.float64), 1000, 250, streams
    )
    # 250 steps leave a bias in the covariance of about 1/250 of it, far below the bound.
    assert_moments(x, m, c)


@given(st.integers(0, 1000), st.integers(1, 60))
def test_chain_levels_go_down_to_zero(s, steps):
    levels = chain_levels(torch.tensor([s]), steps)[:, 0].tolist()
    assert len(levels) == steps + 1
    assert (levels[0], levels[-1]) == (s, 0)
    assert all(a >= b for a, b in itertools.pairwise(levels))
    if s >= steps:
        assert all(a > b for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("method", ["ddpm", "ddim", "heun", "dpmpp_2m"])
def test_a_chain_with_one_level_per_item_is_the_chain_of_each_item(method):
    # Low levels repeat within a chain: an item that rests must not notice the others.
    schedule = NoiseSchedule.vp_linear()
    prior = GaussianMixturePrior(
        GaussianMixture(torch.ones(1), normal((1, 2), 1), spd(2, 2)[None]), schedule
    )
    s = torch.tensor([3, 0, 700, 20, 1])
    x = normal((5, 2), 3)
    streams = RandomStreams(range(10, 15))
    together = backward_chain(schedule, prior.denoise, x, s, 20, streams, method)
    after = streams.uniform()
    for i in range(5):
        own = RandomStreams([10 + i])
        alone = backward_chain(schedule, prior.denoise, x[i : i + 1], s[i : i + 1], 20, own, method)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
        assert float(own.uniform()) == float(after[i]), "the random stream moved on differently"
    assert torch.equal(together[1], x[1])
