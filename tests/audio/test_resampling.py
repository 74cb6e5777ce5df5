"""Resampling: alignment, length, quality, streams, and agreement with torchaudio."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.io.resampling import Resampler, _resample_on_device, resample
from mgdm_core.errors import SettingsError, ShapeError

PRIOR = 22_050
RATES = [8000, 11_025, 16_000, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000]
ODD = [44_101, 31_999]  # nearly no common factor with the prior's rate


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sine(hertz, rate, seconds=0.25, phase=0.3):
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * t + phase)


@pytest.mark.parametrize("rate", RATES)
def test_the_device_has_the_same_resampling(rate):
    """torchaudio's. Another filter, so the same numbers only below where either begins to fall."""
    for source, target in [(rate, PRIOR), (PRIOR, rate)]:
        spectrum = torch.fft.rfft(noise(2, 3000))
        spectrum[:, int(0.7 * min(1.0, target / source) * spectrum.shape[1]) :] = 0
        x = torch.fft.irfft(spectrum) * torch.hann_window(3000, dtype=torch.float64)
        theirs = _resample_on_device(x, source, target)
        ours = resample(x, source, target)
        assert ours.shape == theirs.shape
        assert float((ours - theirs).square().mean() / theirs.square().mean()) < 1e-9


@pytest.mark.parametrize("rate", [*RATES, *ODD])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_sine_stays_the_same_sine(rate, direction):
    """Aligned to the sample, 100 dB clean and of its level up to 0.9 of the lower Nyquist."""
    source, target = (rate, PRIOR) if direction == "down" else (PRIOR, rate)
    for share in (0.02, 0.5, 0.9):
        hertz = share * min(source, target) / 2
        y = resample(sine(hertz, source).float(), source, target)
        wanted = sine(hertz, target, seconds=0.3)[: len(y)]
        edge = len(y) // 8
        y, wanted = y[edge:-edge].double(), wanted[edge:-edge]
        gain = y @ wanted / (wanted @ wanted)
        assert abs(20 * math.log10(gain)) < 0.01
        assert float((y - gain * wanted).square().mean().sqrt()) < 1e-5 * 0.71


@pytest.mark.parametrize("rate", [44_100, 44_101, 48_000])
def test_what_does_not_fit_is_removed(rate):
    """Above the prior's Nyquist frequency nothing is left to alias."""
    y = resample(sine(11_500, rate), rate, PRIOR)
    assert float(y[len(y) // 8 : -len(y) // 8].abs().max()) < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([*RATES, *ODD, PRIOR]),
    st.booleans(),
    st.integers(1, 6000),
    st.lists(st.integers(0, 1500), max_size=8),
)
def test_stream_equals_whole(rate, down, samples, blocks):
    source, target = (rate, PRIOR) if down else (PRIOR, rate)
    x = noise(2, samples, dtype=torch.float32)
    whole = resample(x, source, target)
    assert whole.shape == (2, math.ceil(samples * target / source))
    stream, parts, at = Resampler(source, target), [], 0
    for block in [*blocks, samples]:
        parts.append(stream.push(x[:, at : at + block]))
        at = min(at + block, samples)
    last = stream.finish()
    parts.append(last.expand(2, 0) if source == target else last)
    streamed = torch.cat(parts, -1)
    assert streamed.shape == whole.shape
    assert float((streamed - whole).abs().max()) < 1e-6 * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("samples", [1, 2, 33])
@pytest.mark.parametrize("rate", [8000, 44_100, 44_101])
def test_tiny_signals(rate, samples):
    x = noise(samples)
    assert resample(x, PRIOR, rate).shape == (math.ceil(samples * rate / PRIOR),)
    assert resample(x, rate, PRIOR).shape == (math.ceil(samples * PRIOR / rate),)


def test_linear_and_of_any_leading_shape():
    x, y = noise(2, 3, 500), noise(2, 3, 500, seed=1)
    both = resample(2 * x - y, 48_000, PRIOR)
    torch.testing.assert_close(
        both, 2 * resample(x, 48_000, PRIOR) - resample(y, 48_000, PRIOR), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(resample(x[1, 2], 48_000, PRIOR), resample(x, 48_000, PRIOR)[1, 2])


def test_impulse_stays_in_its_place():
    """Sample j of the output is at the time of sample j in / out of the input."""
    x = torch.zeros(2000)
    x[640] = 1
    y = resample(x, 32_000, 48_000)
    assert int(y.argmax()) == 960
    torch.testing.assert_close(y[960 - 100 : 960], y[961 : 960 + 101].flip(0), atol=1e-6, rtol=0)


def test_same_rate_is_a_copy():
    x = noise(10)
    y = resample(x, 48_000, 48_000)
    assert torch.equal(y, x)
    y += 1
    assert not torch.equal(y, x)


@pytest.mark.parametrize("rate", [8000, 44_100, 44_101, 192_000])
def test_a_stream_gives_soon_and_holds_little(rate):
    """What is not out yet is a tenth of a second at most, however long the stream."""
    for source, target in [(rate, PRIOR), (PRIOR, rate)]:
        stream, given = Resampler(source, target), 0
        for k in range(1, 300):
            given += stream.push(torch.zeros(1, 997)).shape[-1]
            assert 0 <= stream.length(997 * k) - given <= 0.1 * max(source, target)


def test_mistakes():
    with pytest.raises(SettingsError, match="positive"):
        Resampler(0, 44_100)
    with pytest.raises(ShapeError, match="before any block"):
        Resampler(48_000, 44_100).finish()
