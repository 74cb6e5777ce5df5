"""Parts for everything beside the four stems: pads, strings, horns, leads, bells, voices.

They are written over any song, composed or read, from what its notes say: which pitch classes sound
when, and when something is struck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recipes.music_prior.songs.song import OTHER, Note, Song, Track

# Programs of General MIDI that suit a part; every program beside the four stems is in some of them.
ORGANS, STRINGS, CHOIRS = (
    (16, 17, 18, 19, 20, 21, 22, 23),
    (40, 41, 42, 43, 44, 48, 49),
    (52, 53, 54),
)
SYNTH_PADS = (50, 51, *range(88, 104))
BRASS, REEDS, PIPES = tuple(range(56, 64)), tuple(range(64, 72)), tuple(range(72, 80))
LEADS, MALLETS = tuple(range(80, 88)), tuple(range(8, 16))
PLUCKED, FOLK = (45, 46), tuple(range(104, 112))
PERCUSSIVE, NOISES = (47, 55, *range(112, 120)), tuple(range(120, 128))
VOICE, SPEECH = "voice", "speech"


@dataclass(frozen=True)
class Harmony:
    """What a song says to somebody who joins in.

    Attributes
    ----------
    edges
        Times at which the harmony may change, seconds, from 0 to the song's end.
    chords
        Pitch classes between two edges, the bass note first.
    scale
        The pitch classes of the whole song.
    onsets
        Times at which something is struck.
    """

    edges: tuple[float, ...]
    chords: tuple[tuple[int, ...], ...]
    scale: tuple[int, ...]
    onsets: tuple[float, ...]

    def chord_at(self, time: float) -> tuple[int, ...]:
        """Return the chord at a time."""
        index = int(np.searchsorted(self.edges, time, side="right")) - 1
        return self.chords[min(max(index, 0), len(self.chords) - 1)]


def listen(song: Song, slot: float) -> Harmony:
    """Read a song's harmony in slots of about `slot` seconds, from stroke to stroke."""
    notes = [note for track in song.tracks if track.stem != "drums" for note in track.notes]
    struck = np.unique([round(note.start, 3) for track in song.tracks for note in track.notes])
    onsets: list[float] = []
    for time in struck:
        if not onsets or time - onsets[-1] > 0.06:
            onsets.append(float(time))
    edges = [0.0]
    for time in onsets:
        if time - edges[-1] >= slot:
            edges.append(time)
    edges.append(max(song.duration, edges[-1] + 0.1))
    heard = np.zeros((len(edges) - 1, 12))
    lowest = np.full(len(edges) - 1, 128)
    for note in notes:
        first = max(int(np.searchsorted(edges, note.start, side="right")) - 1, 0)
        for index in range(first, len(edges) - 1):
            if edges[index] >= note.end:
                break
            shared = min(note.end, edges[index + 1]) - max(note.start, edges[index])
            heard[index, note.pitch % 12] += max(shared, 0.0)
            lowest[index] = min(lowest[index], note.pitch)
    total = heard.sum(0)
    scale = tuple(sorted(int(p) for p in np.argsort(-total, kind="stable")[:7] if total[p] > 0))
    chords: list[tuple[int, ...]] = []
    for row, low in zip(heard, lowest):
        best = [int(p) for p in np.argsort(-row, kind="stable")[:4] if row[p] > 0.15 * row.max()]
        if low < 128 and row.max() > 0:
            chords.append(tuple(dict.fromkeys((int(low) % 12, *best[:3]))))
        else:
            chords.append(chords[-1] if chords else scale[:1] or (0,))
    return Harmony(tuple(edges), tuple(chords), scale or (0, 2, 4, 5, 7, 9, 11), tuple(onsets))


