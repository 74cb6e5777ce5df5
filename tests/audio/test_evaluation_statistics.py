"""Intervals over tracks and the paired comparison."""

import math

import numpy as np
import pytest
from scipy import stats

from mgdm_audio.metrics.statistics import (
    bootstrap,
    compare_paired,
    pooled_mean,
    track_median,
)


def test_pooled_mean_weighs_tracks_by_their_windows():
    sums, counts = np.array([10.0, 2.0]), np.array([1.0, 3.0])
    assert pooled_mean(sums, counts) == 3.0  # not the mean of 10 and 2/3
    assert math.isnan(pooled_mean(np.zeros(2), np.zeros(2)))


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    rng = np.random.default_rng(1)
    values = rng.normal(5.0, 2.0, 400)
    interval = bootstrap(lambda x: x.mean(axis=-1), values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval.tracks == 400
    again = bootstrap(lambda x: x.mean(axis=-1), values)
    assert again == interval


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        counts = rng.integers(1, 40, 60).astype(float)
        sums = counts * rng.normal(3.0, 1.0, 60)
        interval = bootstrap(pooled_mean, sums, counts, resamples=500)
        hits += interval.low <= 3.0 <= interval.high
    # 95 % of 200 with three standard errors of the count.
    assert 180 <= hits <= 199


def test_bootstrap_of_few_tracks_says_nothing_it_does_not_know():
    one = bootstrap(pooled_mean, np.array([6.0]), np.array([2.0]))
    assert (one.value, one.tracks) == (3.0, 1)
    assert math.isnan(one.low)
    none = bootstrap(track_median, np.array([]))
    assert math.isnan(none.value)
    assert none.tracks == 0


def test_paired_comparison():
    rng = np.random.default_rng(3)
    a = rng.normal(10, 3, 40)
    b = a + rng.normal(0.5, 0.5, 40)
    b[5] = math.nan
    found = compare_paired(list(a), list(b))
    difference = np.delete(b - a, 5)
    assert found.difference.value == pytest.approx(difference.mean())
    assert found.difference.low > 0.2
    assert found.better == (difference > 0).sum()
    assert found.worse == 39 - found.better
    assert found.p_value == pytest.approx(stats.wilcoxon(difference).pvalue)
    # The same scores, in the other order and against themselves.
    assert compare_paired(list(b), list(a)).difference.value == pytest.approx(-difference.mean())
    assert compare_paired(list(a), list(a)).p_value == 1.0
    assert math.isnan(compare_paired([1.0], [2.0]).p_value)
