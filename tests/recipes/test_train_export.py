"""Weights exported from a training, and how they are validated."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.priors.checkpoint.store import load_prior, read_header
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_core.errors import MGDMError
from recipes.music_prior.commands import main
from recipes.music_prior.sound.validation_sets import ValidationSet
from recipes.music_prior.training import validate as validation
from recipes.music_prior.training.export import export, network_from_checkpoint, read_network
from recipes.music_prior.training.train import CHECKPOINT, train
from recipes.music_prior.training.validate import (
    alone_share,
    denoising_sdr,
    read_prior,
    separator,
    unknown_share,
    validate,
)
from tests.audio.tiny_stems_prior import save_tiny_stems, song

from .tiny_training import TINY, Tones, same, settings_of, stream_of


class TestExport:
    def run(self, tmp_path):
        train(settings_of(), Tones(), tmp_path, identity="tones")
        return tmp_path / CHECKPOINT

    def test_round_trip(self, tmp_path):
        checkpoint, path = self.run(tmp_path), tmp_path / "w.safetensors"
        header = export(checkpoint, path)
        assert read_header(path) == header
        assert header.network == "stft_unet"
        assert header.stems == ("bass", "drums", "guitar", "piano")
        assert header.training["steps"] == 4
        assert header.training["data"] == "tones"
        prior = load_prior(path, precision="float32")
        original, _ = network_from_checkpoint(checkpoint)
        x, sigma = 0.1 * torch.randn(1, 4, 900, generator=stream_of()), torch.tensor([0.05])
        with torch.no_grad():
            mine, theirs = prior.network(x, sigma), original(x, sigma)
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-2)
        assert torch.equal(prior.average_power, original.average_power)
        again = train(
            settings_of(steps=1, decay_steps=0, learning_rate=1e-9),
            Tones(),
            tmp_path / "next",
            origin=read_network(path),
        )
        torch.testing.assert_close(
            again["network"]["encoder.bias"], original.encoder.bias.detach(), atol=1e-3, rtol=0
        )

    def test_averaged_and_last_weights_differ(self, tmp_path):
        checkpoint = self.run(tmp_path)
        averaged = network_from_checkpoint(checkpoint)[0].state_dict()
        last = network_from_checkpoint(checkpoint, average=False)[0].state_dict()
        assert not same(averaged, last)

    def test_only_half_precision_is_shipped(self, tmp_path):
        with pytest.raises(MGDMError, match="float16"):
            export(tmp_path / "none", tmp_path / "w.safetensors", dtype=torch.float64)


class TestValidation:
    @pytest.fixture
    def prior(self, tmp_path):
        return read_prior(save_tiny_stems(tmp_path / "tiny.safetensors"))

    @pytest.fixture
    def songs(self):
        waves = np.stack([song(1.0, 22_050, 4, seed=seed) for seed in range(2)])
        waves *= 0.1 / np.sqrt(np.mean(np.square(waves.sum(1)), axis=1))[:, None, None]
        return ValidationSet("A", waves.astype(np.float32), "A-test")

    def test_denoising_of_the_untrained_network_is_known(self):
        """Under the skip of EDM, noise of the stems' own deviation leaves half the power: 3 dB."""
        stems = 0.05 * torch.randn(2, 4, 20_000, generator=stream_of(8))
        scores = denoising_sdr(STFTUNet(replace(TINY, sigma_data=0.05)).eval(), stems)
        for sigma, per_stem in scores.items():
            expected = 10 * math.log10((0.05**2 + sigma**2) / sigma**2)
            assert per_stem == pytest.approx([expected] * 4, abs=0.3)

    def test_stems_sum_to_the_mixture_whatever_they_are_batched_with(self, prior):
        mixtures = torch.from_numpy(song(1.0, 22_050, 2))
        run = separator(prior, sampling_settings("fast"))
        both = run(mixtures)
        assert both.shape == (2, 4, mixtures.shape[1])
        torch.testing.assert_close(both.sum(1), mixtures, atol=2e-3, rtol=0)
        assert torch.equal(run(mixtures[1:])[0], both[1])

    def test_the_truth_scores_high_and_the_mixture_nothing(self, prior, songs, monkeypatch):
        truth = torch.from_numpy(songs.stems)
        for factor, low, high in ((1.0, 60, 300), (0.0, -1e-3, 1e-3)):
            rest = truth.sum(1, keepdim=True) / 4
            given = iter(factor * truth + (1 - factor) * rest)

            def told(prior, sampling, given=given):
                return lambda mixtures: torch.stack([next(given) for _ in mixtures])

            monkeypatch.setattr(validation, "separator", told)
            result = validate(prior, [songs], sampling_settings("fast"))
            assert low < result["A-test"]["mean"] < high
        json.dumps(result)

    def test_a_fifth_stem_is_told_to_be_silent_and_takes_what_is_unknown(self, songs):
        unknown = torch.from_numpy(songs.stems[:, 0])
        other = torch.from_numpy(songs.stems[:, 1])
        estimates = torch.stack([0.25 * unknown, other, 0.75 * unknown], 1)
        shares = unknown_share(estimates, unknown)
        assert shares[[0, 2]].tolist() == pytest.approx([0.25, 0.75], abs=1e-5)
        correlated = float((unknown * other).sum() / unknown.square().sum())
        assert float(shares[1]) == pytest.approx(correlated, abs=1e-5)

    def test_who_plays_alone_is_known_or_not(self, songs):
        """By one who gives the half of everything to each of two stems, and one who knows."""
        guitar = torch.from_numpy(songs.stems[:, 2]).clone()
        guitar[0] = 0  # a song without it says nothing

        def split(mixtures, known):
            assert mixtures.square().mean(1).sqrt().tolist() == pytest.approx([0.1], rel=1e-4)
            return torch.stack([(1 - known) * mixtures, known * mixtures], 1)

        for known in (0.5, 1.0):
            shares = alone_share(lambda mixtures, known=known: split(mixtures, known), guitar)
            assert shares.tolist() == pytest.approx([1 - known, known], abs=1e-6)
        with pytest.raises(MGDMError, match="no song of the set"):
            alone_share(lambda mixtures: mixtures[:, None], 0 * guitar)

    def test_no_set_is_nothing_to_measure_on(self, tmp_path):
        result = CliRunner().invoke(main, ["validate", "--shared", str(tmp_path), "--sets", ""])
        assert result.exit_code == 2
        assert "--sets names at least one of A, B, C and U" in result.output

    def test_a_checkpoint_is_measured_as_it_would_be_exported(self, tmp_path):
        train(settings_of(), Tones(), tmp_path / "run", identity="tones")
        prior = read_prior(tmp_path / "run" / CHECKPOINT)
        shipped = tmp_path / "shipped.safetensors"
        export(tmp_path / "run" / CHECKPOINT, shipped)
        for name, value in read_prior(shipped).network.state_dict().items():
            assert torch.equal(prior.network.state_dict()[name], value)
