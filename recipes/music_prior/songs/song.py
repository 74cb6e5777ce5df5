"""Songs as data: notes, tracks, the four stems, and how General MIDI programs map to them.

Times are seconds, pitches are MIDI keys (60 is middle C), velocities are 1..127. A song is
instrument-agnostic about soundfonts: which preset of which bank plays a track is decided when it
is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mgdm_core.errors import MGDMError

STEMS = ("bass", "drums", "guitar", "piano")
OTHER = "other"  # every other instrument, and voices
FIVE_STEMS = (*STEMS, OTHER)
RATE = 22_050
DRUM_CHANNEL = 9

# Slakh's band recipe: the families of General MIDI, drums by channel.
PIANO_PROGRAMS = range(0, 8)
GUITAR_PROGRAMS = range(24, 32)
BASS_PROGRAMS = range(32, 40)


class SongError(MGDMError):
    """A song, a track or a note that cannot be used as it is."""


class Note(NamedTuple):
    """One note: from `start` to `end` (seconds), a MIDI key and a velocity."""

    start: float
    end: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Bend:
    """From `time` (seconds) on, the whole track sounds `semitones` away from its keys."""

    time: float
    semitones: float


@dataclass(frozen=True)
class Track:
    """The part of one player.

    Attributes
    ----------
    stem
        One of `FIVE_STEMS`.
    program
        General MIDI program 0..127; for drums the program of the kit on the drum bank.
    notes
        In order of their start.
    bends
        Pitch bends in order of time, within +-12 semitones.
    role
        What the part does ("strum", "lead", "comp", ...): a hint to production, never a must.
    """

    stem: str
    program: int
    notes: tuple[Note, ...]
    bends: tuple[Bend, ...] = ()
    role: str = ""

    def __post_init__(self) -> None:
        if self.stem not in FIVE_STEMS:
            stems = ", ".join(FIVE_STEMS)
            raise SongError(f"a track's stem must be one of {stems}; got {self.stem!r}")
        if not 0 <= self.program <= 127:
            raise SongError(f"a track's program must be in 0..127; got {self.program}")


@dataclass(frozen=True)
class Song:
    """Tracks that sound together for `duration` seconds."""

    name: str
    tracks: tuple[Track, ...]
    duration: float

    def stems(self) -> tuple[str, ...]:
        """Return the stems that have at least one note, in the order of `FIVE_STEMS`."""
        present = {track.stem for track in self.tracks if track.notes}
        return tuple(stem for stem in FIVE_STEMS if stem in present)


def stem_of(program: int, is_drum: bool) -> str | None:
    """Return the stem a General MIDI program belongs to, or None for the other instruments."""
    if is_drum:
        return "drums"
    if program in PIANO_PROGRAMS:
        return "piano"
    if program in GUITAR_PROGRAMS:
        return "guitar"
    if program in BASS_PROGRAMS:
        return "bass"
    return None


def transpose(song: Song, semitones: int) -> Song:
    """Move every pitched note by `semitones`; drums stay, keys that leave 0..127 are dropped."""

    def moved(track: Track) -> Track:
        if track.stem == "drums":
            return track
        notes = (Note(n.start, n.end, n.pitch + semitones, n.velocity) for n in track.notes)
        return replace(track, notes=tuple(note for note in notes if 0 <= note.pitch <= 127))

    return replace(song, tracks=tuple(moved(track) for track in song.tracks))


def change_tempo(song: Song, factor: float) -> Song:
    """Play the song `factor` times as fast: every time is divided by `factor`."""
    if not factor > 0:
        raise SongError(f"the tempo factor must be above 0; got {factor}")

    def moved(track: Track) -> Track:
        notes = tuple(Note(n.start / factor, n.end / factor, *_key(n)) for n in track.notes)
        bends = tuple(replace(bend, time=bend.time / factor) for bend in track.bends)
        return replace(track, notes=notes, bends=bends)

    tracks = tuple(moved(track) for track in song.tracks)
    return replace(song, tracks=tracks, duration=song.duration / factor)


def excerpt(song: Song, start: float, length: float) -> Song:
    """Cut [start, start + length) seconds out of a song and move it to time 0.

    Notes that sound across an edge are cut there, so that a pad held from before is still heard.
    """
    stop = start + length

    def cut(track: Track) -> Track:
        notes = tuple(
            Note(max(note.start, start) - start, min(note.end, stop) - start, *_key(note))
            for note in track.notes
            if note.end > start and note.start < stop
        )
        before = [bend for bend in track.bends if bend.time <= start]
        bends = [Bend(0.0, before[-1].semitones)] if before else []
        bends += [Bend(b.time - start, b.semitones) for b in track.bends if start < b.time < stop]
        return replace(track, notes=notes, bends=tuple(bends))

    return replace(song, tracks=tuple(cut(track) for track in song.tracks), duration=length)


def _key(note: Note) -> tuple[int, int]:
    return note.pitch, note.velocity


def humanise(
    song: Song, rng: np.random.Generator, timing: float = 0.008, velocity: float = 6.0
) -> Song:
    """Move notes off the grid and vary their strength, each player with a feel of his own.

    Parameters
    ----------
    song
        The song as written.
    rng
        The random stream.
    timing
        Standard deviation of one note's start, seconds; a player's constant lead or lag has the
        same deviation.
    velocity
        Standard deviation of one note's velocity, MIDI steps.
    """

    def played(track: Track) -> Track:
        count = len(track.notes)
        lag = rng.normal(0, timing)
        shifts = lag + rng.normal(0, timing * rng.uniform(0.3, 1.2), count)
        strengths = rng.normal(0, velocity, count)
        notes = []
        for note, shift, strength in zip(track.notes, shifts, strengths):
            start = max(0.0, note.start + shift)
            notes.append(
                Note(
                    start=start,
                    end=max(note.end + shift, start + 0.02),
                    pitch=note.pitch,
                    velocity=int(min(max(note.velocity + strength, 1), 127)),
                )
            )
        return replace(track, notes=tuple(sorted(notes, key=lambda note: note.start)))

    return replace(song, tracks=tuple(played(track) for track in song.tracks))
