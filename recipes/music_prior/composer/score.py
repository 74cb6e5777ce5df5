"""The sheet music between styles and players: bars, sections and events counted in steps.

A step is a sixteenth note. Swing and tempo turn steps into seconds at the very end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.music_prior.composer.theory import Chord
from recipes.music_prior.songs import Bend, Note


@dataclass(frozen=True)
class Event:
    """A note: where it starts and how long it lasts (steps), its key and velocity."""

    start: float
    length: float
    pitch: int
    velocity: float


@dataclass(frozen=True)
class Bar:
    """A bar: its first step, its length in steps, and its chords as (offset, length, chord)."""

    start: int
    steps: int
    chords: tuple[tuple[int, int, Chord], ...]

    def chord_at(self, step: float) -> Chord:
        """Return the chord that sounds at a step within the bar."""
        return next(c for offset, _, c in reversed(self.chords) if offset <= max(step, 0))


@dataclass(frozen=True)
class Section:
    """A verse, a chorus, ...: its bars, how loud and busy it is (0..1), and who plays."""

    name: str
    bars: tuple[Bar, ...]
    energy: float
    stems: frozenset[str]


@dataclass(frozen=True)
class Clock:
    """Steps to seconds.

    Attributes
    ----------
    tempo
        Quarter notes a minute.
    swing
        Where the off-beat falls within its pair, 0.5 (straight) to 0.75.
    swing_unit
        The length of the swung pair in steps: 4 swings eighths, 2 swings sixteenths.
    """

    tempo: float
    swing: float = 0.5
    swing_unit: int = 4

    def seconds(self, step: float) -> float:
        """Return the time of a step."""
        pair, within = divmod(step, self.swing_unit)
        share = within / self.swing_unit
        if share < 0.5:
            share = share * 2 * self.swing
        else:
            share = self.swing + (share - 0.5) * 2 * (1 - self.swing)
        return (pair + share) * self.swing_unit * 15.0 / self.tempo


def to_notes(events: list[Event], clock: Clock) -> tuple[Note, ...]:
    """Turn events into notes in order of time; one key never sounds twice at once."""
    notes: list[Note] = []
    last: dict[int, int] = {}
    for event in sorted(events, key=lambda e: (e.start, e.pitch)):
        start = clock.seconds(event.start)
        end = max(clock.seconds(event.start + event.length), start + 0.03)
        velocity = int(np.clip(event.velocity, 1, 127))
        previous = last.get(event.pitch)
        if previous is not None and notes[previous].end > start:
            before = notes[previous]
            if before.start >= start - 1e-6:
                continue
            notes[previous] = Note(before.start, start, before.pitch, before.velocity)
        last[event.pitch] = len(notes)
        notes.append(Note(start, end, int(event.pitch), velocity))
    return tuple(notes)


def to_bends(bends: list[tuple[float, float]], clock: Clock) -> tuple[Bend, ...]:
    """Turn (step, semitones) pairs into bends in order of time."""
    return tuple(Bend(clock.seconds(step), value) for step, value in sorted(bends))
