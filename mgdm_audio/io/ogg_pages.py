"""Whether an Ogg stream (vorbis, opus, flac) reaches its end.

Ogg has no length in its header: the last page says that it is the last (RFC 3533, section 6). A
cut-off file lacks that page, or the rest of it, and decoders take what is there without a word.
"""

from __future__ import annotations

from pathlib import Path

_LARGEST_PAGE = 27 + 255 + 255 * 255
_LAST = 0x04


def is_cut_off(path: Path) -> bool:
    """Whether the last page of an Ogg file is incomplete or not marked as the last."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - 2 * _LARGEST_PAGE)
        file.seek(start)
        tail = file.read()
    at = tail.rfind(b"OggS")
    while at >= 0:
        head = tail[at : at + 27]
        if len(head) < 27:
            return True
        if head[4] == 0 and head[5] < 8:  # version and flags: not four letters inside of sound
            table = tail[at + 27 : at + 27 + head[26]]
            end = start + at + 27 + head[26] + sum(table)
            return len(table) < head[26] or end > size or not head[5] & _LAST
        at = tail.rfind(b"OggS", 0, at)
    return True
