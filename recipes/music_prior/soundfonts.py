"""Find soundfonts, list their presets by stem, and keep some presets for validation only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from recipes.music_prior.songs import SongError, stem_of

DRUM_BANK = 128
# Debian's places; MIT-licensed soundfonts only. Others are given by path.
DEFAULT_FONTS = (
    ("musescore-general-soundfont", "/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    ("fluid-soundfont-gm", "/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)
# Kits of a marching band or an orchestra, and metronomes: no drum kit of a song.
LAST_BAND_KIT = 47
# About one preset in this many is kept for validation.
HELD_OUT_ONE_IN = 6


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


def is_held_out(preset: Preset, font_name: str) -> bool:
    """Say whether a preset is kept for validation.

    By a hash, so that no other preset shifts the choice, and without the number at the end of the
    name: "Standard 1" to "Standard 7" are often one kit and must not be on both sides.
    """
    family = preset.name.rstrip(" 0123456789") or f"{preset.bank}:{preset.program}"
    key = f"{font_name}:{family}".encode()
    return hashlib.sha256(key).digest()[0] % HELD_OUT_ONE_IN == 0


def split_presets(presets: list[Preset], fonts: tuple[Path, ...], split: str) -> list[Preset]:
    """Return the presets of one split; every stem keeps at least one preset in each split.

    Parameters
    ----------
    presets
        All presets that some stem can play.
    fonts
        The soundfonts that `Preset.font` counts.
    split
        "train" or "valid".
    """
    kept = []
    for stem in ("bass", "drums", "guitar", "piano"):
        of_stem = [preset for preset in presets if stem_of_preset(preset) == stem]
        held_out = [p for p in of_stem if is_held_out(p, fonts[p.font].name)]
        rest = [preset for preset in of_stem if preset not in held_out]
        if not held_out or not rest:  # a tiny soundfont: nothing can be spared
            held_out = rest = of_stem
        kept += rest if split == "train" else held_out
    return kept
