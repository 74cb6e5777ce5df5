"""What a mix engineer does to each stem: amplifiers, equalisers, compressors, rooms, levels.

All linear stages of a chain (cabinet, equaliser, room) are multiplied into one impulse response
and applied by one fast convolution, which costs a third of running them one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from recipes.music_prior.songs import STEMS, Track

_GRID = 2048  # points of the frequency grid on which equalisers are drawn
# Mean level of an active stem (dB of RMS, relative to each other), and its deviation over songs:
# the real Slakh track's active stems lie within 2 dB of each other.
STEM_LEVELS = {
    "bass": (-26.5, 3.5),
    "drums": (-25.5, 3.5),
    "guitar": (-27.5, 4.0),
    "piano": (-27.5, 4.0),
}
MIX_RMS, MIX_SPREAD = 0.1, 0.3  # median, and deviation of the logarithm
ACOUSTIC, CLEAN, DRIVEN = (24, 25), (26, 27, 28, 31), (29, 30)


@dataclass(frozen=True)
class Levels:
    """The gains that brought a song's stems to their level, for tables and tests."""

    stem_gains: tuple[float, ...]
    mix_rms: float


def minimum_phase(decibels: np.ndarray, taps: int = 512) -> np.ndarray:
    """Return the minimum-phase impulse response of a magnitude response.

    Parameters
    ----------
    decibels
        float [n], the response in dB from 0 Hz to half the rate.
    taps
        The length of the response, samples.

    Notes
    -----
    By the real cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing, section 13).
    """
    log_magnitude = decibels * (np.log(10) / 20)
    cepstrum = np.fft.irfft(log_magnitude)
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:taps]
    response[taps // 2 :] *= np.hanning(2 * (taps - taps // 2))[taps - taps // 2 :]
    return response.astype(np.float32)


def _frequencies(rate: int) -> np.ndarray:
    return np.linspace(1e-3, rate / 2, _GRID + 1)


def peak(rate: int, centre: float, gain: float, octaves: float) -> np.ndarray:
    """Return the dB curve of a bell of `gain` dB at `centre` Hz."""
    distance = np.log2(np.maximum(_frequencies(rate), 1.0) / centre) / octaves
    return gain * np.exp(-2 * distance**2)


def high_pass(rate: int, cutoff: float, order: int = 2) -> np.ndarray:
    """Return the dB curve of a Butterworth high-pass, floored at -60 dB."""
    ratio = cutoff / np.maximum(_frequencies(rate), 1e-3)
    return np.maximum(-10 * np.log10(1 + ratio ** (2 * order)), -60)


def low_pass(rate: int, cutoff: float, order: int = 2) -> np.ndarray:
    """Return the dB curve of a Butterworth low-pass, floored at -60 dB."""
    ratio = _frequencies(rate) / cutoff
    return np.maximum(-10 * np.log10(1 + ratio ** (2 * order)), -60)


def shelf(rate: int, corner: float, gain: float, high: bool) -> np.ndarray:
    """Return the dB curve of a shelf of `gain` dB above (`high`) or below a corner."""
    slope = 1 / (1 + (np.maximum(_frequencies(rate), 1.0) / corner) ** 2)
    return gain * ((1 - slope) if high else slope)


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
    tail[:, delay:] = tail[:, : length - delay]
    tail[:, :delay] = 0
    for _ in range(int(rng.integers(2, 7))):
        at = int(rng.uniform(0.003, 0.04) * rate)
        if at < length:
            tail[:, at] += rng.normal(0, 3, channels)
    tail *= 10 ** (wet / 20) / np.sqrt(np.sum(tail**2, axis=-1, keepdims=True) + 1e-12)
    tail[:, 0] += 1
    return tail.astype(np.float32)


def drive(sound: np.ndarray, gain: float, bias: float = 0.0) -> np.ndarray:
    """Overdrive: a soft clipper with antiderivative anti-aliasing.

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
    rest = np.float32(bias / np.sqrt(1 + bias * bias))
    out = np.empty_like(x)
    out[..., 0] = x[..., 0] / slope[..., 0]
    np.divide(x[..., 1:] + x[..., :-1], slope[..., 1:] + slope[..., :-1], out=out[..., 1:])
    out -= rest
    return out


def convolve(sound: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Filter [channels, samples] by [taps] or [channels, taps]; the length stays."""
    response = np.broadcast_to(response, (sound.shape[0], response.shape[-1]))
    return signal.oaconvolve(sound, response, axes=-1)[:, : sound.shape[1]].astype(np.float32)


def active_rms(sound: np.ndarray, rate: int) -> float:
    """Return the RMS over the tenths of a second within 35 dB of the loudest; 0 if silent."""
    hop = rate // 10
    mono = sound[0] if len(sound) == 1 else sound.mean(0)
    frames = mono[: len(mono) // hop * hop].reshape(-1, hop)
    if not len(frames):
        return 0.0
    power = np.einsum("fs,fs->f", frames, frames) / hop
    loudest = power.max()
    if loudest < 1e-12:
        return 0.0
    return float(np.sqrt(power[power > loudest * 10**-3.5].mean(dtype=np.float64)))


def produce_track(
    sound: np.ndarray, track: Track, rng: np.random.Generator, rate: int
) -> np.ndarray:
    """Play one track through its amplifier, if it has one; normalised to an active RMS of 0.1."""
    level = active_rms(sound, rate)
    if level == 0:
        return sound
    sound = sound * (0.1 / level)
    curve = np.zeros(_GRID + 1)
    if track.stem == "guitar" and track.program not in ACOUSTIC:
        heavy = track.program in DRIVEN or track.role in ("power", "chug")
        if heavy or rng.random() < 0.5:
            amount = rng.uniform(4, 30) if heavy else rng.uniform(0.8, 5)
            if heavy and track.program in DRIVEN:
                amount *= 0.4  # the sample is distorted already
            sound = drive(sound, amount, rng.uniform(0, 0.3))
        # a cabinet: no treble, a bump in the low mids, a bite around 3 kHz
        curve += low_pass(rate, rng.uniform(3200, 6500), int(rng.integers(2, 5)))
        curve += high_pass(rate, rng.uniform(60, 110))
        curve += peak(rate, rng.uniform(90, 180), rng.uniform(0, 5), 0.8)
        curve += peak(rate, rng.uniform(350, 700), rng.uniform(-6, 1), 1.0)
        curve += peak(rate, rng.uniform(2000, 3500), rng.uniform(0, 7), 0.8)
    elif track.stem == "bass" and rng.random() < 0.6:
        sound = drive(sound, rng.uniform(0.8, 6), rng.uniform(0, 0.3))
        curve += low_pass(rate, rng.uniform(1800, 6000), 2)
    if curve.any():
        sound = convolve(sound, minimum_phase(curve))
    level = active_rms(sound, rate)
    return sound * np.float32(0.1 / max(level, 1e-6))


def produce_stem(sound: np.ndarray, stem: str, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Mix engineer's chain of one stem: compressor, equaliser and room."""
    from pedalboard import Compressor

    if rng.random() < {"bass": 0.7, "drums": 0.6, "guitar": 0.4, "piano": 0.4}[stem]:
        compressor = Compressor(
            threshold_db=rng.uniform(-30, -16),
            ratio=rng.uniform(1.5, 6),
            attack_ms=rng.uniform(1, 30),
            release_ms=rng.uniform(50, 300),
        )
        sound = compressor.process(sound, rate, reset=True)
    curve = np.zeros(_GRID + 1)
    for _ in range(int(rng.integers(1, 4))):
        centre = np.exp(rng.uniform(np.log(100), np.log(8000)))
        curve += peak(rate, centre, rng.normal(0, 3), rng.uniform(0.4, 1.5))
    curve += shelf(rate, rng.uniform(2500, 7000), rng.normal(0, 3), high=True)
    curve += shelf(rate, rng.uniform(80, 250), rng.normal(0, 2.5), high=False)
    if stem in ("guitar", "piano"):
        curve += high_pass(rate, rng.uniform(30, 140))
    else:
        curve += high_pass(rate, rng.uniform(20, 40))
    response = minimum_phase(curve)[None]
    if rng.random() < {"bass": 0.25, "drums": 0.8, "guitar": 0.75, "piano": 0.75}[stem]:
        walls = room(
            rng, rate, sound.shape[0], np.exp(rng.uniform(np.log(0.15), np.log(1.6))),
            rng.uniform(-22, -7) - (6 if stem == "bass" else 0),
        )  # fmt: skip
        response = signal.fftconvolve(walls, np.broadcast_to(response, (len(walls), 512)), axes=-1)
    return convolve(sound, response.astype(np.float32))


def set_levels(stems: np.ndarray, rng: np.random.Generator, rate: int) -> tuple[np.ndarray, Levels]:
    """Bring the stems to levels like Slakh's and the mixture to an RMS around 0.1.

    Parameters
    ----------
    stems
        float32 [4, channels, samples].
    rng
        The random stream.
    rate
        Sampling rate, Hz.

    Returns
    -------
    stems, levels
        Scaled by one gain per stem for the whole song: no segment is normalised on its own.
    """
    gains = []
    for stem, sound in zip(STEMS, stems):
        mean, spread = STEM_LEVELS[stem]
        target = 10 ** (np.clip(rng.normal(mean, spread), mean - 10, mean + 8) / 20)
        level = active_rms(sound, rate)
        gains.append(target / level if level > 1e-7 else 0.0)
    stems = stems * np.array(gains, np.float32)[:, None, None]
    wanted = MIX_RMS * np.exp(np.clip(rng.normal(0, MIX_SPREAD), -0.8, 0.6))
    mixture = stems.sum(0)
    level = active_rms(mixture, rate)
    top = float(np.abs(mixture).max(initial=0.0))
    common = min(wanted / max(level, 1e-6), 1.0 / max(top, 1e-6))
    levels = Levels(tuple(float(g * common) for g in gains), level * common)
    return stems * np.float32(common), levels
