"""What a mix engineer does to each stem: amplifiers, equalisers, compressors, rooms, levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from recipes.music_prior.songs.song import FIVE_STEMS, OTHER, Track
from recipes.music_prior.sound import effects as fx
from recipes.music_prior.sound import records

# Mean level of an active stem (dB of RMS, relative to each other), and its deviation over songs:
# the real Slakh track's active stems lie within 4 dB of each other.
STEM_LEVELS = {
    "bass": (-26.5, 3.5),
    "drums": (-25.0, 3.5),
    "guitar": (-27.5, 4.0),
    "piano": (-27.5, 4.0),
    "other": (-25.5, 4.5),
}
MIX_RMS, MIX_SPREAD = 0.1, 0.3  # median, and deviation of the logarithm
ACOUSTIC = (24, 25)
DRIVEN = (29, 30)
# How often an engineer compresses a stem, and puts it into a room.
_COMPRESSED = {"bass": 0.7, "drums": 0.6, "guitar": 0.4, "piano": 0.4, "other": 0.5}
_IN_A_ROOM = {"bass": 0.2, "drums": 0.7, "guitar": 0.7, "piano": 0.7, "other": 0.8}
DRIVEN_ROLES = ("power", "chug")


@dataclass(frozen=True)
class Space:
    """The room of one song, and how much of it each stem gets.

    Attributes
    ----------
    decay
        Time to -60 dB, seconds.
    wet
        Energy of the room relative to the direct sound, dB, before each stem's own choice.
    """

    decay: float
    wet: float


def draw_space(rng: np.random.Generator) -> Space:
    """Draw a song's room, from a booth to a hall."""
    return Space(
        decay=float(np.exp(rng.uniform(np.log(0.15), np.log(1.8)))),
        wet=float(rng.uniform(-22, -8)),
    )


def pan_of(track: Track, rng: np.random.Generator) -> float:
    """Draw where a track stands, -1 (left) to 1: bass and drums in the middle."""
    width = {"bass": 0.0, "drums": 0.0, "guitar": 0.7, "piano": 0.4, "other": 0.8}[track.stem]
    return float(rng.uniform(-width, width))


def produce_track(
    sound: np.ndarray,
    track: Track,
    program: int,
    rng: np.random.Generator,
    rate: int,
    record: bool = False,
) -> np.ndarray:
    """Play one track through its amplifier and pedals, if it has any.

    Parameters
    ----------
    sound
        float32 [channels, samples], as the soundfont gives it.
    track
        What was played; its program and role say what sound was meant.
    program
        The program that plays it: a clean guitar may play what is meant to be driven.
    rng
        The random stream.
    rate
        Sampling rate, Hz.
    record
        As on records: a preamplifier before a driven guitar amplifier, a bass's direct signal
        beside its amplifier, a chorus or tremolo on most electric pianos.

    Returns
    -------
    array
        The same shape; with an active RMS of 0.1 unless silent.
    """
    level = fx.active_rms(sound, rate)
    if level == 0:
        return sound
    sound = sound * np.float32(0.1 / level)
    curve, direct = fx.flat(), None
    if track.stem == "guitar" and program not in ACOUSTIC:
        if record and rng.random() < 0.5:
            sound = records.preamplifier(sound, rate, rng)
        sound = _guitar_amplifier(sound, track, program, rng)
        curve = _cabinet(rng, rate)
    elif track.stem == "bass" and rng.random() < 0.6:
        direct = sound
        sound = fx.drive(sound, rng.uniform(0.8, 7), rng.uniform(0, 0.3))
        curve = fx.low_pass(rate, rng.uniform(1200, 6000), 2)
        curve += fx.peak(rate, rng.uniform(600, 1500), rng.uniform(-4, 5), 0.8)
    elif track.stem == "piano" and program in (2, 4, 5, 7) and rng.random() < 0.4:
        sound = fx.drive(sound, rng.uniform(0.8, 4), rng.uniform(0, 0.3))
    electric = (track.stem == "guitar" and program not in ACOUSTIC) or (
        track.stem == "piano" and program in (4, 5, 7)
    )
    often = record and track.stem == "piano"
    if electric and rng.random() < (0.6 if often else 0.25):
        sound = fx.modulate(sound, rate, rng)
    if curve.any():
        sound = fx.convolve(sound, fx.minimum_phase(curve))
    if record and direct is not None and rng.random() < 0.5:
        sound = records.blend_of_amplifier(direct, sound, rng.uniform(0.2, 0.8), rate)
    return sound * np.float32(0.1 / max(fx.active_rms(sound, rate), 1e-6))


def _guitar_amplifier(
    sound: np.ndarray, track: Track, program: int, rng: np.random.Generator
) -> np.ndarray:
    heavy = track.program in DRIVEN or track.role in DRIVEN_ROLES
    if heavy:
        amount = float(np.exp(rng.uniform(np.log(3), np.log(40))))
        if program in DRIVEN:
            amount *= 0.4  # the sample is distorted already
    elif rng.random() < 0.5:
        amount = rng.uniform(0.8, 5)
    else:
        return sound
    return fx.drive(sound, amount, rng.uniform(0, 0.3))


