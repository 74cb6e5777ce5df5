"""Settings and formulas that carry the name of a publication are the publication's."""

from __future__ import annotations

import pytest
import torch

import mgdm_core
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import Mask, Matrix
from mgdm_core.samplers import PRESETS
from mgdm_core.samplers.ddnm import DDNM
from mgdm_core.samplers.red_diff import REDDiff
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.grids import karras_levels

from .closed_forms import ConstantStreams, normal
from .samplers_support import CoordinatePrior, draw

VP = NoiseSchedule.vp_linear()
KEEP = torch.tensor([True, False, True, False])


@pytest.mark.parametrize("noise_aware", [True, False])
@pytest.mark.parametrize("eta", [0.85, 0.3])
def test_ddnm_s_step_is_that_of_its_code(eta, noise_aware):
    """x_s = alpha_s x_0' + eta sigma_s z + sqrt(1 - eta^2) sigma_s eps, eps the network's at x_t.

    The noise-aware form keeps no old noise where it observes (equation 51).
    """
    prior, y, z = CoordinatePrior(VP, mean=0.2, variance=0.7), normal((2, 2), 1), 0.8
    states = []
    draw(
        prior,
        GaussianLikelihood(Mask(KEEP), y, 1e-9),
        (4,),
        ConstantStreams(2, z),
        DDNM(steps=5, eta=eta, noise_aware=noise_aware),
        callback=lambda progress: states.append(progress.save().state.x),
    )
    t, s = VP.spaced(5)[:2]
    alpha_t, sigma_t, alpha, sigma = (
        float(v) for level in (t, s) for v in (VP.alpha[level], VP.sigma[level])
    )
    x = torch.full((2, 4), sigma_t * z, dtype=torch.float64)
    x_0 = prior.denoise(x, t)
    eps = (x - alpha_t * x_0) / sigma_t
    x_0[:, KEEP] = y
    want = alpha * x_0 + eta * sigma * z + (1 - eta**2) ** 0.5 * sigma * eps
    if noise_aware:
        want[:, KEEP] = alpha * y + sigma * z
    torch.testing.assert_close(states[0], want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sigma_y", [0.05, 0.5, 2.0])
def test_ddnm_spreads_over_what_a_noisy_observation_leaves_open(sigma_y):
    """Prior N(0, I), y = x + sigma_y eps: the posterior is N(y / (1 + sigma_y^2), v).

    The method gathers around y (the more so, the more steps), but not onto it: every step draws
    noise of eta sigma_s or more in what it observes.
    """
    likelihood = GaussianLikelihood(Mask(KEEP), torch.tensor([[1.0, -1.0]]), sigma_y)
    x = mgdm_core.sample(
        mgdm_core.Problem(CoordinatePrior(VP, 0.0, 1.0), likelihood, (4,)), DDNM(steps=50), n=500
    ).x[:, KEEP]
    exact = sigma_y / (1 + sigma_y**2) ** 0.5
    spread = x.std(0) / exact
    assert ((spread > 0.4) & (spread < 1.3)).all(), spread
    # Between the data and the posterior mean, well below the data where they say little.
    mean = x.mean(0) * torch.tensor([1.0, -1.0])
    assert (mean > 1 / (1 + sigma_y**2) - 0.05).all()
    assert (mean < 1 - 0.4 * sigma_y**2 / (1 + sigma_y**2) + 0.02).all(), mean


@pytest.mark.parametrize("sigma_y", [0.05, 0.4])
def test_red_diff_s_terms_are_means(sigma_y):
    """Seeing the same numbers three times changes nothing, nor does having each coordinate twice.

    Of sums, the first would treble the weight of the data.
    """
    matrix, y = Matrix(normal((2, 4), 4)), normal((3, 2), 5)
    prior, streams = CoordinatePrior(VP, 0.3, 0.9), ConstantStreams(3, 0.4)
    cfg = REDDiff(steps=40)

    def run(operator, observation, shape=(4,)):
        return draw(prior, GaussianLikelihood(operator, observation, sigma_y), shape, streams, cfg)

    once = run(matrix, y).x
    thrice = run(Matrix(matrix.matrix.repeat(3, 1)), y.repeat(1, 3)).x
    torch.testing.assert_close(thrice, once, rtol=1e-6, atol=1e-7)
    doubled = Matrix(torch.block_diag(matrix.matrix, matrix.matrix))
    twice = run(doubled, y.repeat(1, 2), (8,)).x
    torch.testing.assert_close(twice, once.repeat(1, 2), rtol=1e-6, atol=1e-7)


def test_presets_are_the_published_numbers():
    images, audio = PRESETS["daps"]["images"], PRESETS["daps"]["audio"]
    for preset in (images, audio, PRESETS["daps"]["super-resolution"]):
        numbers = (preset.levels, preset.ode_steps, preset.langevin_steps, preset.rate_floor)
        assert numbers == (200, 5, 50, 1e-3)
        assert preset.draw == "langevin"
        assert preset.data_variance is None
    ends = ("sigma_max", "sigma_min", "learning_rate", "tau")
    assert [getattr(images, name) for name in ends] == [100.0, 0.1, 5e-5, 0.01]
    assert [getattr(audio, name) for name in ends] == [20.0, 1e-3, 1e-5, 0.005]
    assert PRESETS["daps"]["super-resolution"].learning_rate == 1e-4
    gammas = {name: preset.gamma for name, preset in PRESETS["dps"].items()}
    assert gammas == {
        "super-resolution": 1.0,
        "phase-retrieval": 0.4,
        "blur": 0.3,
        "high-dynamic-range": 0.07,
        "jpeg": 0.2,
        "audio": 1.0,
    }
    assert PRESETS["ddnm"]["published"].eta == 0.85
    diffpir = PRESETS["diffpir"]
    assert [(p.lam, p.zeta) for p in (diffpir["masks"], diffpir["other"])] == [(1, 1), (1, 0.1)]
    pnp = PRESETS["pnp_dm"]["images"]
    assert (pnp.iterations, pnp.rho, pnp.decay, pnp.floor) == (100, 10.0, 0.9, 0.3)
    assert (PRESETS["pnp_dm"]["audio"].floor, PRESETS["pnp_dm"]["audio"].langevin_steps) == (
        1e-3,
        100,
    )
    for name in ("dps", "pgdm", "ddnm", "diffpir", "red_diff"):
        assert {preset.steps for preset in PRESETS[name].values()} == {1000}, name


def test_daps_begins_at_the_published_deviation():
    """On DDPM's levels, whose highest ratio is 157, sigma 100 is in reach; rho is 7."""
    levels = karras_levels(VP, 200, 100.0, 0.1)
    ratio = VP.sigma / VP.alpha
    assert float(ratio[levels[0]]) == pytest.approx(100.0, rel=0.02)
    assert float(ratio[levels[-1]]) == pytest.approx(0.1, rel=0.05)
    want = (100 ** (1 / 7) + 0.5 * (0.1 ** (1 / 7) - 100 ** (1 / 7))) ** 7
    assert min(abs(float(ratio[t]) - want) for t in levels) < 0.1 * want
