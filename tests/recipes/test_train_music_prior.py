"""Training of the bundled prior: batches, corruption, loss, resume, export, validation."""

import csv
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.priors.checkpoint.store import load_prior, read_header
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.priors.stft_unet.network import STFTUNet, STFTUNetConfig
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.commands import main
from recipes.music_prior.sound.validation_sets import ValidationSet
from recipes.music_prior.training import validate as validation
from recipes.music_prior.training.average import average_checkpoints
from recipes.music_prior.training.batches import BatchStream, draw_batch, random_texture
from recipes.music_prior.training.corruption import (
    CorruptionSettings,
    Levels,
    corrupt,
    draw_absent,
    draw_levels,
    random_leak,
)
from recipes.music_prior.training.data import (
    DataSettings,
    SegmentPool,
    ShardSource,
    average_power,
)
from recipes.music_prior.training.export import export, network_from_checkpoint, read_network
from recipes.music_prior.training.kit import slim
from recipes.music_prior.training.loss import PowerAverage, choose_bins, denoising_loss
from recipes.music_prior.training.presets import PRESETS, TrainSettings, preset
from recipes.music_prior.training.sources import pack
from recipes.music_prior.training.train import BEFORE_DECAY, CHECKPOINT, learning_rate, train
from recipes.music_prior.training.validate import (
    denoising_sdr,
    read_prior,
    separator,
    unknown_share,
    validate,
)
from tests.audio.tiny_stems_prior import save_tiny_stems, song

TINY = STFTUNetConfig(
    n_fft=64, hop=32, bands=8, min_band=2, widths=(8, 8), blocks=(1, 1), heads=2, embedding=8
)


class Tones:
    """Songs of four stems in registers of their own; number i is always the same."""

    segment = 4096

    def __init__(self, rows=(0.02, 0.07, 0.17, 0.35)):
        self.rows = rows
        self.made = []

    def item(self, number):
        rng = np.random.default_rng([7, number])
        t = np.arange(self.segment)
        stems = [
            0.07 * np.cos(2 * np.pi * (f * rng.uniform(0.8, 1.25) * t + rng.random()))
            for f in self.rows
        ]
        return np.stack(stems).astype(np.float32)

    def stream(self, start):
        number = start
        while True:
            self.made.append(number)
            yield self.item(number)
            number += 1


def settings_of(**changes):
    base = TrainSettings(
        network=TINY,
        data=DataSettings(batch=2, crop=1024, window=12, initial=6, items_per_step=1.5),
        steps=4,
        warmup_steps=1,
        decay_steps=2,
        compile=False,
    )
    return replace(base, **changes)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stream_of(seed=0):
    return torch.Generator().manual_seed(seed)


def near(sigma):
    """Levels of states near the mixture only."""
    return Levels(sigma, torch.zeros(len(sigma), dtype=torch.bool))


