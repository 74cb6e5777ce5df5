"""Rendered songs as files: data sets in the four-stem layout, and the product's example mix."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from mgdm_audio.io.atomic import replacing
from recipes.music_prior.songs.composer.arrange import write_song
from recipes.music_prior.songs.composer.styles import STYLES
from recipes.music_prior.songs.song import RATE, STEMS, Song
from recipes.music_prior.sound.render import Fonts, render_song
from recipes.music_prior.sound.stream import SongSource, StreamSettings, open_fonts

FOLDERS = {"train": "train", "valid": "validation"}  # as in the four-stem layout of MSDM
# A pop song at 97 bpm in which all four play throughout; the first take of which the bundled prior
# separates more than 6 dB (of takes 0 to 3: 4.7, 6.9, 5.3, 5.7).
EXAMPLE_STYLE, EXAMPLE_SEED, EXAMPLE_TAKE = "pop", 34, 1
EXAMPLE_SECONDS, EXAMPLE_RATE = 15.0, 44_100


def write_tracks(
    settings: StreamSettings, out: Path, hours: float
) -> Iterator[tuple[Path, float, float]]:
    """Render whole songs until there are `hours` of them, and report each.

    Parameters
    ----------
    settings
        Songs, soundfonts, seed and split. Track k is song k of that stream, whichever call
        renders it.
    out
        Tracks go to `out/train` or `out/validation`. A track is written beside its place and then
        renamed, so that what carries its name is whole.
    hours
        How much there is to be in the end, with what is there already.

    Yields
    ------
    folder, seconds, total seconds so far
    """
    folder = out / FOLDERS[settings.split]
    folder.mkdir(parents=True, exist_ok=True)
    source = SongSource(settings)
    fonts: Fonts | None = None
    total, number = 0.0, 0
    while total < hours * 3600:
        track = folder / f"Track{number + 1:05d}"
        if track.is_dir():
            total += soundfile.info(track / f"{STEMS[0]}.wav").duration
        else:
            fonts = fonts or open_fonts(settings)
            rng = source.rng(number)
            song = source.song(rng)
            sound = render_song(song, rng, fonts)
            _write_track(track, sound)
            seconds = sound.shape[1] / RATE
            total += seconds
            yield track, seconds, total
        number += 1


def _write_track(track: Path, sound: np.ndarray) -> None:
    with replacing(track, folder=True) as partial:
        for stem, wave in zip(STEMS, sound):
            soundfile.write(partial / f"{stem}.wav", wave, RATE, subtype="PCM_16")


def full_part(song: Song, seconds: float, margin: float = 0.5) -> float:
    """Return where to cut `seconds` out of a song so that all its stems play throughout.

    The start in the first 90 s with the highest share of seconds in which every stem has a note
    sounding, minus `margin`; the earliest such.
    """
    horizon = int(min(song.duration, 90.0))
    sounding = np.zeros((len(STEMS), horizon + 1), bool)
    for track in song.tracks:
        for note in track.notes:
            first, last = int(note.start), int(note.end)
            sounding[STEMS.index(track.stem), first : min(last, horizon) + 1] = True
    full = sounding.all(0)
    length = int(seconds)
    starts = range(0, max(1, horizon - length))
    best = max(starts, key=lambda s: (full[s : s + length].sum(), -s))  # pyright: ignore
    return max(0.0, best - margin)


def example_stems(soundfonts: tuple[str, ...] = (), take: int = EXAMPLE_TAKE) -> np.ndarray:
    """Render the four stems of the example: float32 [4, 2, samples] at 44.1 kHz."""
    style = next(style for style in STYLES if style.name == EXAMPLE_STYLE)
    song = write_song(np.random.default_rng([EXAMPLE_SEED, 1, EXAMPLE_RATE]), style)
    start = full_part(song, EXAMPLE_SECONDS)
    rng = np.random.default_rng([EXAMPLE_SEED, 2, take])
    fonts = Fonts(soundfonts, "valid")
    return render_song(song, rng, fonts, EXAMPLE_RATE, 2, start, EXAMPLE_SECONDS)


def write_example(folder: Path, soundfonts: tuple[str, ...] = ()) -> Path:
    """Render the example: 15 s of a held-out song, stereo, 44.1 kHz, and its true stems.

    Parameters
    ----------
    folder
        Gets `example_mix.flac` (16-bit) and `example_stems/{stem}.ogg` (Vorbis: what the stems are
        compared with need not be exact).
    soundfonts
        Files or folders; empty: the MIT-licensed ones of Debian.
    """
    stems = example_stems(soundfonts)
    edge = np.sin(np.linspace(0, np.pi / 2, EXAMPLE_RATE // 10, dtype=np.float32)) ** 2
    stems[..., : len(edge)] *= edge
    stems[..., -len(edge) :] *= edge[::-1]
    stems *= np.float32(0.9 / np.abs(stems.sum(0)).max())
    names = ["example_mix.flac", *(f"example_stems/{stem}.ogg" for stem in STEMS)]
    (folder / "example_stems").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
        (Path(partial) / "example_stems").mkdir()
        for name, wave in zip(names, [stems.sum(0), *stems]):
            subtype = "PCM_16" if name.endswith(".flac") else "VORBIS"
            soundfile.write(Path(partial) / name, wave.T, EXAMPLE_RATE, subtype=subtype)
        for name in names:
            (Path(partial) / name).replace(folder / name)
    return folder / names[0]
