"""The mix engineer's tools against what they are by definition."""

import numpy as np
import pytest

from recipes.music_prior.songs.song import STEMS, Track
from recipes.music_prior.sound import effects as fx
from recipes.music_prior.sound import production

RATE = 22_050


def response_db(impulse: np.ndarray, frequency: float) -> float:
    time = np.arange(len(impulse)) / RATE
    return float(20 * np.log10(abs(np.sum(impulse * np.exp(-2j * np.pi * frequency * time)))))


def sine(frequency: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * frequency * time, dtype=np.float64).astype(np.float32)[None]


@pytest.mark.parametrize("frequency", [300, 1000, 3000, 7000])
def test_a_minimum_phase_filter_has_the_curve_it_was_drawn_from(frequency):
    curve = fx.peak(RATE, 1000, 6, 1.0) + fx.low_pass(RATE, 5000) + fx.shelf(RATE, 200, -4, False)
    impulse = fx.minimum_phase(curve)
    drawn = np.interp(frequency, fx.frequencies(RATE), curve)
    assert response_db(impulse, frequency) == pytest.approx(drawn, abs=0.3)


def test_a_flat_curve_changes_nothing():
    impulse = fx.minimum_phase(fx.flat())
    assert impulse[0] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(impulse[1:]).max() < 1e-6


def test_minimum_phase_puts_the_energy_first():
    impulse = fx.minimum_phase(fx.low_pass(RATE, 2000, 3))
    assert np.sum(impulse[:32] ** 2) > 0.99 * np.sum(impulse**2)


def test_curves_are_what_their_names_say():
    grid = fx.frequencies(RATE)
    for curve in (fx.high_pass(RATE, 500, 3), fx.low_pass(RATE, 500, 3)):
        assert np.interp(500, grid, curve) == pytest.approx(-3.01, abs=0.05)
    assert np.interp(2000, grid, fx.peak(RATE, 2000, -5, 0.5)) == pytest.approx(-5, abs=0.01)
    assert fx.shelf(RATE, 1000, 4, high=True)[-1] == pytest.approx(4, abs=0.1)
    assert fx.shelf(RATE, 1000, 4, high=True)[0] == pytest.approx(0, abs=1e-3)


def test_convolution_keeps_length_and_is_convolution():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((2, 500)).astype(np.float32)
    impulse = rng.standard_normal((2, 40)).astype(np.float32)
    wanted = np.stack([np.convolve(s, i)[:500] for s, i in zip(sound, impulse)])
    np.testing.assert_allclose(fx.convolve(sound, impulse), wanted, atol=1e-4)
    assert fx.convolve(sound, impulse).dtype == np.float32


def test_decimation_keeps_what_is_below_and_removes_what_would_fold():
    low, high = sine(3000, 1.0, 2 * RATE), sine(16_000, 1.0, 2 * RATE)
    kept = fx.decimate(low)
    assert kept.shape == (1, RATE)
    np.testing.assert_allclose(kept[:, 100:-100], sine(3000)[:, 100:-100], atol=2e-3)
    assert np.abs(fx.decimate(high)[:, 100:-100]).max() < 2e-3


def test_drive_is_linear_when_soft_bounded_when_loud_and_silent_on_silence():
    x = sine(200)
    soft = fx.drive(1e-3 * x, 1.0)
    expected = 1e-3 * 0.5 * (x[:, 1:] + x[:, :-1])  # the mean of two samples
    np.testing.assert_allclose(soft[:, 1:], expected, atol=1e-7)
    loud = fx.drive(x, 50.0, bias=0.2)
    assert np.abs(loud).max() < 1.3
    assert np.array_equal(fx.drive(np.zeros((1, 10), np.float32), 5.0, 0.0), np.zeros((1, 10)))


def test_drive_aliases_less_than_the_clipper_sample_by_sample():
    tone = 3100.0  # harmonics at 9300, then 15 500 Hz, which folds to 6550 Hz
    x = sine(tone)
    spectrum = np.abs(np.fft.rfft(np.hanning(RATE) * fx.drive(x, 5.0)[0]))
    plain = np.abs(np.fft.rfft(np.hanning(RATE) * (5 * x / np.sqrt(1 + 25 * x * x))[0]))
    folded = slice(6545, 6556)
    assert 20 * np.log10(plain[folded].max() / spectrum[folded].max()) > 6


def test_a_room_keeps_the_direct_sound_and_adds_the_energy_asked_for():
    rng = np.random.default_rng(1)
    walls = fx.room(rng, RATE, 2, decay=0.5, wet=-12.0)
    tail = walls.copy()
    tail[:, 0] -= 1
    np.testing.assert_allclose(10 * np.log10(np.sum(tail**2, axis=1)), -12.0, atol=0.1)
    late = np.sum(tail[:, RATE // 4 :] ** 2)
    assert late < 0.1 * np.sum(tail**2)
    assert not np.array_equal(walls, fx.room(rng, RATE, 2, 0.5, -12.0))


def test_an_echo_comes_back_later_and_softer():
    echoed = fx.echo(np.ones((1, 1), np.float32), RATE, 0.1, -6.0206, 2)
    assert np.flatnonzero(echoed[0]).tolist() == [0, 2205, 4410]
    np.testing.assert_allclose(echoed[0, [0, 2205, 4410]], [1, 0.5, 0.25], atol=1e-4)


def test_active_rms_leaves_silence_out():
    x = np.concatenate([0.2 * sine(441), np.zeros((1, 5 * RATE), np.float32)], axis=1)
    assert fx.active_rms(x, RATE) == pytest.approx(0.2 / np.sqrt(2), rel=1e-3)
    assert fx.active_rms(np.zeros((1, RATE), np.float32), RATE) == 0.0


@pytest.mark.parametrize("program", [0, 4, 24, 27, 30, 33])
def test_every_chain_is_finite_and_keeps_the_length(program):
    stem = {0: "piano", 4: "piano", 33: "bass"}.get(program, "guitar")
    track = Track(stem, program, (), role="power")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sound = production.produce_track(0.3 * sine(220, 2.0), track, program, rng, RATE)
        assert fx.active_rms(sound, RATE) == pytest.approx(0.1, rel=0.02)
        sound = production.produce_stem(sound, stem, production.draw_space(rng), rng, RATE)
        assert sound.shape == (1, 2 * RATE)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()


def test_levels_are_those_of_a_mix_and_absent_stems_stay_silent():
    rng = np.random.default_rng(0)
    levels, relative = [], []
    for _ in range(200):
        stems = rng.standard_normal((4, 1, RATE)).astype(np.float32)
        stems *= 10 ** rng.uniform(-3, 1, (4, 1, 1)).astype(np.float32)
        stems[3] = 0
        out = production.set_levels(stems.copy(), rng, RATE)
        assert not out[3].any()
        assert max(np.abs(out).max(), np.abs(out.sum(0)).max()) <= 1.0001
        # one gain per stem: the sound is the same
        gain = out[0, 0, 0] / stems[0, 0, 0]
        np.testing.assert_allclose(out[0], gain * stems[0], rtol=1e-4)
        levels.append(np.sqrt(np.mean(out.sum(0) ** 2)))
        rms = np.sqrt(np.mean(out[:, 0] ** 2, axis=1))
        relative.append(20 * np.log10(rms[1] / rms[0]))
    assert 0.08 < np.median(levels) < 0.12
    means = {stem: production.STEM_LEVELS[stem][0] for stem in STEMS}
    assert np.mean(relative) == pytest.approx(means["drums"] - means["bass"], abs=1.0)