def add_parts(song: Song, rng: np.random.Generator) -> Song:
    """Add one to four players beside the four stems to a song.

    Parameters
    ----------
    song
        With or without parts of the stem "other"; those that are there stay.
    rng
        The random stream.
    """
    harmony = listen(song, float(rng.uniform(0.9, 2.4)))
    written = any(track.stem == OTHER and track.notes for track in song.tracks)
    count = int(rng.integers(0 if written else 1, 3 if written else 4))
    names = list(rng.choice(list(_PARTS), size=count, p=_ODDS))
    if rng.random() < 0.5:
        names.append(VOICE if rng.random() < 0.8 else SPEECH)
    tracks = []
    for name in names:
        program, notes = _WRITERS[name](harmony, song.duration, rng)
        role = name if name in (VOICE, SPEECH) else ""
        tracks.append(Track(OTHER, program, tuple(notes), role=role))
    return replace(song, tracks=(*song.tracks, *(track for track in tracks if track.notes)))


def _near(pitch_class: int, key: float) -> int:
    return int(pitch_class + 12 * round((key - pitch_class) / 12))


def _pick(rng: np.random.Generator, *families: tuple[int, ...]) -> int:
    family = families[int(rng.integers(len(families)))]
    return int(family[int(rng.integers(len(family)))])


