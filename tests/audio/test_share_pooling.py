"""Pooling of shares: sums are kept, what repeats is decided together, what does not stays."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling import share_pooling, stem_sampler
from mgdm_audio.sampling.chunk_stream import PADDING, ChunkStream
from mgdm_audio.sampling.presets import PRESETS
from mgdm_audio.sampling.share_pooling import pool_shares
from mgdm_audio.sampling.shares import shares_of
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_core.errors import SettingsError
from tests.audio.tiny_stems_prior import save_tiny_stems

SPECTRAL = SpectralTransform(512, 128)
NOTE = 4096


def _noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _note(frequency):
    t = torch.arange(NOTE) / 8000
    return 0.1 * torch.sin(2 * torch.pi * frequency * t) * torch.hann_window(NOTE)


def _decided(shares, frequencies):
    """Two stems of notes, of which the first stem has these shares."""
    first = torch.cat([s * _note(f) for s, f in zip(shares, frequencies)])
    both = torch.cat([_note(f) for f in frequencies])
    return torch.stack([first, both - first])


def _share_of_notes(stems):
    energy = stems.reshape(2, -1, NOTE).norm(dim=-1)
    return (energy[0] / energy.sum(0)).tolist()


def test_the_sum_is_kept_whatever_the_stems():
    stems = 0.1 * _noise(3, 10_000)
    pooled = pool_shares(stems, SPECTRAL, 0.3)
    assert (pooled - stems).abs().max() > 1e-3
    torch.testing.assert_close(pooled.sum(0), stems.sum(0), atol=1e-5, rtol=0)


def test_a_note_that_returns_is_decided_by_all_its_occurrences():
    """Three times the right stem and once the other: the mean of the log-odds decides."""
    stems = _decided([0.9, 0.9, 0.2, 0.9], [440] * 4)
    found = _share_of_notes(pool_shares(stems, SPECTRAL, 0.04))
    odds = torch.tensor([0.9, 0.9, 0.2, 0.9]).logit().mean().sigmoid()
    assert found == pytest.approx([float(odds)] * 4, abs=0.03)


def test_what_sounds_otherwise_keeps_its_own_share():
    stems = _decided([0.9, 0.2, 0.9], [440, 2000, 440])
    found = _share_of_notes(pool_shares(stems, SPECTRAL, 0.04))
    assert found == pytest.approx([0.9, 0.2, 0.9], abs=0.02)


def test_shares_that_agree_do_not_move():
    both = 0.1 * _noise(1, 20_000)
    stems = torch.cat([0.7 * both, 0.3 * both])
    torch.testing.assert_close(pool_shares(stems, SPECTRAL, 0.5), stems, atol=1e-5, rtol=0)


def test_it_is_the_sum_over_all_pairs_of_frames_written_out(monkeypatch):
    stems = 0.1 * _noise(2, 3000, seed=1) * torch.tensor([[1.0], [0.4]])
    monkeypatch.setattr(share_pooling, "_bands", lambda bins: [(0, bins)])
    pooled = pool_shares(stems, SPECTRAL, 0.2)
    spectrum = SPECTRAL.forward(stems)
    logs, level = shares_of(spectrum).log(), torch.log1p(spectrum.sum(0).abs() / 0.01)
    mean = torch.zeros_like(logs)
    for i in range(logs.shape[2]):
        weights = [torch.exp(-(a - level[:, i]).square().mean() / 0.2) for a in level.T]
        mean[:, :, i] = sum(w * v for w, v in zip(weights, logs.unbind(2))) / sum(weights)
    expected, share = mean.softmax(0), logs.exp()
    scaled = spectrum * expected / share
    scaled = scaled + expected * (spectrum.sum(0) - scaled.sum(0))
    torch.testing.assert_close(pooled, SPECTRAL.inverse(scaled, 3000), atol=2e-5, rtol=0)


def test_a_callers_autocast_does_not_reach_it():
    stems = _decided([0.9, 0.2, 0.9], [440, 2000, 440])
    expected = pool_shares(stems, SPECTRAL, 0.04)
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_shares(stems, SPECTRAL, 0.04)
    torch.testing.assert_close(found, expected)


def test_loud_frames_are_compared_as_in_float64():
    """Their levels are large, and what differs between them is not."""
    ramp = torch.linspace(0.1, 0.9, 12_000)
    tone = torch.sin(2 * torch.pi * 440 / 8000 * torch.arange(12_000))
    stems = 1000 * torch.stack([ramp * tone, (1 - ramp) * tone]) + 10 * _noise(2, 12_000)
    found = pool_shares(stems, SPECTRAL, 1e-3)
    exact = pool_shares(stems.double(), SPECTRAL, 1e-3).float()
    torch.testing.assert_close(found, exact, atol=0.3, rtol=0)


def test_rows_at_a_time_do_not_matter(monkeypatch):
    stems = 0.1 * _noise(2, 12_345, seed=2)
    whole = pool_shares(stems, SPECTRAL, 0.1)
    monkeypatch.setattr(share_pooling, "_ROWS", 7)
    torch.testing.assert_close(pool_shares(stems, SPECTRAL, 0.1), whole, atol=1e-6, rtol=0)


def test_a_reflection_has_no_say():
    """A chunk's reflected ends look like the recording and are decided upon played backwards."""
    heard = _decided([0.9, 0.9], [440, 440])
    wrong = _decided([0.1, 0.1], [440, 440])
    stems = torch.cat([wrong, heard, wrong], -1)
    pooled = pool_shares(stems, SPECTRAL, 0.04, slice(2 * NOTE, 4 * NOTE))
    assert _share_of_notes(pooled)[2:4] == pytest.approx([0.9, 0.9], abs=0.02)
    assert _share_of_notes(pool_shares(stems, SPECTRAL, 0.04))[2:4] != pytest.approx(
        [0.9] * 2, abs=0.3
    )