class TestCorruption:
    def spectra(self, items=3, seed=0):
        return SpectralTransform(128, 32).forward(
            0.05 * torch.randn(items, 4, 2000, generator=stream_of(seed))
        )

    def test_leak_moves_sound_and_keeps_the_sum(self):
        clean = self.spectra()
        leak = random_leak(clean, CorruptionSettings(), stream_of(1))
        assert leak.abs().mean() > 0.05 * clean.abs().mean()
        torch.testing.assert_close(leak.sum(1), torch.zeros_like(leak.sum(1)), atol=1e-6, rtol=0)

    def test_a_silent_song_leaks_nothing(self):
        clean = torch.zeros_like(self.spectra())
        assert not random_leak(clean, CorruptionSettings(), stream_of(1)).abs().any()

    def test_leaking_stem_stays_between_nothing_and_itself(self):
        """Shares lie in [0, 1]: a lone stem loses at most all of itself, others gain its phase."""
        clean = self.spectra()
        clean[:, 1:] = 0
        after = clean + random_leak(clean, CorruptionSettings(), stream_of(2))
        share = (after / clean[:, :1]).nan_to_num()
        assert share.imag.abs().max() < 1e-3
        assert share.real.min() > -1e-4
        assert share.real.max() < 1 + 1e-4

    @pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.5])
    def test_cross_talk_vanishes_with_the_level(self, sigma):
        clean = self.spectra(items=8)
        settings = CorruptionSettings(cross_talk=1.0, quiet_noise=1.0)
        out = corrupt(
            clean, torch.zeros_like(clean), near(torch.full((8,), sigma)), settings, stream_of(3)
        )
        size = (out - clean).abs().square().mean((1, 2, 3)).sqrt()
        assert (size <= sigma * (1 + 1e-4)).all()
        assert size.max() > 0

    def test_without_cross_talk_it_is_white_noise(self):
        clean, noise = self.spectra(), self.spectra(seed=9)
        sigma = torch.tensor([0.1, 0.2, 0.3])
        out = corrupt(clean, noise, near(sigma), CorruptionSettings(cross_talk=0.0), stream_of(3))
        torch.testing.assert_close(out, clean + sigma[:, None, None, None] * noise)

    def test_levels_follow_their_law(self):
        settings = CorruptionSettings(sigma_median=0.1, sigma_spread=1.2)
        logs = draw_levels(4000, settings, stream_of(4)).sigma.log()
        assert abs(float(logs.median()) - math.log(0.1)) < 0.01
        assert abs(float(logs.std()) - 1.2) < 0.05

    def test_diffusion_states_are_clean_stems_in_white_noise_at_any_level(self):
        settings = CorruptionSettings(sigma_median=0.1, diffusion=0.5, sigma_min=1e-3, sigma_max=3)
        levels = draw_levels(2000, settings, stream_of(4))
        assert int(levels.diffusion.sum()) == 1000
        place = (levels.sigma[levels.diffusion] / 1e-3).log() / math.log(3000)
        assert (place.sort().values - torch.linspace(0, 1, 1000)).abs().max() < 0.05
        some = Levels(levels.sigma[:8], torch.arange(8) % 2 == 0)
        clean, noise = self.spectra(8), self.spectra(8, seed=9)
        out = corrupt(clean, noise, some, CorruptionSettings(cross_talk=1.0), stream_of(3))
        plain = clean + some.sigma[:, None, None, None] * noise
        difference = (out - plain).abs().amax((1, 2, 3))
        assert difference[::2].max() < 1e-6
        assert difference[1::2].min() > 1e-4

    def test_only_silent_stems_are_told_and_nothing_leaks_into_them(self):
        clean = self.spectra(40)
        clean[:, 2] = 0
        clean[::2, 0] = 0
        clean[0] = 0
        settings = CorruptionSettings(cross_talk=1.0, blind=0.5, told_absent=0.5)
        absent = draw_absent(clean, settings, stream_of(1))
        told = absent.any(1)
        assert 8 < int(told.sum()) < 32
        assert not told[0]
        silent = ~clean.abs().amax((2, 3)).bool()
        assert torch.equal(absent[told], silent[told])
        power = torch.rand(4, 65) + 0.1
        leak = random_leak(clean, settings, stream_of(2), power, absent)
        assert not leak[absent].abs().any()
        torch.testing.assert_close(leak.sum(1), torch.zeros_like(leak.sum(1)), atol=1e-5, rtol=0)
        assert draw_absent(clean, CorruptionSettings(), stream_of(1)) is None

    def test_levels_of_a_batch_are_spread(self):
        """One level in every quarter of the law, whatever the draw."""
        for seed in range(20):
            settings = CorruptionSettings(sigma_median=0.1, sigma_spread=1.2)
            sigma = draw_levels(4, settings, stream_of(seed)).sigma.sort().values
            normal = (sigma / 0.1).log() / 1.2
            quantile = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
            assert ((quantile * 4).floor() == torch.arange(4)).all()


@pytest.mark.parametrize("change", [{"quiet_power": -1.0}, {"blind": 1.5}, {"knots": 1}])
def test_refuses_corruption_without_sense(change):
    with pytest.raises(SettingsError):
        CorruptionSettings(**change)


