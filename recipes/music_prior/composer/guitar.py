"""Guitar parts: strumming, picking, power chords, riffs, skanks, funk, comping and leads."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.composer.melody import melody
from recipes.music_prior.composer.score import Event, Section
from recipes.music_prior.composer.theory import SCALES, nearest, strummed, voicing

ROLES = ("strum", "arpeggio", "power", "chug", "riff", "skank", "funk", "comp", "lead", "swell")
_STRUMS = (
    (0, 4, 6, 10, 12, 14),
    (0, 2, 4, 6, 8, 10, 12, 14),
    (0, 4, 8, 12),
    (0, 6, 8, 14),
    (0, 3, 6, 8, 11, 14),
    (0, 4, 6, 8, 12, 14),
    (0, 8),
)


def play(
    rng: np.random.Generator, section: Section, role: str, key: int, scale: str
) -> tuple[list[Event], list[tuple[float, float]]]:
    """Play a section in one role of `ROLES`.

    Returns
    -------
    events, bends
        Bends as (step, semitones).
    """
    velocity = 68 + 34 * section.energy
    if role == "lead":
        return melody(rng, section, key, scale, 57, 84, velocity + 6, bends=True)
    events: list[Event] = []
    steps = section.bars[0].steps
    pattern = [step for step in _STRUMS[int(rng.integers(len(_STRUMS)))] if step < steps]
    position = int(rng.choice((0, 0, 0, 2, 3, 5, 7)))
    order = rng.permutation(6)
    mask = rng.random(steps) < rng.uniform(0.4, 0.8)
    mask[0] = True
    riff = _riff(rng, steps)
    spread = rng.uniform(0.02, 0.14)

    def stroke(at: float, length: float, keys: list[int], down: bool, force: float) -> None:
        for index, pitch in enumerate(keys if down else keys[::-1]):
            loudness = velocity * force * (0.95 if index else 1.0) + rng.normal(0, 4)
            events.append(Event(at + spread * index, length, pitch, loudness))

    for bar in section.bars:
        for offset, length, harmony in bar.chords:
            start = bar.start + offset
            grip = strummed(harmony, position)
            root = nearest(harmony.root, 45)
            power = [root, root + 7, root + 12]
            inside = [step - offset for step in pattern if offset <= step < offset + length]
            if 0 not in inside:
                inside = [0, *inside]
            if role == "strum":
                for number, step in enumerate(inside):
                    stop = inside[number + 1] if number + 1 < len(inside) else length
                    down = step % 4 == 0
                    keys = grip if down or rng.random() < 0.4 else grip[-4:]
                    stroke(start + step, (stop - step) * 0.98, keys, down, 1.0 if down else 0.85)
            elif role == "arpeggio":
                spacing = 2 if section.energy < 0.8 or rng.random() < 0.5 else 1
                tones = [grip[int(i) % len(grip)] for i in order]
                for number, step in enumerate(range(0, length, spacing)):
                    tone = grip[0] if step == 0 else tones[number % len(tones)]
                    events.append(
                        Event(start + step, length - step, tone, velocity * 0.9 + rng.normal(0, 5))
                    )
            elif role == "power":
                if mask[3]:
                    stroke(start, length * 0.97, power, True, 1.05)
                else:
                    for number, step in enumerate(inside):
                        stop = inside[number + 1] if number + 1 < len(inside) else length
                        stroke(start + step, (stop - step) * 0.9, power, True, 1.0)
            elif role == "chug":
                for step in range(length):
                    if mask[(offset + step) % steps] or step % 4 == 0:
                        accent = step in inside and rng.random() < 0.7
                        keys = power if accent else [root]
                        stroke(start + step, 1.9 if accent else 0.6, keys, True, 1.0)
            elif role == "riff":
                for step, steps_long, degree in riff:
                    if step < length:
                        tone = root + SCALES["minor pentatonic"][degree % 5] + 12 * (degree // 5)
                        stroke(start + step, steps_long, [tone], True, 1.0)
            elif role == "skank":
                spacing = 8 if mask[1] else 4
                for step in range(spacing // 2, length, spacing):
                    stroke(start + step, 0.9, grip[-4:], False, 1.0)
            elif role == "funk":
                for step in range(length):
                    if mask[(offset + step) % steps]:
                        accent = step in inside
                        force = 1.0 if accent else 0.6
                        stroke(
                            start + step, 0.8 if accent else 0.4, grip[-3:], step % 2 == 0, force
                        )
            elif role == "comp":
                keys = voicing(harmony, 56, min(4, len(harmony.intervals)))
                on = inside if mask[2] else range(0, length, 4)
                for step in on:
                    stroke(start + step, 1.6 if mask[4] else 3.6, keys, True, 0.9)
            else:  # swell: long chords
                stroke(start, length, voicing(harmony, 60, 3), True, 0.8)
    return events, []


def _riff(rng: np.random.Generator, steps: int) -> list[tuple[int, float, int]]:
    """Return a one-bar figure of (step, length, degree of the pentatonic scale)."""
    figure, step, degree = [], 0, 0
    while step < steps:
        length = int(rng.choice((1, 2, 2, 3, 4)))
        if rng.random() < 0.85:
            figure.append((step, length * 0.95, degree))
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 8))
        step += length
    return figure
