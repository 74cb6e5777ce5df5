"""Drum patterns: kick, snare, cymbals, ghost notes and fills on the General MIDI drum map."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.score import Event, Metre, Section

KICK, SIDE_STICK, SNARE, CLAP = 36, 37, 38, 39
CLOSED, PEDAL, OPEN, CRASH, RIDE, CHINA, BELL, SPLASH, CRASH2 = 42, 44, 46, 49, 51, 52, 53, 55, 57
TOMS = (50, 48, 47, 45, 43, 41)
TAMBOURINE, COWBELL, SHAKER, CONGA_HIGH, CONGA_LOW, CLAVES = 54, 56, 70, 62, 64, 75
FEELS = (
    "rock", "half", "double", "funk", "breakbeat", "shuffle", "swing", "brushes", "four",
    "reggae", "steppers", "latin", "bossa", "train", "tribal", "trap", "sparse",
)  # fmt: skip

Hit = tuple[float, float, int]  # step, velocity, key


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


class _Pattern:
    """One bar of hits in a metre."""

    def __init__(self, metre: Metre) -> None:
        self.steps = metre.steps
        self.hits: list[Hit] = []

    def add(self, key: int, where, velocity: float) -> None:
        self.hits.extend((float(step), velocity, key) for step in where if 0 <= step < self.steps)


def groove(rng: np.random.Generator, feel: str, metre: Metre, energy: float) -> list[Hit]:
    """Make up one bar of a pattern.

    Parameters
    ----------
    rng
        The random stream.
    feel
        One of `FEELS`.
    metre
        The bar.
    energy
        0 (soft, sparse) to 1.
    """
    pattern = _Pattern(metre)
    if feel in ("swing", "brushes"):
        _swing(pattern, rng, feel, metre, energy)
    elif feel in ("four", "trap"):
        _machine(pattern, rng, feel, metre)
    elif feel in ("reggae", "steppers"):
        _reggae(pattern, rng, feel, metre)
    elif feel in ("latin", "bossa", "tribal"):
        _latin(pattern, rng, feel, metre)
    elif feel == "train":
        pattern.add(KICK, metre.beats[::2], 95)
        pattern.add(SNARE, range(0, metre.steps, _pick(rng, (1, 1, 2))), 50)
        pattern.add(SNARE, [beat + 2 for beat in metre.beats], 92)
        pattern.add(PEDAL, metre.beats[1::2], 60)
    else:
        _backbeat(pattern, rng, feel, metre, energy)
    return pattern.hits


def _backbeat(pattern, rng, feel: str, metre: Metre, energy: float) -> None:
    add, steps, beats = pattern.add, metre.steps, metre.beats
    backbeat = list(_pick(rng, metre.backbeats))
    if feel == "half":
        backbeat = [beats[len(beats) // 2]]
    kicks = {0}
    grid = 1 if feel in ("funk", "breakbeat") else 2
    density = 0.04 if feel == "sparse" else 0.12 + 0.25 * energy
    if feel == "double" and energy > 0.5:
        kicks |= set(range(0, steps, _pick(rng, (1, 2))))
    for step in range(grid, steps, grid):
        if step not in backbeat and rng.random() < density:
            kicks.add(step)
    if len(beats) == 4 and rng.random() < 0.6:
        kicks.add(beats[2])
    add(KICK, sorted(kicks), 100)
    add(SIDE_STICK if energy < 0.35 and rng.random() < 0.6 else SNARE, backbeat, 104)
    cymbal = _pick(rng, (CLOSED, CLOSED, CLOSED, RIDE))
    if energy > 0.75:
        cymbal = _pick(rng, (RIDE, CRASH, OPEN, RIDE, CLOSED, BELL, CHINA))
    if feel == "shuffle":
        add(cymbal, [step for beat in beats for step in (beat, beat + 2)], 78)
    elif feel != "sparse" or rng.random() < 0.5:
        spacing = _pick(rng, (2, 2, 2, 2, 4))
        if feel in ("funk", "breakbeat") or (energy < 0.6 and rng.random() < 0.2):
            spacing = 1
        if feel == "sparse" or cymbal in (CRASH, CHINA):
            spacing = 4
        add(cymbal, range(0, steps, spacing), 76)
    if feel in ("funk", "breakbeat", "shuffle") or rng.random() < 0.15:
        ghosts = [s for s in range(1, steps) if s not in backbeat and rng.random() < 0.18]
        for step in ghosts:
            add(SNARE, [step], rng.uniform(22, 42))
    if cymbal == CLOSED and rng.random() < 0.35:
        add(OPEN, [_pick(rng, (2, 6, 10, 14))], 85)
    if rng.random() < 0.12:
        add(TAMBOURINE, range(0, steps, _pick(rng, (2, 4))), 60)


def _swing(pattern, rng, feel: str, metre: Metre, energy: float) -> None:
    add, beats = pattern.add, metre.beats
    ride = RIDE if feel == "swing" else _pick(rng, (CLOSED, RIDE))
    add(ride, beats, 78)
    add(ride, [beat + 2 for beat in beats[1::2]], 62)
    add(PEDAL, beats[1::2], 60)
    add(KICK, beats, 35 + 20 * energy)
    for step in range(2, metre.steps, 2):
        if rng.random() < 0.15 + 0.15 * energy:
            add(_pick(rng, (SNARE, SNARE, KICK, TOMS[3])), [step], rng.uniform(35, 70))
    if feel == "brushes":
        add(SNARE, beats[1::2], 55)
        add(SNARE, range(0, metre.steps, 2), 32)


def _machine(pattern, rng, feel: str, metre: Metre) -> None:
    add, steps, beats = pattern.add, metre.steps, metre.beats
    if feel == "four":
        add(KICK, beats, 110)
        add(_pick(rng, (SNARE, CLAP)), _pick(rng, metre.backbeats), 100)
        add(_pick(rng, (OPEN, CLOSED)), [beat + 2 for beat in beats], 85)
        if rng.random() < 0.6:
            add(CLOSED, range(steps), 55)
        if rng.random() < 0.3:
            add(SHAKER, range(0, steps, 2), 50)
        return
    add(KICK, [0, *(s for s in range(2, steps) if rng.random() < 0.14)], 112)
    add(_pick(rng, (SNARE, CLAP)), [beats[len(beats) // 2]], 105)
    add(CLOSED, range(0, steps, _pick(rng, (1, 2))), 70)
    roll = float(rng.integers(steps // 2))  # hats in thirty-second notes
    for step in np.arange(roll, min(roll + _pick(rng, (2, 3, 4)), steps), 0.5):
        pattern.hits.append((float(step), 62.0, CLOSED))


def _reggae(pattern, rng, feel: str, metre: Metre) -> None:
    add, steps = pattern.add, metre.steps
    third = metre.beats[len(metre.beats) // 2]
    add(KICK, metre.beats if feel == "steppers" else [third], 108)
    add(_pick(rng, (SIDE_STICK, SIDE_STICK, SNARE)), [third], 98)
    add(CLOSED, range(0, steps, 2), 70)
    if rng.random() < 0.4:
        add(OPEN, [steps - 2], 75)
    if rng.random() < 0.4:
        add(SIDE_STICK, [s for s in range(1, steps) if rng.random() < 0.12], 60)


def _latin(pattern, rng, feel: str, metre: Metre) -> None:
    add, steps = pattern.add, metre.steps
    if feel == "tribal":
        for step in range(0, steps, 2):
            if step in metre.beats or rng.random() < 0.5:
                add(_pick(rng, (*TOMS[2:], KICK, CONGA_LOW)), [step], rng.uniform(70, 105))
        add(_pick(rng, (SHAKER, PEDAL, TAMBOURINE)), range(0, steps, 2), 55)
        return
    add(KICK, [0, 3, 8, 11] if feel == "bossa" else [0, 6, 8, 14], 85)
    clave = _pick(rng, ([0, 3, 6, 10, 12], [2, 4, 8, 11, 14], [0, 3, 7, 10, 12]))
    add(_pick(rng, (SIDE_STICK, CLAVES)), clave, 80)
    add(_pick(rng, (CLOSED, SHAKER, RIDE)), range(0, steps, _pick(rng, (1, 2))), 60)
    if rng.random() < 0.6:
        add(CONGA_HIGH, [4, 5, 12], 75)
        add(CONGA_LOW, [6, 7, 14, 15], 80)
    if rng.random() < 0.3:
        add(COWBELL, metre.beats, 70)


def fill(rng: np.random.Generator, steps: int, length: int, energy: float) -> list[Hit]:
    """Make up a fill over the last `length` steps of a bar: toms, snare rolls, or a mix."""
    kind = rng.random()
    spacing = 1 if rng.random() < 0.7 else 2
    hits: list[Hit] = []
    positions = list(range(steps - length, steps, spacing))
    for index, step in enumerate(positions):
        progress = index / max(len(positions) - 1, 1)
        velocity = 75 + 30 * progress + 10 * energy
        if kind < 0.5:
            key = TOMS[min(int(progress * len(TOMS)), len(TOMS) - 1)]
            if rng.random() < 0.2:
                key = SNARE
        elif kind < 0.8:
            key = SNARE
        else:
            key = _pick(rng, (SNARE, KICK, *TOMS))
        if rng.random() < 0.9:
            hits.append((float(step), velocity, key))
    return hits


def roll(section: Section) -> list[Event]:
    """Build up: a snare roll that quickens and swells through the section."""
    events = []
    first = section.bars[0].start
    total = section.bars[-1].start + section.metre.steps - first
    for bar in section.bars:
        progress = (bar.start - first) / total
        spacing = 4 if progress < 0.4 else 2 if progress < 0.74 else 1
        for step in range(0, bar.steps, spacing):
            swell = 45 + 70 * (bar.start + step - first) / total
            events.append(Event(bar.start + step, 1.0, SNARE, swell))
        events += [Event(bar.start + beat, 1.0, KICK, 95) for beat in section.metre.beats]
    return events


def play(rng: np.random.Generator, section: Section, feel: str) -> list[Event]:
    """Play a section: one groove with small variations, a crash at the start, a fill at the end."""
    if section.hits:
        keys = (KICK, _pick(rng, (CRASH, SNARE, CRASH2)))
        return [
            Event(bar.start + step, 1.0, key, 100 + rng.normal(0, 4))
            for bar in section.bars
            for step in section.hits
            for key in keys
        ]
    if section.name == "build" and rng.random() < 0.5:
        return roll(section)
    events: list[Event] = []
    main = groove(rng, feel, section.metre, section.energy)
    other = groove(rng, feel, section.metre, section.energy)
    loudness = 0.72 + 0.33 * section.energy
    accents = rng.uniform(0.75, 1.0)
    for index, bar in enumerate(section.bars):
        last = index == len(section.bars) - 1
        hits = main if index % 4 != 3 or rng.random() < 0.5 else other
        hits = [hit for hit in hits if rng.random() > 0.02]
        if (last and rng.random() < 0.75) or (index % 4 == 3 and rng.random() < 0.25):
            length = _pick(rng, (4, 4, 8, bar.steps)) if last else 4
            hits = [hit for hit in hits if hit[0] < bar.steps - length]
            hits += fill(rng, bar.steps, length, section.energy)
        if index == 0 and section.energy > 0.4 and rng.random() < 0.7:
            hits.append((0.0, 100.0, _pick(rng, (CRASH, CRASH2, SPLASH))))
        for step, velocity, key in hits:
            weak = accents if step not in section.metre.beats else 1.0
            force = velocity * loudness * weak + rng.normal(0, 4)
            events.append(Event(bar.start + step, 1.0, key, force))
    return events
