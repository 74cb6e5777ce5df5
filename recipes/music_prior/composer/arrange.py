"""From a style to a song: form, harmony, who plays where, and the players' parts."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.composer import bass, drums, guitar, piano
from recipes.music_prior.composer.score import Bar, Clock, Event, Section, to_bends, to_notes
from recipes.music_prior.composer.styles import STYLES, Style
from recipes.music_prior.composer.theory import chord
from recipes.music_prior.songs import STEMS, Song, Track

_FORMS = (
    ("intro", "verse", "chorus", "verse", "chorus", "bridge", "chorus"),
    ("intro", "verse", "verse", "chorus", "break", "chorus"),
    ("verse", "chorus", "verse", "solo", "chorus", "outro"),
    ("intro", "verse", "solo", "verse", "outro"),
    ("verse", "bridge", "verse", "solo", "bridge", "verse"),
    ("intro", "build", "chorus", "break", "build", "chorus"),
)
_ENERGY = {
    "intro": (0.1, 0.6), "verse": (0.3, 0.65), "chorus": (0.65, 1.0), "bridge": (0.3, 0.8),
    "solo": (0.5, 0.95), "break": (0.05, 0.4), "build": (0.3, 0.7), "outro": (0.2, 0.7),
}  # fmt: skip
# How likely each stem plays in a full section and in a thin one (intro, break, outro).
_FULL = {"bass": 0.96, "drums": 0.95, "guitar": 0.9, "piano": 0.85}
_THIN = {"bass": 0.6, "drums": 0.5, "guitar": 0.65, "piano": 0.65}
LEAST_SECONDS = 75.0


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def write_song(rng: np.random.Generator, style: Style | None = None) -> Song:
    """Write a song of at least `LEAST_SECONDS` seconds."""
    style = style or _pick(rng, STYLES)
    steps, metre = _pick(rng, style.metres)
    tempo = float(np.exp(rng.uniform(*np.log(style.tempo))))
    if metre == "6/8":
        tempo = max(60.0, 0.75 * tempo)
    clock = Clock(tempo, float(rng.uniform(*style.swing[:2])), style.swing[2])
    key = int(rng.integers(12))
    sections = _form(rng, style, steps, clock, key)
    scale = _pick(rng, style.scales)
    tracks = [
        _drum_track(rng, style, sections, clock),
        _bass_track(rng, style, sections, clock),
        *_guitar_tracks(rng, style, sections, clock, key, scale),
        *_piano_tracks(rng, style, sections, clock, key, scale),
    ]
    last = sections[-1].bars[-1]
    return Song(
        name=f"{style.name} in {key} at {tempo:.0f}, {metre}",
        tracks=tuple(track for track in tracks if track.notes),
        duration=clock.seconds(last.start + last.steps) + 2.0,
    )


def _form(
    rng: np.random.Generator, style: Style, steps: int, clock: Clock, key: int
) -> list[Section]:
    """Lay out sections with their chords, their energy and who plays."""
    form = list(_pick(rng, _FORMS))
    progressions = {name: _pick(rng, style.progressions).split() for name in set(form)}
    if rng.random() < 0.4:  # one progression through the whole song is common
        progressions = dict.fromkeys(progressions, progressions[form[0]])
    rate = int(_pick(rng, (1, 1, 1, 2)))  # chords a bar
    members = [stem for stem in STEMS if rng.random() < 0.97]
    sections: list[Section] = []
    start = 0
    while True:
        for name in form:
            numerals = progressions[name]
            count = (
                4 if name in ("intro", "break", "build", "outro") else int(_pick(rng, (4, 8, 8)))
            )
            count = max(count, len(numerals)) if len(numerals) == 12 else count
            bars = []
            for index in range(count):
                pace = 1 if len(numerals) == 12 else rate
                split = steps // pace
                chords = tuple(
                    (i * split, split, chord(numerals[(index * pace + i) % len(numerals)], key))
                    for i in range(pace)
                )
                bars.append(Bar(start, steps, chords))
                start += steps
            odds = _THIN if name in ("intro", "break", "outro") else _FULL
            stems = frozenset(stem for stem in members if rng.random() < odds[stem])
            stems = stems or frozenset([_pick(rng, members or STEMS)])
            energy = float(rng.uniform(*_ENERGY[name]))
            sections.append(Section(name, tuple(bars), energy, stems))
        if clock.seconds(start) >= LEAST_SECONDS:
            return sections


def _drum_track(rng, style: Style, sections, clock) -> Track:
    feel = _pick(rng, style.drums)
    events: list[Event] = []
    for section in sections:
        if "drums" in section.stems:
            events += drums.play(rng, section, feel)
    kit = int(_pick(rng, (0, 0, 8, 16, 24, 25, 32, 40)))
    return Track("drums", kit, to_notes(events, clock), role=feel)


def _bass_track(rng, style: Style, sections, clock) -> Track:
    feels = {section.name: _pick(rng, style.bass) for section in sections}
    if rng.random() < 0.4:
        feels = dict.fromkeys(feels, _pick(rng, style.bass))
    centre = float(rng.uniform(34, 42))
    events: list[Event] = []
    for section in sections:
        if "bass" in section.stems:
            events += bass.play(rng, section, feels[section.name], centre)
    return Track("bass", _pick(rng, style.bass_programs), to_notes(events, clock))


def _guitar_tracks(rng, style: Style, sections, clock, key, scale) -> list[Track]:
    """One to three guitarists; the second plays in the louder sections, a lead in the solos."""
    tracks = []
    for number in range(int(_pick(rng, (1, 1, 2, 2, 3)))):
        role = _pick(rng, style.guitars)
        program = _pick(rng, style.guitar_programs)
        events: list[Event] = []
        wheel: list[tuple[float, float]] = []
        for section in sections:
            quiet = number > 0 and section.energy < 0.55 and section.name != "solo"
            if "guitar" not in section.stems or quiet:
                continue
            solo = section.name == "solo" and number == 0
            part, bends = guitar.play(rng, section, "lead" if solo else role, key, scale)
            events += part
            wheel += bends
        tracks.append(
            Track("guitar", program, to_notes(events, clock), to_bends(wheel, clock), role)
        )
    return tracks


def _piano_tracks(rng, style: Style, sections, clock, key, scale) -> list[Track]:
    roles = {section.name: _pick(rng, style.pianos) for section in sections}
    if rng.random() < 0.5:
        roles = dict.fromkeys(roles, _pick(rng, style.pianos))
    events: list[Event] = []
    for section in sections:
        if "piano" in section.stems:
            events += piano.play(rng, section, roles[section.name], key, scale)
    program = _pick(rng, style.piano_programs)
    return [Track("piano", program, to_notes(events, clock), role=_pick(rng, list(roles.values())))]
