"""Expected improvement: from shares, through a fitted line, to stretches that are not reliable."""

import json

import numpy as np
import pytest
import torch

from mgdm_audio.cli.separate_run import confidence_lines
from mgdm_audio.metrics.si_sdr import si_sdr
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling import recalibration as fits
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.separation.confidence import Confidence, ConfidenceMeter, said_by_shares
from mgdm_audio.separation.separator import Separator
from tests.audio.tiny_stems_prior import save_tiny_stems

SPECTRAL = SpectralTransform(512, 128)
STEMS = ("bass", "drums", "guitar", "piano")
RATE = 8000


def _fit(slope=1.0, level=0.0, intercept=0.0, low=-2.0, high=3.0):
    line = fits.PlaneFit(slope, level, intercept, low, high)
    quality = fits.PlaneFit(1.0, 1.0, -2.0, -3.0, 3.0)
    planes = (dict.fromkeys(STEMS, line), dict.fromkeys(STEMS, quality))
    return fits.Recalibration("a test", dict.fromkeys(STEMS, 2.0), *planes)


def test_shares_say_the_improvement_that_coin_tosses_would_have():
    # Every bin is wholly one of two stems', by chance: 60 and 40 of 100.
    g = torch.Generator().manual_seed(0)
    mixture = SPECTRAL.forward(torch.randn(40_000, generator=g))
    toss = torch.rand(mixture.shape, generator=g) < 0.6
    estimate = torch.stack([0.6 * mixture, 0.4 * mixture])
    said, level, who = said_by_shares(SPECTRAL.inverse(estimate, 40_000), SPECTRAL)
    assert level[0] == pytest.approx(20 * np.log10(0.6 / 0.4), abs=0.01)
    torch.testing.assert_close(level[1], -level[0], atol=1e-3, rtol=0)
    assert who.tolist() == [1, 0]
    truth = torch.stack([mixture * toss, mixture * ~toss])
    error = (truth - estimate).abs().square().sum((1, 2))
    rest = (mixture - estimate).abs().square().sum((1, 2))
    expected = 10 * torch.log10(rest / error)
    torch.testing.assert_close(said, expected, atol=0.3, rtol=0)


def test_a_clean_split_says_more_than_a_divided_one():
    t = torch.arange(RATE) / RATE
    low, high = (0.1 * torch.sin(2 * torch.pi * f * t) for f in (200, 2000))
    clean = said_by_shares(torch.stack([low, high]), SPECTRAL).improvement
    divided = said_by_shares(torch.stack([low + 0.4 * high, 0.6 * high]), SPECTRAL).improvement
    assert (clean > divided + 10).all()
    # And so it is: the truth being the clean one.
    truth = torch.stack([low, high])
    true = si_sdr(torch.stack([low + 0.4 * high, 0.6 * high]), truth)
    assert (si_sdr(truth, truth) > true).all()


def test_meter_takes_blocks_of_any_length():
    g = torch.Generator().manual_seed(1)
    stems = 0.1 * torch.randn(4, round(2.7 * RATE), generator=g)
    stems[1] = 0
    results = []
    for size in (RATE // 3, RATE * 3):
        meter = ConfidenceMeter(STEMS, RATE, SPECTRAL, _fit(slope=0.5, level=-0.2, intercept=1.0))
        for block in stems.split(size, -1):
            meter.add(block)
        results.append(meter.result())
    first, second = results
    assert first.expected.shape == (4, 3)  # the last of 0.7 s
    np.testing.assert_allclose(first.expected, second.expected, rtol=1e-5)
    assert np.isnan(first.expected[1]).all()
    assert np.isnan(first.mean("drums"))
    said, level, _ = said_by_shares(stems[:, :RATE], SPECTRAL)
    expected = 0.5 * float(said[0]) - 0.2 * float(level[0]) + 1
    assert first.expected[0, 0] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(first.high[0] - first.expected[0], 3.0)
    np.testing.assert_allclose(first.low[0] - first.expected[0], -2.0)
    quality = float(said[0]) + float(level[0]) - 2
    assert first.si_sdr[0, 0] == pytest.approx(quality, abs=1e-4)
    np.testing.assert_allclose(first.si_sdr, second.si_sdr, rtol=1e-5)
    assert np.isnan(first.si_sdr[1]).all()


def _confidence():
    expected = np.full((4, 8), 9.0)
    expected[1] = np.nan
    expected[2, 2:5], expected[2, 6], expected[3, 7] = 1.0, -1.0, 2.0
    quality = np.where(expected < 5, -4.0, 6.0)
    quality[1] = np.nan
    who = np.full((4, 8), 3)
    who[2, 3] = 0
    return Confidence(STEMS, 1.0, expected, expected - 2, expected + 3, quality, who, "a test")


def test_stretches_are_named():
    said = _confidence()
    (stretch,) = said.unreliable()
    assert str(stretch) == "guitar 2 to 5 s: not reliable (SI-SDR -4.0 dB), confused with piano"
    assert len(said.unreliable(shortest=1.0)) == 3
    assert said.mean("guitar") == pytest.approx((4 * 9 + 3 - 1) / 8)
    record = json.loads(json.dumps(said.to_dict()))
    assert record["stems"]["drums"]["expected"] == [None] * 8
    assert record["not_reliable"] == [str(stretch)]
    lines = list(confidence_lines(record))
    assert lines[2].split() == ["drums", "silent"]
    assert " ".join(lines[3].split()) == "guitar 4.8 dB 2.8 to 7.8 1.0 dB 4 of 8 s"
    assert lines[-1] == str(stretch)


def test_a_quiet_stem_that_gains_much_and_is_mostly_wrong_is_not_reliable():
    expected, quality = np.full((4, 3), 8.6), np.array([[5.0], [5.0], [5.0], [-3.0]]).repeat(3, 1)
    who = np.full((4, 3), 2)
    said = Confidence(STEMS, 1.0, expected, expected, expected, quality, who, "a test")
    assert [s.stem for s in said.unreliable()] == ["piano"]


def test_a_separation_says_it_where_there_is_a_fit(tmp_path, monkeypatch):
    path = save_tiny_stems(tmp_path / "tiny.safetensors")
    prior = load_prior(str(path), device="cpu")
    g = np.random.default_rng(0)
    mix = 0.1 * g.standard_normal(2 * prior.rate).astype(np.float32)
    line = {"slope": 1.0, "level": 0.0, "intercept": 0.0, "low": -1.0, "high": 1.0}
    entry = {
        "fitted_on": "a test",
        "spread": dict.fromkeys(prior.stems, 1.0),
        "improvement": {stem: line for stem in prior.stems},
        "si_sdr": {stem: line for stem in prior.stems},
    }
    monkeypatch.setattr(fits, "_fits", lambda: {prior.checksum: entry})
    separator = Separator(prior, sampling_settings("fast"))
    result = separator(mix, prior.rate)
    assert result.confidence is not None
    assert result.confidence.stems == prior.stems
    assert result.confidence.expected.shape == (4, 2)
    assert result.to_dict()["confidence"]["fitted_on"] == "a test"
    # Silence says nothing, and neither does a prior that nothing was fitted for.
    assert separator(np.zeros_like(mix), prior.rate).confidence is None
    monkeypatch.setattr(fits, "_fits", dict)
    level = result.level
    stream = separator.open_stream(level, prior.rate, 1, len(mix))
    assert stream.confidence() is None