class TestLoss:
    def test_skip_of_edm_on_white_stems_scores_one(self):
        sigma_data, sigma = 0.05, torch.tensor([0.01, 0.05, 0.4])
        transform = SpectralTransform(256, 64)
        clean = transform.forward(sigma_data * torch.randn(3, 4, 30_000, generator=stream_of()))
        noise = transform.forward(torch.randn(3, 4, 30_000, generator=stream_of(1)))
        noisy = clean + sigma[:, None, None, None] * noise
        skip = (sigma_data**2 / (sigma_data**2 + sigma**2))[:, None, None, None] * noisy
        losses = denoising_loss((skip.real, skip.imag), clean, sigma, sigma_data)
        torch.testing.assert_close(losses, torch.ones(3, 4), atol=0.05, rtol=0)

    def test_perfect_scores_zero(self):
        clean = SpectralTransform(64, 16).forward(torch.randn(2, 4, 500, generator=stream_of()))
        sigma = torch.tensor([0.1, 1.0])
        assert denoising_loss((clean.real, clean.imag), clean, sigma, 0.05).abs().max() == 0

    def test_stems_count_alike_until_they_are_hardly_there(self):
        clean = SpectralTransform(64, 16).forward(torch.randn(1, 3, 500, generator=stream_of()))
        clean = clean * torch.tensor([0.1, 0.05, 0.005])[:, None, None]
        nothing = torch.zeros_like(clean)
        sigma = torch.tensor([100.0])
        loud, quiet, least = denoising_loss((nothing.real, nothing.imag), clean, sigma, 0.05)[0]
        assert float(quiet) == pytest.approx(float(loud), rel=0.01)
        # Its power is a hundredth of sigma_data^2, and 0.4 of that is what it is measured by.
        assert float(least) == pytest.approx(0.01 / 0.4, rel=0.2)

    def test_some_bins_estimate_the_error_of_all(self):
        """Over many draws the weighted error of some bins is that of all of them."""
        clean = SpectralTransform(256, 64).forward(torch.randn(1, 2, 2000, generator=stream_of()))
        clean = clean.transpose(2, 3)[..., :128]
        clean = clean * torch.linspace(1, 0.1, 128)
        nothing = torch.zeros(clean.shape)
        sigma, generator = torch.tensor([0.2]), stream_of(3)
        exact = denoising_loss((nothing, nothing), clean, sigma, 0.05)
        drawn = []
        for _ in range(400):
            chosen = choose_bins(128, 0.3, generator)
            assert len(chosen.bins) == len(chosen.bins.unique()) == 38
            part = nothing[..., chosen.bins]
            drawn.append(denoising_loss((part, part), clean, sigma, 0.05, chosen))
        torch.testing.assert_close(torch.stack(drawn).mean(0), exact, rtol=5e-3, atol=0)
        everything = denoising_loss(
            (nothing, nothing), clean, sigma, 0.05, choose_bins(128, 1.0, generator)
        )
        torch.testing.assert_close(everything, exact)

    def test_power_average_of_a_ramp(self):
        """The profile is t^gamma: of the values 1..n its mean is about n (gamma+1)/(gamma+2)."""
        average = PowerAverage({"w": torch.zeros(1, dtype=torch.float64)}, length=0.1)
        for step in range(1, 2001):
            average.update({"w": torch.full((1,), float(step), dtype=torch.float64)}, step)
        gamma = average.gamma
        expected = 2000 * (gamma + 1) / (gamma + 2)
        assert abs(float(average.values["w"]) / expected - 1) < 2e-3
        deviation = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
        assert abs(deviation - 0.1) < 1e-6

    def test_first_update_forgets_the_start(self):
        average = PowerAverage({"w": torch.full((1,), 9.0)}, length=0.05)
        average.update({"w": torch.ones(1)}, 1)
        assert float(average.values["w"]) == 1.0


