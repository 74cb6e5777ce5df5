"""Signal processing of the mix engineer's tools: equalisers, rooms, overdrive, modulation.

Equalisers are drawn as curves in dB on one frequency grid, so that any number of them, a cabinet
and a room become one impulse response and one fast convolution. Sounds are float32
[channels, samples].
"""

from __future__ import annotations

import numpy as np
from scipy import signal

GRID = 1024  # intervals of the frequency grid on which equalisers are drawn
TAPS = 512
# Half-band low-pass for decimation by 2: 31 taps, of which every second is zero.
_HALF_BAND = signal.firwin(31, 0.5, window=("kaiser", 6.0)).astype(np.float32)  # pyright: ignore


def frequencies(rate: int) -> np.ndarray:
    """Return the frequencies (Hz) at which curves are drawn, from almost 0 to half the rate."""
    return np.maximum(np.linspace(0, rate / 2, GRID + 1), 1.0)


def flat() -> np.ndarray:
    """Return the curve that changes nothing."""
    return np.zeros(GRID + 1)


def peak(rate: int, centre: float, gain: float, octaves: float) -> np.ndarray:
    """Return the curve of a bell of `gain` dB at `centre` Hz."""
    distance = np.log2(frequencies(rate) / centre) / octaves
    return gain * np.exp(-2 * distance**2)


def high_pass(rate: int, cutoff: float, order: int = 2) -> np.ndarray:
    """Return the curve of a Butterworth high-pass, floored at -60 dB."""
    ratio = cutoff / frequencies(rate)
    return np.maximum(-10 * np.log10(1 + ratio ** (2 * order)), -60)


def low_pass(rate: int, cutoff: float, order: int = 2) -> np.ndarray:
    """Return the curve of a Butterworth low-pass, floored at -60 dB."""
    ratio = frequencies(rate) / cutoff
    return np.maximum(-10 * np.log10(1 + ratio ** (2 * order)), -60)


def shelf(rate: int, corner: float, gain: float, high: bool) -> np.ndarray:
    """Return the curve of a shelf of `gain` dB above (`high`) or below a corner."""
    below = 1 / (1 + (frequencies(rate) / corner) ** 2)
    return gain * ((1 - below) if high else below)


