"""Styles as data: tempi, metres, progressions, and what each player may do in them."""

from __future__ import annotations

from dataclasses import dataclass

COMMON, THREE, SIX = (16, "4/4"), (12, "3/4"), (12, "6/8")


@dataclass(frozen=True)
class Style:
    """What a style allows; every field but the tempi is a set to draw from."""

    name: str
    tempo: tuple[float, float]
    metres: tuple[tuple[int, str], ...]
    swing: tuple[float, float, int]  # from, to, and the swung unit in steps
    progressions: tuple[str, ...]
    drums: tuple[str, ...]
    bass: tuple[str, ...]
    guitars: tuple[str, ...]
    pianos: tuple[str, ...]
    bass_programs: tuple[int, ...]
    guitar_programs: tuple[int, ...]
    piano_programs: tuple[int, ...]
    scales: tuple[str, ...]


_POP = (
    "I V vi IV", "vi IV I V", "I vi IV V", "I IV vi V", "IV I V vi", "I iii IV V", "I V IV IV",
    "I IV I V", "I Vsus4 vi IVadd9", "i bVI bIII bVII", "i bVII bVI bVII", "i iv bVI V",
    "i bIII bVII iv", "IM7 vi7 ii7 V7",
)  # fmt: skip
_ROCK = (
    "I bVII IV I", "I IV V IV", "i bVII bVI V", "i bVI bVII i", "I5 IV5 bVII5 IV5",
    "i5 bIII5 IV5 bVI5", "I V IV V", "vi IV I V", "I I IV V", "i i bVII IV",
)  # fmt: skip
_METAL = (
    "i5 i5 bVI5 bVII5", "i5 bII5 i5 bII5", "i5 bIII5 iv5 bVI5", "i5 i5 i5 bVII5",
    "i5 bVI5 iv5 v5", "i5 bVII5 bVI5 bII5",
)  # fmt: skip
_JAZZ = (
    "ii7 V7 IM7 vi7", "IM7 vi7 ii7 V7", "iii7 vi7 ii7 V7", "iih7 V7 i7 i7", "IM7 IV9 iii7 VI7",
    "i7 iv7 iih7 Valt", "IM7 bIIIo ii7 V13", "ii7 V13 IM7 IM7", "i7 i7 bVIM7 V7",
)  # fmt: skip
_BLUES = (
    "I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7", "I7 IV7 I7 I7 IV7 IV7 I7 VI7 ii7 V7 I7 V7",
    "i7 i7 i7 i7 iv7 iv7 i7 i7 bVI7 V7 i7 V7", "I7 I7 IV7 I7",
)  # fmt: skip
_FUNK = ("i7 IV9", "i7 i7 IV9 IV9", "I9 I9 IV9 I9", "i7 bVII i7 bVI7", "im9 IV13", "ii7 V9 ii7 V9")
_LATIN = (
    "i iv V7 i", "ii7 V7 IM7 IM7", "i bVII bVI V7", "I IV V IV", "i7 IV7 i7 IV7", "im9 iv7 V7 i",
)  # fmt: skip
_REGGAE = ("I IV", "i iv", "I V vi IV", "i bVII", "I ii I ii", "i bVI bVII i")
_ELECTRO = ("i bVI bIII bVII", "i i bVI bVII", "vi IV I V", "i7 bIII7 iv7 bVI7", "im9 im9 iv7 v7")

STRAIGHT = (0.5, 0.5, 4)
CLEAN, DRIVEN, NYLON = (24, 25, 26, 27), (29, 30), (24, 25)