class TestPool:
    def test_segments_by_number(self, tmp_path):
        source, settings = Tones(), DataSettings(batch=1, crop=64, window=10, initial=4)
        pool = SegmentPool(source, settings, tmp_path)
        pool.need(0, 4)
        for number in range(4):
            np.testing.assert_allclose(pool.get(number), source.item(number), atol=1e-4)
        pool.need(3, 13)
        pool.close()
        np.testing.assert_allclose(pool.get(12), source.item(12), atol=1e-4)

    def test_ring_is_used_again(self, tmp_path):
        settings = DataSettings(batch=1, crop=64, window=10, initial=4)
        first = SegmentPool(Tones(), settings, tmp_path, "a")
        first.need(0, 10)
        first.close()
        source = Tones()
        again = SegmentPool(source, settings, tmp_path, "a")
        again.need(0, 8)
        again.close()
        assert 0 not in source.made
        source = Tones()
        other = SegmentPool(source, settings, tmp_path, "b")
        other.need(0, 8)
        other.close()
        assert source.made[0] == 0

    def test_segments_that_were_overwritten_are_made_again(self, tmp_path):
        settings = DataSettings(batch=1, crop=64, window=10, initial=4)
        pool = SegmentPool(Tones(), settings, tmp_path, "a")
        pool.need(30, 40)
        pool.need(20, 30)
        pool.close()
        np.testing.assert_allclose(pool.get(20), Tones().item(20), atol=1e-4)

    def test_failure_of_the_renderer_reaches_the_trainer(self, tmp_path):
        class Broken(Tones):
            def stream(self, start):
                raise RuntimeError("no soundfont")
                yield

        pool = SegmentPool(Broken(), DataSettings(window=10, initial=4), tmp_path)
        with pytest.raises(MGDMError, match="no soundfont"):
            pool.need(0, 4)
        pool.close()

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 5000), st.floats(0, 5))
    def test_window_never_shrinks_nor_goes_back(self, step, rate):
        data = DataSettings(window=50, initial=10, items_per_step=rate)
        (a, b), (c, d) = data.span(step), data.span(step + 1)
        assert c >= a
        assert d >= b
        assert 10 <= b - a <= 50

    def test_batches_are_augmented_and_reproducible(self, tmp_path):
        settings = DataSettings(batch=16, crop=512, window=10, initial=8, remix=0.5, drop=0.3)
        pool = SegmentPool(Tones(), settings, tmp_path)
        a = draw_batch(pool, settings, 3, seed=1)
        assert np.array_equal(a, draw_batch(pool, settings, 3, seed=1))
        assert not np.array_equal(a, draw_batch(pool, settings, 4, seed=1))
        assert not np.array_equal(a, draw_batch(pool, settings, 3, seed=1, rank=1))
        pool.close()
        power = np.square(a).mean(-1)
        assert a.shape == (16, 4, 512)
        assert 0.1 < (power == 0).mean() < 0.5
        assert power[power > 0].std() > 0

    def test_what_is_drawn_ahead_is_what_would_be_drawn(self, tmp_path):
        settings = DataSettings(batch=2, crop=512, window=10, initial=4, items_per_step=2.0)
        expected = SegmentPool(Tones(), settings, tmp_path / "a")
        pool = SegmentPool(Tones(), settings, tmp_path / "b")
        batches = BatchStream(pool, settings, seed=1)
        for step in (0, 1, 2, 5):  # and one that was not
            drawn = draw_batch(expected, settings, step, seed=1)
            assert np.array_equal(batches.draw(step), drawn)
        pool.close()  # a batch that waits for segments is let go
        batches.close()
        expected.close()

    def test_another_speed_moves_all_stems_of_a_song_by_one_ratio(self, tmp_path):
        """Tones move in frequency; those of one song by the same factor, one of the eight."""
        still = DataSettings(
            batch=12, crop=2048, window=10, initial=8, remix=0.0, drop=0.0, speed=0
        )
        songs = Tones(rows=(0.01, 0.04, 0.1, 0.2))  # none leaves the band
        pool = SegmentPool(songs, still, tmp_path)
        stop = still.span(0)[1]
        pool.need(0, stop)

        def frequencies(stems):
            """Frequency of every row's strongest partial, in cycles per sample."""
            spectrum = np.abs(np.fft.rfft(stems * np.hanning(stems.shape[-1]), 1 << 16))
            return spectrum.argmax(-1) / (1 << 16)

        known = np.stack([frequencies(songs.item(i)) for i in range(stop)])
        moved = set()
        for item in draw_batch(pool, replace(still, speed=1.0), 0, seed=2):
            ratios = frequencies(item) / known
            agreeing = ratios.std(1) / ratios.mean(1)
            assert agreeing.min() < 2e-3
            moved.add(round(float(ratios[agreeing.argmin()].mean()), 2))
        assert len(moved) > 3
        assert moved <= {0.8, 0.83, 0.88, 0.87, 0.92, 1.09, 1.14, 1.2, 1.25}
        for item in draw_batch(pool, still, 0, seed=2):
            assert np.abs(frequencies(item) / known - 1).max(1).min() < 1e-3
        pool.close()

    def test_texture_keeps_energy_phase_and_silence(self):
        spectrum = torch.randn(3, 4, 33, 20, dtype=torch.complex64, generator=stream_of())
        spectrum[1, 2] = 0
        out = random_texture(spectrum, DataSettings(texture=0.3), stream_of(1))
        assert not out[1, 2].abs().any()
        power = spectrum.abs().square().mean((2, 3))
        torch.testing.assert_close(out.abs().square().mean((2, 3)), power)
        heard = spectrum.abs() > 0
        gain = (out / spectrum)[heard]
        assert gain.imag.abs().max() < 1e-3 * gain.real.max()
        assert gain.real.min() > 0
        # Louder bins gain or lose against quieter ones by a power of their ratio.
        a, b = spectrum[0, 0].abs().flatten().log(), out[0, 0].abs().flatten().log()
        slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
        assert abs(float(slope) - 1) > 0.01
        torch.testing.assert_close(b - b.mean(), slope * (a - a.mean()), atol=2e-3, rtol=0)
        same_again = random_texture(spectrum, DataSettings(texture=0.0), stream_of(1))
        torch.testing.assert_close(same_again, spectrum)

    def test_average_power_is_that_of_mixtures_of_rms_a_tenth(self):
        transform = SpectralTransform(128, 32)
        songs = [Tones().item(i) for i in range(6)]
        power = average_power(songs, transform)
        loud = average_power([5 * s for s in songs], transform)
        torch.testing.assert_close(power, loud, rtol=1e-4, atol=1e-9)
        # Incoherent tones: the stems' powers add up to the mixture's, 0.01 per sample. Parseval
        # counts every bin but the first and the last twice over n_fft bins.
        weights = torch.full((65,), 2.0)
        weights[[0, -1]] = 1
        assert abs(float((power.sum(0) * weights).sum() / 128) - 0.01) < 0.0015
        assert (power.argmax(1).diff() > 0).all()

    def test_silence_has_no_average_power(self):
        with pytest.raises(MGDMError, match="silent"):
            average_power([np.zeros((4, 512), np.float32)], SpectralTransform(128, 32))


