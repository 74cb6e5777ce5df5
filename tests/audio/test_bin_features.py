"""Surroundings of time-frequency bins: each feature against the sound it is there to tell."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.priors.stft_unet.bin_features import (
    DETAIL_FEATURES,
    TREND_FEATURES,
    detail_features,
    trend_features,
    wide_features,
    window_mean,
)

LEVEL, HELD, NARROW, BEFORE, AFTER = range(TREND_FEATURES)


def details(trends: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return detail_features(trends, wide_features(trends), chosen)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    first=st.integers(-20, 20),
    width=st.integers(0, 33),
    seed=st.integers(0, 99),
)
def test_window_mean_is_the_mean_of_the_positions_that_exist(length, first, width, seed):
    x = torch.randn(2, length, 3, generator=stream(seed), dtype=torch.float64)
    found = window_mean(x, first, first + width, 1)
    for i in range(length):
        inside = [j for j in range(i + first, i + first + width + 1) if 0 <= j < length]
        inside = inside or [0 if i + first < 0 else length - 1]
        torch.testing.assert_close(found[:, i], x[:, inside].mean(1), atol=1e-12, rtol=0)


def test_a_stroke_is_told_from_a_held_note():
    level = torch.zeros(1, 1, 60, 80)
    level[:, :, 30] = 1.0
    level[..., 40] = 1.0
    trends = trend_features(level)
    stroke, note = trends[0, :, 30, 10], trends[0, :, 5, 40]
    assert stroke[HELD] == pytest.approx(-8 / 9)
    assert stroke[NARROW] == pytest.approx(0)
    assert note[HELD] == pytest.approx(0)
    assert note[NARROW] == pytest.approx(-8 / 9)
    assert (stroke[BEFORE], stroke[AFTER]) == (pytest.approx(-1), pytest.approx(-1))


def test_before_and_after_are_told_apart():
    level = torch.zeros(1, 1, 40, 16)
    level[:, :, 20:] = 1.0  # an attack at frame 20
    trends = trend_features(level)[0, :, 20, 8]
    assert trends[BEFORE] == -1
    assert trends[AFTER] == 0


def test_partials_are_seen_from_the_fundamental():
    """A comb on 20: the bin at 20 has neighbours at 2 and 3 times its frequency, 60 at a third."""
    level = torch.zeros(1, 1, 30, 128)
    level[..., 20::20] = 1.0
    features = details(trend_features(level), torch.tensor([20, 60, 33]))[0, :, 15]
    quarter, third, half, double, triple = features[DETAIL_FEATURES - 10 :: 2]
    standing_out = double[0].item()
    assert standing_out == pytest.approx(-8 / 9)
    assert triple[0].item() == pytest.approx(-8 / 9)
    assert third[1].item() == pytest.approx(-8 / 9)
    for other in (quarter[0], half[0], double[2], half[2]):
        assert abs(other.item()) < 0.2


def test_bins_beyond_the_spectrum_count_as_nothing():
    trends = torch.randn(1, TREND_FEATURES, 9, 32, generator=stream(0))
    features = details(trends, torch.tensor([20]))[0]
    assert not features[-4:].any()  # twice and three times bin 20 of 32


def test_chosen_bins_are_independent_of_the_choice():
    trends = torch.randn(2, TREND_FEATURES, 9, 32, generator=stream(0))
    whole = details(trends, torch.arange(32))
    assert whole.shape == (2, DETAIL_FEATURES, 9, 32)
    chosen = torch.tensor([1, 7, 30])
    torch.testing.assert_close(details(trends, chosen), whole[..., chosen])
