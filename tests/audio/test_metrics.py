"""SI-SDR and the published improvement against formulas written out here in plain numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.metrics.si_sdr import score_windows, si_sdr, slakh_windows
from mgdm_audio.metrics.silence import active_stems
from mgdm_core.errors import SettingsError, ShapeError

EPS = 1e-8


def plain_si_sdr(e, r):
    """One pair of signals, from the definition, in Python floats."""
    er = math.fsum(x * y for x, y in zip(e, r, strict=True))
    rr = math.fsum(y * y for y in r)
    scale = (er + EPS) / (rr + EPS)
    target = math.fsum((scale * y) ** 2 for y in r) + EPS
    noise = math.fsum((scale * y - x) ** 2 for x, y in zip(e, r, strict=True)) + EPS
    return 10 * math.log10(target / noise)


def plain_improvement(estimates, references, mixture, rate):
    """The published protocol, window by window: mean per stem."""
    window, step, overlap = 4 * rate, 2 * rate, 2 * rate
    published = [[] for _ in references]
    for i in range(math.ceil((len(mixture) - overlap) / step)):
        part = slice(i * step, i * step + window)
        active = [np.sqrt(np.sum(r[part] ** 2)) / len(r[part]) >= 1.5e-5 for r in references]
        if sum(active) <= 1:
            continue
        for k, (e, r) in enumerate(zip(estimates, references, strict=True)):
            gain = plain_si_sdr(e[part], r[part]) - plain_si_sdr(mixture[part], r[part])
            published[k].append(gain)
    return [np.mean(p) for p in published]


@pytest.fixture
def track():
    """19.3 s at 200 Hz: a stem silent for a while, one always, two windows with one active stem."""
    rng = np.random.default_rng(7)
    rate, n = 200, 3860
    references = 0.3 * rng.standard_normal((4, n))
    references[1, 600:1800] = 0.0
    references[3] = 0.0
    references[0, 2000:3000] = 0.0
    references[1, 2000:3000] = 1e-9
    estimates = references + 0.05 * rng.standard_normal((4, n))
    estimates[3] = 0.0
    return estimates, references, references.sum(axis=0), rate


def test_windows_of_the_published_protocol():
    assert slakh_windows(22_050 * 6, 22_050) == [(0, 88_200), (44_100, 132_300)]
    # One sample more asks for another window, which is short.
    assert slakh_windows(22_050 * 6 + 1, 22_050)[-1] == (88_200, 132_301)
    assert slakh_windows(22_050 * 3, 22_050) == [(0, 66_150)]
    assert slakh_windows(22_050 * 2, 22_050) == []
    assert slakh_windows(0, 22_050) == []
    with pytest.raises(SettingsError, match="must be positive"):
        slakh_windows(10, 0)
    with pytest.raises(SettingsError, match=r"windows of 1.0 s every 2.0 s at 10 Hz"):
        slakh_windows(100, 10, window=1.0, hop=2.0)


@given(n=st.integers(1, 10_000), rate=st.integers(1, 400))
def test_windows_cover_the_track_and_only_the_last_is_short(n, rate):
    windows = slakh_windows(n, rate)
    assert all(stop - start == 4 * rate for start, stop in windows[:-1])
    if n > 2 * rate:
        assert windows[0][0] == 0
        assert windows[-1][1] == n
        assert 2 * rate < windows[-1][1] - windows[-1][0] <= 4 * rate or len(windows) == 1
    else:
        assert windows == []


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), gain=st.floats(1e-3, 1e3), level=st.floats(1e-4, 10))
def test_si_sdr_is_the_formula(seed, gain, level):
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(64)
    estimate = gain * (reference + level * rng.standard_normal(64))
    got = si_sdr(torch.from_numpy(estimate), torch.from_numpy(reference)).item()
    assert got == pytest.approx(plain_si_sdr(estimate, reference), abs=1e-6)


def test_si_sdr_closed_form_and_scale_invariance():
    # Orthogonal noise at a tenth of the amplitude: 20 dB, whatever the gain.
    t = torch.arange(4000, dtype=torch.float64)
    tone, noise = torch.sin(2 * math.pi * t / 40), torch.cos(2 * math.pi * t / 40)
    for gain in (0.1, 1.0, -30.0):
        assert si_sdr(gain * (tone + 0.1 * noise), tone).item() == pytest.approx(20.0, abs=1e-4)


def test_what_is_retained_is_what_si_sdr_is_blind_to():
    """A third of the reference beside something orthogonal: 1/3, whatever else is there."""
    rate = 8000
    t = torch.arange(8 * rate, dtype=torch.float64) / rate
    one, other = (0.1 * torch.sin(2 * torch.pi * f * t) for f in (200, 300))
    references = torch.stack([one, other])
    estimates = torch.stack([one / 3, other + 2 * one / 3])
    scores = score_windows(estimates, references, one + other, rate)
    wanted = torch.tensor([[1 / 3], [1.0]], dtype=torch.float64).expand_as(scores.retained)
    torch.testing.assert_close(scores.retained, wanted, atol=1e-9, rtol=0)
    assert (scores.si_sdr[0] > 60).all()


def test_si_sdr_of_silence_is_finite():
    zero, loud = torch.zeros(100), torch.ones(100)
    assert si_sdr(zero, zero).item() == pytest.approx(0.0, abs=1e-9)
    assert si_sdr(loud, zero).item() == pytest.approx(-100.0, abs=1e-3)
    assert math.isfinite(si_sdr(zero, loud).item())


def test_si_sdr_broadcasts_and_refuses_other_lengths():
    rng = torch.Generator().manual_seed(0)
    estimate = torch.randn(2, 3, 50, generator=rng)
    reference = torch.randn(50, generator=rng)
    batch = si_sdr(estimate, reference)
    assert batch.shape == (2, 3)
    assert batch[1, 2].item() == pytest.approx(si_sdr(estimate[1, 2], reference).item(), abs=1e-9)
    with pytest.raises(ShapeError, match="same number of samples"):
        si_sdr(estimate, reference[:49])


def test_si_sdr_equals_torchmetrics():
    # Its eps is 1.2e-7 instead of 1e-8; with this much energy neither is seen.
    audio = pytest.importorskip("torchmetrics.audio", reason="torchmetrics is not installed")
    rng = torch.Generator().manual_seed(1)
    reference = torch.randn(5, 22_050, generator=rng)
    noise = torch.randn(5, 22_050, generator=rng)
    levels = torch.tensor([3.0, 1.0, 0.3, 0.03, 0.003])[:, None]
    estimate = 1.7 * reference + levels * noise
    theirs = audio.ScaleInvariantSignalDistortionRatio(zero_mean=False)
    for e, r in zip(estimate, reference, strict=True):
        assert si_sdr(e, r).item() == pytest.approx(theirs(e[None], r[None]).item(), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_improvement_equals_the_plain_computation(track, dtype):
    estimates, references, mixture, rate = track
    as_given = [torch.from_numpy(x).to(dtype) for x in (estimates, references, mixture)]
    scores = score_windows(*as_given, rate=rate)
    # The plain computation sees the same rounded samples.
    seen = [x.double().numpy() for x in as_given]
    published = scores.improvement[:, scores.kept].mean(1)
    assert published.tolist() == pytest.approx(plain_improvement(*seen, rate), abs=1e-4)
    # The silent stem with a silent estimate is worth almost 100 dB in the published mean.
    assert published[3] > 70
    # Short last window: 19.3 s is 9 windows, the last of 3.3 s.
    assert scores.si_sdr.shape == (4, 9)
    assert scores.windows[-1] == (3200, 3860)
    assert not scores.kept.all()
    assert scores.kept.any()


def test_stacking_of_windows_changes_nothing(track, monkeypatch):
    estimates, references, mixture, rate = (
        torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in track
    )
    one_by_one = score_windows(estimates, references, mixture, rate)
    monkeypatch.setattr(
        "mgdm_audio.metrics.si_sdr._CHUNK_ELEMENTS", {"cpu": 4 * 4 * rate * 3, "other": 1}
    )
    stacked = score_windows(estimates, references, mixture, rate)
    assert torch.allclose(one_by_one.si_sdr, stacked.si_sdr, atol=1e-9)
    assert torch.equal(one_by_one.active, stacked.active)


def test_perfect_estimates_and_the_mixture_itself(track):
    _, references, mixture, rate = (
        torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in track
    )
    perfect = score_windows(references, references, mixture, rate)
    assert perfect.improvement[active_stems(perfect)].min() > 60
    nothing = score_windows(mixture.expand_as(references), references, mixture, rate)
    assert torch.allclose(nothing.improvement, torch.zeros_like(nothing.improvement), atol=1e-9)


def test_a_track_without_windows_has_no_score():
    zeros = torch.zeros(2, 100)
    scores = score_windows(zeros, zeros, zeros[0], rate=100)
    assert scores.windows == []
    assert scores.improvement.shape == (2, 0)


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="same shape"):
        score_windows(torch.zeros(4, 100), torch.zeros(4, 99), torch.zeros(99), rate=10)
