"""What a band makes of a song: who is there, ghost notes, strums, dynamics. For training only."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from recipes.music_prior.songs.song import STEMS, Note, Song, Track

MISSING_SHARE = DENSE_SHARE = 0.2  # of the songs
_PROGRAMS = {"piano": (0, 1, 2, 4, 5), "guitar": (24, 25, 26, 27, 29)}
_GHOST_LENGTH = 0.04  # seconds
_SNARE = 38


def line_up(song: Song, rng: np.random.Generator) -> Song:
    """Decide who is there: in one song of five stems are missing, in one of five nobody rests.

    Parameters
    ----------
    song
        As written. Parts of other stems than the four stay.
    rng
        The random stream.

    Returns
    -------
    Song
        With one or two of the four stems less (at least one stays); or with a piano and a guitar
        that play along wherever the other, or the bass, has something to play.
    """
    luck = rng.random()
    present = [stem for stem in song.stems() if stem in STEMS]
    if luck < MISSING_SHARE and len(present) > 1:
        count = min(int(rng.integers(1, 3)), len(present) - 1)
        gone = set(rng.permutation(present)[:count])
        return replace(song, tracks=tuple(t for t in song.tracks if t.stem not in gone))
    if luck > 1 - DENSE_SHARE:
        return replace(song, tracks=(*song.tracks, *_doubles(song, rng)))
    return song


def _doubles(song: Song, rng: np.random.Generator) -> list[Track]:
    """Return a piano and a guitar that play what other pitched players play."""
    pitched = [t for t in song.tracks if t.notes and t.stem in ("piano", "guitar")]
    pitched = pitched or [t for t in song.tracks if t.notes and t.stem == "bass"]
    doubles = []
    for stem, programs in _PROGRAMS.items():
        sources = [t for t in pitched if t.stem != stem] or pitched
        if not sources:
            continue
        source = sources[int(rng.integers(len(sources)))]
        shift = 12 * int(rng.integers(-1, 2)) + (12 if source.stem == "bass" else 0)
        notes = tuple(
            note._replace(pitch=note.pitch + shift)
            for note in source.notes
            if 28 <= note.pitch + shift <= 96
        )
        program = int(programs[int(rng.integers(len(programs)))])
        doubles.append(Track(stem, program, notes, role="double"))
    return doubles


def play_freely(song: Song, rng: np.random.Generator) -> Song:
    """Let every player of the four stems add ghost notes, strums and dynamics of his own."""
    return replace(song, tracks=tuple(_freely(track, rng) for track in song.tracks))


def _freely(track: Track, rng: np.random.Generator) -> Track:
    if track.stem not in STEMS or not track.notes:
        return track
    notes = list(track.notes)
    if track.stem == "guitar" and track.role != "lead" and rng.random() < 0.6:
        notes = strum(notes, float(rng.uniform(0.004, 0.022)))
    if rng.random() < {"drums": 0.4, "bass": 0.25, "guitar": 0.2, "piano": 0.0}[track.stem]:
        notes += ghost_notes(track, rng, float(rng.uniform(0.1, 0.5)))
    depth = rng.uniform(0, 14)
    period, phase = rng.uniform(4, 20), rng.uniform(0, 2 * np.pi)
    swelling = []
    for note in notes:
        swell = depth * np.sin(2 * np.pi * note.start / period + phase)
        swelling.append(note._replace(velocity=int(min(max(note.velocity + swell, 1), 127))))
    return replace(track, notes=tuple(sorted(swelling, key=lambda note: note.start)))


def strum(notes: list[Note], gap: float) -> list[Note]:
    """Strike a chord's strings one after the other, `gap` seconds apart, down and up in turn."""
    chords: dict[float, list[Note]] = {}
    for note in notes:
        chords.setdefault(round(note.start, 3), []).append(note)
    struck = []
    for number, chord in enumerate(chords.values()):
        chord = sorted(chord, key=lambda note: note.pitch, reverse=number % 2 == 1)
        for index, note in enumerate(chord):
            start = min(note.start + gap * index, note.end - 0.02)
            struck.append(note._replace(start=max(start, note.start)))
    return struck


def ghost_notes(track: Track, rng: np.random.Generator, odds: float) -> list[Note]:
    """Return soft strokes between a track's own: on the snare, or on a damped string.

    Parameters
    ----------
    track
        Of drums, bass or guitar.
    rng
        The random stream.
    odds
        How likely a gap between two onsets of 0.2 to 1 s gets one in its middle.
    """
    starts = np.unique([note.start for note in track.notes])
    by_start = {note.start: note for note in track.notes}
    ghosts = []
    for before, after in pairwise(starts):
        if not 0.2 <= after - before <= 1.0 or rng.random() >= odds:
            continue
        start = float(before + after) / 2
        pitch = _SNARE if track.stem == "drums" else by_start[after].pitch
        ghosts.append(Note(start, start + _GHOST_LENGTH, pitch, int(rng.integers(18, 48))))
    return ghosts
