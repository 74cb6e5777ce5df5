"""The sheet music between styles and players: bars, sections and events counted in steps.

A step is a sixteenth note. Swing and tempo turn steps into seconds at the very end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recipes.music_prior.songs.composer.theory import Chord
from recipes.music_prior.songs.song import Bend, Note


@dataclass(frozen=True)
class Event:
    """A note: where it starts and how long it lasts (steps), its key and velocity."""

    start: float
    length: float
    pitch: int
    velocity: float


@dataclass(frozen=True)
class Metre:
    """A metre: the steps of a bar, where its beats fall, and where a backbeat may fall."""

    name: str
    steps: int
    beats: tuple[int, ...]
    backbeats: tuple[tuple[int, ...], ...]


COMMON = Metre("4/4", 16, (0, 4, 8, 12), ((4, 12),))
THREE = Metre("3/4", 12, (0, 4, 8), ((4, 8), (8,)))
SIX = Metre("6/8", 12, (0, 6), ((6,),))
TWELVE = Metre("12/8", 24, (0, 6, 12, 18), ((6, 18),))
FIVE = Metre("5/4", 20, (0, 4, 8, 12, 16), ((8, 16), (4, 12), (12,)))
SEVEN = Metre("7/8", 14, (0, 4, 8), ((4, 10), (8,)))


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
    """A verse, a chorus, ...

    Attributes
    ----------
    name
        "verse", "chorus", ...
    bars
        At least one.
    energy
        How loud and busy it is, 0 to 1.
    stems
        Who plays.
    metre, key
        The metre, and the key's pitch class.
    hits
        Steps of the bar on which the whole band plays together and else is silent, or none.
    pushed
        First steps of the bars that everybody comes in early to, by an eighth note.
    """

    name: str
    bars: tuple[Bar, ...]
    energy: float
    stems: frozenset[str]
    metre: Metre = COMMON
    key: int = 0
    hits: tuple[int, ...] = ()
    pushed: frozenset[int] = frozenset()


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
    drift, period
        The band runs ahead and falls behind by up to `drift` seconds every `period` steps.
    """

    tempo: float
    swing: float = 0.5
    swing_unit: int = 4
    drift: float = 0.0
    period: float = 256.0

    def seconds(self, step: float) -> float:
        """Return the time of a step."""
        pair, within = divmod(step, self.swing_unit)
        share = within / self.swing_unit
        if share < 0.5:
            share = share * 2 * self.swing
        else:
            share = self.swing + (share - 0.5) * 2 * (1 - self.swing)
        wander = self.drift * (1 - np.cos(2 * np.pi * step / self.period))
        return float((pair + share) * self.swing_unit * 15.0 / self.tempo + wander)


def push(events: list[Event], section: Section) -> list[Event]:
    """Bring what falls on a pushed bar line forward by an eighth note, and hold it as long."""
    moved = []
    for event in events:
        bar = round(event.start)
        if bar in section.pushed and abs(event.start - bar) < 0.9:
            event = replace(event, start=event.start - 2, length=event.length + 2)
        moved.append(event)
    return moved


def to_notes(events: list[Event], clock: Clock) -> tuple[Note, ...]:
    """Turn events into notes in order of time; one key never sounds twice at once."""
    notes: list[Note] = []
    last: dict[int, int] = {}
    for event in sorted(events, key=lambda e: (e.start, e.pitch)):
        start = clock.seconds(event.start)
        end = max(clock.seconds(event.start + event.length), start + 0.03)
        velocity = int(min(max(event.velocity, 1), 127))
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
