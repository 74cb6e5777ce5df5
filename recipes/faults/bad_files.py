"""Sound files with something wrong, made on the spot: formats by damages, headers, odd things.

Some headers are written down, others drawn by hypothesis: fields of wav headers, and bytes of any.
"""

from __future__ import annotations

import io
import math
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

__all__ = ["BadFile", "bad_files", "damages", "good_files"]

BadFile = tuple[str, Callable[[Path], Path]]
"""A name, and what writes the file into a folder and returns its path."""

RATE = 16_000
_SUBTYPES = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "aiff": ("AIFF", "PCM_24"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "rf64.wav": ("RF64", "PCM_16"),
}


def _sound(frames: int = RATE // 4, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(1)
    t = np.arange(frames)[:, None] / RATE
    tone = 0.2 * np.sin(2 * np.pi * np.array([220.0, 331.0])[:channels] * t)
    return (tone + 0.02 * rng.standard_normal((frames, channels))).astype(np.float32)


def good_files() -> dict[str, bytes]:
    """A quarter of a second in every format that libsndfile here can write, by extension."""
    found = {}
    for extension, (container, subtype) in _SUBTYPES.items():
        if not soundfile.check_format(container, subtype):
            continue
        buffer = io.BytesIO()
        soundfile.write(buffer, _sound(), RATE, format=container, subtype=subtype)
        found[extension] = buffer.getvalue()
    return found


def damages(data: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """The same bytes, damaged in a dozen ways."""

    def flipped(first: int, last: int, count: int) -> bytes:
        out = bytearray(data)
        for at in rng.integers(first, max(first + 1, min(last, len(out))), count):
            out[at] ^= 1 << int(rng.integers(8))
        return bytes(out)

    def noise(first: int, last: int) -> bytes:
        return data[:first] + rng.bytes(max(0, min(last, len(data)) - first)) + data[last:]

    half, third = len(data) // 2, len(data) // 3
    yield "cut within the header", data[: int(rng.integers(1, 40))]
    yield "cut in half", data[:half]
    yield "cut by a byte", data[:-1]
    yield "two bits of the header", flipped(0, 64, 2)
    yield "eight bits of the header", flipped(4, 96, 8)
    yield "header of noise", noise(4, 64)
    yield "bits of the body", flipped(96, len(data), 32)
    yield "body of noise", noise(128, len(data))
    yield "middle of zeros", data[:third] + bytes(third) + data[2 * third :]
    yield "bytes in front", rng.bytes(7) + data
    yield "17 bytes missing", data[:half] + data[half + 17 :]
    yield "twice", data + data


def _wav(
    rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    body: bytes = b"\1\0" * 4000,
    declared: int | None = None,
    align: int | None = None,
    riff: bytes = b"RIFF",
    chunks: bytes = b"",
) -> bytes:
    align = channels * bits // 8 if align is None else align
    form = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits
    )
    size = len(body) if declared is None else declared
    inner = b"WAVEfmt " + struct.pack("<I", 16) + form + chunks
    inner += b"data" + struct.pack("<I", size & 0xFFFFFFFF) + body
    return riff + struct.pack("<I", min(len(inner), 0xFFFFFFFF)) + inner


def _floats(values: np.ndarray) -> bytes:
    return _wav(bits=32, tag=3, body=values.astype("<f4").tobytes())


def _wav_headers() -> Iterator[tuple[str, bytes]]:
    ramp = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
    with_hole = ramp.copy()
    with_hole[1234] = math.nan
    endless = ramp.copy()
    endless[77] = math.inf
    yield "wav: no channels", _wav(channels=0, align=0)
    yield "wav: 255 channels", _wav(channels=255)
    yield "wav: 65535 channels", _wav(channels=65535)
    yield "wav: rate 0", _wav(rate=0)
    yield "wav: rate 1", _wav(rate=1)
    yield "wav: rate 4294967295", _wav(rate=0xFFFFFFFF)
    yield "wav: 0 bits", _wav(bits=0, align=2)
    yield "wav: 7 bits", _wav(bits=7, align=1)
    yield "wav: 64 bits", _wav(bits=64)
    yield "wav: block of 0", _wav(align=0)
    yield "wav: block of 3", _wav(align=3)
    yield "wav: unknown encoding", _wav(tag=0x4242)
    yield "wav: extensible without extension", _wav(tag=0xFFFE)
    yield "wav: data of 4 GB declared", _wav(declared=0xFFFFFFFF)
    yield "wav: data of 2 GB declared", _wav(declared=0x7FFFFFFF)
    yield "wav: no data declared", _wav(declared=0)
    yield "wav: no samples", _wav(body=b"")
    yield "wav: one sample", _wav(body=b"\1\2")
    yield "wav: half a sample", _wav(body=b"\1")
    yield "wav: RF64 without ds64", _wav(riff=b"RF64")
    yield "wav: big-endian name", _wav(riff=b"RIFX")
    yield "wav: endless chunk", _wav(chunks=b"LIST" + struct.pack("<I", 0xFFFFFFFF))
    yield "wav: a thousand chunks", _wav(chunks=(b"junk" + struct.pack("<I", 2) + b"ab") * 1000)
    yield "wav: no fmt", b"RIFF" + struct.pack("<I", 20) + b"WAVEdata" + struct.pack("<I", 8) * 3
    yield "wav: NaN", _floats(with_hole)
    yield "wav: infinity", _floats(endless)
    yield "wav: 1e30", _floats(ramp * np.float32(1e30))
    yield "wav: largest float", _floats(np.full(4000, np.finfo(np.float32).max))
    yield "wav: denormals", _floats(np.full(4000, 1e-40, np.float32))
    yield "wav: silence", _floats(np.zeros(4000, np.float32))
    yield "wav: offset", _floats(np.full(4000, 0.3, np.float32))
    yield "wav: full scale", _floats(np.sign(ramp))


_ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 24, 32, 64, 255, 1000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def _fuzzed_headers(good: dict[str, bytes], number: int) -> Iterator[tuple[str, str, bytes]]:
    """Names, extensions and files whose headers hypothesis has drawn; the same for a seed."""
    odd = st.sampled_from(_ODD_NUMBERS)
    word = odd | st.integers(0, 0xFFFFFFFF)
    half = word.map(lambda n: n & 0xFFFF)
    chunks = st.lists(st.tuples(st.binary(min_size=4, max_size=4), word, st.binary(max_size=40)))
    tags = st.sampled_from((1, 3, 6, 7, 0xFFFE))
    wav = st.fixed_dictionaries(
        {"rate": word, "channels": half, "bits": half, "tag": tags},
        optional={
            "align": half,
            "declared": word,
            "riff": st.sampled_from((b"RIFF", b"RIFX", b"RF64", b"FFIR")),
            "chunks": chunks.map(
                lambda all_: b"".join(name + struct.pack("<I", n) + body for name, n, body in all_)
            ),
        },
    )
    edits = st.lists(st.tuples(st.integers(4, 90), st.binary(min_size=1, max_size=8)), min_size=1)

    def edited(extension: str, changes: list[tuple[int, bytes]]) -> bytes:
        data = bytearray(good[extension])
        for at, new in changes:
            data[at : at + len(new)] = new
        return bytes(data)

    for index, fields in enumerate(_drawn(wav, 30, number)):
        yield f"wav: header drawn {index}", "wav", _wav(**fields)
    for extension in good:
        for index, changes in enumerate(_drawn(edits, 4, number)):
            yield f"{extension}: bytes drawn {index}", extension, edited(extension, changes)


def _drawn(strategy: st.SearchStrategy, count: int, number: int) -> list:
    """So many examples of a strategy, no more than a test would see."""
    found: list = []

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],  # a busy machine is
    )  # fmt: skip
    @given(strategy)
    def collect(example: object) -> None:
        found.append(example)

    collect()
    return found[:count]


