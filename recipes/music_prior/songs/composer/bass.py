"""Bass lines over the chords of a section."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.score import Event, Section
from recipes.music_prior.songs.composer.theory import Chord, nearest

FEELS = (
    "long", "eighths", "octaves", "walking", "syncopated", "dotted", "reggae", "tumbao",
    "arpeggio", "two", "gallop", "pedal", "slap", "sixteenths", "boogie",
)  # fmt: skip
LOW, HIGH = 28, 50


def _root(pitch_class: int, around: float) -> int:
    key = nearest(pitch_class, around)
    while key < LOW:
        key += 12
    while key > HIGH:
        key -= 12
    return key


class _Line:
    """A bass line under construction: what one section's figures share."""

    def __init__(self, rng: np.random.Generator, section: Section, centre: float) -> None:
        self.rng, self.section, self.centre = rng, section, centre
        self.velocity = 78 + 28 * section.energy
        self.gate = rng.uniform(0.6, 1.0)
        self.bar = section.metre.steps
        self.mask = rng.random(self.bar) < rng.uniform(0.35, 0.65)  # one rhythm for the section
        self.mask[0] = True
        self.jumps = rng.random(self.bar)
        self.events: list[Event] = []

    def add(self, at: float, length: float, key: int, force: float = 1.0) -> None:
        loudness = self.velocity * force + self.rng.normal(0, 4)
        self.events.append(Event(at, length * self.gate, key, loudness))


def play(rng: np.random.Generator, section: Section, feel: str, centre: float) -> list[Event]:
    """Play a section in one feel of `FEELS`, around the key `centre`."""
    line = _Line(rng, section, centre)
    chords = [(bar, *entry) for bar in section.bars for entry in bar.chords]
    for number, (bar, offset, length, harmony) in enumerate(chords):
        following = chords[(number + 1) % len(chords)][3]
        if section.hits:
            root = _root(harmony.root, centre)
            for step in section.hits:
                if offset <= step < offset + length:
                    line.add(bar.start + step, 2, root, 1.1)
            continue
        _figure(line, feel, bar.start + offset, offset, length, harmony, following)
    if section.energy > 0.4 and rng.random() < 0.3 and not section.hits:
        _run(line)
    return line.events


def _run(line: _Line) -> None:
    """Lead into the next section: the last beat becomes steps upwards or downwards."""
    last = line.section.bars[-1]
    end = last.start + last.steps
    line.events = [event for event in line.events if event.start < end - 4]
    root = _root(last.chord_at(last.steps - 1).root, line.centre)
    direction = int(line.rng.choice((-1, 1)))
    for index in range(4):
        line.add(
            end - 4 + index, 1, int(np.clip(root + 2 * direction * index, LOW, HIGH + 7)), 0.95
        )


def _figure(
    line: _Line, feel: str, start: int, offset: int, length: int, harmony: Chord, following: Chord
) -> None:
    """Play one chord from step `start` on, `offset` steps into its bar."""
    rng, add, bar = line.rng, line.add, line.bar
    root = _root(harmony.root, line.centre)
    if feel == "pedal":
        root = _root(line.section.key, line.centre)
    fifth = root + 7 if root + 7 <= HIGH + 3 else root - 5
    third = root + harmony.intervals[1] if len(harmony.intervals) > 2 else root + 12
    target = _root(following.root, root)
    if feel == "long":
        add(start, length, root)
    elif feel in ("eighths", "pedal"):
        for step in range(0, length, 2):
            key = target - 1 if step == length - 2 and line.jumps[0] < 0.15 else root
            add(start + step, 2, key, 1.0 if step % 4 == 0 else 0.88)
    elif feel == "sixteenths":
        for step in range(length):
            if line.mask[(offset + step) % bar] or step % 4 == 0:
                add(start + step, 1, root, 1.0 if step % 4 == 0 else 0.8)
    elif feel == "octaves":
        for step in range(0, length, 2):
            high = step % 4 != 0
            add(start + step, 2, root + 12 * high, 0.9 if high else 1.0)
    elif feel == "slap":
        for step in range(length):
            if line.mask[(offset + step) % bar]:
                high = line.jumps[(offset + step) % bar] > 0.55 and step > 0
                add(start + step, 1.2, root + 12 * high, 1.1 if high else 1.0)
            elif rng.random() < 0.15:
                add(start + step, 0.4, root, 0.5)  # a muted string
    elif feel == "walking":
        walk = [root, third, fifth, root + 10 if 10 in harmony.intervals else root + 9]
        if rng.random() < 0.5:
            walk = [root, root + 2, third, fifth]
        for index, step in enumerate(range(0, length, 4)):
            last = step + 4 >= length > 4
            add(start + step, 4, target + int(rng.choice((-1, 1))) if last else walk[index % 4])
            if rng.random() < 0.12:
                add(start + step + 2, 1.5, walk[index % 4], 0.7)
    elif feel == "boogie":
        walk = (root, third, fifth, root + 9, root + 10, root + 9, fifth, third)
        for index, step in enumerate(range(0, length, 2)):
            add(start + step, 2, walk[index % 8], 1.0 if index % 2 == 0 else 0.85)
    elif feel == "syncopated":
        on = [step for step in range(length) if line.mask[(offset + step) % bar]] or [0]
        for index, step in enumerate(on):
            stop = on[index + 1] if index + 1 < len(on) else length
            jump = line.jumps[(offset + step) % bar]
            key = root if step == 0 or jump < 0.5 else (root + 12 if jump < 0.75 else fifth)
            add(start + step, min(stop - step, 3), key, 1.0 if step == 0 else 0.85)
    elif feel == "dotted":
        for step, long in ((0, 3), (3, 3), (6, 2), (8, 3), (11, 3), (14, 2)):
            if step < length:
                add(start + step, long, root if step != 14 else fifth)
    elif feel == "reggae":
        for step, key in ((0, root), (3, root), (4, third), (8, fifth), (10, root)):
            if step < length and line.jumps[step % bar] < 0.8:
                add(start + step, 2, key)
    elif feel == "tumbao":
        for step, key in ((6, fifth), (12, target if length >= 16 else root)):
            if step < length:
                add(start + step, 5, key)
    elif feel == "arpeggio":
        tones = (root, fifth, root + 12, third + 12 if third + 12 <= HIGH else fifth)
        for index, step in enumerate(range(0, length, 2)):
            add(start + step, 2, tones[index % 4], 1.0 if index % 4 == 0 else 0.88)
    elif feel == "two":
        for index, step in enumerate(range(0, length, 6 if bar == 12 else 8)):
            add(start + step, 6, root if index % 2 == 0 else fifth)
    else:  # gallop
        for step in range(length):
            if step % 4 == 0:
                add(start + step, 2, root)
            elif step % 4 > 1:
                add(start + step, 1, root, 0.85)


def follow(rng: np.random.Generator, riff: list[Event], energy: float) -> list[Event]:
    """Double a guitar's riff: its lowest notes, brought down to the bass's strings."""
    lowest: dict[float, Event] = {}
    for event in riff:
        at = round(event.start * 4) / 4
        if at not in lowest or event.pitch < lowest[at].pitch:
            lowest[at] = event
    return [
        Event(at, event.length, _root(event.pitch, event.pitch - 12), 80 + 26 * energy)
        for at, event in sorted(lowest.items())
        if at == int(at)
    ]