@pytest.mark.parametrize("shift", [0, PADDING])
@pytest.mark.parametrize("count", [1, 300, 33_000, 265_000])
def test_a_stream_pools_what_was_recorded(tmp_path, monkeypatch, count, shift):
    """No frame that only a reflection holds is among those that have a say."""
    prior = load_prior(str(save_tiny_stems(tmp_path / "tiny.safetensors")), device="cpu")
    seen = []

    def watched(stems, spectral, bandwidth, heard):
        seen.append((stems.shape[-1], heard))
        return stems

    def run(problem, *args, **options):  # the network has no part in this
        return SimpleNamespace(x=torch.zeros(1, *problem.shape), trace=None)

    monkeypatch.setattr(stem_sampler, "pool_shares", watched)
    monkeypatch.setattr(stem_sampler, "sample", run)
    sampler = StemSampler(prior, replace(PRESETS["balanced"], chunk=6.0))
    pieces = ChunkStream(sampler, 0, count, shift=shift).push(0.1 * _noise(count))
    assert sum(piece.shape[-1] for piece in pieces) == count
    if count == 1:  # silent about its mean, so not sampled
        assert not seen
        return
    kept = 0
    assert seen[0][1].start == PADDING + shift
    for size, heard in seen:
        kept += heard.stop - heard.start
        assert 0 <= heard.start < heard.stop <= size
    overlaps = (len(seen) - 1) * (sampler.window - sampler.hop)
    assert kept - overlaps == count
    assert (len(seen) > 1) == (count > 200_000)


def test_a_recording_between_two_frames_is_pooled_with_the_nearest():
    stems = 0.1 * _noise(2, 5000)
    pooled = pool_shares(stems, SPECTRAL, 0.04, slice(2049, 2050))
    assert pooled.isfinite().all()
    torch.testing.assert_close(pooled.sum(0), stems.sum(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bins", [3, 6, 7, 129, 257, 1025, 4097])
def test_bands_cover_every_bin(bins):
    bands = share_pooling._bands(bins)
    covered = {b for first, width in bands for b in range(first, first + width)}
    assert covered == set(range(bins))


def test_silence_stays_silent_and_finite():
    pooled = pool_shares(torch.zeros(2, 5000), SPECTRAL, 0.04)
    assert not pooled.any()


def test_a_run_is_pooled_where_it_is_asked_for(tmp_path):
    prior = load_prior(
        str(save_tiny_stems(tmp_path / "tiny.safetensors")), device="cpu", precision="float32"
    )
    plain = replace(PRESETS["fast"], samples=2, temperature=1.0, pooling=0.0)
    mixture = 0.1 * _noise(StemSampler(prior, plain).padded_length(16_000))
    left = StemSampler(prior, plain).sample(mixture, 0, 1).samples
    pooled = StemSampler(prior, replace(plain, pooling=0.1)).sample(mixture, 0, 1).samples
    assert (left[0] - left[1]).abs().max() > 1e-4
    for found, own in zip(pooled, left):  # each by itself
        torch.testing.assert_close(found, pool_shares(own, prior.spectral, 0.1))


@pytest.mark.parametrize("value", [-0.1, 1e-39, 1.5, float("nan")])
def test_other_bandwidths_are_refused(value):
    with pytest.raises(SettingsError, match=r"pooling is 0 or lies in \[0.0001, 1\]; found"):
        SamplingSettings(pooling=value)