def _pad(harmony: Harmony, duration: float, rng: np.random.Generator) -> tuple[int, list[Note]]:
    """Hold every chord."""
    program = _pick(rng, ORGANS, STRINGS, STRINGS, CHOIRS, SYNTH_PADS, SYNTH_PADS, BRASS)
    centre, size = rng.uniform(52, 72), int(rng.integers(2, 5))
    velocity = rng.uniform(55, 100)
    notes = []
    for start, end, chord in zip(harmony.edges, harmony.edges[1:], harmony.chords):
        for number, pitch_class in enumerate((chord * 2)[:size]):
            key = _near(pitch_class, centre + 12 * (number // len(chord)) + 2.5 * (number - 1))
            notes.append(Note(start, end + rng.uniform(-0.08, 0.05), key, int(velocity)))
    return program, _apart(notes)


def _melody_line(
    harmony: Harmony, rng: np.random.Generator, low: float, high: float, gap: float
) -> list[Note]:
    """Walk through the scale on what the band strikes, in phrases with breaths between them."""
    notes: list[Note] = []
    key, left = rng.uniform(low + 3, high - 3), 0
    span = rng.uniform(0.7, 1.05)
    times: list[float] = []
    for time in harmony.onsets:
        if left <= 0:  # a breath
            if not times or time - times[-1] > rng.uniform(0.4, 2.2):
                left = int(rng.integers(4, 14))
            else:
                continue
        if times and time - times[-1] < gap * rng.choice((0.6, 1.0, 1.0, 2.0)):
            continue
        times.append(time)
        left -= 1
    for time, following in zip(times, [*times[1:], times[-1] + 1.0] if times else []):
        length = min(span * (following - time), rng.uniform(0.8, 2.5))
        key += rng.choice((-2, -1, -1, 0, 1, 1, 2, 4, -4)) * rng.uniform(0.8, 2.0)
        key = min(max(key, low), high)
        tones = harmony.chord_at(time) if length > 0.5 else harmony.scale
        pitch = min((_near(p, key) for p in tones), key=lambda p: abs(p - key))
        velocity = int(min(max(rng.normal(92, 9), 40), 122))
        notes.append(Note(time, time + max(length, 0.08), pitch, velocity))
    return notes


def _melody(harmony: Harmony, duration: float, rng: np.random.Generator) -> tuple[int, list[Note]]:
    """A horn, a flute, a fiddle, a synthesizer has the tune."""
    program = _pick(rng, BRASS, REEDS, REEDS, PIPES, LEADS, LEADS, (40, 41, 42), (21, 22), FOLK)
    low = rng.uniform(52, 66)
    return program, _melody_line(harmony, rng, low, low + 19, rng.uniform(0.15, 0.5))


def _stabs(harmony: Harmony, duration: float, rng: np.random.Generator) -> tuple[int, list[Note]]:
    """A section of horns, or an orchestra hit, now and then."""
    program = _pick(rng, BRASS, BRASS, (61, 62, 63), STRINGS, (55,), ORGANS, SYNTH_PADS)
    centre, odds = rng.uniform(58, 70), rng.uniform(0.12, 0.5)
    length = rng.uniform(0.1, 0.5)
    notes = []
    for time in harmony.onsets:
        if rng.random() < odds:
            chord = harmony.chord_at(time)
            velocity = int(rng.uniform(85, 120))
            notes += [Note(time, time + length, _near(p, centre + 3 * i), velocity)
                      for i, p in enumerate(chord)]  # fmt: skip
    return program, _apart(notes)


def _arpeggio(
    harmony: Harmony, duration: float, rng: np.random.Generator
) -> tuple[int, list[Note]]:
    """Mallets, harps and sequencers run through the chords."""
    program = _pick(rng, MALLETS, MALLETS, PLUCKED, FOLK, LEADS, SYNTH_PADS, (45,))
    centre, step = rng.uniform(60, 76), rng.uniform(0.11, 0.3)
    order = rng.permutation(4)
    length = rng.uniform(0.1, 0.6)
    notes, number = [], 0
    for start, end, chord in zip(harmony.edges, harmony.edges[1:], harmony.chords):
        count = max(1, round((end - start) / step))
        for index in range(count):
            time = start + (end - start) * index / count
            tone = int(order[number % 4])
            key = _near(chord[tone % len(chord)], centre + 12 * (tone // len(chord)))
            notes.append(Note(time, time + length, key, int(rng.uniform(65, 105))))
            number += 1
    return program, _apart(notes)


def _percussion(
    harmony: Harmony, duration: float, rng: np.random.Generator
) -> tuple[int, list[Note]]:
    """Bells, blocks, steel drums and noises on what the band strikes."""
    program = _pick(rng, PERCUSSIVE, PERCUSSIVE, PERCUSSIVE, NOISES)
    keys, odds = rng.integers(48, 80, 3), rng.uniform(0.1, 0.6)
    if program in NOISES:
        odds *= 0.1
    notes = [
        Note(time, time + 0.4, int(rng.choice(keys)), int(rng.uniform(70, 115)))
        for time in harmony.onsets
        if rng.random() < odds
    ]
    return program, _apart(notes)


def _voice(harmony: Harmony, duration: float, rng: np.random.Generator) -> tuple[int, list[Note]]:
    """A singer: one note at a time, a man's or a woman's register."""
    low = float(rng.choice((43, 45, 48, 53, 55, 57)))
    notes = _melody_line(harmony, rng, low, low + 17, rng.uniform(0.22, 0.5))
    following = [note.start for note in notes[1:]] + [np.inf]
    return CHOIRS[0], [n._replace(end=min(n.end, f)) for n, f in zip(notes, following)]


def _speech(harmony: Harmony, duration: float, rng: np.random.Generator) -> tuple[int, list[Note]]:
    """Somebody speaks or raps: phrases that begin where the band strikes; no pitches."""
    notes, end = [], 0.0
    for time in harmony.onsets:
        if time >= end:
            length = rng.uniform(1.0, 3.5)
            notes.append(Note(time, time + length, 60, 100))
            end = time + length + rng.uniform(0.0, 2.0)
    return CHOIRS[0], notes


def _apart(notes: list[Note]) -> list[Note]:
    """End a note where its key is struck again."""
    notes = sorted(notes, key=lambda note: (note.start, note.pitch))
    last: dict[int, int] = {}
    for index, note in enumerate(notes):
        before = last.get(note.pitch)
        if before is not None and notes[before].end > note.start:
            notes[before] = notes[before]._replace(end=note.start)
        last[note.pitch] = index
    return [note for note in notes if note.end > note.start + 0.01 and 0 <= note.pitch <= 127]


_Writer = Callable[[Harmony, float, np.random.Generator], tuple[int, list[Note]]]
_PARTS: dict[str, _Writer] = {
    "pad": _pad,
    "melody": _melody,
    "stabs": _stabs,
    "arpeggio": _arpeggio,
    "percussion": _percussion,
}
_ODDS = (0.34, 0.27, 0.13, 0.18, 0.08)
_WRITERS: dict[str, _Writer] = {**_PARTS, VOICE: _voice, SPEECH: _speech}