def _other_files() -> Iterator[tuple[str, str, bytes]]:
    yield "empty", "wav", b""
    yield "a byte", "flac", b"\0"
    yield "text", "mp3", b"this is not music\n" * 50
    yield "page", "ogg", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "picture", "wav", b"\x89PNG\r\n\x1a\n" + bytes(500)
    yield "archive", "flac", b"PK\x03\x04" + bytes(500)
    yield "pickle", "wav", b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR."
    yield "zeros", "mp3", bytes(20_000)
    yield "id3 of 256 MB", "mp3", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(500)
    yield "mp4 of no tracks", "m4a", b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42\0\0\0\x08moov"
    yield "mp4 box of 0", "m4a", b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(64)
    yield "matroska head", "mka", b"\x1aE\xdf\xa3" + b"\xff" * 64


def _odd_places(good: bytes) -> Iterator[BadFile]:
    def folder(where: Path) -> Path:
        (where / "folder.wav").mkdir()
        return where / "folder.wav"

    def dangling(where: Path) -> Path:
        (where / "link.wav").symlink_to(where / "nowhere.wav")
        return where / "link.wav"

    def loop(where: Path) -> Path:
        (where / "loop.wav").symlink_to(where / "loop.wav")
        return where / "loop.wav"

    def listening(where: Path) -> Path:
        with socket.socket(socket.AF_UNIX) as place:
            place.bind(str(where / "socket.wav"))
        return where / "socket.wav"

    def named(name: str) -> Callable[[Path], Path]:
        def write(where: Path) -> Path:
            path = where / name
            path.write_bytes(good)
            return path

        return write

    yield "a folder with a sound's name", folder
    yield "a link to nothing", dangling
    yield "a link to itself", loop
    yield "a socket", listening
    yield "a file that is not there", lambda where: where / "missing.wav"
    yield "/dev/null", lambda where: Path("/dev/null")
    yield "a name of bytes", named(os.fsdecode(b"b\xe9r\xff.wav"))
    yield "a name with a new line", named("two\nlines.wav")
    yield "a name with quotes and dollars", named("'\"$HOME`id`.wav")
    yield "a long name", named("n" * 240 + ".wav")
    yield "a name like an option", named("--help.wav")


def bad_files(number: int) -> Iterator[BadFile]:
    """Every kind, some 260; the same for the same seed."""

    def writer(name: str, data: bytes) -> Callable[[Path], Path]:
        def write(where: Path) -> Path:
            (where / name).write_bytes(data)
            return where / name

        return write

    good = good_files()
    for index, (extension, data) in enumerate(good.items()):
        rng = np.random.default_rng([number, index])
        for what, damaged in damages(data, rng):
            yield f"{extension}: {what}", writer(f"sound.{extension}", damaged)
    for what, data in _wav_headers():
        yield what, writer("sound.wav", data)
    for what, extension, data in _other_files():
        yield f"{extension}: {what}", writer(f"sound.{extension}", data)
    for what, extension, data in _fuzzed_headers(good, number):
        yield what, writer(f"sound.{extension}", data)
    yield from _odd_places(good["wav"])
