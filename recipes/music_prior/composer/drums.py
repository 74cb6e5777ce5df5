"""Drum patterns: kick, snare, cymbals, ghost notes and fills on the General MIDI drum map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.music_prior.composer.score import Event, Section

KICK, SIDE_STICK, SNARE, CLAP = 36, 37, 38, 39
CLOSED, PEDAL, OPEN, CRASH, RIDE, BELL, CRASH2 = 42, 44, 46, 49, 51, 53, 57
TOMS = (50, 48, 47, 45, 43, 41)
TAMBOURINE, COWBELL, SHAKER, CONGA_HIGH, CONGA_LOW, CLAVES = 54, 56, 70, 62, 64, 75


@dataclass(frozen=True)
class Groove:
    """One bar of a drummer's pattern, as lists of (step, velocity, key)."""

    hits: tuple[tuple[float, float, int], ...]


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def groove(rng: np.random.Generator, feel: str, steps: int, energy: float) -> Groove:
    """Make up one bar of a pattern.

    Parameters
    ----------
    rng
        The random stream.
    feel
        "rock", "four", "half", "double", "funk", "swing", "shuffle", "reggae", "latin", "bossa",
        "train", "breakbeat", "brushes".
    steps
        Steps in the bar: 16 in 4/4, 12 in 3/4 and 6/8.
    energy
        0 (soft, sparse) to 1.
    """
    hits: list[tuple[float, float, int]] = []
    triple = steps % 16 != 0
    half = steps // 2

    def add(key: int, where, velocity: float) -> None:
        hits.extend((float(step), velocity, key) for step in where if step < steps)

    cymbal = _cymbal(rng, energy)
    beats = list(range(0, steps, 4))
    backbeat = [half] if triple and rng.random() < 0.6 else ([4, 8] if triple else [4, 12])
    if feel in ("swing", "brushes"):
        ride = RIDE if feel == "swing" else _pick(rng, (CLOSED, RIDE))
        add(ride, beats, 78)
        add(ride, [b + 2 for b in beats[1::2]], 62)
        add(PEDAL, beats[1::2], 60)
        add(KICK, beats, 35 + 20 * energy)
        for step in range(2, steps, 2):
            if rng.random() < 0.15 + 0.15 * energy:
                add(_pick(rng, (SNARE, KICK)), [step], rng.uniform(35, 65))
        if feel == "brushes":
            add(SNARE, beats[1::2], 55)
    elif feel == "four":
        add(KICK, beats, 110)
        add(_pick(rng, (SNARE, CLAP)), backbeat, 100)
        add(_pick(rng, (OPEN, CLOSED)), [b + 2 for b in beats], 85)
        if rng.random() < 0.6:
            add(CLOSED, range(steps), 55)
        if rng.random() < 0.3:
            add(SHAKER, range(0, steps, 2), 50)
    elif feel == "reggae":
        add(KICK, [half], 110)
        add(_pick(rng, (SIDE_STICK, SNARE)), [half], 95)
        if rng.random() < 0.4:
            add(KICK, beats, 95)
        add(CLOSED, range(0, steps, 2), 70)
        add(OPEN, [steps - 2] if rng.random() < 0.4 else [], 75)
    elif feel in ("latin", "bossa"):
        add(KICK, [0, 3, 8, 11] if feel == "bossa" else [0, 6, 8, 14], 85)
        clave = [0, 3, 6, 10, 12] if rng.random() < 0.5 else [2, 4, 8, 11, 14]
        add(_pick(rng, (SIDE_STICK, CLAVES)), clave, 80)
        add(_pick(rng, (CLOSED, SHAKER, RIDE)), range(0, steps, _pick(rng, (1, 2))), 60)
        if rng.random() < 0.6:
            add(CONGA_HIGH, [4, 5, 12], 75)
            add(CONGA_LOW, [6, 7, 14, 15], 80)
        if rng.random() < 0.3:
            add(COWBELL, beats, 70)
    elif feel == "train":
        add(KICK, beats[::2], 95)
        add(SNARE, range(0, steps, 1 if rng.random() < 0.6 else 2), 50)
        add(SNARE, [b + 2 for b in beats], 92)
        add(PEDAL, beats[1::2], 60)
    else:
        kicks = {0}
        density = 0.12 + 0.25 * energy
        grid = 1 if feel in ("funk", "breakbeat") else 2
        if feel == "half":
            backbeat = [half] if not triple else [half]
        elif feel == "double":
            kicks |= set(range(0, steps, _pick(rng, (1, 2)))) if energy > 0.5 else {0, 6, 8}
        for step in range(grid, steps, grid):
            if step not in backbeat and rng.random() < density:
                kicks.add(step)
        if not triple and rng.random() < 0.6:
            kicks.add(8)
        add(KICK, sorted(kicks), 100)
        snare = SIDE_STICK if energy < 0.35 and rng.random() < 0.6 else SNARE
        add(snare, backbeat, 104)
        if feel == "shuffle":
            add(cymbal, sorted([*beats, *(b + 2 for b in beats)]), 78)
        else:
            spacing = 4 if rng.random() < 0.2 else 2
            if feel in ("funk", "breakbeat") or (energy < 0.6 and rng.random() < 0.2):
                spacing = 1
            add(cymbal, range(0, steps, spacing), 76)
        if feel in ("funk", "breakbeat", "shuffle"):
            for step in range(1, steps):
                if step not in backbeat and rng.random() < 0.2:
                    add(SNARE, [step], rng.uniform(22, 42))  # ghost notes
        if cymbal == CLOSED and rng.random() < 0.35:
            add(OPEN, [_pick(rng, (2, 6, 10, 14))], 85)
        if rng.random() < 0.12:
            add(TAMBOURINE, range(0, steps, 2 if rng.random() < 0.5 else 4), 60)
    return Groove(tuple(hits))


