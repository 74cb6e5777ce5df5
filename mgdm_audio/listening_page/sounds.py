"""Sounds of a page: arrays or files, brought to one rate and at most two channels, block by block.

Every sound has as many frames as the first; a lossy copy of the mixture may be some longer or
shorter, and is cut or followed by silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import soxr
import torch

from mgdm_audio.io.reader import open_blocks, probe
from mgdm_core.array_types import Array, Float
from mgdm_core.errors import ShapeError

PAGE_RATE = 48_000
"""Rate of all sound on a page, in Hz: the one that Opus decodes to."""

Sound = np.ndarray | torch.Tensor | str | os.PathLike
"""An array ``(n,)`` or ``(channels, n)`` with full scale 1, or a sound file."""

_BLOCK = 1 << 16


def frames_of(sound: Sound) -> int:
    """Samples per channel; a file whose header does not say is decoded once."""
    if isinstance(sound, str | os.PathLike):
        known = probe(sound).frames
        return sum(b.shape[1] for b in open_blocks(sound, _BLOCK)) if known is None else known
    if sound.ndim not in (1, 2) or sound.shape[-1] < 1:
        raise ShapeError(
            f"a sound is (n,) or (channels, n) with at least one sample; found {tuple(sound.shape)}"
        )
    return int(sound.shape[-1])


def channels_of(sound: Sound) -> int:
    """Channels on the page: stereo stays, everything else becomes mono."""
    if isinstance(sound, str | os.PathLike):
        return 2 if probe(sound).channels == 2 else 1
    return 2 if sound.ndim == 2 and sound.shape[0] == 2 else 1


def blocks_of(sound: Sound, rate: int, frames: int) -> Iterator[Float[Array, "channels n"]]:
    """Yield a sound at the page's rate.

    Parameters
    ----------
    rate : int
        Of the page's sounds, in Hz; a file may have another.
    frames : int
        Length to yield, in samples at ``rate``, whatever the sound has.

    Yields
    ------
    ndarray
        float32; together ``round(frames 48000 / rate)`` samples, give or take one.
    """
    if isinstance(sound, str | os.PathLike):
        own = probe(sound).rate
        rate, frames = own, round(frames * own / rate)
    channels = channels_of(sound)
    stream = soxr.ResampleStream(rate, PAGE_RATE, channels, dtype="float32")
    done = 0
    for block in _raw_blocks(sound):
        block = block[:, : frames - done]
        if block.shape[1] == 0:
            break
        done += block.shape[1]
        yield stream.resample_chunk(_as_channels(block, channels), last=False).T
    missing = np.zeros((frames - done, channels), np.float32)
    yield stream.resample_chunk(missing, last=True).T


def _as_channels(block: np.ndarray, channels: int) -> np.ndarray:
    mixed = block if channels == 2 else block.mean(axis=0, keepdims=True)
    return np.ascontiguousarray(mixed.T, dtype=np.float32)


def _raw_blocks(sound: Sound) -> Iterator[np.ndarray]:
    if isinstance(sound, str | os.PathLike):
        yield from open_blocks(sound, _BLOCK)
        return
    data = sound.detach().cpu().numpy() if isinstance(sound, torch.Tensor) else sound
    data = np.atleast_2d(data)
    for start in range(0, data.shape[1], _BLOCK):
        yield data[:, start : start + _BLOCK]
