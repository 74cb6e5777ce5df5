"""Styles as data: tempi, metres, progressions, and what each player may do in them."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.music_prior.songs.composer.score import COMMON, FIVE, SEVEN, SIX, THREE, TWELVE, Metre


@dataclass(frozen=True)
class Style:
    """What a style allows; every field but the tempi is a set to draw from."""

    name: str
    tempo: tuple[float, float]
    metres: tuple[Metre, ...]
    swing: tuple[float, float, int]  # from, to, and the swung unit in steps
    progressions: tuple[str, ...]
    drums: tuple[str, ...]
    kits: tuple[int, ...]
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
_FOUR = (COMMON,) * 5

STYLES = (
    Style(
        name="rock", tempo=(92, 168), metres=(*_FOUR, SIX), swing=STRAIGHT, progressions=_ROCK,
        drums=("rock", "rock", "half", "tribal"), kits=(0, 0, 8, 16),
        bass=("eighths", "syncopated", "long", "arpeggio", "pedal"),
        guitars=("power", "strum", "riff", "lead", "arpeggio", "chug", "octaves", "ostinato"),
        pianos=("block", "pad", "octaves", "comp", "boogie"),
        bass_programs=(33, 34, 34), guitar_programs=(27, 29, 29, 30, 30, 25),
        piano_programs=(0, 1, 2, 3, 4), scales=("major", "minor pentatonic", "mixolydian", "minor"),
    ),
    Style(
        name="pop", tempo=(76, 132), metres=(*_FOUR, SIX, THREE, TWELVE), swing=(0.5, 0.54, 2),
        progressions=_POP, drums=("rock", "four", "half", "breakbeat", "sparse"),
        kits=(0, 8, 24, 25, 16), bass=("eighths", "long", "syncopated", "dotted", "octaves"),
        guitars=("strum", "arpeggio", "funk", "lead", "swell", "travis", "ostinato"),
        pianos=("block", "comp", "arpeggio", "ballad", "melody", "stab", "alberti"),
        bass_programs=(33, 33, 34, 38, 39, 32), guitar_programs=(24, 25, 25, 27, 27, 26, 28),
        piano_programs=(0, 0, 1, 4, 5, 2), scales=("major", "major pentatonic", "minor"),
    ),
    Style(
        name="funk", tempo=(88, 122), metres=_FOUR, swing=(0.5, 0.6, 2), progressions=_FUNK,
        drums=("funk", "breakbeat"), kits=(0, 8, 16, 32),
        bass=("syncopated", "octaves", "dotted", "slap", "slap", "sixteenths"),
        guitars=("funk", "riff", "comp", "lead", "octaves", "ostinato"),
        pianos=("comp", "stab", "melody", "charleston"), bass_programs=(33, 36, 36, 37),
        guitar_programs=(27, 27, 28, 26), piano_programs=(4, 5, 7, 7, 0),
        scales=("dorian", "minor pentatonic", "mixolydian"),
    ),
    Style(
        name="jazz", tempo=(84, 220), metres=(*_FOUR, THREE, FIVE), swing=(0.6, 0.68, 4),
        progressions=_JAZZ, drums=("swing", "swing", "brushes"), kits=(32, 32, 40, 0),
        bass=("walking", "walking", "two"), guitars=("comp", "lead", "comp", "arpeggio", "octaves"),
        pianos=("comp", "melody", "block", "charleston", "stride"), bass_programs=(32, 32, 35, 33),
        guitar_programs=(26, 26, 24, 27), piano_programs=(0, 0, 0, 4),
        scales=("major", "dorian", "mixolydian", "blues"),
    ),
    Style(
        name="ballad", tempo=(54, 84), metres=(COMMON, COMMON, SIX, THREE, TWELVE), swing=STRAIGHT,
        progressions=_POP, drums=("half", "rock", "brushes", "sparse"), kits=(0, 8, 40, 32),
        bass=("long", "dotted", "two", "arpeggio"),
        guitars=("arpeggio", "swell", "strum", "lead", "travis"),
        pianos=("ballad", "arpeggio", "melody", "pad", "rolled", "alberti"),
        bass_programs=(32, 33, 35, 39), guitar_programs=(24, 24, 25, 27, 26),
        piano_programs=(0, 0, 1, 4, 5), scales=("major", "minor", "major pentatonic"),
    ),
    Style(
        name="metal", tempo=(110, 200), metres=(*_FOUR, SIX, SEVEN), swing=STRAIGHT,
        progressions=_METAL, drums=("double", "rock", "half"), kits=(16, 16, 0, 8),
        bass=("eighths", "gallop", "syncopated", "sixteenths", "pedal"),
        guitars=("chug", "power", "riff", "lead", "chug", "tremolo"),
        pianos=("pad", "octaves", "arpeggio"), bass_programs=(34, 34, 33),
        guitar_programs=(30, 30, 30, 29), piano_programs=(0, 1, 6),
        scales=("minor", "phrygian", "harmonic", "minor pentatonic"),
    ),
    Style(
        name="reggae", tempo=(66, 92), metres=_FOUR, swing=(0.5, 0.58, 4), progressions=_REGGAE,
        drums=("reggae", "reggae", "steppers"), kits=(0, 8, 25),
        bass=("reggae", "syncopated", "two"),
        guitars=("skank", "skank", "lead", "riff"), pianos=("stab", "comp", "stab"),
        bass_programs=(33, 33, 32, 39), guitar_programs=(27, 27, 26, 28),
        piano_programs=(0, 4, 3, 7),
        scales=("major", "minor pentatonic", "dorian"),
    ),
    Style(
        name="latin", tempo=(88, 190), metres=_FOUR, swing=STRAIGHT, progressions=_LATIN,
        drums=("latin", "bossa", "latin", "tribal"), kits=(0, 8, 32),
        bass=("tumbao", "two", "dotted"),
        guitars=("arpeggio", "strum", "comp", "lead", "travis"),
        pianos=("montuno", "montuno", "comp", "melody"), bass_programs=(32, 33, 35),
        guitar_programs=(24, 24, 25, 26), piano_programs=(0, 0, 1, 2),
        scales=("harmonic", "major", "dorian", "minor"),
    ),
    Style(
        name="blues", tempo=(62, 136), metres=(*_FOUR, SIX, TWELVE), swing=(0.6, 0.67, 4),
        progressions=_BLUES, drums=("shuffle", "swing", "half"), kits=(0, 8, 32),
        bass=("walking", "eighths", "two", "arpeggio", "boogie"),
        guitars=("riff", "comp", "lead", "strum"),
        pianos=("comp", "block", "melody", "octaves", "boogie", "stride"),
        bass_programs=(32, 33, 34),
        guitar_programs=(25, 26, 27, 29), piano_programs=(0, 3, 0, 1),
        scales=("blues", "minor pentatonic", "mixolydian"),
    ),
    Style(
        name="electronic", tempo=(96, 140), metres=_FOUR, swing=STRAIGHT, progressions=_ELECTRO,
        drums=("four", "four", "breakbeat", "trap"), kits=(24, 25, 25, 16, 0),
        bass=("octaves", "eighths", "syncopated", "dotted", "long", "sixteenths"),
        guitars=("funk", "arpeggio", "swell", "riff", "ostinato"),
        pianos=("stab", "arpeggio", "pad", "comp"), bass_programs=(38, 38, 39, 39, 37),
        guitar_programs=(27, 28, 31, 29), piano_programs=(4, 5, 2, 1, 0),
        scales=("minor", "dorian", "minor pentatonic"),
    ),
    Style(
        name="country", tempo=(84, 176), metres=(*_FOUR, THREE), swing=(0.5, 0.58, 4),
        progressions=_ROCK[:2] + _POP[:8], drums=("train", "rock", "shuffle"), kits=(0, 8, 40),
        bass=("two", "two", "walking", "eighths"),
        guitars=("strum", "arpeggio", "lead", "riff", "travis", "travis"),
        pianos=("block", "melody", "octaves", "comp", "stride"), bass_programs=(32, 33, 34),
        guitar_programs=(24, 25, 25, 27), piano_programs=(0, 3, 1),
        scales=("major", "major pentatonic", "mixolydian"),
    ),
    Style(
        name="hip hop", tempo=(66, 104), metres=_FOUR, swing=(0.5, 0.62, 2),
        progressions=_FUNK + _ELECTRO, drums=("trap", "breakbeat", "half"), kits=(25, 25, 24, 0),
        bass=("long", "syncopated", "dotted"), guitars=("ostinato", "arpeggio", "funk", "swell"),
        pianos=("comp", "arpeggio", "pad", "melody", "charleston"), bass_programs=(38, 39, 33, 32),
        guitar_programs=(27, 24, 26, 28), piano_programs=(0, 4, 5, 4),
        scales=("minor", "dorian", "minor pentatonic"),
    ),
    Style(
        name="progressive", tempo=(84, 150), metres=(SEVEN, FIVE, SEVEN, FIVE, SIX, COMMON),
        swing=STRAIGHT, progressions=_ROCK + _METAL[:2] + _ELECTRO, drums=("rock", "half", "funk"),
        kits=(0, 16, 8), bass=("syncopated", "eighths", "sixteenths", "pedal"),
        guitars=("riff", "arpeggio", "chug", "lead", "ostinato", "power"),
        pianos=("arpeggio", "comp", "rolled", "octaves", "pad"), bass_programs=(33, 34, 35, 38),
        guitar_programs=(27, 29, 30, 25), piano_programs=(0, 2, 4, 6),
        scales=("dorian", "minor", "phrygian", "mixolydian"),
    ),
)  # fmt: skip
