"""Bass lines over the chords of a section."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.composer.score import Event, Section
from recipes.music_prior.composer.theory import nearest

FEELS = (
    "long",
    "eighths",
    "octaves",
    "walking",
    "syncopated",
    "dotted",
    "reggae",
    "tumbao",
    "arpeggio",
    "two",
    "gallop",
)
LOW, HIGH = 28, 50


def _root(pitch_class: int, around: float) -> int:
    key = nearest(pitch_class, around)
    while key < LOW:
        key += 12
    while key > HIGH:
        key -= 12
    return key


def play(rng: np.random.Generator, section: Section, feel: str, centre: float) -> list[Event]:
    """Play a section in one feel of `FEELS`, around the key `centre`."""
    events: list[Event] = []
    velocity = 78 + 28 * section.energy
    gate = rng.uniform(0.7, 1.0)
    steps = section.bars[0].steps
    mask = rng.random(steps) < rng.uniform(0.35, 0.65)  # one rhythm for the whole section
    mask[0] = True
    jumps = rng.random(steps)
    chords = [(bar, *entry) for bar in section.bars for entry in bar.chords]

    for number, (bar, offset, length, harmony) in enumerate(chords):
        root = _root(harmony.root, centre)
        fifth = root + 7 if root + 7 <= HIGH + 3 else root - 5
        third = root + harmony.intervals[1] if len(harmony.intervals) > 2 else root + 12
        following = chords[(number + 1) % len(chords)][3]
        target = _root(following.root, root)
        start = bar.start + offset

        def add(step: float, steps: float, key: int, force: float = 1.0, start=start) -> None:
            loudness = velocity * force + rng.normal(0, 4)
            events.append(Event(start + step, steps * gate, key, loudness))

        if feel == "long":
            add(0, length, root)
        elif feel == "eighths":
            for step in range(0, length, 2):
                key = target - 1 if step == length - 2 and jumps[0] < 0.15 else root
                add(step, 2, key, 1.0 if step % 4 == 0 else 0.88)
        elif feel == "octaves":
            for step in range(0, length, 2):
                add(step, 2, root if step % 4 == 0 else root + 12, 1.0 if step % 4 == 0 else 0.9)
        elif feel == "walking":
            walk = [root, third, fifth, root + 10 if 10 in harmony.intervals else root + 9]
            if rng.random() < 0.5:
                walk = [root, root + 2, third, fifth]
            for index, step in enumerate(range(0, length, 4)):
                last = step + 4 >= length
                key = target + int(rng.choice((-1, 1))) if last and length > 4 else walk[index % 4]
                add(step, 4, key)
                if rng.random() < 0.12:
                    add(step + 2, 1.5, key, 0.7)
        elif feel == "syncopated":
            on = [step for step in range(length) if mask[(offset + step) % steps]]
            for index, step in enumerate(on or [0]):
                stop = on[index + 1] if index + 1 < len(on) else length
                jump = jumps[(offset + step) % steps]
                key = root if step == 0 or jump < 0.5 else (root + 12 if jump < 0.75 else fifth)
                add(step, min(stop - step, 3), key, 1.0 if step == 0 else 0.85)
        elif feel == "dotted":
            for step, steps_long in ((0, 3), (3, 3), (6, 2), (8, 3), (11, 3), (14, 2)):
                if step < length:
                    add(step, steps_long, root if step != 14 else fifth)
        elif feel == "reggae":
            for step, key in ((0, root), (3, root), (4, third), (8, fifth), (10, root)):
                if step < length and jumps[step % steps] < 0.8:
                    add(step, 2, key)
        elif feel == "tumbao":
            for step, key in ((6, fifth), (12, target if length >= 16 else root)):
                if step < length:
                    add(step, 5, key)
        elif feel == "arpeggio":
            tones = (root, fifth, root + 12, third + 12 if third + 12 <= HIGH else fifth)
            for index, step in enumerate(range(0, length, 2)):
                add(step, 2, tones[index % 4], 1.0 if index % 4 == 0 else 0.88)
        elif feel == "two":
            for index, step in enumerate(range(0, length, 6 if steps == 12 else 8)):
                add(step, 6, root if index % 2 == 0 else fifth)
        else:  # gallop
            for step in range(0, length, 4):
                add(step, 2, root)
                add(step + 2, 1, root, 0.85)
                add(step + 3, 1, root, 0.85)
    return events
