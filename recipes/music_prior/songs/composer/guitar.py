"""Guitar parts: strumming, picking, power chords, riffs, skanks, funk, comping and leads."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.melody import melody
from recipes.music_prior.songs.composer.score import Event, Section
from recipes.music_prior.songs.composer.theory import SCALES, Chord, nearest, strummed, voicing

ROLES = (
    "strum", "arpeggio", "travis", "power", "chug", "riff", "skank", "funk", "comp", "lead",
    "swell", "tremolo", "octaves", "ostinato",
)  # fmt: skip
_STRUMS = (
    (0, 4, 6, 10, 12, 14),
    (0, 2, 4, 6, 8, 10, 12, 14),
    (0, 4, 8, 12),
    (0, 6, 8, 14),
    (0, 3, 6, 8, 11, 14),
    (0, 4, 6, 8, 12, 14),
    (0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15),
    (0, 6, 12),
    (0, 8),
)
_ROLLS = ((0, 2, 1, 3, 2, 1), (0, 1, 2, 3, 2, 1), (0, 3, 2, 1), (0, 2, 3, 1, 2, 3, 1, 2))


class _Part:
    """A guitar part under construction: what the chords of one section share."""

    def __init__(self, rng: np.random.Generator, section: Section) -> None:
        self.rng, self.section = rng, section
        self.velocity = 68 + 34 * section.energy
        self.bar = section.metre.steps
        strums = _STRUMS[int(rng.integers(len(_STRUMS)))]
        self.pattern = [step for step in strums if step < self.bar]
        self.position = int(rng.choice((0, 0, 0, 2, 3, 5, 7)))
        self.order = _ROLLS[int(rng.integers(len(_ROLLS)))]
        self.mask = rng.random(max(self.bar, 8)) < rng.uniform(0.4, 0.8)
        self.mask[0] = True
        self.riff = _riff(rng, self.bar)
        self.spread = rng.uniform(0.02, 0.14)
        self.events: list[Event] = []

    def stroke(
        self, at: float, length: float, keys: list[int], down: bool = True, force: float = 1.0
    ) -> None:
        for index, pitch in enumerate(keys if down else keys[::-1]):
            accent = 0.95 if index else 1.0
            loudness = self.velocity * force * accent + self.rng.normal(0, 4)
            self.events.append(Event(at + self.spread * index, length, pitch, loudness))


def play(
    rng: np.random.Generator, section: Section, role: str, scale: str
) -> tuple[list[Event], list[tuple[float, float]]]:
    """Play a section in one role of `ROLES`.

    Returns
    -------
    events, bends
        Bends as (step, semitones).
    """
    part = _Part(rng, section)
    if role == "lead" and not section.hits:
        low, high = ((52, 76), (57, 84), (60, 88))[int(rng.integers(3))]
        return melody(rng, section, section.key, scale, low, high, part.velocity + 6, bends=True)
    for bar in section.bars:
        for offset, length, harmony in bar.chords:
            start = bar.start + offset
            if section.hits:
                keys = (
                    _power(harmony) if role in ("power", "chug", "riff") else _grip(part, harmony)
                )
                for step in section.hits:
                    if offset <= step < offset + length:
                        part.stroke(bar.start + step, 1.8, keys, True, 1.1)
            elif role in ("power", "chug", "riff", "octaves", "ostinato", "tremolo"):
                _driven(part, role, start, offset, length, harmony)
            else:
                _chords(part, role, start, offset, length, harmony)
    return part.events, []


def _grip(part: _Part, harmony: Chord) -> list[int]:
    return strummed(harmony, part.position)


def _power(harmony: Chord) -> list[int]:
    root = nearest(harmony.root, 45)
    return [root, root + 7, root + 12]


def _strokes(part: _Part, offset: int, length: int) -> list[tuple[int, int]]:
    """Return the strums within a chord as (step, steps to the next)."""
    inside = [step - offset for step in part.pattern if offset <= step < offset + length]
    if 0 not in inside:
        inside = [0, *inside]
    return [
        (step, (inside[i + 1] if i + 1 < len(inside) else length) - step)
        for i, step in enumerate(inside)
    ]


def _chords(part: _Part, role: str, start: int, offset: int, length: int, harmony: Chord) -> None:
    """Play one chord of an accompaniment."""
    rng, stroke = part.rng, part.stroke
    grip = _grip(part, harmony)
    if role == "strum":
        for step, gap in _strokes(part, offset, length):
            down = step % 4 == 0
            keys = grip if down or rng.random() < 0.4 else grip[-4:]
            stroke(start + step, gap * 0.98, keys, down, 1.0 if down else 0.85)
    elif role == "arpeggio":
        spacing = 2 if part.section.energy < 0.8 or part.mask[1] else 1
        tones = [grip[min(i, len(grip) - 1)] for i in part.order]
        for number, step in enumerate(range(0, length, spacing)):
            stroke(start + step, length - step, [tones[number % len(tones)]], True, 0.9)
    elif role == "travis":  # the thumb alternates, the fingers syncopate
        for number, step in enumerate(range(0, length, 4)):
            stroke(start + step, 3.5, [grip[0] if number % 2 == 0 else grip[min(1, len(grip) - 1)]])
        for step in range(2, length, 2):
            if part.mask[step % len(part.mask)]:
                stroke(
                    start + step, 3.0, [grip[-1 - int(rng.integers(min(3, len(grip))))]], True, 0.8
                )
    elif role == "skank":
        spacing = 8 if part.mask[1] else 4
        for step in range(spacing // 2, length, spacing):
            stroke(start + step, 0.9, grip[-4:], False)
    elif role == "funk":
        accents = {step for step, _ in _strokes(part, offset, length)}
        for step in range(length):
            if part.mask[(offset + step) % part.bar]:
                loud = step in accents
                stroke(
                    start + step, 0.8 if loud else 0.4, grip[-3:], step % 2 == 0, 1 if loud else 0.6
                )
    elif role == "comp":
        keys = voicing(harmony, 56, min(4, len(harmony.intervals)))
        on = [s for s, _ in _strokes(part, offset, length)] if part.mask[2] else range(0, length, 4)
        for step in on:
            stroke(start + step, 1.6 if part.mask[4] else 3.6, keys, True, 0.9)
    else:  # swell: long chords
        stroke(start, length, voicing(harmony, 60, 3), True, 0.8)


def _driven(part: _Part, role: str, start: int, offset: int, length: int, harmony: Chord) -> None:
    """Play one chord of a riff or of power chords."""
    stroke = part.stroke
    power = _power(harmony)
    root = power[0]
    if role == "power":
        strokes = [(0, length)] if part.mask[3] else _strokes(part, offset, length)
        for step, gap in strokes:
            stroke(start + step, gap * 0.93, power, True, 1.05)
    elif role == "chug":
        accents = {step for step, _ in _strokes(part, offset, length)}
        for step in range(length):
            if part.mask[(offset + step) % part.bar] or step % 4 == 0:
                loud = step in accents and part.rng.random() < 0.7
                stroke(start + step, 1.9 if loud else 0.6, power if loud else [root])
    elif role == "riff":
        for step, long, degree in part.riff:
            if step < length:
                tone = root + SCALES["minor pentatonic"][degree % 5] + 12 * (degree // 5)
                stroke(start + step, long, [tone])
    elif role == "ostinato":  # one figure in the key, whatever the chords
        low = nearest(part.section.key, 57)
        for step, long, degree in part.riff:
            if offset <= step < offset + length:
                tone = low + SCALES["minor pentatonic"][degree % 5] + 12 * (degree // 5)
                stroke(start + step - offset, long, [tone], True, 0.9)
    elif role == "octaves":
        for step, gap in _strokes(part, offset, length):
            tone = nearest(harmony.classes()[int(part.rng.integers(len(harmony.intervals)))], 55)
            stroke(start + step, gap * 0.9, [tone, tone + 12])
    else:  # tremolo picking
        tone = nearest(harmony.classes()[part.order[1] % len(harmony.intervals)], 64)
        for step in range(length):
            stroke(start + step, 0.95, [tone], step % 2 == 0, 0.9)


def harmonised(events: list[Event], key: int, scale: str) -> list[Event]:
    """Play a lead a third higher in the scale, as a second guitarist does."""
    steps = SCALES[scale]
    classes = [(key + step) % 12 for step in steps]
    third = 2 if len(steps) >= 7 else 1
    moved = []
    for event in events:
        if event.pitch % 12 in classes:
            degree = classes.index(event.pitch % 12)
            up = (steps[(degree + third) % len(steps)] - steps[degree]) % 12
            moved.append(Event(event.start, event.length, event.pitch + up, event.velocity * 0.95))
    return moved


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
