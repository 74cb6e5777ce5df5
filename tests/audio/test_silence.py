"""Scores over active stems, and of silence, against formulas written out in plain Python."""

import math

import numpy as np
import pytest
import torch

from mgdm_audio.metrics.si_sdr import score_windows
from mgdm_audio.metrics.silence import (
    active_stem_improvement,
    active_stems,
    leaked_power,
    silent_output,
    silent_stems,
)
from mgdm_core.errors import ShapeError

from .test_metrics import plain_si_sdr

RATE = 100


def rms(x):
    return math.sqrt(math.fsum(v * v for v in x) / len(x))


def windows(n):
    """4 s every 2 s; the last may be short, and what is shorter than the overlap is one."""
    return [
        slice(2 * RATE * i, min(n, 2 * RATE * i + 4 * RATE))
        for i in range(max(1, math.ceil((n - 2 * RATE) / (2 * RATE))))
    ]


@pytest.fixture
def song():
    """17.3 s of four stems: one quiet for a while, one nearly silent, one alone at the end."""
    rng = np.random.default_rng(3)
    n = 1730
    truth = np.array([0.2, 0.1, 0.05, 0.02])[:, None] * rng.standard_normal((4, n))
    truth[1, 200:900] *= 5e-3  # RMS 5e-4: silent
    truth[2, 200:900] *= 0.03  # RMS 1.5e-3: active, though silent to the published protocol
    truth[3, :800] = 0.0
    truth[1:, 1200:] = 0.0
    guess = truth + 0.02 * rng.standard_normal((4, n))
    guess[3, :700] = 1e-6  # comes out silent while it is
    guess[0, 400:800] = 0.0  # lost while it sounds
    return guess, truth, truth.sum(0)


def tensors(song):
    return tuple(torch.from_numpy(x) for x in song)


def test_active_stem_improvement_is_the_formula(song):
    guess, truth, mixture = song
    found = active_stem_improvement(*tensors(song), RATE)
    gains = [[] for _ in truth]
    for w in windows(len(mixture)):
        for k in range(4):
            rest = mixture[w] - truth[k, w]
            if rms(truth[k, w]) >= 1e-3 and rms(rest) >= 1e-3:
                own = plain_si_sdr(guess[k, w], truth[k, w])
                gains[k].append(own - plain_si_sdr(mixture[w], truth[k, w]))
    means = [math.fsum(g) / len(g) for g in gains]
    assert found.per_stem.tolist() == pytest.approx(means, abs=1e-4)
    assert found.mean == pytest.approx(math.fsum(means) / 4, abs=1e-4)
    assert found.active.sum(1).tolist() == [len(g) for g in gains]
    # Solo at the end counts nowhere, a quiet stem counts, a silent one does not.
    assert not found.active[:, -1].any()
    assert found.active[:, 2].tolist() == [True, False, True, False]


def test_several_recordings_pool_their_windows(song):
    guess, truth, mixture = tensors(song)
    one = active_stem_improvement(guess[:, :700], truth[:, :700], mixture[:700], RATE)
    two = active_stem_improvement(guess[:, 700:1400], truth[:, 700:1400], mixture[700:1400], RATE)
    both = active_stem_improvement(
        torch.stack([guess[:, :700], guess[:, 700:1400]]),
        torch.stack([truth[:, :700], truth[:, 700:1400]]),
        torch.stack([mixture[:700], mixture[700:1400]]),
        RATE,
    )
    assert torch.equal(both.active, torch.stack([one.active, two.active]))
    for k in range(4):
        values = torch.cat([s.improvement[k][s.active[k]] for s in (one, two)])
        assert both.per_stem[k].item() == pytest.approx(values.mean().item(), abs=1e-9)
        parts = torch.cat([s.retained[k][s.active[k]] for s in (one, two)])
        assert both.retained_per_stem[k].item() == pytest.approx(parts.mean().item(), abs=1e-9)
    assert both.interval.value == pytest.approx(both.mean, abs=1e-6)
    assert both.interval.low <= both.mean <= both.interval.high
    assert math.isnan(one.interval.low)  # one recording says nothing of others


def test_short_recordings_are_one_window_and_silence_has_no_score(song):
    guess, truth, mixture = tensors(song)
    n = RATE  # a second: less than the overlap
    found = active_stem_improvement(guess[:, :n], truth[:, :n], mixture[:n], RATE)
    assert found.improvement.shape == (4, 1)
    expected = plain_si_sdr(guess[0, :n].tolist(), truth[0, :n].tolist()) - plain_si_sdr(
        mixture[:n].tolist(), truth[0, :n].tolist()
    )
    assert found.per_stem[0].item() == pytest.approx(expected, abs=1e-4)
    assert math.isnan(found.per_stem[3])
    nothing = active_stem_improvement(*(torch.zeros_like(x) for x in tensors(song)), RATE)
    assert math.isnan(nothing.mean)
    with pytest.raises(ShapeError, match="must be"):
        active_stem_improvement(guess, truth, mixture[:-1], RATE)
    with pytest.raises(ShapeError, match="one shape"):
        active_stem_improvement(guess[:3], truth, mixture, RATE)


def test_leaks_and_losses_are_the_formulas(song):
    guess, truth, mixture = song
    scores = score_windows(*tensors(song), RATE)
    silent, leaked, out = silent_stems(scores), leaked_power(scores), silent_output(scores)
    for i, w in enumerate(windows(len(mixture))):
        for k in range(4):
            is_silent = rms(truth[k, w]) < 1e-3 and rms(mixture[w]) >= 1e-3
            assert bool(silent[k, i]) == is_silent
            ratio = rms(guess[k, w]) ** 2 / rms(mixture[w]) ** 2
            assert leaked[k, i].item() == pytest.approx(ratio, rel=1e-6)  # 4e-6 dB
            assert bool(out[k, i]) == (ratio <= 1e-6)
    assert out[3, 0]
    assert silent[3, 0]
    assert out[0, 2]
    assert active_stems(scores)[0, 2]
    quiet = score_windows(*(torch.zeros_like(x) for x in tensors(song)), RATE)
    assert not silent_stems(quiet).any()
    assert (leaked_power(quiet) == 0).all()


def test_the_rest_of_the_mixture_may_hold_more_than_the_stems(song):
    guess, truth, _ = tensors(song)
    mixture = truth.sum(0) + 0.05 * torch.sin(torch.arange(truth.shape[1]).double())
    # What sounds beside the solo at the end makes it something to separate.
    assert active_stem_improvement(guess, truth, mixture, RATE).active[0, -1]


def test_silence_improves_nothing():
    """It has 0 dB by the protocol, and a soft stem in a loud mixture less."""
    truth = torch.tensor([[0.2], [0.02]]) * _noise(2, 1200)
    mixture = truth.sum(0)
    silent = active_stem_improvement(torch.zeros_like(truth), truth, mixture, RATE)
    assert silent.active.all()
    assert silent.per_stem[1] == 0.0  # 20 dB by the formula alone
    assert silent.per_stem[0] == pytest.approx(-20.0, abs=1.5)
    # What is softer than a thousandth of the mixture is lost, however right; above it, it counts.
    for part, kept in ((0.9e-3, False), (1.1e-3, True)):
        soft = (
            truth * (part * mixture.square().mean().sqrt() / truth.square().mean(1).sqrt())[:, None]
        )
        found = active_stem_improvement(soft, truth, mixture, RATE).per_stem
        assert (found[1] > 20) == kept


def _noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))
