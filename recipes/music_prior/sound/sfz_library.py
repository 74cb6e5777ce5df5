"""Turn .sfz instruments into SoundFonts, once: everything else plays them like any soundfont."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.catalogue import home
from recipes.music_prior.sound.sf2_writer import Instrument, write_sf2
from recipes.music_prior.sound.sfz import SfzError, read_sfz, variants

DRUM_BANK = 128
# Words in the path of an instrument, and the bank and General MIDI program they mean; the first
# that is found decides.
_MEANINGS = (
    (("drum", "drums", "kit", "drumkit"), (DRUM_BANK, 0)),
    (("contrabass", "doublebass", "upright bass", "acoustic bass"), (0, 32)),
    (("synth bass", "synthbass"), (0, 38)),
    (("slap",), (0, 36)),
    (("fretless",), (0, 35)),
    (("bass",), (0, 33)),
    (("nylon", "classical", "spanish"), (0, 24)),
    (("acoustic guitar", "steel guitar", "folk guitar"), (0, 25)),
    (("jazz guitar", "archtop"), (0, 26)),
    (("distorted guitar", "distortion guitar"), (0, 30)),
    (("guitar", "guitars"), (0, 27)),
    (("rhodes", "wurlitzer", "wurli", "epiano", "electric piano", "pianet"), (0, 4)),
    (("harpsichord",), (0, 6)),
    (("clavinet", "clav"), (0, 7)),
    (("piano", "pianos", "grand", "upright"), (0, 0)),
)


def address_of(path: Path, root: Path | None = None) -> tuple[int, int] | None:
    """Guess bank and program from the words of a file's name, then of its folders up to `root`.

    None where no word says which of the four classes it is.
    """
    folders = [] if root is None else list(path.relative_to(root).parts[:-1])[::-1]
    for part in (path.stem, *folders, root.name if root else ""):
        text = " " + re.sub(r"[^a-z]+", " ", part.lower()) + " "
        for words, address in _MEANINGS:
            if any(f" {word} " in text for word in words):
                return address
    return None


def as_soundfont(path: Path, root: Path | None = None, cache: Path | None = None) -> Path:
    """Return a soundfont that plays an .sfz instrument; it is made where there is none yet.

    A round robin becomes as many presets, which are recordings of one instrument.

    Parameters
    ----------
    path
        The .sfz file.
    root
        The folder that it was found in; the names of folders below it say what it is, too.
    cache
        Where soundfonts are kept; `sfz` beside the registered priors (`MGDM_HOME`) by default.

    Raises
    ------
    SfzError
        When the file cannot be read or nothing says which class it belongs to.
    """
    address = address_of(path, root)
    if address is None:
        raise SfzError(
            f"nothing in the name {path} says whether it is a piano, a guitar, a bass or drums; "
            "put it into a folder of that name"
        )
    regions = read_sfz(path)
    facts = [str(path.resolve()), path.read_bytes(), str(address)]
    facts += [
        f"{r.sample} {r.sample.stat().st_size} {r.sample.stat().st_mtime_ns}" for r in regions
    ]
    facts += [repr(regions)]
    print_ = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    folder = home() / "sfz" if cache is None else cache
    made = folder / f"{path.stem}-{print_}.sf2"
    if made.is_file():
        return made
    bank, program = address
    # Drum kits are told apart by their program, pitched instruments by their bank.
    places = [(bank, program + i) if bank == DRUM_BANK else (bank + i, program) for i in range(4)]
    instruments = [
        Instrument(path.stem, *place, part) for place, part in zip(places, variants(regions))
    ]
    with replacing(made) as partial:
        write_sf2(partial, instruments)
    return made