def _cabinet(rng: np.random.Generator, rate: int) -> np.ndarray:
    """Draw a cabinet: no treble, a bump in the low mids, a bite around 3 kHz, and ripples."""
    curve = fx.low_pass(rate, rng.uniform(1800, 6500), int(rng.integers(2, 5)))
    curve += fx.high_pass(rate, rng.uniform(60, 110))
    curve += fx.peak(rate, rng.uniform(90, 180), rng.uniform(0, 6), 0.8)
    curve += fx.peak(rate, rng.uniform(350, 800), rng.uniform(-6, 2), 1.0)
    curve += fx.peak(rate, rng.uniform(1800, 3500), rng.uniform(-2, 7), 0.8)
    for _ in range(int(rng.integers(0, 5))):  # reflections in the box and at the microphone
        curve += fx.peak(rate, np.exp(rng.uniform(5.7, 8.5)), rng.normal(0, 3), 0.15)
    return curve


def produce_stem(
    sound: np.ndarray,
    stem: str,
    space: Space,
    rng: np.random.Generator,
    rate: int,
    record: bool = False,
) -> np.ndarray:
    """Run a stem through the engineer's channel: compressor, equaliser, room, echo.

    As a `record` one stem in four is, besides, the mono sum of a widened one.
    """
    if rng.random() < _COMPRESSED[stem]:
        sound = fx.compress(sound, rate, rng)
    response = fx.minimum_phase(_equaliser(stem, rng, rate))[None]
    if rng.random() < _IN_A_ROOM[stem]:
        wet = space.wet + rng.uniform(-5, 5) - (6 if stem == "bass" else 0)
        decay = space.decay * rng.uniform(0.6, 1.4)
        walls = fx.room(rng, rate, sound.shape[0], decay, wet)
        response = np.broadcast_to(response, (len(walls), fx.TAPS))
        response = signal.fftconvolve(walls, response, axes=-1).astype(np.float32)
        if stem == "guitar" and rng.random() < 0.15:
            response = fx.echo(
                response[:, : rate // 2], rate, rng.uniform(0.12, 0.45), rng.uniform(-14, -7), 2
            )
    if record and rng.random() < records.FOLDED_SHARE:
        response = records.folded(response, rate, rng)
    return fx.convolve(sound, response)


def _equaliser(stem: str, rng: np.random.Generator, rate: int) -> np.ndarray:
    curve = fx.flat()
    for _ in range(int(rng.integers(1, 4))):
        centre = np.exp(rng.uniform(np.log(100), np.log(8000)))
        curve += fx.peak(rate, centre, rng.normal(0, 3), rng.uniform(0.4, 1.5))
    curve += fx.shelf(rate, rng.uniform(2500, 7000), rng.normal(0, 3), high=True)
    low = rng.normal(2.5, 4) if stem == "drums" else rng.normal(0, 2.5)
    curve += fx.shelf(rate, rng.uniform(80, 250), low, high=False)
    if stem in ("guitar", "piano", OTHER):
        curve += fx.high_pass(rate, rng.uniform(30, 140))
    else:
        curve += fx.high_pass(rate, rng.uniform(20, 40))
    return curve


def set_levels(
    stems: np.ndarray,
    rng: np.random.Generator,
    rate: int,
    others: np.random.Generator | None = None,
) -> np.ndarray:
    """Bring the stems to levels like Slakh's and the mixture to an RMS around 0.1.

    Parameters
    ----------
    stems
        float32 [stems, channels, samples].
    rng
        The random stream.
    rate
        Sampling rate, Hz.
    others
        The random stream of the fifth stem, where there is one.

    Returns
    -------
    array
        The stems, each scaled by one gain for the whole song: no segment is normalised on its
        own. Neither a stem nor the mixture leaves [-1, 1].
    """
    gains = []
    for stem, sound in zip(FIVE_STEMS, stems):
        mean, spread = STEM_LEVELS[stem]
        drawn = others if stem == OTHER and others is not None else rng
        target = 10 ** (np.clip(drawn.normal(mean, spread), mean - 10, mean + 8) / 20)
        level = fx.active_rms(sound, rate)
        gains.append(target / level if level > 1e-7 else 0.0)
    stems *= np.array(gains, np.float32)[:, None, None]
    mixture = stems.sum(0)
    wanted = MIX_RMS * np.exp(np.clip(rng.normal(0, MIX_SPREAD), -0.8, 0.6))
    top = max(float(mixture.max()), -float(mixture.min()), float(stems.max()), -float(stems.min()))
    common = min(wanted / max(fx.active_rms(mixture, rate), 1e-6), 1.0 / max(top, 1e-6))
    stems *= np.float32(common)
    return stems
