"""From a style to a song: who plays, what, with which instrument."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer import bass, drums, guitar, piano
from recipes.music_prior.songs.composer.form import lay_out
from recipes.music_prior.songs.composer.score import (
    SEVEN,
    SIX,
    TWELVE,
    Clock,
    Event,
    Section,
    push,
    to_bends,
    to_notes,
)
from recipes.music_prior.songs.composer.styles import STYLES, Style
from recipes.music_prior.songs.song import Song, Track

_KEYS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_RIFFS = ("riff", "chug", "ostinato")


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def write_song(rng: np.random.Generator, style: Style | None = None) -> Song:
    """Write a song of at least `form.LEAST_SECONDS` seconds, in a random style by default."""
    style = style or _pick(rng, STYLES)
    metre = _pick(rng, style.metres)
    tempo = float(np.exp(rng.uniform(*np.log(style.tempo))))
    swing = float(rng.uniform(*style.swing[:2]))
    if metre in (SIX, TWELVE):  # triplets are written out: no swing, and the beat is longer
        tempo, swing = max(66.0, 0.8 * tempo), 0.5
    if metre is SEVEN:
        swing = 0.5
    clock = Clock(
        tempo=tempo,
        swing=swing,
        swing_unit=style.swing[2],
        drift=float(rng.uniform(0, 0.06)) if rng.random() < 0.5 else 0.0,
        period=float(rng.uniform(150, 500)),
    )
    key = int(rng.integers(12))
    sections = lay_out(rng, style, metre, clock, key)
    scale = _pick(rng, style.scales)
    guitars, riff = _guitar_tracks(rng, style, sections, clock, scale)
    tracks = [
        _drum_track(rng, style, sections, clock),
        _bass_track(rng, style, sections, clock, riff),
        *guitars,
        *_piano_tracks(rng, style, sections, clock, scale),
    ]
    last = sections[-1].bars[-1]
    return Song(
        name=f"{style.name} in {_KEYS[key]}, {tempo:.0f} bpm, {metre.name}",
        tracks=tuple(track for track in tracks if track.notes),
        duration=clock.seconds(last.start + last.steps) + 2.0,
    )


def _vary(rng: np.random.Generator, sections: list[Section], options, same: float) -> dict:
    """Draw one choice per kind of section; with odds `same` one for the whole song."""
    if rng.random() < same:
        return dict.fromkeys((s.name for s in sections), _pick(rng, options))
    return {name: _pick(rng, options) for name in dict.fromkeys(s.name for s in sections)}


def _drum_track(rng, style: Style, sections: list[Section], clock: Clock) -> Track:
    feels = _vary(rng, sections, style.drums, 0.7)
    events: list[Event] = []
    for section in sections:
        if "drums" in section.stems:
            events += push(drums.play(rng, section, feels[section.name]), section)
    kit = int(_pick(rng, style.kits))
    return Track("drums", kit, to_notes(events, clock), role=feels[sections[0].name])


def _bass_track(rng, style: Style, sections, clock: Clock, riff: dict[int, list[Event]]) -> Track:
    feels = _vary(rng, sections, style.bass, 0.4)
    centre = float(rng.uniform(33, 43))
    unison = rng.random() < 0.5
    events: list[Event] = []
    for number, section in enumerate(sections):
        if "bass" not in section.stems:
            continue
        if unison and riff.get(number):
            part = bass.follow(rng, riff[number], section.energy)
        else:
            part = push(bass.play(rng, section, feels[section.name], centre), section)
        events += part
    return Track("bass", _pick(rng, style.bass_programs), to_notes(events, clock))


def _guitar_tracks(
    rng, style: Style, sections: list[Section], clock: Clock, scale: str
) -> tuple[list[Track], dict[int, list[Event]]]:
    """One to three guitarists, and the first one's riffs by section for the bass to double."""
    tracks: list[Track] = []
    riffs: dict[int, list[Event]] = {}
    lead: list[Event] = []
    for number in range(int(_pick(rng, (1, 1, 2, 2, 3)))):
        roles = _vary(rng, sections, style.guitars, 0.6)
        program = _pick(rng, style.guitar_programs)
        events: list[Event] = []
        wheel: list[tuple[float, float]] = []
        for index, section in enumerate(sections):
            quiet = number > 0 and section.energy < 0.55 and section.name != "solo"
            if "guitar" not in section.stems or quiet:
                continue
            solo = section.name == "solo" and number == 0
            role = "lead" if solo else roles[section.name]
            part, bends = guitar.play(rng, section, role, scale)
            part = push(part, section)
            if number == 0 and role in _RIFFS and not section.hits:
                riffs[index] = part
            if solo and rng.random() < 0.3:
                lead += guitar.harmonised(part, section.key, scale)
            events += part
            wheel += bends
        role = roles[sections[-1].name]
        tracks.append(
            Track("guitar", program, to_notes(events, clock), to_bends(wheel, clock), role)
        )
    if lead:
        program = tracks[0].program
        tracks.append(Track("guitar", program, to_notes(lead, clock), role="lead"))
    return tracks, riffs


def _piano_tracks(rng, style: Style, sections, clock: Clock, scale: str) -> list[Track]:
    """One pianist, and one time in five a second one in the louder sections."""
    tracks = []
    for number in range(2 if rng.random() < 0.2 else 1):
        roles = _vary(rng, sections, style.pianos, 0.5)
        events: list[Event] = []
        for section in sections:
            if "piano" in section.stems and (number == 0 or section.energy > 0.55):
                part = piano.play(rng, section, roles[section.name], scale)
                events += push(part, section)
        program = _pick(rng, style.piano_programs)
        role = roles[sections[-1].name]
        tracks.append(Track("piano", program, to_notes(events, clock), role=role))
    return tracks
