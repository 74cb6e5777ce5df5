"""Chords and scales: Roman numerals to pitch classes, and pitch classes to voicings."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from recipes.music_prior.songs.song import SongError

MAJOR_DEGREES = (0, 2, 4, 5, 7, 9, 11)
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "harmonic": (0, 2, 3, 5, 7, 8, 11),
    "blues": (0, 3, 5, 6, 7, 10),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
}
_QUALITIES = {
    "": None,  # by the case of the numeral
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "7": None,
    "M7": (0, 4, 7, 11),
    "9": (0, 4, 7, 10, 14),
    "m9": (0, 3, 7, 10, 14),
    "add9": (0, 4, 7, 14),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "o": (0, 3, 6),
    "h7": (0, 3, 6, 10),
    "+": (0, 4, 8),
    "13": (0, 4, 10, 14, 21),
    "alt": (0, 4, 10, 13, 15),
}
_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii")
_SYMBOL = re.compile(r"^([b#]?)([ivIV]+)(.*)$")


@dataclass(frozen=True)
class Chord:
    """A root's pitch class and the intervals above it, in semitones."""

    root: int
    intervals: tuple[int, ...]

    def classes(self) -> tuple[int, ...]:
        """Return the pitch classes of the chord, root first."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def chord(symbol: str, key: int) -> Chord:
    """Read a Roman numeral such as "vi", "bVII", "V7" or "iih7" in a key.

    Degrees count on the major scale of the key, so a minor song writes "i bVI bVII".

    Raises
    ------
    SongError
        When the symbol is none.
    """
    match = _SYMBOL.match(symbol)
    if not match or match[2].lower() not in _NUMERALS or match[3] not in _QUALITIES:
        raise SongError(f"a chord must be a Roman numeral such as 'vi' or 'bVII7'; got {symbol!r}")
    accidental, numeral, quality = match.groups()
    minor = numeral.islower()
    root = key + MAJOR_DEGREES[_NUMERALS.index(numeral.lower())]
    root += {"b": -1, "#": 1, "": 0}[accidental]
    intervals = _QUALITIES[quality]
    if intervals is None:
        third = 3 if minor else 4
        intervals = (0, third, 7) if quality == "" else (0, third, 7, 10)
    elif minor and quality in ("6", "add9", "9"):
        intervals = tuple(3 if interval == 4 else interval for interval in intervals)
    return Chord(root % 12, intervals)


def nearest(pitch_class: int, around: float) -> int:
    """Return the MIDI key of a pitch class that is nearest to `around`."""
    return int(pitch_class + 12 * round((around - pitch_class) / 12))


def voicing(harmony: Chord, centre: float, count: int) -> list[int]:
    """Return `count` different keys of a chord around `centre`, lowest first."""
    keys = sorted(
        (
            pitch_class + 12 * octave
            for pitch_class in set(harmony.classes())
            for octave in range(1, 9)
        ),
        key=lambda key: (abs(key - centre), key),
    )
    return sorted(keys[:count])


# Open strings of a guitar, low to high.
_STRINGS = (40, 45, 50, 55, 59, 64)


def strummed(harmony: Chord, position: int) -> list[int]:
    """Return the keys a guitarist frets for a chord around a fret, lowest string first.

    Each string takes the first chord tone at or above the fret; the strings below the root stay
    silent.
    """
    classes = set(harmony.classes())
    keys: list[int] = []
    for string in _STRINGS:
        fret = next(f for f in range(position, position + 12) if (string + f) % 12 in classes)
        key = string + fret
        if not keys and key % 12 != harmony.root and string < 50:
            continue
        if fret <= position + 4 and key not in keys:
            keys.append(key)
    return keys


def scale_keys(key: int, scale: str, low: int, high: int) -> np.ndarray:
    """Return the MIDI keys of a scale within [low, high]."""
    classes = {(key + step) % 12 for step in SCALES[scale]}
    return np.array([pitch for pitch in range(low, high + 1) if pitch % 12 in classes])
