"""Melodies: phrases of one rhythm motif, steps of the scale, chord tones on strong beats."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.score import Event, Section
from recipes.music_prior.songs.composer.theory import scale_keys


def melody(
    rng: np.random.Generator,
    section: Section,
    key: int,
    scale: str,
    low: int,
    high: int,
    velocity: float,
    bends: bool = False,
) -> tuple[list[Event], list[tuple[float, float]]]:
    """Write a melody over a section.

    Parameters
    ----------
    rng
        The random stream.
    section
        Its chords decide the strong notes.
    key, scale
        The key's pitch class and a name of `SCALES`.
    low, high
        The range in MIDI keys.
    velocity
        The mean velocity.
    bends
        Whether some notes are bent into and some long ones wavered, as guitarists do.

    Returns
    -------
    events, bends
        Bends as (step, semitones).
    """
    keys = scale_keys(key, scale, low, high)
    motif = _rhythm(rng, section.metre.steps, section.energy)
    answer = _rhythm(rng, section.metre.steps, section.energy)
    place = len(keys) // 2
    events: list[Event] = []
    wheel: list[tuple[float, float]] = []
    for index, bar in enumerate(section.bars):
        phrase = index % 4
        if phrase == 3 and rng.random() < 0.5:
            continue  # singers breathe
        for step, length in motif if phrase % 2 == 0 else answer:
            place = int(
                np.clip(place + rng.choice((-2, -1, -1, 0, 1, 1, 2, 4, -4)), 0, len(keys) - 1)
            )
            if step % 8 == 0:
                classes = bar.chord_at(step).classes()
                near = [i for i in range(len(keys)) if keys[i] % 12 in classes]
                if near:
                    place = min(near, key=lambda i: abs(i - place))
            start = bar.start + step
            events.append(
                Event(start, length * 0.95, int(keys[place]), velocity + rng.normal(0, 6))
            )
            if bends and rng.random() < 0.2:
                depth = -float(rng.choice((1, 2)))
                rise = min(length * 0.4, 1.5)
                wheel += [(start + rise * i / 6, depth * (1 - i / 6)) for i in range(7)]
            elif bends and length >= 4 and rng.random() < 0.5:
                wheel += _vibrato(rng, start + 1.5, start + length * 0.95)
    return events, wheel


def _vibrato(rng: np.random.Generator, start: float, stop: float) -> list[tuple[float, float]]:
    period, depth = rng.uniform(1.0, 1.6), rng.uniform(0.15, 0.45)
    steps = np.arange(start, stop, period / 8)
    wave = [(float(s), float(depth * np.sin(2 * np.pi * (s - start) / period))) for s in steps]
    return [*wave, (stop, 0.0)]


def _rhythm(rng: np.random.Generator, steps: int, energy: float) -> list[tuple[int, int]]:
    lengths = (1, 2, 2, 2, 3, 4) if energy > 0.6 else (2, 2, 3, 4, 4, 6, 8)
    rhythm, step = [], int(rng.choice((0, 0, 0, 2, 4)))
    while step < steps:
        length = int(min(rng.choice(lengths), steps - step))
        if rng.random() < 0.85:
            rhythm.append((step, length))
        step += length
    return rhythm
