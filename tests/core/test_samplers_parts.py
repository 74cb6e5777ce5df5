"""The parts that samplers are built from: data steps, populations, level grids."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import (
    Composition,
    FunctionOperator,
    Identity,
    Matrix,
    SumOverChannels,
    flat,
)
from mgdm_core.problem import Problem
from mgdm_core.samplers import TwistedSMC
from mgdm_core.samplers._particles import (
    effective_size,
    resample,
    spectral_observation,
    spectral_plan,
    systematic,
    weigh,
)
from mgdm_core.samplers.smc_diff import path_down
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.data import langevin, pull_to_data
from mgdm_core.steps.gradients import data_gradient
from mgdm_core.steps.grids import karras_levels, posterior_variance

from .closed_forms import OneGenerator, assert_moments, normal
from .samplers_support import CoordinatePrior, draw

VP = NoiseSchedule.vp_linear()
KARRAS = NoiseSchedule.karras(steps=300, sigma_min=1e-3, sigma_max=10.0)
WIDE = Matrix(normal((2, 4), 21))
Y = normal((3, 2), 22)


def linear(sigma_y: float, operator=WIDE, y=Y) -> GaussianLikelihood:
    return GaussianLikelihood(operator, y, sigma_y)


def seeds(count: int = 3, seed: int = 0) -> RandomStreams:
    return RandomStreams.from_seed(seed, count)


def posed(likelihood, shape=(4,)) -> Problem:
    return Problem(CoordinatePrior(VP), likelihood, shape)


def test_spread_is_the_posterior_variance():
    q2 = float(VP.sigma[300] / VP.alpha[300]) ** 2
    assert float(posterior_variance(VP, 300, None)) == pytest.approx(q2)
    assert float(posterior_variance(VP, 300, 2.0)) == pytest.approx(1 / (1 / 2.0 + 1 / q2))


def test_the_data_s_gradient_is_per_item():
    value, grad = data_gradient(linear(0.5), normal((3, 4), 9))
    residual = Y - WIDE.forward(normal((3, 4), 9))
    assert torch.allclose(grad, residual @ WIDE.matrix / 0.25)
    assert torch.allclose(value, -0.5 * residual.square().sum(-1) / 0.25)


def test_pulling_by_gradient_steps_reaches_the_proximal_map():
    centre, variance = normal((3, 4), 9), 0.6
    problem = posed(linear(0.8))
    exact = pull_to_data(problem, centre, variance, 1)
    blind = GaussianLikelihood(FunctionOperator(WIDE.forward), Y, 0.8)
    stepped = pull_to_data(posed(blind), centre, variance, 400)
    assert torch.allclose(stepped, exact, atol=1e-6)
    assert not torch.allclose(exact, centre, atol=0.1)


@pytest.mark.parametrize("rate", [None, 1e6, 0.02])
def test_langevin_steps_sample_the_product_and_cannot_blow_up(rate):
    """A stiff direction (curvature 400) beside a free one, whatever the rate asked for."""
    items = 4000
    operator = Matrix(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    y = torch.full((items, 1), 0.8, dtype=torch.float64)
    problem = posed(GaussianLikelihood(operator, y, 0.05), (2,))
    centre = torch.full((items, 2), 0.5, dtype=torch.float64)
    x = langevin(problem, centre, centre, 0.04, 150, rate, OneGenerator(items))
    v = 1 / (1 / 0.05**2 + 1 / 0.04)
    mean = [v * (0.8 / 0.05**2 + 0.5 / 0.04), 0.5]
    assert x.mean(0).tolist() == pytest.approx(mean, abs=0.02)
    assert x.var(0).tolist() == pytest.approx([v, 0.04], rel=0.25)


def test_systematic_resampling_keeps_every_share_to_within_one():
    weights = torch.tensor([[0.1, 0.0, 0.55, 0.35], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for point in (0.0, 0.37, 0.999):
        rows = systematic(weights, torch.tensor([point, point], dtype=torch.float64))
        counts = torch.stack([(rows == k).sum(1) for k in range(4)], 1)
        assert bool(((counts - 4 * weights).abs() < 1).all())
        assert 1 not in rows
    assert effective_size(weights.log()).tolist() == pytest.approx([1 / 0.435, 1.0])


def test_systematic_resampling_is_unbiased():
    weights = torch.tensor([0.17, 0.33, 0.08, 0.42], dtype=torch.float64)
    points = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    rows = systematic(weights.expand(2000, -1), points)
    share = torch.stack([(rows == k).double().mean() for k in range(4)])
    assert torch.allclose(share, weights, atol=1e-3)


def test_only_items_below_the_threshold_resample_and_all_draw_the_same_numbers():
    streams = seeds(2)
    before = torch.tensor([[0.0, 0.0, 0.0, 0.1], [0.0, -9.0, -9.0, -9.0]]).double()
    values = torch.arange(8, dtype=torch.float64)[:, None]
    after, (kept,) = resample(before, 0.5, streams, values)
    assert kept[:4, 0].tolist() == [0, 1, 2, 3]
    assert kept[4:, 0].tolist() == [4, 4, 4, 4]
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], torch.zeros(4, dtype=torch.float64))
    states = [g.get_state() for g in streams._generators]
    fresh = seeds(2)
    fresh.uniform()
    assert all(torch.equal(s, g.get_state()) for s, g in zip(states, fresh._generators))


def test_weights_that_are_all_lost_are_told():
    lost = torch.zeros(6, dtype=torch.float64)
    lost[3:] = -torch.inf
    weights, valid = weigh(torch.zeros(2, 3, dtype=torch.float64), lost)
    assert valid.tolist() == [True, False]
    assert weights[0].tolist() == [0.0] * 3


def test_an_observation_becomes_levels():
    """Component i is met at the level whose noise is sigma_y / s_i; what is unseen is met never."""
    operator = Matrix(torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)))
    lik = GaussianLikelihood(operator, normal((2, 3), 2), 0.4)
    problem = posed(lik, (3,))
    levels = spectral_plan(problem, 10)
    obs = spectral_observation(problem, levels)
    wanted = {4.0: VP.level_of_sigma(0.1), 1.0: VP.level_of_sigma(0.4)}
    c = obs.svd.v_t(torch.eye(3, dtype=torch.float64))  # which slot is which coordinate
    for coordinate, s in ((0, 4.0), (1, 1.0)):
        slot = int(c[coordinate].abs().argmax())
        assert int(obs.tau[slot]) == wanted[s]
        assert wanted[s] in levels.levels
        q = float(VP.sigma[wanted[s]] / VP.alpha[wanted[s]])
        assert float(obs.ratio2[slot]) == pytest.approx(q**2)
        assert float(obs.deviation2(VP, wanted[s])[slot]) == pytest.approx(0, abs=1e-12)
    blank = int(c[2].abs().argmax())
    assert int(obs.tau[blank]) == VP.last + 1
    assert levels.levels[0] == VP.last
    assert levels.levels[-2:] == (1, 0)
    # With more distinct values than steps each moves to the nearest level of the run.
    many = Matrix(torch.diag(torch.linspace(0.1, 9, 30, dtype=torch.float64)))
    lik = GaussianLikelihood(many, normal((2, 30), 2), 0.4)
    problem = posed(lik, (30,))
    levels = spectral_plan(problem, 10)
    obs = spectral_observation(problem, levels)
    assert len(levels.levels) == 11
    assert set(obs.tau.tolist()) <= set(levels.levels)


def test_the_noised_observation_is_a_path_of_the_forward_process():
    """Drawn downwards, its law is that of noising upwards from tau."""
    items = 20000
    operator = Matrix(torch.tensor([[2.0]], dtype=torch.float64))
    y = torch.full((items, 1), 1.4, dtype=torch.float64)
    lik = GaussianLikelihood(operator, y, 0.6)
    problem, streams = posed(lik, (1,)), OneGenerator(items)
    plan = spectral_plan(problem, 6)
    obs = spectral_observation(problem, plan)
    tau, sign = int(obs.tau[0]), float(obs.svd.v_t(torch.ones(1, 1, dtype=torch.float64)))
    levels = [t for t in plan.levels if t >= tau]
    path, drawn = None, []
    for above, t in pairwise([VP.last, *levels]):
        path = path_down(problem, obs, path, above, t, streams)
        drawn.append(sign * path[:, 0])
    upwards = sorted(levels)[1:]
    assert drawn[-1].tolist() == pytest.approx([0.7 * float(VP.alpha[tau])] * items)
    # From x_tau = alpha_tau 0.7, which is no clean value: subtract what level tau brought.
    seen = torch.stack(drawn[-2::-1], 1)
    alpha, sigma = VP.alpha[upwards], VP.sigma[upwards]
    ratio = float(VP.sigma[tau] / VP.alpha[tau])
    own = sigma**2 - (alpha * ratio) ** 2
    cov = torch.diag(own)
    for i in range(len(upwards)):
        for j in range(i):
            cov[i, j] = cov[j, i] = alpha[i] / alpha[j] * own[j]
    assert_moments(seen, 0.7 * alpha, cov)


def test_karras_levels_stay_on_the_schedule():
    levels = karras_levels(KARRAS, 150, 1.0, 1e-4)
    assert float(KARRAS.sigma[levels[0]]) == pytest.approx(1.0, rel=0.02)
    assert levels[-1] == 1
    assert len(levels) <= 150
    assert all(a > b for a, b in pairwise(levels))


def test_twisting_without_singular_values_runs_on_a_composed_operator():
    """No SVD: the twist takes one variance for every observed value."""
    operator = Composition(Identity(), SumOverChannels(2))
    y = normal((2, 3), 4)
    result = draw(
        CoordinatePrior(VP, 0.0, 1.0),
        GaussianLikelihood(operator, y, 0.1),
        (2, 3),
        seeds(2),
        TwistedSMC(particles=200, steps=30),
    )
    residual = flat(result.particles.sum(2) - y[:, None])
    assert float(residual.square().mean().sqrt()) < 0.25
