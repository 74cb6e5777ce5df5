"""Find soundfonts, list their presets by stem, and keep some presets for validation only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from recipes.music_prior.songs.song import STEMS, SongError, stem_of
from recipes.music_prior.sound.sfz import MissingSampleError
from recipes.music_prior.sound.sfz_library import as_soundfont

DRUM_BANK = 128
# Debian's places; MIT-licensed soundfonts only. Others are given by path.
DEFAULT_FONTS = (
    ("musescore-general-soundfont", "/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    ("fluid-soundfont-gm", "/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)
# Kits of a marching band or an orchestra, and metronomes: no drum kit of a song.
LAST_BAND_KIT = 47
DEBIAN = "debian"  # stands for Debian's soundfonts among those given by path
# Both default fonts descend from one collection: an address in them is one instrument.
FLUID = "FluidR3"
# Soundfonts of this name are for validation only, wherever they are found.
HELD_OUT_FONT = "heldout"
# Kept for validation in Debian's soundfonts, as (bank, program): near relatives of what is trained
# on, because with one collection behind both, a whole font cannot be held out.
HELD_OUT = {
    "piano": ((0, 1), (8, 4), (8, 5)),  # bright grand, detuned electric pianos
    "guitar": ((0, 26), (8, 25), (8, 28), (8, 30)),  # jazz, twelve strings, funk, feedback
    "bass": ((0, 34), (0, 37), (8, 38)),  # picked, pop (second slap), third synthesizer
    "drums": tuple((128, program) for program in range(8, 16)),  # the room kits
}


HELD_OUT_OTHER = 3  # of every family of eight programs beside the four stems
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
    """One preset of one soundfont.

    Attributes
    ----------
    font
        The soundfont's number in the list of fonts.
    bank, program
        Its address there.
    name
        Its name there.
    source
        The collection it comes from: in Debian's presets of one address are one instrument, in
        others presets of one program and name.
    """

    font: int
    bank: int
    program: int
    name: str = ""
    source: str = FLUID


def source_of(path: Path) -> str:
    """Return the collection that a soundfont belongs to: Debian's two share one."""
    debian = {Path(place).name for _, place in DEFAULT_FONTS}
    return FLUID if path.name in debian else path.stem


def find_soundfonts(paths: tuple[str, ...] = (), split: str = "train") -> tuple[Path, ...]:
    """Return the soundfonts to use: the given ones, or the MIT-licensed ones of Debian.

    Parameters
    ----------
    paths
        Files (.sf2, .sf3, .sfz), folders of such files (.sfz at any depth), or "debian" for
        Debian's places. Empty: Debian's places. In a folder, files named ``heldout`` are passed
        over, and so are .sfz files without their samples, with a warning. An .sfz instrument is
        turned into a soundfont first.
    split
        "train" or "valid".

    Raises
    ------
    SoundfontError
        When a given path does not exist, or is held out and the split is "train", or none is
        installed; names the packages to install.
    """
    found: list[Path] = []
    for name in paths or (DEBIAN,):
        path = Path(name)
        if name == DEBIAN:
            found += _debian_fonts()
        elif path.is_dir():
            fonts = sorted(p for p in path.iterdir() if p.suffix.lower() in (".sf2", ".sf3"))
            found += [font for font in fonts if font.stem != HELD_OUT_FONT]
            sampled = sorted(p for p in path.rglob("*") if p.suffix.lower() == ".sfz")
            for instrument in sampled:
                if instrument.stem == HELD_OUT_FONT:
                    continue
                try:
                    found.append(as_soundfont(instrument, path))
                except MissingSampleError as error:  # kept for its licence, say
                    warnings.warn(f"passed over: {error}", stacklevel=2)
        elif not path.is_file():
            raise SoundfontError(
                f"a soundfont must be an .sf2, .sf3 or .sfz file; there is no {path}"
            )
        elif path.stem == HELD_OUT_FONT and split == "train":
            raise SoundfontError(
                f"{path} is for validation only; give it with --heldout-soundfont, not --soundfont"
            )
        else:
            found.append(as_soundfont(path) if path.suffix.lower() == ".sfz" else path)
    if not found:
        raise SoundfontError(f"no .sf2, .sf3 or .sfz file in {', '.join(paths)}")
    return tuple(dict.fromkeys(found))


def _debian_fonts() -> list[Path]:
    found = [Path(path) for _, path in DEFAULT_FONTS if Path(path).is_file()]
    if not found:
        packages = " ".join(package for package, _ in DEFAULT_FONTS)
        raise SoundfontError(
            f"no soundfont is installed; run `apt-get install {packages}` "
            "or name .sf2/.sf3 files with --soundfont"
        )
    return found


def is_other(preset: Preset) -> bool:
    """Say whether a preset is of none of the four stems: strings, horns, choirs, synthesizers."""
    return preset.bank < 120 and stem_of_preset(preset) is None


def other_instruments(presets: list[Preset], split: str) -> dict[int, list[list[Preset]]]:
    """Return the instruments beside the four stems by General MIDI program.

    One program in eight is kept for validation, in every soundfont.
    """
    found: dict[int, dict[tuple, list[Preset]]] = {}
    for preset in presets:
        held_out = preset.program % 8 == HELD_OUT_OTHER
        if is_other(preset) and held_out == (split == "valid"):
            recordings = found.setdefault(preset.program, {})
            recordings.setdefault(_instrument_of(preset), []).append(preset)
    return {program: list(recordings.values()) for program, recordings in found.items()}


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
    """Say whether a preset of Debian's soundfonts is kept for validation."""
    address = (preset.bank, preset.program)
    return preset.source == FLUID and address in HELD_OUT.get(stem_of_preset(preset) or "", ())


def split_presets(presets: list[Preset], split: str) -> list[Preset]:
    """Return the presets of one split; every stem keeps at least one preset in each split.

    Parameters
    ----------
    presets
        All presets of the soundfonts.
    split
        "train" or "valid".
    """
    kept = []
    for stem in STEMS:
        of_stem = [preset for preset in presets if stem_of_preset(preset) == stem]
        held_out = [preset for preset in of_stem if is_held_out(preset)]
        rest = [preset for preset in of_stem if preset not in held_out]
        if not held_out or not rest:  # a tiny soundfont: nothing can be spared
            held_out = rest = of_stem
        kept += rest if split == "train" else held_out
    return kept


def instruments(presets: list[Preset], stem: str) -> list[list[Preset]]:
    """Return the instruments that can play a stem, each with the presets that are recordings of it.

    A class is known by its instruments: one that two soundfonts of one collection hold is not to be
    heard twice as often as one that a single file holds.
    """
    found: dict[tuple, list[Preset]] = {}
    for preset in presets:
        if stem_of_preset(preset) == stem:
            found.setdefault(_instrument_of(preset), []).append(preset)
    return list(found.values())


def _instrument_of(preset: Preset) -> tuple:
    """Return what presets of one instrument share: an address in Debian's fonts, else a name."""
    if preset.source == FLUID:
        return preset.source, preset.bank, preset.program
    return preset.source, preset.program, preset.name or preset.bank