def minimum_phase(decibels: np.ndarray) -> np.ndarray:
    """Return the minimum-phase impulse response, float32 [TAPS], of a curve in dB.

    Notes
    -----
    By the real cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing, chapter 13).
    """
    cepstrum = np.fft.irfft(decibels * (np.log(10) / 20))
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:TAPS]
    response[TAPS // 2 :] *= np.hanning(TAPS + 1)[TAPS // 2 + 1 :]  # no edge where it is cut
    return response.astype(np.float32)


def room(
    rng: np.random.Generator, rate: int, channels: int, decay: float, wet: float
) -> np.ndarray:
    """Make up a room: the direct sound, early reflections, and a tail that loses its treble.

    Parameters
    ----------
    rng
        The random stream: every room is another one.
    rate, channels
        Sampling rate in Hz, and the number of ears.
    decay
        Time to -60 dB, seconds.
    wet
        Energy of the room relative to the direct sound, dB.

    Returns
    -------
    array
        float32 [channels, samples].
    """
    length = int(min(decay * 0.75, 0.9) * rate) + 64
    time = np.arange(length) / rate
    noise = rng.standard_normal((channels, length)).astype(np.float32)
    dull = signal.lfilter([0.3], [1, -0.7], noise, axis=-1)
    bright_decay = np.exp(-6.9 * time / (decay * rng.uniform(0.25, 0.6)))
    tail = dull * np.exp(-6.9 * time / decay) + 0.5 * noise * bright_decay
    delay = int(rng.uniform(0.002, 0.025) * rate)
    tail = np.concatenate([np.zeros((channels, delay)), tail[:, :-delay]], axis=1)
    for _ in range(int(rng.integers(2, 7))):
        at = int(rng.uniform(0.003, 0.04) * rate)
        if at < length:
            tail[:, at] += rng.normal(0, 3, channels)
    tail *= 10 ** (wet / 20) / np.sqrt(np.sum(tail**2, axis=-1, keepdims=True) + 1e-12)
    tail[:, 0] += 1
    return tail.astype(np.float32)


def echo(response: np.ndarray, rate: int, delay: float, level: float, repeats: int) -> np.ndarray:
    """Add echoes every `delay` seconds, each `level` dB below the one before, to a response."""
    hop = int(delay * rate)
    length = response.shape[-1] + hop * repeats
    echoed = np.zeros((response.shape[0], length), np.float32)
    for number in range(repeats + 1):
        at = number * hop
        echoed[:, at : at + response.shape[-1]] += response * np.float32(
            10 ** (level * number / 20)
        )
    return echoed


def drive(sound: np.ndarray, gain: float, bias: float = 0.0) -> np.ndarray:
    """Overdrive: a soft clipper with little aliasing.

    Parameters
    ----------
    sound
        float32 [channels, samples].
    gain
        Factor before the clipper.
    bias
        Asymmetry: even harmonics, as of a tube.

    Notes
    -----
    The clipper x / sqrt(1 + x^2) with first-order antiderivative anti-aliasing (Parker, Zavalishin,
    Le Bivic, DAFx 2016): the mean of the clipper between two samples rather than its value at one.
    With the primitive s = sqrt(1 + x^2) that mean is (x0 + x1) / (s0 + s1).
    """
    x = np.float32(gain) * sound + np.float32(bias)
    slope = np.sqrt(1 + x * x)
    out = np.empty_like(x)
    out[..., 0] = x[..., 0] / slope[..., 0]
    np.divide(x[..., 1:] + x[..., :-1], slope[..., 1:] + slope[..., :-1], out=out[..., 1:])
    out -= np.float32(bias / np.sqrt(1 + bias * bias))
    return out


def tremolo(sound: np.ndarray, rate: int, speed: float, depth: float) -> np.ndarray:
    """Waver the loudness `speed` times a second, by at most the share `depth`; sides opposed."""
    phase = 2 * np.pi * speed / rate * np.arange(sound.shape[-1], dtype=np.float32)
    wave = np.stack([np.sin(phase + np.pi * side) for side in range(len(sound))])
    return sound * (1 - depth * (0.5 + 0.5 * wave)).astype(np.float32)


def modulate(sound: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Run a sound through a chorus, a phaser or a tremolo with random settings."""
    import pedalboard

    kind = rng.random()
    if kind < 0.5:
        effect = pedalboard.Chorus(
            rate_hz=rng.uniform(0.3, 3),
            depth=rng.uniform(0.05, 0.35),
            centre_delay_ms=rng.uniform(5, 12),
            mix=rng.uniform(0.2, 0.5),
        )
    elif kind < 0.7:
        effect = pedalboard.Phaser(
            rate_hz=rng.uniform(0.2, 2), depth=rng.uniform(0.2, 0.6), mix=rng.uniform(0.2, 0.5)
        )
    else:
        return tremolo(sound, rate, rng.uniform(2, 8), rng.uniform(0.2, 0.8))
    return effect.process(sound, rate, reset=True)


def compress(sound: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Compress a sound of active RMS 0.1 with random settings, from gentle to firm."""
    import pedalboard

    compressor = pedalboard.Compressor(
        threshold_db=rng.uniform(-30, -14),
        ratio=rng.uniform(1.5, 6),
        attack_ms=rng.uniform(1, 30),
        release_ms=rng.uniform(50, 300),
    )
    return compressor.process(sound, rate, reset=True)


def convolve(sound: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Filter [channels, samples] by [taps] or [channels, taps]; the length stays."""
    response = np.broadcast_to(response, (sound.shape[0], response.shape[-1]))
    return signal.oaconvolve(sound, response, axes=-1)[:, : sound.shape[1]].astype(
        np.float32, copy=False
    )


def decimate(sound: np.ndarray) -> np.ndarray:
    """Halve the sampling rate of [channels, 2 n] by a 31-tap half-band low-pass."""
    padded = np.pad(sound, ((0, 0), (16, 16)))
    even, odd = padded[:, 0::2], padded[:, 1::2]
    count = sound.shape[1] // 2
    centre = len(_HALF_BAND) // 2
    out = even[:, 8 : 8 + count] * _HALF_BAND[centre]
    for tap in range(1, centre + 1, 2):  # taps at odd distances, on both sides of the centre
        step = (tap - 1) // 2
        out += _HALF_BAND[centre + tap] * (
            odd[:, 8 + step : 8 + step + count] + odd[:, 7 - step : 7 - step + count]
        )
    return out


def active_rms(sound: np.ndarray, rate: int) -> float:
    """Return the RMS over the tenths of a second within 35 dB of the loudest; 0 if silent."""
    hop = rate // 10
    mono = sound[0] if len(sound) == 1 else sound.mean(0)
    frames = mono[: len(mono) // hop * hop].reshape(-1, hop)
    if not len(frames):
        return 0.0
    # In double precision: how numpy adds up floats depends on where they lie in memory, and the
    # same song must have the same bits in every process.
    exact = frames.astype(np.float64)
    power = np.einsum("ij,ij->i", exact, exact) / hop
    loudest = power.max()
    if loudest < 1e-12:
        return 0.0
    return float(np.sqrt(power[power > loudest * 10**-3.5].mean()))
