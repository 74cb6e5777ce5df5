"""What makes a mix a record: a preamplifier, a folded widener, the compressor on the mix's bus."""

from __future__ import annotations

import numpy as np
from scipy import signal

from recipes.music_prior.sound import effects as fx

BUS_SHARE, FOLDED_SHARE = 0.4, 0.25
_HOP = 64  # samples from one gain of the bus compressor to the next


def preamplifier(sound: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Thin out the lows and push the mids before an amplifier, as pedals and tone stacks do."""
    curve = fx.high_pass(rate, rng.uniform(60, 300), 1)
    curve += fx.peak(rate, rng.uniform(500, 1600), rng.uniform(0, 9), 1.2)
    curve += fx.shelf(rate, rng.uniform(2000, 5000), rng.uniform(-8, 2), high=True)
    return fx.convolve(sound, fx.minimum_phase(curve))


def blend_of_amplifier(
    direct: np.ndarray, amplified: np.ndarray, share: float, rate: int
) -> np.ndarray:
    """Mix a bass's direct signal and its amplifier, both brought to an active RMS of 0.1."""
    parts = []
    for sound, weight in ((direct, 1 - share), (amplified, share)):
        level = fx.active_rms(sound, rate)
        parts.append(sound * np.float32(weight * 0.1 / max(level, 1e-6)))
    return parts[0] + parts[1]


def folded(response: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return what a stereo widener leaves in the mean of both sides: a comb.

    Parameters
    ----------
    response
        Impulse responses, float32 [channels, taps].
    rate
        Sampling rate, Hz.
    rng
        The random stream: one side comes 0.2 to 18 ms late and softer, now and then upside down.
    """
    late = max(1, round(np.exp(rng.uniform(np.log(0.2), np.log(18))) * 1e-3 * rate))
    level = 10 ** (rng.uniform(-12, -2) / 20) * rng.choice((-1, 1, 1, 1))
    padded = np.pad(response, ((0, 0), (0, late)))
    padded[:, late:] += np.float32(level) * response
    return padded / np.float32(np.sqrt(1 + level**2))


def bus_gain(
    mixture: np.ndarray,
    rate: int,
    threshold: float,
    ratio: float,
    attack: float,
    release: float,
) -> np.ndarray:
    """Return the gain of a compressor on the mix's bus: float32 [samples], 0 to 1.

    One gain for all stems: they still add up to the mixture.

    Parameters
    ----------
    mixture
        float32 [channels, samples].
    rate
        Sampling rate, Hz.
    threshold
        dB re full scale, above which it works.
    ratio
        dB in per dB out above the threshold.
    attack, release
        Time constants, seconds.
    """
    samples = mixture.shape[-1]
    power = np.mean(np.square(mixture, dtype=np.float64), axis=0)
    power = np.pad(power, (0, -samples % _HOP)).reshape(-1, _HOP).mean(1)
    # The louder of a fast and a slow follower: attacks are taken at once, what follows lingers.
    level = np.maximum(_follow(power, attack, rate), _follow(power, release, rate))
    excess = np.maximum(10 * np.log10(level + 1e-12) - threshold, 0)
    gains = 10 ** (-excess * (1 - 1 / ratio) / 20)
    times = (np.arange(len(gains)) + 0.5) * _HOP
    return np.interp(np.arange(samples), times, gains).astype(np.float32)


def _follow(power: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    keep = np.exp(-_HOP / (seconds * rate))
    return np.asarray(signal.lfilter([1 - keep], [1, -keep], power))


def compress_bus(stems: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Compress the mix of [stems, channels, samples] with random settings, gently to firmly."""
    mixture = stems.sum(0)
    level = 20 * np.log10(max(fx.active_rms(mixture, rate), 1e-6))
    gain = bus_gain(
        mixture,
        rate,
        threshold=level + rng.uniform(-8, 4),
        ratio=rng.uniform(1.5, 5),
        attack=rng.uniform(0.002, 0.03),
        release=rng.uniform(0.05, 0.4),
    )
    return stems * gain
