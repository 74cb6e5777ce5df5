"""Find soundfonts, list their presets by stem, and keep some presets for validation only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.music_prior.songs.song import SongError, stem_of

DRUM_BANK = 128
# Debian's places; MIT-licensed soundfonts only. Others are given by path.
DEFAULT_FONTS = (
    ("musescore-general-soundfont", "/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    ("fluid-soundfont-gm", "/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)
# Kits of a marching band or an orchestra, and metronomes: no drum kit of a song.
LAST_BAND_KIT = 47
# Kept for validation in every soundfont, as (bank, program): near relatives of what is trained on.
# Both default fonts descend from one collection, so one font alone cannot be held out.
HELD_OUT = {
    "piano": ((0, 1), (8, 4), (8, 5)),  # bright grand, detuned electric pianos
    "guitar": ((0, 26), (8, 25), (8, 28), (8, 30)),  # jazz, twelve strings, funk, feedback
    "bass": ((0, 34), (0, 37), (8, 38)),  # picked, pop (second slap), third synthesizer
    "drums": tuple((128, program) for program in range(8, 16)),  # the room kits
}


# Programs that can take each other's part.
FAMILIES = (
    (0, 1, 2, 3), (4, 5), (6, 7),  # grand, electric, plucked
    (24, 25), (26, 27, 28, 31), (29, 30),  # acoustic, clean, driven
    (32, 35), (33, 34, 36, 37), (38, 39),  # acoustic, electric, synthesized
)  # fmt: skip


# Instruments of other classes that now and then play a stem in training, so that a stem is known by
# more than its dozen of instruments: guitars as basses; sitar, banjo, shamisen, koto and plucked
# violins as guitars; mallets, dulcimer, harp and kalimba as pianos.
STAND_INS = {
    "bass": (24, 25, 27),
    "guitar": (45, 104, 105, 106, 107),
    "piano": (11, 12, 15, 46, 108),
    "drums": (),
}


def family(stem: str, program: int) -> tuple[int, ...]:
    """Return the programs that can take a program's part in a stem; itself if there are none."""
    if stem == "drums":
        return tuple(range(program // 8 * 8, program // 8 * 8 + 8))
    return next((members for members in FAMILIES if program in members), (program,))


class SoundfontError(SongError):
    """No usable soundfont, or the FluidSynth library is missing."""


@dataclass(frozen=True)
class Preset:
    """One instrument of one soundfont: its number in the list of fonts, its bank and program."""

    font: int
    bank: int
    program: int
    name: str = ""


def find_soundfonts(paths: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """Return the soundfonts to use: the given ones, or the MIT-licensed ones of Debian.

    Parameters
    ----------
    paths
        Files (.sf2, .sf3), or folders of such files. Empty: Debian's places.

    Raises
    ------
    SoundfontError
        When a given path does not exist or none is installed; names the packages to install.
    """
    if not paths:
        found = tuple(Path(path) for _, path in DEFAULT_FONTS if Path(path).is_file())
        if not found:
            packages = " ".join(package for package, _ in DEFAULT_FONTS)
            raise SoundfontError(
                f"no soundfont is installed; run `apt-get install {packages}` "
                "or name .sf2/.sf3 files with --soundfont"
            )
        return found
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in (".sf2", ".sf3"))
        elif path.is_file():
            found.append(path)
        else:
            raise SoundfontError(f"a soundfont must be an .sf2 or .sf3 file; there is no {path}")
    if not found:
        raise SoundfontError(f"no .sf2 or .sf3 file in {', '.join(paths)}")
    return tuple(found)


def stem_of_preset(preset: Preset) -> str | None:
    """Return the stem a preset can play, or None for the other instruments."""
    if preset.bank == DRUM_BANK:
        return "drums" if preset.program <= LAST_BAND_KIT else None
    if preset.bank >= 120:
        return None
    return stem_of(preset.program, is_drum=False)


def stand_ins(presets: list[Preset], stem: str) -> list[Preset]:
    """Return the presets of other classes that may play a stem in training."""
    programs = STAND_INS[stem]
    return [p for p in presets if p.bank == 0 and p.program in programs]


def is_held_out(preset: Preset) -> bool:
    """Say whether a preset is kept for validation."""
    return (preset.bank, preset.program) in HELD_OUT.get(stem_of_preset(preset) or "", ())


def split_presets(presets: list[Preset], split: str) -> list[Preset]:
    """Return the presets of one split; every stem keeps at least one preset in each split.

    Parameters
    ----------
    presets
        All presets that some stem can play.
    split
        "train" or "valid".
    """
    kept = []
    for stem in ("bass", "drums", "guitar", "piano"):
        of_stem = [preset for preset in presets if stem_of_preset(preset) == stem]
        held_out = [preset for preset in of_stem if is_held_out(preset)]
        rest = [preset for preset in of_stem if preset not in held_out]
        if not held_out or not rest:  # a tiny soundfont: nothing can be spared
            held_out = rest = of_stem
        kept += rest if split == "train" else held_out
    return kept
