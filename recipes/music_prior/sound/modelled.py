"""Instruments that are computed: plucked strings, electric pianos, FM and analogue synths.

Both default soundfonts descend from one collection, so the same dozen of recorded instruments
would play every song. These have a new timbre in every song; they play in training only.

As in `drum_kit`, each key is played once per song and strength, and placed where it is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from recipes.music_prior.songs.song import Note, Track
from recipes.music_prior.sound import effects as fx

LONGEST = 5.0  # seconds a key is computed for
_STRENGTHS = (50, 80, 110)
# How often a track of a stem is played by such an instrument.
SHARE = {"bass": 0.35, "drums": 0.0, "guitar": 0.35, "piano": 0.6}


@dataclass(frozen=True)
class Patch:
    """An instrument.

    Attributes
    ----------
    kind
        "string" (Karplus-Strong), "tine" (an electric piano), "fm" or "analogue".
    seed
        Of the noise in its sound.
    decay
        Seconds to -60 dB of the key 57; lower keys ring longer.
    bright
        0 (dull) to 1.
    position
        Where the string is plucked (a share of its length); the pulse width of an oscillator; half
        of how far off its pickup's axis a tine rests.
    ratio, index
        Modulator over carrier frequency, and modulation index at the start of a note; how far a
        tine swings.
    voices, spread
        How many strings or oscillators to a key, and how far they are detuned, cents.
    release
        Seconds in which a released note dies away.
    knock
        How loud its damper falls back, as a share of the key's stroke.
    """

    kind: str
    seed: int
    decay: float
    bright: float
    position: float
    ratio: float
    index: float
    voices: int
    spread: float
    release: float
    knock: float


def draw_patch(track: Track, rng: np.random.Generator) -> Patch:
    """Draw an instrument that can play a track."""
    kinds = {"guitar": ("string",), "bass": ("string", "string", "fm", "analogue")}
    kind = str(rng.choice(kinds.get(track.stem, ("string", "fm", "tine", "tine"))))
    if track.program in (38, 39):
        kind = str(rng.choice(("fm", "analogue")))
    elif track.program in (32, 35):
        kind = "string"
    longer = {"guitar": 1.0, "bass": 1.2, "piano": 2.0}[track.stem]
    return Patch(
        kind=kind,
        seed=int(rng.integers(2**31)),
        decay=float(longer * np.exp(rng.uniform(np.log(1.2), np.log(7)))),
        bright=float(rng.uniform(0.1, 1.0)),
        position=float(rng.uniform(0.06, 0.45)),
        ratio=float(rng.choice((0.5, 1, 1, 2, 3, 7, 14))),
        index=float(rng.uniform(0.3, 3.0)),
        voices=int(rng.choice((1, 1, 2) if track.stem != "piano" else (1, 2, 3))),
        spread=float(rng.uniform(1, 8)),
        release=float(rng.uniform(0.03, 0.2)),
        knock=float(rng.uniform(0, 0.8)) if track.stem == "piano" and rng.random() < 0.6 else 0.0,
    )


def _string(
    patch: Patch,
    frequency: float,
    seconds: float,
    force: float,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pluck a string: noise that circulates through a delay line and a gentle low-pass.

    Notes
    -----
    Karplus and Strong, Computer Music Journal 7(2), 1983, with the extensions of Jaffe and Smith
    in the same issue: stretched decay, fractional tuning, pick position and dynamics.
    """
    period = rate / frequency
    blur = (0.5 - 0.42 * patch.bright) * min(1.0, 220 / frequency)
    gain = 10 ** (-3 / (frequency * patch.decay * (220 / frequency) ** 0.5))
    whole = max(int(period - blur - 1), 2)
    part = period - blur - whole  # 1 to 2 samples, by cubic interpolation: little loss of treble
    cubic = [
        -(part - 1) * (part - 2) * (part - 3) / 6,
        part * (part - 2) * (part - 3) / 2,
        -part * (part - 1) * (part - 3) / 2,
        part * (part - 1) * (part - 2) / 6,
    ]
    taps = gain * np.convolve([1 - blur, blur], cubic)
    order = len(taps) - 1
    pick = rng.uniform(-1, 1, whole)
    softness = 0.15 + 0.8 * (1 - patch.bright) * (1 - 0.6 * force)
    pick = signal.lfilter([1 - softness], [1, -softness], np.tile(pick, 2))[whole:]
    pick -= np.roll(pick, max(1, int(patch.position * whole)))
    first = order + whole
    total = int(seconds * rate) + order
    sound = np.zeros(max(total, first))
    sound[order:first] = pick - pick.mean()
    for start in range(first, total, whole):
        stop = min(start + whole, total)
        before = sound[start - whole - order : stop - whole]
        sound[start:stop] = np.convolve(before, taps, "valid")
    return sound[order:total]


