"""Soundfonts with compressed samples, unpacked once: every process that plays them decodes anew.

An .sf3 file is a SoundFont 2 file whose samples are Ogg Vorbis streams: a sample's start and end
are bytes then, its loop is counted from its own start, and a flag says so (MuseScore's extension
of the SoundFont Technical Specification 2.04, section 7.10).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from filelock import FileLock

from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.catalogue import home
from recipes.music_prior.songs.song import SongError
from recipes.music_prior.sound.sf2_writer import GUARD, chunk, chunk_list

__all__ = ["Sf3Error", "shrink", "unpack", "unpacked"]

_COMPRESSED = 0x10
_HEADER = struct.Struct("<20sIIIIIBbHH")  # of a sample: name, start, end, loop (2), rate, ..., type


class Sf3Error(SongError):
    """The file is not a soundfont, or a sample of it cannot be decoded."""


def unpacked(path: Path, cache: Path | None = None) -> Path:
    """Return the soundfont itself, or for an .sf3 one that sounds the same and loads at once.

    Parameters
    ----------
    path
        Soundfont.
    cache
        Where they are kept, four to seven times as large; `soundfonts` beside the registered priors
        (`MGDM_HOME`) by default.

    Raises
    ------
    Sf3Error
        When it is no soundfont.
    """
    if path.suffix.lower() != ".sf3":
        return path
    folder = home() / "soundfonts" if cache is None else cache
    state = path.stat()
    made = folder / f"{path.stem}-{state.st_size}-{state.st_mtime_ns}.sf2"
    if made.is_file():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(made.with_suffix(".lock")):  # of several renderers one does it
        if not made.is_file():
            with replacing(made) as partial:
                unpack(path, partial)
    return made


def unpack(source: Path, out: Path) -> None:
    """Write an .sf3 as .sf2; samples are rounded to 16 bits, as FluidSynth does.

    Raises
    ------
    Sf3Error
        When it is no soundfont, or a sample cannot be decoded.
    """
    font = _read(source)
    silence = np.zeros(GUARD, "<i2")
    sound, told, position, known = [], [], 0, {}
    for header in font.headers[:-1]:
        name, start, stop, first, last, *rest, kind = header
        wave, offset = font.wave(header)
        if (start, stop) not in known:
            known[start, stop] = position
            sound += [wave, silence]
            position += len(wave) + GUARD
        begin = known[start, stop]
        loop = (begin + first - offset, begin + last - offset)
        told.append(_HEADER.pack(name, begin, begin + len(wave), *loop, *rest, kind & ~_COMPRESSED))
    font.write(out, np.concatenate([silence, *sound])[GUARD:].tobytes(), told, (2, 4))


def shrink(source: Path, out: Path, rate: int = 22_050, quality: float = 0.0) -> None:
    """Write a soundfont as .sf3 whose samples are at most at a rate, compressed further.

    For training at that rate it loses next to nothing. A loop stays a whole number of samples:
    its sample is resampled by just the ratio that makes it one, and says that rate.

    Parameters
    ----------
    source
        .sf2 or .sf3.
    rate
        About the highest rate of a sample in Hz.
    quality
        Of Vorbis, 0 to 1.

    Raises
    ------
    Sf3Error
        When it is no soundfont, or a sample cannot be decoded.
    """
    font = _read(source)
    streams, told, position, known = [], [], 0, {}
    for header in font.headers[:-1]:
        name, start, stop, first, last, own, *rest, kind = header
        wave, offset = font.wave(header)
        loop = last - first
        ratio = min(1.0, rate / own)
        if ratio < 1 and loop > 0:
            ratio = max(1, round(loop * ratio)) / loop
        key = (start, stop, ratio)
        if key not in known:
            small = soxr.resample(wave, own, own * ratio) if ratio < 1 and len(wave) else wave
            stream = io.BytesIO()
            options = {"format": "OGG", "subtype": "VORBIS", "compression_level": 1 - quality}
            if len(small):
                soundfile.write(stream, small, max(1, round(own * ratio)), **options)
            known[key] = position, position + len(stream.getvalue())
            streams.append(stream.getvalue())
            position = known[key][1]
        begin = round((first - offset) * ratio)
        edges = (*known[key], begin, begin + round(loop * ratio))
        told.append(_HEADER.pack(name, *edges, round(own * ratio), *rest, kind | _COMPRESSED))
    font.write(out, b"".join(streams), told, (3, 1))


class _Font(NamedTuple):
    """A soundfont as it lies in its file, samples decoded."""

    facts: list[tuple[bytes, memoryview]]
    tables: dict[bytes, memoryview]
    headers: list[tuple]
    waves: dict[tuple[int, int], np.ndarray]

    def wave(self, header: tuple) -> tuple[np.ndarray, int]:
        """Samples (int16) that a header names, and the place that its loop is counted from."""
        _, start, stop, *_, kind = header
        return self.waves[start, stop], 0 if kind & _COMPRESSED else start

    def write(self, out: Path, sound: bytes, headers: list[bytes], version: tuple) -> None:
        """The same instruments over other samples."""
        tables = {**self.tables, b"shdr": b"".join([*headers, _HEADER.pack(*self.headers[-1])])}
        facts = {**dict(self.facts), b"ifil": struct.pack("<HH", *version)}
        lists = (
            (b"INFO", b"".join(chunk(name, bytes(data)) for name, data in facts.items())),
            (b"sdta", chunk(b"smpl", sound)),
            (b"pdta", b"".join(chunk(name, bytes(data)) for name, data in tables.items())),
        )
        body = b"".join(chunk_list(name, data) for name, data in lists)
        out.write_bytes(chunk(b"RIFF", b"sfbk" + body))


def _read(source: Path) -> _Font:
    data = memoryview(source.read_bytes())
    try:
        lists = {bytes(body[:4]): body[4:] for name, body in _chunks(data[12:]) if name == b"LIST"}
        tables = dict(_chunks(lists[b"pdta"]))
        packed = dict(_chunks(lists[b"sdta"]))[b"smpl"]
        headers = list(_HEADER.iter_unpack(tables[b"shdr"]))
        facts = list(_chunks(lists[b"INFO"]))
    except (KeyError, struct.error) as error:
        raise Sf3Error(f"{source} is no soundfont (.sf2, .sf3), or was cut off") from error
    places = {(h[1], h[2]): h[9] & _COMPRESSED for h in headers[:-1]}
    with ThreadPoolExecutor() as pool:
        try:
            waves = list(pool.map(lambda h: _decode(packed, h, places[h]), places))
        except (soundfile.LibsndfileError, ValueError) as error:
            raise Sf3Error(f"a sample of {source} cannot be decoded: {error}") from error
    return _Font(facts, tables, headers, dict(zip(places, waves)))


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of the RIFF chunks that follow each other."""
    position = 0
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        yield name, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _decode(packed: memoryview, place: tuple[int, int], compressed: int) -> np.ndarray:
    start, stop = place
    if not compressed:
        return np.frombuffer(packed[2 * start : 2 * stop], "<i2")
    if start == stop:
        return np.zeros(0, "<i2")
    wave, _ = soundfile.read(io.BytesIO(packed[start:stop]), dtype="int16")
    if wave.ndim != 1:
        raise ValueError(f"it has {wave.shape[1]} channels instead of one")
    return wave.astype("<i2")
