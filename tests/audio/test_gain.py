"""Levels: relative to the recording, robust, and undone exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.sampling.level import SILENCE, TARGET_RMS, Level, LevelMeter, is_silent
from mgdm_core.errors import SettingsError, ShapeError

RATE = 8000


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def level_of(x, rate=RATE, block=None) -> Level:
    meter = LevelMeter(rate, x.shape[0])
    for start in range(0, x.shape[1], block or x.shape[1]):
        meter.add(x[:, start : start + (block or x.shape[1])])
    return meter.result()


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("scale", [1e-3, 0.3, 20.0])
def test_prior_hears_its_own_level(scale):
    x = noise(1, 4 * RATE) * scale
    assert rms(level_of(x).to_prior(x)) == pytest.approx(TARGET_RMS, rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-6, 3).map(lambda e: 10**e),
    st.integers(1, 4),
    st.floats(-2, 2),
    st.integers(0, 1000),
)
def test_scale_equivariance(scale, channels, offset, seed):
    """Loud or quiet, the prior hears the same, and the stems come back scaled."""
    x = 100 * (noise(channels, 3000, seed=seed) + offset)  # loud, so that 1e-6 of it is not silence
    x[:, 1000:2000] *= 1e-3
    reference, scaled = level_of(x), level_of(x * scale)
    heard, again = reference.to_prior(x), scaled.to_prior(x * scale)
    assert float((heard - again).abs().max()) < 1e-5 * float(heard.abs().max())
    back = reference.from_prior(heard), scaled.from_prior(again)
    assert float((back[0] * scale - back[1]).abs().max()) <= 1e-5 * float(back[1].abs().max())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5000), st.integers(100, 3000))
def test_blocks_do_not_matter(samples, block):
    x = noise(2, samples) + 0.2
    whole, parts = level_of(x), level_of(x, block=block)
    assert parts.gain == pytest.approx(whole.gain, rel=1e-9)
    torch.testing.assert_close(parts.offset, whole.offset, rtol=1e-9, atol=1e-12)
    assert parts.peak == pytest.approx(whole.peak)
    assert parts.silent == whole.silent


def test_offset_is_found_and_removed():
    x = noise(2, RATE) * 0.1 + torch.tensor([[0.7], [-0.4]])
    level = level_of(x)
    torch.testing.assert_close(level.offset.float(), torch.tensor([0.7, -0.4]), atol=5e-3, rtol=0)
    clean = level_of(x - x.mean(1, keepdim=True))
    assert level.gain == pytest.approx(clean.gain, rel=1e-5)
    assert abs(float(level.to_prior(x).mean())) < 1e-6


def test_small_sound_on_a_large_offset():
    sound = noise(1, RATE) * 1e-3
    assert level_of(sound + 0.9).gain == pytest.approx(level_of(sound).gain, rel=1e-3)


def test_pauses_do_not_count():
    sound = noise(1, 2 * RATE) * 0.05
    hiss = noise(1, 20 * RATE, seed=1) * 3e-5
    alone, padded = level_of(sound), level_of(torch.cat([hiss, sound, hiss], 1))
    assert padded.gain == pytest.approx(alone.gain, rel=0.05)


def test_one_click_does_not_decide():
    sound = noise(1, 30 * RATE) * 0.01
    clicked = sound.clone()
    clicked[0, 5000:5004] = 10.0  # 60 dB above the sound
    assert level_of(clicked).gain == pytest.approx(level_of(sound).gain, rel=0.05)


def test_clipping_changes_the_level_little():
    sound = noise(1, 4 * RATE)
    clipped = sound.clamp(-1.5, 1.5)
    assert level_of(clipped).gain == pytest.approx(level_of(sound).gain, rel=0.15)


def test_channels_are_averaged():
    x = noise(3, RATE)
    level = level_of(x)
    torch.testing.assert_close(level.downmix, torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(
        level.to_prior(x) / level.gain, (x - x.mean(1, keepdim=True)).mean(0), atol=1e-6, rtol=1e-5
    )


def test_opposite_phases_do_not_cancel():
    x = noise(1, RATE)
    level = level_of(torch.cat([x, -x]))
    assert level.downmix.tolist() == pytest.approx([0.5, -0.5])
    assert rms(level.to_prior(torch.cat([x, -x]))) == pytest.approx(TARGET_RMS, rel=0.02)


def test_one_sided_and_unrelated_channels_are_still_averaged():
    one_sided = noise(8, RATE)
    one_sided[1:] = 0
    for x in (one_sided, noise(8, RATE)):
        assert level_of(x).downmix.tolist() == pytest.approx([1 / 8] * 8)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 1000),
        torch.full((1, 1000), 0.7),
        torch.full((2, 3), -0.1),
        torch.full((1, 1), 0.5),
        3e-5 * torch.sign(noise(1, 1000)),
        0.3 + 6e-5 * torch.sign(noise(2, 5000)),
    ],
    ids=["zeros", "constant", "short constant", "one sample", "dither", "dither on an offset"],
)
def test_silence(x):
    level = level_of(x)
    assert level.silent
    assert is_silent(x)
    assert math.isfinite(level.gain)
    assert bool(torch.isfinite(level.to_prior(x)).all())


def test_quiet_music_is_not_silence():
    x = noise(1, 1000) * 1e-3
    assert not level_of(x).silent
    assert not is_silent(x)
    assert is_silent(torch.zeros(2, 0))
    assert SILENCE == 1e-4


def test_mistakes():
    with pytest.raises(SettingsError, match="positive"):
        LevelMeter(0, 1)
    with pytest.raises(ShapeError, match="nothing was added"):
        LevelMeter(RATE, 1).result()
    with pytest.raises(ShapeError, match="2 channels; found a block of 1"):
        LevelMeter(RATE, 2).add(torch.zeros(1, 10))
    with pytest.raises(ShapeError, match="of 2 channels"):
        level_of(noise(2, 100)).to_prior(torch.zeros(3, 10))