def _fm(
    patch: Patch,
    frequency: float,
    seconds: float,
    force: float,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Two-operator frequency modulation (Chowning 1973) with a decaying index."""
    time = np.arange(int(seconds * rate)) / rate
    ratio = patch.ratio
    while ratio * frequency > 0.4 * rate and ratio > 1:
        ratio = np.floor(ratio / 2)
    index = patch.index * (0.4 + force) * np.exp(-time / (0.05 + 0.6 * patch.bright))
    index *= min(1.0, 600 / frequency) if ratio >= 3 else 1.0
    modulator = np.sin(2 * np.pi * ratio * frequency * time + rng.uniform(0, 6.28))
    return np.exp(-6.9 * time / patch.decay) * np.sin(
        2 * np.pi * frequency * time + index * modulator
    )


def _tine(
    patch: Patch,
    frequency: float,
    seconds: float,
    force: float,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A tine or reed that swings like a sine through the field of a pickup, which is not even.

    Where it swings far, the pickup hears more partials and hardly a louder sound; how far off the
    pickup's axis it rests says which (Pfeifle and Münster 2017, "Tone production of the Wurlitzer
    and Rhodes e-pianos"). The tine's own overtone, some six times as high, dies at once.
    """
    time = np.arange(int(seconds * rate)) / rate
    swing = np.exp(-6.9 * time / patch.decay) * np.sin(2 * np.pi * frequency * time)
    overtone = rng.uniform(5.8, 6.8) * frequency
    if overtone < 0.4 * rate:
        bell = 0.15 * patch.bright * force * np.exp(-time / (0.02 + 0.15 * patch.bright))
        swing += bell * np.sin(2 * np.pi * overtone * time)
    reach = patch.index * (0.3 + force) * min(1.0, 800 / frequency)
    field = 1 / (1 + (reach * swing + 2 * patch.position) ** 2)
    return np.diff(field, prepend=field[:1])


def _low_pass(frequency: float, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of a Butterworth low-pass of second order."""
    coefficients = signal.butter(2, frequency, fs=rate)
    assert coefficients is not None
    return np.asarray(coefficients[0]), np.asarray(coefficients[1])


def _analogue(
    patch: Patch,
    frequency: float,
    seconds: float,
    force: float,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A pulse wave of little aliasing through a low-pass that closes while the note sounds."""
    count = int(seconds * rate)
    time = np.arange(count) / rate
    step = frequency / rate

    def saw(phase: np.ndarray) -> np.ndarray:
        wave = 2 * phase - 1  # with its jump smoothed over two samples
        near, far = phase < step, phase > 1 - step
        t = phase[near] / step
        wave[near] -= 2 * t - t * t - 1
        t = (phase[far] - 1) / step
        wave[far] -= t * t + 2 * t + 1
        return wave

    phase = (frequency * time + rng.uniform()) % 1
    wave = saw(phase)
    if patch.ratio > 1:
        wave = wave - saw((phase + patch.position) % 1)
    top = min(0.45 * rate, frequency * (6 + 30 * patch.bright * force))
    bright = signal.lfilter(*_low_pass(top, rate), wave)
    dark = signal.lfilter(*_low_pass(min(2.5 * frequency, 0.4 * rate), rate), wave)
    opening = np.exp(-time / (0.08 + 0.5 * patch.decay / 10))
    return opening * bright + (1 - opening) * dark


_KINDS = {"string": _string, "tine": _tine, "fm": _fm, "analogue": _analogue}


def _key(patch: Patch, pitch: int, strength: int, seconds: float, rate: int) -> np.ndarray:
    """Return one key's sound, float32 [samples]: the same whenever it is asked for."""
    rng = np.random.default_rng([patch.seed, pitch, strength])
    force = strength / 127
    sound = np.zeros(int(seconds * rate))
    for voice in range(patch.voices):
        cents = patch.spread * (voice - (patch.voices - 1) / 2)
        frequency = 440 * 2 ** ((pitch - 69) / 12 + cents / 1200)
        part = _KINDS[patch.kind](patch, frequency, seconds, force, rate, rng)
        count = min(len(part), len(sound))
        sound[:count] += part[:count]
    attack = int(0.002 * rate) + 1
    sound[:attack] *= np.linspace(0, 1, attack)
    loudness = np.sqrt(np.mean(sound[: rate // 4] ** 2)) + 1e-9
    return (sound * (0.1 / loudness)).astype(np.float32)


def play_modelled(
    track: Track, patch: Patch, seconds: float, channels: int, rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Play a pitched track; its bends are left out.

    Parameters
    ----------
    track
        What to play.
    patch
        The instrument.
    seconds
        How long.
    channels, rate
        1 or 2, and the sampling rate in Hz.
    rng
        The random stream: draws the instrument's body.

    Returns
    -------
    array
        float32 [channels, samples].
    """
    total = round(seconds * rate)
    sound = np.zeros(total, np.float32)
    longest: dict[tuple[int, int], float] = {}
    for note in track.notes:
        key = (note.pitch, _strength(note))
        length = min(note.end - note.start + 4 * patch.release, LONGEST)
        longest[key] = max(longest.get(key, 0.0), length)
    keys = {key: _key(patch, *key, length, rate) for key, length in longest.items()}
    fade = np.exp(-np.arange(int(4 * patch.release * rate)) / (patch.release * rate))
    fade = (fade * np.linspace(1, 0, len(fade))).astype(np.float32)
    knock = patch.knock * np.exp(-np.arange(len(fade)) / (0.012 * rate)).astype(np.float32)
    for note in track.notes:
        wave = keys[note.pitch, _strength(note)]
        start, held = round(note.start * rate), round((note.end - note.start) * rate)
        count = min(held + len(fade), len(wave), total - start)
        if count <= 0:
            continue
        part = wave[:count].copy()
        if count > held:
            part[held:] *= fade[: count - held]
            part[held:] += wave[: count - held] * knock[: count - held]
        part *= np.float32((note.velocity / 100) ** 2)
        sound[start : start + count] += part
    body = _body(track, rng, rate)
    return np.repeat(fx.convolve(sound[None], fx.minimum_phase(body)), channels, axis=0)


def _strength(note: Note) -> int:
    return min(_STRENGTHS, key=lambda strength: abs(strength - note.velocity))


def _body(track: Track, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Draw a wooden body's resonances, or a pickup's tone."""
    curve = fx.flat()
    for _ in range(int(rng.integers(3, 10))):
        centre = np.exp(rng.uniform(np.log(90), np.log(4000)))
        curve += fx.peak(rate, centre, rng.normal(0, 4), rng.uniform(0.15, 0.7))
    curve += fx.low_pass(rate, rng.uniform(2500, 9000), 1)
    if track.stem != "bass":
        curve += fx.high_pass(rate, rng.uniform(60, 130), 1)
    return curve
