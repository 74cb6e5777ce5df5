"""Noise schedules against their defining formulas."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgdm_core.errors import SettingsError
from mgdm_core.schedule import NoiseSchedule

SCHEDULES = {
    "vp_linear": NoiseSchedule.vp_linear(),
    "vp_cosine": NoiseSchedule.vp_cosine(),
    "karras": NoiseSchedule.karras(),
    "sigmas": NoiseSchedule.from_sigmas([0.1, 0.5, 2.0]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_level_zero_is_clean_and_noise_grows(name):
    schedule = SCHEDULES[name]
    assert float(schedule.alpha[0]) == 1.0
    assert float(schedule.sigma[0]) == 0.0
    assert schedule.alpha.dtype == schedule.sigma.dtype == torch.float64
    assert bool(((schedule.sigma / schedule.alpha).diff() > 0).all())
    assert schedule.last == len(schedule.alpha) - 1


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine"])
def test_variance_is_preserved(name):
    schedule = SCHEDULES[name]
    total = schedule.alpha**2 + schedule.sigma**2
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)


def test_vp_linear_is_the_cumulative_product_of_one_minus_beta():
    schedule = NoiseSchedule.vp_linear()
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(schedule.alpha[1:].numpy() ** 2, bars, rtol=1e-12)
    assert schedule.last == 1000
    # Known of DDPM's schedule: almost no signal is left at the last step.
    assert float(schedule.alpha[-1] ** 2) == pytest.approx(4.0358e-5, rel=1e-4)
    # The same numbers as the benchmark's linspace of the factors themselves.
    factors = np.cumprod(np.linspace(0.9999, 0.98, 1000))
    np.testing.assert_allclose(schedule.alpha[1:].numpy() ** 2, factors, rtol=1e-10)


def test_vp_cosine_is_a_squared_cosine_until_the_clip():
    schedule = NoiseSchedule.vp_cosine()

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (1, 10, 500, 990):
        assert float(schedule.alpha[t] ** 2) == pytest.approx(f(t) / f(0), rel=1e-10)
    beta_last = 1 - float(schedule.alpha[-1] / schedule.alpha[-2]) ** 2
    assert beta_last == pytest.approx(0.999, abs=1e-12)


def test_karras_levels_are_linear_in_the_root():
    schedule = NoiseSchedule.karras(50, 1e-3, 40.0, 7.0)
    assert bool((schedule.alpha == 1).all())
    # Karras et al. 2022, equation 5, runs from the noisiest level down.
    i = np.arange(50)
    down = (40 ** (1 / 7) + i / 49 * (1e-3 ** (1 / 7) - 40 ** (1 / 7))) ** 7
    np.testing.assert_allclose(schedule.sigma[1:].numpy(), down[::-1], rtol=1e-12)


def test_alphas_cumprod_of_a_diffusers_scheduler():
    # "scaled_linear" of Stable Diffusion's schedulers, kept there in float32.
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    bars = torch.cumprod(1 - betas, 0)
    schedule = NoiseSchedule.from_alphas_cumprod(bars)
    torch.testing.assert_close(schedule.alpha[1:], bars.double().sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(schedule.sigma[1:], (1 - bars.double()).sqrt(), rtol=1e-12, atol=0)
    again = NoiseSchedule.from_alphas_cumprod(bars.tolist())
    assert torch.equal(schedule.alpha, again.alpha)


def test_from_sigmas_keeps_the_signal():
    schedule = NoiseSchedule.from_sigmas([0.1, 1.0])
    assert schedule.alpha.tolist() == [1.0, 1.0, 1.0]
    assert schedule.sigma.tolist() == [0.0, 0.1, 1.0]


@pytest.mark.parametrize(
    ("alpha", "sigma", "rule"),
    [
        ([1.0], [0.0], "at least 2 levels"),
        ([1.0, float("nan")], [0.0, 1.0], "finite"),
        ([0.9, 0.8], [0.0, 0.1], "level 0"),
        ([1.0, 0.9], [0.1, 0.2], "level 0"),
        ([1.0, -0.5], [0.0, 0.1], "positive"),
        ([1.0, 0.5, 0.6], [0.0, 0.1, 0.2], "never increase"),
        ([1.0, 1.0, 1.0], [0.0, 0.5, 0.5], "strictly increase"),
        ([1.0, 0.0], [0.0, 1.0], "level 1 holds some signal"),
    ],
)
def test_a_broken_rule_is_named(alpha, sigma, rule):
    with pytest.raises(SettingsError, match=rule):
        NoiseSchedule(torch.tensor(alpha), torch.tensor(sigma))


def test_alpha_and_sigma_of_different_lengths_are_refused(unchecked_shapes):
    with pytest.raises(SettingsError, match="one shape"):
        NoiseSchedule(torch.tensor([1.0, 0.9]), torch.tensor([0.0, 0.1, 0.2]))


@pytest.mark.parametrize(
    "settings",
    [{"sigma_min": 0.0}, {"sigma_min": 30.0}, {"steps": 1}, {"rho": 0.0}],
)
def test_karras_refuses_settings_outside_their_domain(settings):
    with pytest.raises(SettingsError, match="Karras"):
        NoiseSchedule.karras(**settings)


def test_schedules_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCHEDULES["karras"].name = "other"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_at_broadcasts_in_the_arrays_dtype(dtype):
    schedule = SCHEDULES["vp_linear"]
    x = torch.zeros(3, 2, 5, dtype=dtype)
    alpha, sigma = schedule.at(torch.tensor([1, 500, 1000]), x)
    assert alpha.shape == sigma.shape == (3, 1, 1)
    assert alpha.dtype == dtype
    assert torch.equal(alpha.flatten(), schedule.alpha[[1, 500, 1000]].to(dtype))
    one, _ = schedule.at(500, x)
    assert torch.equal(one.flatten(), alpha[1].flatten())


def test_level_of_sigma_is_nearest_in_log():
    schedule = NoiseSchedule.from_sigmas([0.1, 1.0, 10.0])
    assert [schedule.level_of_sigma(s) for s in (1e-9, 0.3, 0.33, 1.0, 3.3, 1e9)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    vp = SCHEDULES["vp_linear"]
    for level in (1, 77, 1000):
        assert vp.level_of_sigma(float(vp.sigma[level] / vp.alpha[level])) == level


@given(st.data())
def test_spaced_levels_fall_strictly_and_keep_the_ends(data):
    schedule = SCHEDULES["vp_linear"]
    start = data.draw(st.integers(1, 1000))
    stop = data.draw(st.integers(1, start))
    count = data.draw(st.integers(2, 1200))
    levels = schedule.spaced(count, start, stop)
    assert levels[0] == start
    assert levels[-1] == stop
    assert all(a > b for a, b in itertools.pairwise(levels))
    assert len(levels) == min(count, start - stop + 1)
    # Even: no gap differs from the ideal one by more than rounding.
    ideal = (start - stop) / max(1, len(levels) - 1)
    assert all(abs(a - b - ideal) <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize(
    ("count", "start", "stop"), [(0, 10, 1), (4, 5, 6), (4, 1001, 1), (4, 10, 0)]
)
def test_spaced_refuses_levels_outside_the_schedule(count, start, stop):
    with pytest.raises(SettingsError, match="levels run from"):
        SCHEDULES["vp_linear"].spaced(count, start, stop)
