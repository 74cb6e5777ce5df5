"""Exceptions of the audio package: one clear line each, whatever the file was called."""

from __future__ import annotations

import os

from mgdm_core.errors import MGDMError, SettingsError


class AudioError(MGDMError):
    """Base class of the errors of ``mgdm_audio``."""

    def __init__(self, message: str) -> None:
        # libsndfile, FFmpeg and the operating system are quoted in messages, and some of them
        # answer with several lines or control characters; logs and summaries need one line.
        super().__init__(_one_line(message))


class AudioFormatError(AudioError):
    """The sound is readable but outside what is supported: rate, channels, tracks, encoding."""


class AudioReadError(AudioError):
    """The file is missing, unreadable, damaged or no audio at all."""


class AudioWriteError(AudioError):
    """The output cannot be written; nothing half-written is left behind."""


class AudioClipError(AudioWriteError):
    """Integer output would clip; the caller may offer float output or a common gain."""


class PriorError(AudioError):
    """A prior is unknown, or does not fit what is asked of it."""


class UnknownPriorError(PriorError, SettingsError):
    """No prior has this name, or no file this path: wrong usage rather than a failure."""


class CheckpointError(PriorError):
    """A checkpoint is damaged, lacks a key, has a wrong shape or is no checkpoint."""


class DatasetError(AudioError):
    """A data set lacks what its layout promises."""


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _one_line(message: str) -> str:
    return _printable(" ".join(message.split()))


def display_name(path: str | bytes | os.PathLike) -> str:
    r"""Name of a file for one line of text: control characters and stray bytes are escaped.

    Examples
    --------
    >>> print(display_name("two\nlines.wav"))
    two\nlines.wav
    """
    return _printable(os.fsdecode(os.fspath(path)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, a device's, or that of torch on the CPU."""
    # torch's own class by name: commands that need no torch should not load it. On the CPU it is
    # a RuntimeError that only its words tell from others.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def one_line(error: BaseException) -> str:
    """An exception's message as one line, with its kind where the message says too little."""
    text = _one_line(str(error))
    if isinstance(error, MGDMError):
        return text
    if is_out_of_memory(error):
        return "out of memory; use a smaller batch, a shorter window or another device"
    if isinstance(error, OSError) and error.strerror:
        name = f"{display_name(error.filename)}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def os_reason(error: OSError) -> str:
    """The operating system's own words for ``error``, without number and file name."""
    return error.strerror or str(error) or type(error).__name__
