"""Soundfonts with compressed samples, unpacked once: every process that plays them decodes anew.

An .sf3 file is a SoundFont 2 file whose samples are Ogg Vorbis streams: a sample's start and end
are bytes then, its loop is counted from its own start, and a flag says so (MuseScore's extension
of the SoundFont Technical Specification 2.04, section 7.10).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock

from mgdm_audio.priors.catalogue import home
from recipes.music_prior.songs.song import SongError
from recipes.music_prior.sound.sf2_writer import GUARD, chunk, chunk_list

__all__ = ["Sf3Error", "unpack", "unpacked"]

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
        Where they are kept, about ten times as large; `soundfonts` beside the registered priors
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
            partial = made.with_name(f".{os.getpid()}.{made.name}")
            try:
                unpack(path, partial)
                partial.replace(made)
            finally:
                partial.unlink(missing_ok=True)
    return made


def unpack(source: Path, out: Path) -> None:
    """Write an .sf3 as .sf2; samples are rounded to 16 bits, as FluidSynth does.

    Raises
    ------
    Sf3Error
        When it is no soundfont, or a sample cannot be decoded.
    """
    data = memoryview(source.read_bytes())
    try:
        lists = {bytes(body[:4]): body[4:] for name, body in _chunks(data[12:]) if name == b"LIST"}
        tables = dict(_chunks(lists[b"pdta"]))
        packed = dict(_chunks(lists[b"sdta"]))[b"smpl"]
        headers = list(_HEADER.iter_unpack(tables[b"shdr"]))
        facts = list(_chunks(lists[b"INFO"]))
    except (KeyError, struct.error) as error:
        raise Sf3Error(f"{source} is not a soundfont (.sf3): {error!r} is missing") from error
    places = list(dict.fromkeys((h[1], h[2], h[9] & _COMPRESSED) for h in headers[:-1]))
    with ThreadPoolExecutor() as pool:
        try:
            waves = list(pool.map(lambda place: _decode(packed, *place), places))
        except (soundfile.LibsndfileError, ValueError) as error:
            raise Sf3Error(f"a sample of {source} cannot be decoded: {error}") from error
    starts = np.concatenate([[0], np.cumsum([len(wave) + GUARD for wave in waves])]).tolist()
    found = {place: (start, wave) for place, start, wave in zip(places, starts, waves)}
    told = []
    for name, start, stop, first, last, *rest, kind in headers[:-1]:
        flag = kind & _COMPRESSED
        position, wave = found[start, stop, flag]
        offset = position if flag else position - start
        edges = (position, position + len(wave), offset + first, offset + last)
        told.append(_HEADER.pack(name, *edges, *rest, kind & ~_COMPRESSED))
    tables[b"shdr"] = memoryview(b"".join([*told, _HEADER.pack(*headers[-1])]))
    silence = np.zeros(GUARD, "<i2")
    sound = np.concatenate([part for wave in waves for part in (wave, silence)])
    body = b"sfbk" + chunk_list(
        b"INFO",
        b"".join(
            chunk(n, struct.pack("<HH", 2, 4) if n == b"ifil" else bytes(d)) for n, d in facts
        ),
    )
    body += chunk_list(b"sdta", chunk(b"smpl", sound.tobytes()))
    body += chunk_list(b"pdta", b"".join(chunk(n, bytes(d)) for n, d in tables.items()))
    out.write_bytes(chunk(b"RIFF", body))


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of the RIFF chunks that follow each other."""
    position = 0
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        yield name, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _decode(packed: memoryview, start: int, stop: int, compressed: int) -> np.ndarray:
    if not compressed:
        return np.frombuffer(packed[2 * start : 2 * stop], "<i2")
    if start == stop:
        return np.zeros(0, "<i2")
    wave, _ = soundfile.read(io.BytesIO(packed[start:stop]), dtype="int16")
    if wave.ndim != 1:
        raise ValueError(f"it has {wave.shape[1]} channels instead of one")
    return wave.astype("<i2")
