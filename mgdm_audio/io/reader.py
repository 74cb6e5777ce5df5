"""Read any common sound file block by block, in constant memory.

8 to 192 kHz, 1 to 8 channels; wav, aiff, flac, ogg, opus through libsndfile, mp3, m4a, aac, mp4
and others through PyAV; from a path or from standard input. `decoders` says how encoder
delay is treated.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mgdm_audio.errors import AudioFormatError, AudioReadError, display_name, os_reason
from mgdm_audio.io.decoders import AudioInfo, Decoder, open_decoder
from mgdm_core.array_types import Array, Float

MIN_RATE = 8_000
MAX_RATE = 192_000
MAX_CHANNELS = 8
STDIN = "-"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class SpooledFile(os.PathLike):
    """A file on disk that stands for a stream: ``label`` names it in messages."""

    path: Path
    label: str

    def __fspath__(self) -> str:
        return str(self.path)


Source = str | os.PathLike


@contextmanager
def spooled(source: Source, stdin: io.BufferedIOBase | None = None) -> Iterator[Source]:
    """Make a source that can be read more than once.

    Standard input (``"-"``) and named pipes are copied to a temporary file that is removed at the
    end; an ordinary path is passed through. ``probe``, ``open_blocks`` and ``read`` take what this
    yields.

    Raises
    ------
    AudioReadError
        If standard input is a terminal, is empty or cannot be stored.
    """
    if isinstance(source, SpooledFile) or not _is_stream(source):
        yield source
        return
    is_stdin = isinstance(source, str) and source == STDIN
    label = "standard input" if is_stdin else display_name(source)
    with tempfile.TemporaryDirectory(prefix="mgdm-") as folder:
        target = Path(folder) / "spooled"
        try:
            with target.open("wb") as file:
                if is_stdin:
                    stream = stdin if stdin is not None else sys.stdin.buffer
                    if stream.isatty():
                        raise AudioReadError(
                            "standard input is a terminal; pipe a sound file into it or give a path"
                        )
                    shutil.copyfileobj(stream, file, 1 << 20)
                else:
                    with open(source, "rb") as stream:
                        shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            raise AudioReadError(
                f"{label}: cannot be stored in {folder} ({os_reason(error)}); "
                f"free some space or set TMPDIR"
            ) from error
        yield SpooledFile(target, label)


def probe(source: Source) -> AudioInfo:
    """Look at a sound file without decoding all of it.

    Parameters
    ----------
    source : str, path or SpooledFile
        ``"-"`` reads standard input to its end; wrap it in `spooled` to read it again.

    Raises
    ------
    AudioReadError
        If the file is missing, a folder, unreadable, empty, cut off or no audio.
    AudioFormatError
        If rate, channels or tracks are outside what is supported.
    """
    with spooled(source) as ready:
        decoder, info = _open(ready)
        decoder.close()
    return info


def open_blocks(
    source: Source, block_frames: int = _BLOCK
) -> Iterator[Float[Array, "channels frames"]]:
    """Yield a file's samples block by block; memory does not grow with its length.

    Parameters
    ----------
    block_frames : int
        Samples per channel in a block; the last one may be shorter.

    Yields
    ------
    ndarray of float32, shape (channels, frames)
        Full scale is 1.

    Raises
    ------
    AudioReadError
        As `probe`; also, while reading, for damaged data, NaN or infinite samples, and where the
        file ends before its declared length.
    AudioFormatError
        As `probe`.
    """
    with spooled(source) as ready:
        decoder, _ = _open(ready)
        try:
            done = 0
            for block in decoder.blocks(block_frames):
                with np.errstate(over="ignore"):
                    block = block.astype(np.float32, copy=False)
                if not np.isfinite(block).all():
                    raise _not_finite(decoder, block, done)
                done += block.shape[1]
                yield block
            if done == 0:
                raise AudioReadError(f"{decoder.label}: holds no samples; nothing to separate")
        finally:
            decoder.close()


def read(source: Source) -> tuple[Float[Array, "channels frames"], int]:
    """Read a whole file: float32, full scale 1, and its rate in Hz; errors as `open_blocks`."""
    with spooled(source) as ready:
        rate = probe(ready).rate
        return np.concatenate(list(open_blocks(ready)), axis=1), rate


def _is_stream(source: Source) -> bool:
    if isinstance(source, str) and source == STDIN:
        return True
    try:
        return stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def _open(source: Source) -> tuple[Decoder, AudioInfo]:
    label = source.label if isinstance(source, SpooledFile) else display_name(source)
    path = Path(os.fspath(source))
    _check_file(path, label)
    try:
        decoder = open_decoder(path, label)
    except OSError as error:
        raise AudioReadError(f"{label}: cannot be read ({os_reason(error)})") from error
    info = decoder.info
    try:
        check_supported(info.rate, info.channels, label)
    except AudioFormatError:
        decoder.close()
        raise
    shown = STDIN if label == "standard input" else os.fspath(source)
    return decoder, replace(info, path=shown)


def check_supported(rate: int, channels: int, label: str = "the sound") -> None:
    """Refuse rates and channel counts that cannot be separated."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFormatError(
            f"{label}: has a rate of {rate} Hz and {MIN_RATE} to {MAX_RATE} Hz are supported; "
            f"resample it: ffmpeg -i FILE -ar 44100 OUT.wav"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioFormatError(
            f"{label}: has {channels} channels and 1 to {MAX_CHANNELS} are supported; "
            f"mix it down: ffmpeg -i FILE -ac 2 OUT.wav"
        )


def _check_file(path: Path, label: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise AudioReadError(f"{label}: no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise AudioReadError(f"{label}: cannot be opened ({reason})") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioReadError(f"{label}: is a folder, not a sound file; give the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise AudioReadError(f"{label}: is not an ordinary file; give a sound file or a pipe")
    if status.st_size == 0:
        raise AudioReadError(f"{label}: is empty (0 bytes)")


def _not_finite(decoder: Decoder, block: np.ndarray, done: int) -> AudioReadError:
    channel, frame = (int(v[0]) for v in np.nonzero(~np.isfinite(block)))
    return AudioReadError(
        f"{decoder.label}: holds NaN or infinite samples, one at "
        f"{(done + frame) / decoder.info.rate:.3f} s in channel {channel + 1}; "
        f"repair or re-export it"
    )