class TestShards:
    def test_pack_and_read(self, tmp_path):
        source = Tones()
        written = pack(source, tmp_path, 5, per_shard=2)
        shards = ShardSource(tmp_path)
        assert len(list(tmp_path.glob("*.npy"))) == 3
        assert written < 5 * 4 * 4096 * 2 + 3 * 200
        stream = shards.stream(4)
        np.testing.assert_allclose(next(stream), source.item(4), atol=1e-4)
        np.testing.assert_allclose(next(stream), source.item(0), atol=1e-4)

    def test_empty_folder_says_what_to_do(self, tmp_path):
        with pytest.raises(MGDMError, match="pack"):
            ShardSource(tmp_path)


class TestTraining:
    def test_same_seed_same_weights(self, tmp_path):
        a = train(settings_of(steps=2), Tones(), tmp_path / "a")
        b = train(settings_of(steps=2), Tones(), tmp_path / "b")
        c = train(settings_of(steps=2, seed=1), Tones(), tmp_path / "c")
        assert same(a["network"], b["network"])
        assert same(a["average"], b["average"])
        assert not same(a["network"], c["network"])

    def test_resume_equals_uninterrupted_to_the_bit(self, tmp_path):
        whole = train(settings_of(), Tones(), tmp_path / "a")
        train(settings_of(), Tones(), tmp_path / "b", stop_after=2)
        train(settings_of(), Tones(), tmp_path / "b", stop_after=1)
        pieces = train(settings_of(), Tones(), tmp_path / "b")
        assert pieces["step"] == whole["step"] == 4
        assert same(whole["network"], pieces["network"])
        assert same(whole["average"], pieces["average"])
        for kind in ("exp_avg_sq", "momentum_buffer"):
            moments = [
                [v[kind] for v in s["optimizer"]["state"].values() if kind in v]
                for s in (whole, pieces)
            ]
            assert moments[0]
            assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))

    def test_a_slim_checkpoint_in_pieces_goes_on(self, tmp_path):
        whole = train(settings_of(), Tones(), tmp_path / "a", stop_after=2)
        pieces = slim(tmp_path / "a" / CHECKPOINT, tmp_path / "pieces", megabytes=0.02)
        assert len(pieces) > 2
        assert all(piece.stat().st_size <= 20_000 for piece in pieces)
        (tmp_path / "b").mkdir()
        joined = b"".join(piece.read_bytes() for piece in pieces)
        (tmp_path / "b" / CHECKPOINT).write_bytes(joined)
        state = torch.load(tmp_path / "b" / CHECKPOINT, weights_only=True)
        for name, value in whole["network"].items():
            torch.testing.assert_close(state["network"][name].float(), value, rtol=5e-3, atol=1e-12)
        assert train(settings_of(), Tones(), tmp_path / "b")["step"] == 4

    def test_a_mean_of_checkpoints_and_the_way_back_to_the_start(self, tmp_path):
        first = train(settings_of(), Tones(), tmp_path / "a", stop_after=2)
        export(tmp_path / "a" / CHECKPOINT, tmp_path / "start.safetensors")
        start = read_network(tmp_path / "start.safetensors")
        begun = train(settings_of(), Tones(), tmp_path / "b", stop_after=1, origin=start)
        ended = train(settings_of(), Tones(), tmp_path / "c", origin=start)
        paths = [tmp_path / folder / CHECKPOINT for folder in "bc"]
        average_checkpoints(paths, tmp_path / "mean.pt")
        average_checkpoints(paths, tmp_path / "none.pt", tmp_path / "start.safetensors", 0.0)
        average_checkpoints(paths, tmp_path / "half.pt", tmp_path / "start.safetensors", 0.5)
        mean, none, half = (
            torch.load(tmp_path / f"{name}.pt", weights_only=True)["average"]
            for name in ("mean", "none", "half")
        )
        assert not same(begun["average"], ended["average"])
        held = dict(start.named_parameters())
        for name, value in mean.items():
            between = (begun["average"][name] + ended["average"][name]) / 2
            torch.testing.assert_close(value, between)
            torch.testing.assert_close(none[name], held[name])
            torch.testing.assert_close(half[name], (value + held[name]) / 2)
        assert same({k: v.half() for k, v in held.items()}, {k: v.half() for k, v in none.items()})
        assert not same(first["average"], mean)
        with pytest.raises(SettingsError, match="share"):
            average_checkpoints(paths, tmp_path / "x.pt", share=1.5)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint"])
    def test_what_is_no_checkpoint_is_said(self, tmp_path, content):
        (tmp_path / CHECKPOINT).write_bytes(content)
        with pytest.raises(MGDMError, match="cut off"):
            train(settings_of(), Tones(), tmp_path)

    def test_the_log_has_no_line_twice(self, tmp_path):
        train(settings_of(), Tones(), tmp_path, stop_after=1, report_every=1)
        state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
        train(settings_of(), Tones(), tmp_path, stop_after=2, report_every=1)
        torch.save(state, tmp_path / CHECKPOINT)
        train(settings_of(), Tones(), tmp_path, report_every=1)
        lines = (tmp_path / "log.csv").read_text().splitlines()[1:]
        assert [int(line.split(",")[0]) for line in lines] == list(range(1, 5))

    def test_processor_time_and_audio_add_up_over_resumptions(self, tmp_path):
        """Columns of the log go on where a broken-off run stopped; a spent budget ends it."""
        train(settings_of(), Tones(), tmp_path, stop_after=2, report_every=1)
        train(settings_of(), Tones(), tmp_path, report_every=1)
        with (tmp_path / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        cpu = [float(row["cpu_seconds"]) for row in rows]
        assert cpu == sorted(cpu)
        assert cpu[0] > 0
        data = settings_of().data
        per_step = data.batch * data.crop / 22_050
        audio = [float(row["audio_seconds"]) for row in rows]
        assert audio == pytest.approx([per_step * i for i in range(1, 5)], rel=1e-5)
        spent = train(settings_of(), Tones(), tmp_path / "spent", cpu_seconds=1e-9)
        assert spent["step"] == 1

    def test_extension_goes_on_before_the_decay(self, tmp_path):
        train(settings_of(), Tones(), tmp_path)
        state = torch.load(tmp_path / BEFORE_DECAY, weights_only=True)
        assert state["step"] == 2
        torch.save(state, tmp_path / CHECKPOINT)
        longer = train(settings_of(steps=5), Tones(), tmp_path)
        direct = train(settings_of(steps=5), Tones(), tmp_path / "direct")
        assert same(longer["network"], direct["network"])

    def test_one_batch_can_be_learnt(self):
        """Network, corruption and loss fit together: a batch seen again and again is learnt."""
        clean_wave = torch.from_numpy(np.stack([Tones().item(i)[:, :1024] for i in range(4)]))
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(0)
            net = STFTUNet(TINY)
        clean = net.spectral.forward(clean_wave)
        white = net.spectral.forward(torch.randn(clean_wave.shape, generator=stream_of(1)))
        sigma = torch.tensor([0.02, 0.05, 0.1, 0.2])
        noisy = corrupt(clean, white, near(sigma), CorruptionSettings(cross_talk=1.0), stream_of(2))
        net.start_from_average(average_power(list(clean_wave.numpy()), net.spectral))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses = []
        for _ in range(40):
            turned = noisy.transpose(2, 3)
            estimate = net.denoise_parts(turned.real, turned.imag, sigma)
            loss = denoising_loss(estimate[:2], clean.transpose(2, 3), sigma, TINY.sigma_data)
            loss = loss.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]

    def test_reports_say_how_far_it_is(self, tmp_path):
        rows = []
        train(settings_of(), Tones(), tmp_path, progress=rows.append, report_every=2)
        assert [r["step"] for r in rows] == [2, 4]
        assert rows[-1]["eta_seconds"] == 0
        assert 0 < rows[-1]["loss"] < 3
        assert 0 <= rows[-1]["waiting_share"] <= 1

    def test_global_random_stream_is_left_alone(self, tmp_path):
        before = torch.random.get_rng_state()
        train(settings_of(steps=1, decay_steps=0), Tones(), tmp_path)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_another_network_does_not_resume(self, tmp_path):
        train(settings_of(), Tones(), tmp_path, stop_after=1)
        other = settings_of(network=replace(TINY, widths=(8, 16)))
        with pytest.raises(MGDMError, match="another network"):
            train(other, Tones(), tmp_path)

    def test_a_run_of_another_optimizer_does_not_resume(self, tmp_path):
        state = train(settings_of(), Tones(), tmp_path, stop_after=1)
        network = STFTUNet(TINY)
        state["optimizer"] = torch.optim.AdamW(network.parameters()).state_dict()
        torch.save(state, tmp_path / CHECKPOINT)
        with pytest.raises(MGDMError, match=r"another optimizer.*--init"):
            train(settings_of(), Tones(), tmp_path)

    def test_learning_rate_rises_stays_and_falls(self):
        settings = settings_of(steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
        rates = [learning_rate(settings, i) for i in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[10:80] == [1.0] * 70
        assert all(b < a for a, b in itertools.pairwise(rates[79:]))
        assert 0 < rates[-1] < 0.02

    def test_presets_survive_their_storage(self):
        for name in PRESETS:
            for dry in (False, True):
                chosen = preset(name, dry)
                assert TrainSettings.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
        with pytest.raises(SettingsError, match="cpu-2h"):
            preset("tpu")


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

    def test_a_checkpoint_is_measured_as_it_would_be_exported(self, tmp_path):
        train(settings_of(), Tones(), tmp_path / "run", identity="tones")
        prior = read_prior(tmp_path / "run" / CHECKPOINT)
        shipped = tmp_path / "shipped.safetensors"
        export(tmp_path / "run" / CHECKPOINT, shipped)
        for name, value in read_prior(shipped).network.state_dict().items():
            assert torch.equal(prior.network.state_dict()[name], value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3060, "0 h 51 min"), (3599, "1 h 0 min"), (7290, "2 h 2 min")]
)
def test_durations_are_not_rounded_up_to_hours(seconds, text):
    from recipes.music_prior.commands import hours

    assert hours(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["train", "--out", "{0}/run", "--data-dir", "{0}"], 1, "no .npy shards"),
        (["train", "--out", "{0}/run", "--data-dir", "{0}", "--steps", "0"], 2, "steps must be"),
        (["export", "{0}/nothing.pt"], 2, "does not exist"),
    ],
)
def test_an_error_is_one_line(tmp_path, arguments, code, text):
    result = CliRunner().invoke(main, [a.format(tmp_path) for a in arguments])
    assert result.exit_code == code
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ")
    assert text in line