STYLES = (
    Style("rock", (92, 168), (COMMON, COMMON, COMMON, SIX), STRAIGHT, _ROCK, ("rock", "rock", "half"),
          ("eighths", "syncopated", "long", "arpeggio"), ("power", "strum", "riff", "lead", "arpeggio", "chug"),
          ("block", "pad", "octaves", "comp"), (33, 34, 34), (27, 29, 29, 30, 30, 25), (0, 1, 2, 3, 4),
          ("major", "minor pentatonic", "mixolydian", "minor")),
    Style("pop", (76, 132), (COMMON, COMMON, COMMON, SIX, THREE), (0.5, 0.54, 2), _POP,
          ("rock", "four", "half", "breakbeat"), ("eighths", "long", "syncopated", "dotted", "octaves"),
          ("strum", "arpeggio", "funk", "lead", "swell"), ("block", "comp", "arpeggio", "ballad", "melody", "stab"),
          (33, 33, 34, 38, 39, 32), (24, 25, 25, 27, 27, 26, 28), (0, 0, 1, 4, 5, 2),
          ("major", "major pentatonic", "minor")),
    Style("funk", (88, 122), (COMMON,), (0.5, 0.6, 2), _FUNK, ("funk", "breakbeat"),
          ("syncopated", "octaves", "dotted"), ("funk", "riff", "comp", "lead"),
          ("comp", "stab", "melody"), (33, 36, 36, 37), (27, 27, 28, 26), (4, 5, 7, 7, 0),
          ("dorian", "minor pentatonic", "mixolydian")),
    Style("jazz", (84, 220), (COMMON, COMMON, THREE), (0.6, 0.68, 4), _JAZZ, ("swing", "swing", "brushes"),
          ("walking", "walking", "two"), ("comp", "lead", "comp", "arpeggio"), ("comp", "melody", "block"),
          (32, 32, 35, 33), (26, 26, 24, 27), (0, 0, 0, 4), ("major", "dorian", "mixolydian", "blues")),
    Style("ballad", (54, 84), (COMMON, SIX, THREE), STRAIGHT, _POP, ("half", "rock", "brushes"),
          ("long", "dotted", "two", "arpeggio"), ("arpeggio", "swell", "strum", "lead"),
          ("ballad", "arpeggio", "melody", "pad"), (32, 33, 35, 39), (24, 24, 25, 27, 26), (0, 0, 1, 4, 5),
          ("major", "minor", "major pentatonic")),
    Style("metal", (110, 200), (COMMON, COMMON, SIX), STRAIGHT, _METAL, ("double", "rock", "half"),
          ("eighths", "gallop", "syncopated"), ("chug", "power", "riff", "lead", "chug"),
          ("pad", "octaves", "arpeggio"), (34, 34, 33), (30, 30, 30, 29), (0, 1, 6),
          ("minor", "phrygian", "harmonic", "minor pentatonic")),
    Style("reggae", (66, 92), (COMMON,), (0.5, 0.58, 4), _REGGAE, ("reggae",), ("reggae", "syncopated", "two"),
          ("skank", "skank", "lead", "riff"), ("stab", "comp", "stab"), (33, 33, 32, 39), (27, 27, 26, 28), (0, 4, 3, 7),
          ("major", "minor pentatonic", "dorian")),
    Style("latin", (88, 190), (COMMON,), STRAIGHT, _LATIN, ("latin", "bossa"), ("tumbao", "two", "dotted"),
          ("arpeggio", "strum", "comp", "lead"), ("montuno", "montuno", "comp", "melody"), (32, 33, 35), (24, 24, 25, 26),
          (0, 0, 1, 2), ("harmonic", "major", "dorian", "minor")),
    Style("blues", (62, 136), (COMMON, COMMON, SIX), (0.6, 0.67, 4), _BLUES, ("shuffle", "swing", "half"),
          ("walking", "eighths", "two", "arpeggio"), ("riff", "comp", "lead", "strum"),
          ("comp", "block", "melody", "octaves"), (32, 33, 34), (25, 26, 27, 29), (0, 3, 0, 1),
          ("blues", "minor pentatonic", "mixolydian")),
    Style("electronic", (96, 140), (COMMON,), STRAIGHT, _ELECTRO, ("four", "four", "breakbeat"),
          ("octaves", "eighths", "syncopated", "dotted", "long"), ("funk", "arpeggio", "swell", "riff"),
          ("stab", "arpeggio", "pad", "comp"), (38, 38, 39, 39, 37), (27, 28, 31, 29), (4, 5, 2, 1, 0),
          ("minor", "dorian", "minor pentatonic")),
    Style("country", (84, 176), (COMMON, COMMON, THREE), (0.5, 0.58, 4), _ROCK[:2] + _POP[:8], ("train", "rock", "shuffle"),
          ("two", "two", "walking", "eighths"), ("strum", "arpeggio", "lead", "riff"), ("block", "melody", "octaves", "comp"),
          (32, 33, 34), (24, 25, 25, 27), (0, 3, 1), ("major", "major pentatonic", "mixolydian")),
)  # fmt: skip
