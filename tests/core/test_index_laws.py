"""Index laws: always a level below t, and the distribution that each names."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgdm_core.conditionals import Place
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import (
    Fraction,
    NearZero,
    NextLevel,
    PublishedMix,
    ResidualLaw,
    UniformFraction,
    UniformLaw,
    WeightsLaw,
)
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import Identity
from mgdm_core.problem import Problem
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator

SCHEDULE = NoiseSchedule.vp_linear()
LAWS = {
    "uniform": UniformLaw(),
    "uniform-1": UniformLaw(1e-6),
    "upper": UniformFraction(0.5),
    "all": UniformFraction(0.0),
    "near-zero": NearZero(),
    "fraction": Fraction(0.3),
    "next": NextLevel(),
    "mix": PublishedMix(),
    "weights": WeightsLaw(tuple(1.0 / k for k in range(1, 1001))),
    "residual": ResidualLaw(),
}


class Prior:
    """Its levels are all that a law looks at."""

    schedule = SCHEDULE

    def denoise(self, x, t):
        return x


def draw(law, t=600, below=590, step=3, steps=100, streams=None, residual=None):
    """One s per item where |y - x_0| is the residual."""
    streams = RandomStreams.from_seed(0, 4) if streams is None else streams
    if residual is None:
        residual = torch.full((len(streams),), 0.2, dtype=torch.float64)
    y = torch.zeros(len(streams), 1, dtype=torch.float64)
    problem = Problem(Prior(), GaussianLikelihood(Identity(), y, 0.05), (1,))
    s = law(Place(t, t + 10, below, step, steps), problem, residual.double()[:, None], streams)
    return torch.full((len(streams),), s) if isinstance(s, int) else s


@given(st.data())
def test_every_law_draws_a_level_between_the_data_and_t(data):
    law = LAWS[data.draw(st.sampled_from(sorted(LAWS)))]
    t = data.draw(st.integers(2, 1000))
    below = data.draw(st.integers(1, max(1, t - 1)))
    step = data.draw(st.integers(0, 99))
    residual = torch.tensor(data.draw(st.lists(st.floats(0, 1e6), min_size=3, max_size=3)))
    streams = RandomStreams.from_seed(data.draw(st.integers(0, 999)), 3)
    s = draw(law, t, below, step, 100, streams, residual)
    assert s.shape == (3,)
    assert s.dtype == torch.long
    assert bool(((s >= 1) & (s < t)).all()), s


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_an_items_index_is_its_own(law):
    residual = torch.tensor([0.0, 0.5, 0.1, 9.0], dtype=torch.float64)
    together = draw(law, residual=residual)
    for i in range(4):
        alone = draw(law, streams=RandomStreams([i]), residual=residual[i : i + 1])
        assert int(alone) == int(together[i])


def shares(law, n=40000, **changes) -> torch.Tensor:
    drawn = draw(law, streams=OneGenerator(n), **changes)
    return torch.bincount(drawn, minlength=1001).double() / n


def assert_uniform(share: torch.Tensor, low: int, high: int, n=40000) -> None:
    """All mass on [low, high], evenly: a chi-square statistic within 4.5 deviations."""
    assert float(share[low : high + 1].sum()) == pytest.approx(1, abs=1e-12)
    cells = high - low + 1
    chi2 = n * float(((share[low : high + 1] - 1 / cells) ** 2 * cells).sum())
    assert abs(chi2 - (cells - 1)) < 4.5 * (2 * max(1, cells - 1)) ** 0.5


def test_uniform_laws_are_uniform():
    assert_uniform(shares(UniformLaw(), t=60), 10, 59)
    assert_uniform(shares(UniformLaw(), t=5), 4, 4)
    assert_uniform(shares(UniformFraction(0.5), t=60), 30, 59)
    assert_uniform(shares(UniformFraction(0.0), t=60), 1, 59)
    assert_uniform(shares(NearZero(7), t=60), 1, 7)
    assert_uniform(shares(NearZero(7), t=4), 1, 3)


def test_deterministic_laws():
    assert draw(LAWS["fraction"], t=600).tolist() == [180] * 4
    assert draw(LAWS["fraction"], t=2).tolist() == [1] * 4
    assert draw(NextLevel(), t=600, below=590).tolist() == [590] * 4
    assert draw(NextLevel(), t=2, below=1).tolist() == [1] * 4


def test_the_published_mix_changes_phase_at_its_threshold():
    law = PublishedMix(threshold=0.7)
    assert_uniform(shares(law, t=60, step=69), 10, 59)
    assert draw(law, step=70).tolist() == [590] * 4
    # The audio setting: uniform for the first 13 of 20 steps.
    audio = PublishedMix(threshold=0.65)
    assert draw(audio, step=13, steps=20).tolist() == [590] * 4
    assert draw(audio, step=12, steps=20).tolist() != [590] * 4


def test_weights_are_followed_and_cut_at_t():
    omega = (1.0, 0.0, 3.0, 6.0, 1000.0)
    share = shares(WeightsLaw(omega), t=5)
    want = torch.tensor([0.0, 0.1, 0.0, 0.3, 0.6], dtype=torch.float64)
    bound = 4.5 * (want * (1 - want) / 40000).sqrt()
    assert bool(((share[:5] - want).abs() <= bound).all())
    assert float(share[5:].sum()) == 0
    with pytest.raises(SettingsError, match="one weight per level up to 6; found 5"):
        draw(WeightsLaw(omega), t=7)


def test_the_residual_law_rises_with_the_residual():
    law, n = ResidualLaw(rough=30.0, share=0.5), 200
    before = torch.zeros(n, dtype=torch.long)
    for rho in (0.0, 1.0, 1.5, 4.0, 12.0, 30.0, 1e9):
        residual = torch.full((n,), rho * 0.05, dtype=torch.float64)
        s = draw(law, streams=RandomStreams.from_seed(1, n), residual=residual, below=300)
        assert bool((s >= before).all())
        before = s
    # Its ends: x_0 fits, so s is at or below the next level; x_0 does not, so s is anywhere high.
    fits = shares(law, t=60, below=40, residual=torch.full((40000,), 0.05, dtype=torch.float64))
    assert_uniform(fits, 20, 40)
    rough = shares(law, t=60, below=40, residual=torch.full((40000,), 1.5, dtype=torch.float64))
    assert_uniform(rough, 29, 59)


def test_the_residual_law_needs_a_residual():
    y = torch.zeros(2, 1, dtype=torch.float64)
    own = CallableLikelihood(lambda x, y: -x.abs().sum(-1), y)
    problem, streams = Problem(Prior(), own, (1,)), RandomStreams([0, 1])
    with pytest.raises(SettingsError, match="needs a Gaussian likelihood"):
        ResidualLaw()(Place(60, 70, 50, 0, 10), problem, y, streams)


def test_the_published_floor_means_the_same_noise_on_every_schedule():
    """Level 10 of DDPM's 1000, translated by its noise-to-signal ratio."""
    assert SCHEDULE.level_of_sigma(UniformLaw().floor) == 10
    ratio = float(SCHEDULE.ratio[10])
    for schedule in (NoiseSchedule.karras(40, 0.002, 80.0, 7.0), NoiseSchedule.flow(1000)):
        level = schedule.level_of_sigma(UniformLaw().floor)
        near = schedule.ratio[level - 1 : level + 2]
        assert float(near[0]) < ratio < float(near[-1])


@pytest.mark.parametrize(
    ("law", "setting"),
    [
        (UniformLaw(), {"floor": 0.0}),
        (UniformFraction(), {"low": 1.0}),
        (UniformFraction(), {"low": -0.1}),
        (NearZero(), {"width": 0}),
        (Fraction(), {"fraction": 0.0}),
        (Fraction(), {"fraction": 1.0}),
        (PublishedMix(), {"threshold": 1.1}),
        (PublishedMix(), {"floor": 0.0}),
        (LAWS["weights"], {"omega": ()}),
        (LAWS["weights"], {"omega": (0.0, 1.0)}),
        (LAWS["weights"], {"omega": (1.0, -1.0)}),
        (ResidualLaw(), {"rough": 1.0}),
        (ResidualLaw(), {"share": 1.0}),
    ],
)
def test_settings_outside_their_domain(law, setting):
    with pytest.raises(SettingsError, match="; found"):
        replace(law, **setting)
