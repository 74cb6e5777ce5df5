"""Correction of shares: sums are kept, values mean what they say, and nothing is done unasked."""

from dataclasses import replace

import pytest
import torch

from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling import recalibration
from mgdm_audio.sampling.presets import PRESETS
from mgdm_audio.sampling.share_recalibration import (
    PRESENT,
    ShareFit,
    between_knots,
    recalibrate_shares,
)
from mgdm_audio.sampling.stem_sampler import StemSampler
from tests.audio.tiny_stems_prior import save_tiny_stems

SPECTRAL = SpectralTransform(512, 128)
RATE = 8000


def _noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _values(power, weight, present):
    table = torch.tensor([power, weight, present])
    return table[..., None].expand(3, len(power), SPECTRAL.bins)


def _parts(*shares, seconds=1.0):
    """One noise, divided into stems."""
    return torch.tensor(shares)[:, None] * 0.1 * _noise(1, int(seconds * RATE))


def _found(stems):
    return (stems.norm(dim=1) / stems.sum(0).norm()).tolist()


def test_the_sum_is_kept_and_usual_values_change_nothing():
    stems = 0.1 * _noise(3, 10_001)
    g = torch.Generator().manual_seed(1)
    corrected = recalibrate_shares(stems, SPECTRAL, torch.randn(3, 3, 257, generator=g))
    assert (corrected - stems).abs().max() > 1e-2
    torch.testing.assert_close(corrected.sum(0), stems.sum(0), atol=1e-5, rtol=0)
    same = recalibrate_shares(stems, SPECTRAL, _values([1.0] * 3, [0.0] * 3, [0.0] * 3))
    torch.testing.assert_close(same, stems, atol=1e-6, rtol=0)


def test_powers_and_weights_are_of_the_logarithms():
    stems = _parts(0.8, 0.2)
    squared = recalibrate_shares(stems, SPECTRAL, _values([2.0, 2.0], [0.0, 0.0], [0.0, 0.0]))
    assert _found(squared) == pytest.approx([0.64 / 0.68, 0.04 / 0.68], abs=1e-4)
    log3 = torch.tensor(3.0).log().item()
    tripled = recalibrate_shares(stems, SPECTRAL, _values([1.0, 1.0], [0.0, log3], [0.0, 0.0]))
    assert _found(tripled) == pytest.approx([0.8 / 1.4, 0.6 / 1.4], abs=1e-4)


@pytest.mark.parametrize(
    ("part", "applied"), [(1e-5, 0.0), (PRESENT, 0.5), (0.9, 1.0)], ids=["absent", "some", "loud"]
)
def test_who_is_heard_is_believed_more(part, applied):
    """The further offset applies as a sigmoid of the logarithm of the stem's part in the whole."""
    stems = _parts(1 - part, part)
    corrected = recalibrate_shares(stems, SPECTRAL, _values([1.0, 1.0], [0.0, 0.0], [0.0, 0.7]))
    odds = part / (1 - part) * torch.tensor(0.7 * applied).exp().item()
    assert _found(corrected)[1] == pytest.approx(odds / (1 + odds), rel=0.01, abs=1e-3)


def test_silence_stays_silent():
    stems = torch.zeros(2, 4000)
    values = _values([0.5, 2.0], [1.0, -1.0], [0.0, 3.0])
    assert not recalibrate_shares(stems, SPECTRAL, values).any()


def test_between_knots_values_change_linearly_and_beyond_them_not():
    knots = between_knots([1000.0, 2000.0, 3000.0], SPECTRAL, RATE)
    torch.testing.assert_close(knots.sum(0), torch.ones(SPECTRAL.bins))
    found = torch.tensor([1.0, 2.0, 5.0]) @ knots
    hz = torch.arange(SPECTRAL.bins) * RATE / 512
    at = {float(f): float(v) for f, v in zip(hz, found)}
    assert (at[0.0], at[1000.0], at[1500.0], at[2000.0]) == pytest.approx((1.0, 1.0, 1.5, 2.0))
    assert (at[2500.0], at[4000.0]) == pytest.approx((3.5, 5.0))


def test_a_stem_without_a_fit_stays_as_it_is():
    fit = ShareFit([100.0, 200.0], {"a": [2.0, 3.0]}, {"b": [0.5, 0.6]}, {})
    found = fit.values(("b", "a", "c"))
    assert found[0].tolist() == [[1, 1], [2, 3], [1, 1]]
    torch.testing.assert_close(found[1], torch.tensor([[0.5, 0.6], [0, 0], [0, 0]]))
    assert not found[2].any()


def test_the_sampler_corrects_for_the_prior_that_was_fitted_if_asked(tmp_path, monkeypatch):
    stems = ("bass", "drums", "guitar", "piano", "other")
    prior = load_prior(
        str(save_tiny_stems(tmp_path / "tiny.safetensors", stems=stems)), device="cpu"
    )
    closed = closed_prior(prior, ["other"])
    mixture = 0.1 * _noise(65_536)
    plain = replace(PRESETS["balanced"], recalibrated=False)

    def run(prior, settings):
        return StemSampler(prior, settings).sample(mixture, 0, 0).mean

    before = {p: run(p, plain) for p in (prior, closed)}
    torch.testing.assert_close(run(prior, PRESETS["balanced"]), before[prior], atol=0, rtol=0)
    shares = {"hz": [0.0], "power": {}, "weight": {"guitar": [2.0]}, "present": {"other": [1.0]}}
    entry = {"fitted_on": "a test", "spread": {}, "improvement": {}, "si_sdr": {}, "shares": shares}
    monkeypatch.setattr(recalibration, "_fits", lambda: {prior.checksum: entry})
    for p, stem_count in ((prior, 5), (closed, 4)):
        found = run(p, PRESETS["balanced"])
        assert found.shape == (stem_count, 65_536)
        assert found[2].norm() > 1.2 * before[p][2].norm()
        torch.testing.assert_close(found.sum(0), before[p].sum(0), atol=1e-5, rtol=0)
        expected = recalibration.recalibrated(before[p], p, prior.checksum)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(run(p, plain), before[p], atol=0, rtol=0)
