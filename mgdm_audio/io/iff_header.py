"""What the header of a RIFF, RF64 or AIFF file promises, to compare with what the file holds.

libsndfile silently reads what is there when the header promises more. A half-downloaded or
cut-off recording would then be separated as if it were whole, so the promise is read here.
Sources: Microsoft RIFF (1991), EBU Tech 3306 (RF64), Apple AIFF 1.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Programs that write to a pipe cannot go back to fill in the length; they leave one of
# 0xFFFFFFFF (FFmpeg), 0x7FFFFFFF or 0x80000000 (arecord), 0x7FFFF000 and its neighbours (SoX).
_STREAMED_FROM = 0x7FFF0000
_MAX_CHUNKS = 10_000


@dataclass(frozen=True)
class DataChunk:
    """Where the samples lie.

    Parameters
    ----------
    promised : int or None
        Bytes of samples that the header declares; None for a header written to a pipe.
    following : int
        Bytes from the start of the samples to the end of the file.
    """

    promised: int | None
    following: int

    @property
    def truncated(self) -> bool:
        """Whether the file ends before the samples that its header declares."""
        return self.promised is not None and self.following < self.promised


def find_data_chunk(path: Path) -> DataChunk | None:
    """Find the sample chunk of a RIFF, RIFX, RF64, BW64 or AIFF file.

    Returns
    -------
    DataChunk or None
        None if the file is of another kind or its chunks cannot be followed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12:
            return None
        kind, form = head[:4], head[8:12]
        if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
            return _walk(file, size, b"data", ">" if kind == b"RIFX" else "<")
        if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
            return _walk(file, size, b"SSND", ">")
    return None


def _walk(file: BinaryIO, size: int, wanted: bytes, order: str) -> DataChunk | None:
    wide_size = None
    for _ in range(_MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return None
        name, length = header[:4], struct.unpack(order + "I", header[4:])[0]
        start = file.tell()
        if name == b"ds64":
            body = file.read(16)
            if len(body) == 16:
                wide_size = struct.unpack("<Q", body[8:])[0]
        elif name == wanted:
            following = max(size - start, 0)
            promised: int | None = length
            if length == 0xFFFFFFFF and wide_size:
                promised = wide_size
            elif length >= _STREAMED_FROM and length > following:
                promised = None
            return DataChunk(promised, following)
        file.seek(start + length + length % 2)
    return None
