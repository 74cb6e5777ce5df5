"""Segments from a pool or from shards, and the batches drawn of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.errors import MGDMError
from recipes.music_prior.training.batches import (
    BatchStream,
    draw_batch,
    random_equaliser,
    random_texture,
)
from recipes.music_prior.training.data import (
    DataSettings,
    SegmentPool,
    SegmentsFrom,
    ShardSource,
    average_power,
)
from recipes.music_prior.training.sources import pack

from .tiny_training import Tones, stream_of


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

    def test_segments_of_other_stems_than_the_network_has_are_refused(self, tmp_path):
        pool = SegmentPool(Tones(), DataSettings(window=10, initial=4), tmp_path, stems=5)
        with pytest.raises(
            MGDMError, match=r"^no segments from tones: the network has 5 stems, the segments 4"
        ):
            pool.need(0, 4)
        pool.close()

    def test_failure_of_the_renderer_reaches_the_trainer(self, tmp_path):
        class Broken(Tones):
            name = "rendering songs"

            def stream(self, start):
                raise RuntimeError("no soundfont")
                yield

        pool = SegmentPool(Broken(), DataSettings(window=10, initial=4), tmp_path)
        with pytest.raises(MGDMError, match=r"^no segments from rendering songs: .*soundfont$"):
            pool.need(0, 4)
        pool.close()

    def test_a_failure_of_shards_is_not_one_of_the_renderer(self, tmp_path):
        pack(Tones(), tmp_path / "shards", segments=4)
        pool = SegmentPool(
            SegmentsFrom(ShardSource(tmp_path / "shards"), 2),
            DataSettings(window=10, initial=4),
            tmp_path / "pool",
            stems=5,
        )
        with pytest.raises(MGDMError, match=r"^no segments from the shards in .*shards: the netw"):
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

    def test_thinned_songs_are_one_to_three_of_their_stems_as_loud_as_all_were(self, tmp_path):
        whole = DataSettings(batch=64, crop=2048, window=10, initial=8, speed=0, drop=0.0)
        pool = SegmentPool(Tones(), whole, tmp_path)
        before = draw_batch(pool, whole, 0, seed=3)
        thinned = replace(whole, sparse=1.0)
        drawn = [draw_batch(pool, thinned, step, seed=3) for step in range(4)]
        sounding = (np.square(np.concatenate(drawn)).mean(-1) > 0).sum(1)
        assert set(sounding) == {1, 2, 3}
        assert np.bincount(sounding)[1:].min() > 0.2 * len(sounding)
        # The first item of a step is the same until it is thinned.
        first = drawn[0][0]
        rows = np.flatnonzero(np.square(first).mean(-1))
        power = np.square(before[0].sum(0)).mean()
        assert np.square(first.sum(0)).mean() == pytest.approx(power, rel=1e-4)
        for row in rows:  # and nothing but a gain has happened to what is kept
            ratio = first[row].std() / before[0][row].std()
            np.testing.assert_allclose(first[row], ratio * before[0][row], rtol=1e-3, atol=1e-6)
        assert np.array_equal(draw_batch(pool, replace(whole, sparse=0.0), 0, seed=3), before)
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


def test_less_augmentation_leaves_the_songs_as_they_are():
    settings = DataSettings(batch=4, crop=512, window=10, initial=8, texture=0.2)
    none = settings.augmented(0.0)
    assert (none.remix, none.equaliser_db, none.speed, none.texture) == (0, 0, 0, 0)
    assert settings.augmented(1.0) == settings
    spectrum = torch.randn(2, 4, 65, 9, dtype=torch.complex64, generator=stream_of(1))
    torch.testing.assert_close(random_texture(spectrum, none, stream_of(2)), spectrum)
    assert (random_equaliser(2, 4, 65, none, stream_of(2)) == 1).all()
    half = random_equaliser(2, 4, 65, settings.augmented(0.5), stream_of(2))
    torch.testing.assert_close(half.square(), random_equaliser(2, 4, 65, settings, stream_of(2)))
