"""Draws of whose a sound is: they sum to the mixture, and spread where the shares are divided."""

from dataclasses import replace

import pytest
import torch

from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.chunk_stream import ShiftedStreams
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_audio.sampling.recalibration import UNFITTED_SPREAD, recalibration, spread_of
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK, PositionStreams
from mgdm_audio.sampling.share_draws import _field, draw_shares
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_core.errors import SettingsError
from tests.audio.tiny_stems_prior import save_tiny_stems

SPECTRAL = SpectralTransform(512, 128)


def _tones(*frequencies, length=NOISE_BLOCK):
    t = torch.arange(length) / 8000
    return torch.stack([0.1 * torch.sin(2 * torch.pi * f * t) for f in frequencies])


def _white(draws, stems, length=NOISE_BLOCK, seed=0):
    return torch.randn(draws, stems, length, generator=torch.Generator().manual_seed(seed))


def test_every_draw_sums_to_the_mixture():
    stems = _tones(300, 1000, 1030) + 0.01 * _white(1, 3, seed=5)[0]
    drawn = draw_shares(stems, _white(4, 3), torch.full((3,), 2.0), SPECTRAL)
    assert (drawn.std(0) > 0).any()
    torch.testing.assert_close(drawn.sum(1), stems.sum(0).expand(4, -1), atol=1e-5, rtol=0)


def test_nothing_moves_without_spread():
    stems = _tones(300, 1000)
    drawn = draw_shares(stems, _white(2, 2), torch.zeros(2), SPECTRAL)
    torch.testing.assert_close(drawn, stems.expand(2, -1, -1), atol=1e-6, rtol=0)


def test_what_is_one_stems_alone_stays_and_what_is_divided_moves():
    apart, together = _tones(300, 2500), _tones(300, 300)
    spread = torch.ones(2)
    still = draw_shares(apart, _white(16, 2), spread, SPECTRAL)
    moved = draw_shares(together, _white(16, 2), spread, SPECTRAL)
    assert still.std(0).square().mean() < 1e-3 * moved.std(0).square().mean()
    # q' of a sound twice as large, the fields of the two being independent and normal.
    z = 2**0.5 * _white(1, 1, 10_000)
    expected = 2 * torch.sigmoid(z).std() * together.square().mean().sqrt()
    assert moved.std(0).square().mean().sqrt() == pytest.approx(float(expected), rel=0.2)


def test_the_field_has_unit_variance_everywhere_and_is_smooth():
    fields = torch.stack([_field(noise, SPECTRAL) for noise in _white(30, 4)]).flatten(0, 1)
    deviation = fields.std(0)
    assert deviation.mean() == pytest.approx(1, abs=0.08)
    assert deviation.min() > 0.6
    neighbours = (fields[..., 1:] * fields[..., :-1]).mean()
    assert neighbours > 0.85


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    path = save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")
    return load_prior(str(path), device="cpu")


def test_the_separation_is_the_run_and_the_draws_lie_around_it(prior):
    posterior, balanced = PRESETS["posterior"], PRESETS["balanced"]
    sampler = StemSampler(prior, replace(posterior, samples=4))
    mixture = 0.1 * _white(1, 1, sampler.padded_length(3 * NOISE_BLOCK), 2)[0, 0]
    seen = []
    result = sampler.sample(mixture, 0, 3, on_windows=seen.append)
    many = result.samples
    alone = StemSampler(prior, balanced).sample(mixture, 0, 3).samples[0]
    assert many.shape[0] == 4
    torch.testing.assert_close(result.mean, alone)
    torch.testing.assert_close(result.rows, torch.cat([alone[None], many]))
    torch.testing.assert_close(many.sum(1), alone.sum(0).expand(4, -1), atol=1e-4, rtol=0)
    assert (many.std(0) > 1e-4).any()
    # One run pays for all draws, and one sample is the run.
    evaluations = sum(seen)
    seen.clear()
    one = StemSampler(prior, replace(posterior, samples=1))
    torch.testing.assert_close(one.sample(mixture, 0, 3, on_windows=seen.append).mean, alone)
    assert sum(seen) == evaluations
    again = sampler.sample(mixture, 0, 3).samples
    assert torch.equal(again, many)
    assert not torch.allclose(sampler.sample(mixture, 0, 4).samples.std(0), many.std(0))


def test_draws_go_on_from_the_chunk_before(prior):
    sampler = StemSampler(prior, replace(PRESETS["posterior"], samples=3))
    length = sampler.padded_length(2 * NOISE_BLOCK)
    mixture = 0.1 * _white(1, 1, length, 2)[0, 0]
    known = 0.01 * _white(4, len(prior.stems), NOISE_BLOCK, 8)
    pinned = sampler.sample(mixture, 0, 3, pinned=known).samples
    assert (pinned - sampler.sample(mixture, 0, 3).samples).abs().max() > 1e-4
    streams = PositionStreams([1], NOISE_BLOCK, NOISE_BLOCK)
    shifted = PositionStreams([1], 0, 2 * NOISE_BLOCK).normal((2, 2 * NOISE_BLOCK))
    assert torch.equal(streams.normal((2, NOISE_BLOCK)), shifted[..., NOISE_BLOCK:])


def test_draws_are_as_wide_where_windows_are_shifted(prior):
    # Fields are bound to positions, so the streams that are averaged draw the same ones.
    samples = 2 * NOISE_BLOCK
    mixture = 0.1 * _white(1, 1, samples, 2)[0, 0]
    widths, drawn = [], []
    for shifts in (1, 2):
        settings = replace(PRESETS["posterior"], samples=4, shifts=shifts)
        (rows,) = ShiftedStreams(StemSampler(prior, settings), 3, samples).push(mixture)
        assert rows.shape == (5, len(prior.stems), samples)
        separation, draws = rows[0], rows[1:]
        torch.testing.assert_close(draws.sum(1), separation.sum(0).expand(4, -1), atol=1e-4, rtol=0)
        widths.append(draws.std(0).square().mean(-1).sqrt())
        drawn.append(draws)
    torch.testing.assert_close(widths[1], widths[0], rtol=0.1, atol=0)
    # And draw j is draw j, not an average of other draws.
    apart = [(d - d.mean(0)).flatten() for d in drawn]
    assert torch.corrcoef(torch.stack(apart))[0, 1] > 0.9


def test_settings_and_fits():
    assert sampling_settings("posterior").runs == 1
    assert sampling_settings("balanced", samples=5).runs == 5
    with pytest.raises(SettingsError, match="draws is one of chain, shares"):
        SamplingSettings(draws="cards")
    assert recalibration("no such prior") is None
    assert spread_of("no such prior", ("bass", "drums")) == [UNFITTED_SPREAD] * 2