def _cymbal(rng: np.random.Generator, energy: float) -> int:
    if energy > 0.75:
        return _pick(rng, (RIDE, CRASH, OPEN, RIDE, CLOSED))
    return _pick(rng, (CLOSED, CLOSED, CLOSED, RIDE))


def fill(rng: np.random.Generator, steps: int, length: int, energy: float) -> list:
    """Make up a fill over the last `length` steps of a bar: toms, snare rolls, or a build."""
    first = steps - length
    kind = rng.random()
    spacing = 1 if rng.random() < 0.7 else 2
    hits = []
    positions = list(range(first, steps, spacing))
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


def play(rng: np.random.Generator, section: Section, feel: str) -> list[Event]:
    """Play a section: one groove with small variations, a crash at the start, a fill at the end."""
    events: list[Event] = []
    steps = section.bars[0].steps
    main = groove(rng, feel, steps, section.energy)
    other = groove(rng, feel, steps, section.energy)
    loudness = 0.72 + 0.33 * section.energy
    accents = rng.uniform(0.8, 1.0)
    for index, bar in enumerate(section.bars):
        last = index == len(section.bars) - 1
        hits = list(main.hits if index % 4 != 3 or rng.random() < 0.5 else other.hits)
        hits = [hit for hit in hits if rng.random() > 0.02]
        if (last and rng.random() < 0.75) or (index % 4 == 3 and rng.random() < 0.25):
            length = _pick(rng, (4, 4, 8, bar.steps)) if last else 4
            hits = [hit for hit in hits if hit[0] < bar.steps - length]
            hits += fill(rng, bar.steps, length, section.energy)
        if index == 0 and section.energy > 0.4 and rng.random() < 0.7:
            hits.append((0.0, 100.0, _pick(rng, (CRASH, CRASH2))))
        for step, velocity, key in hits:
            weak = accents if step % 4 else 1.0
            events.append(
                Event(bar.start + step, 1.0, key, velocity * loudness * weak + rng.normal(0, 4))
            )
    return events
