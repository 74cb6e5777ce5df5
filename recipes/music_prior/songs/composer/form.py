"""The form of a song: sections, their chords, their energy, and who plays in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recipes.music_prior.songs.composer.score import Bar, Clock, Metre, Section
from recipes.music_prior.songs.composer.styles import Style
from recipes.music_prior.songs.composer.theory import chord
from recipes.music_prior.songs.song import STEMS

LEAST_SECONDS = 75.0
_FORMS = (
    ("intro", "verse", "chorus", "verse", "chorus", "bridge", "chorus", "outro"),
    ("intro", "verse", "verse", "chorus", "break", "chorus"),
    ("verse", "chorus", "verse", "solo", "chorus", "outro"),
    ("intro", "verse", "solo", "verse", "outro"),
    ("verse", "bridge", "verse", "solo", "bridge", "verse"),
    ("intro", "build", "chorus", "break", "build", "chorus"),
    ("verse", "chorus", "break", "verse", "chorus", "solo", "chorus"),
)
_ENERGY = {
    "intro": (0.1, 0.6), "verse": (0.3, 0.65), "chorus": (0.65, 1.0), "bridge": (0.3, 0.8),
    "solo": (0.5, 0.95), "break": (0.05, 0.4), "build": (0.3, 0.7), "outro": (0.2, 0.7),
}  # fmt: skip
_THIN = ("intro", "break", "outro")
# How likely each stem plays in a full section and in a thin one.
_FULL_ODDS = {"bass": 0.96, "drums": 0.95, "guitar": 0.9, "piano": 0.85}
_THIN_ODDS = {"bass": 0.6, "drums": 0.5, "guitar": 0.65, "piano": 0.65}


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _members(rng: np.random.Generator) -> list[str]:
    """Draw the band: nearly always all four, sometimes a duo or a trio."""
    if rng.random() < 0.08:
        return list(rng.permutation(STEMS)[: int(rng.integers(2, 4))])
    return [stem for stem in STEMS if rng.random() < 0.98]


def lay_out(
    rng: np.random.Generator, style: Style, metre: Metre, clock: Clock, key: int
) -> list[Section]:
    """Lay out sections until `LEAST_SECONDS` are reached, and end on the tonic.

    Parameters
    ----------
    rng
        The random stream.
    style, metre, clock
        What the song is in; the clock only says how long it gets.
    key
        The pitch class it starts in; one song in six rises for its last part.
    """
    form = list(_pick(rng, _FORMS))
    progressions = {name: _pick(rng, style.progressions).split() for name in dict.fromkeys(form)}
    if rng.random() < 0.4:  # one progression through the whole song is common
        progressions = dict.fromkeys(progressions, progressions[form[0]])
    pace = int(_pick(rng, (1, 1, 1, 2)))  # chords a bar
    members = _members(rng)
    pushes = rng.random() if rng.random() < 0.35 else 0.0
    rises = rng.random() < 0.16
    sections: list[Section] = []
    start = 0
    while clock.seconds(start) < LEAST_SECONDS:
        for index, name in enumerate(form):
            if rises and index == len(form) - 2 and index > 1:
                key = (key + int(rng.integers(1, 3))) % 12
            numerals = progressions[name]
            count = 4 if name in (*_THIN, "build") else int(_pick(rng, (4, 8, 8)))
            blues = len(numerals) >= 8
            bars = _bars(
                numerals, max(count, len(numerals)) if blues else count, 1 if blues else pace,
                metre, key, start,
            )  # fmt: skip
            start = bars[-1].start + metre.steps
            section = Section(
                name=name,
                bars=bars,
                energy=float(rng.uniform(*_ENERGY[name])),
                stems=_playing(rng, name, members),
                metre=metre,
                key=key,
                pushed=frozenset(b.start for b in bars[1:] if rng.random() < pushes),
            )
            if name in ("break", "bridge", "intro") and rng.random() < 0.25:
                hits = tuple(s for s in range(0, metre.steps, 2) if rng.random() < 0.3)
                section = replace(section, hits=hits or (0,), stems=frozenset(members))
            sections.append(section)
    sections.append(_ending(style, metre, key, start, members))
    return sections


def _playing(rng: np.random.Generator, name: str, members: list[str]) -> frozenset[str]:
    odds = _THIN_ODDS if name in _THIN else _FULL_ODDS
    stems = [stem for stem in members if rng.random() < odds[stem]]
    return frozenset(stems or [_pick(rng, members or STEMS)])


def _bars(
    numerals: list[str], count: int, pace: int, metre: Metre, key: int, start: int
) -> tuple[Bar, ...]:
    """Return `count` bars with `pace` chords each, changing on a beat."""
    edges = [metre.beats[len(metre.beats) * i // pace] for i in range(pace)] + [metre.steps]
    bars = []
    for index in range(count):
        chords = tuple(
            (
                edges[i],
                edges[i + 1] - edges[i],
                chord(numerals[(index * pace + i) % len(numerals)], key),
            )
            for i in range(pace)
        )
        bars.append(Bar(start + index * metre.steps, metre.steps, chords))
    return tuple(bars)


def _ending(style: Style, metre: Metre, key: int, start: int, members: list[str]) -> Section:
    """Return one last bar: everybody strikes the tonic."""
    tonic = style.progressions[0].split()[-1]
    tonic = "i" if tonic[0].islower() else "I"
    bar = Bar(start, metre.steps, ((0, metre.steps, chord(tonic, key)),))
    return Section("end", (bar,), 0.7, frozenset(members), metre, key, hits=(0,))
