"""Validation sets, fixed and named: every table of the prior is about these.

A
    24 renders of 6 s: held-out songs on the held-out presets of Debian's soundfonts.
B
    48 renders of 12 s: held-out songs on soundfonts that nothing was trained on.
C
    A real excerpt: the first 36 s of Slakh2100 Track02098.
U
    24 renders of 6 s with an unknown instrument or voice as a fifth stem, as loud as the others.

The material that they are made from is no part of the project: it lies in one folder, `shared`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from mgdm_audio.metrics.silence import ActiveStemScores, active_stem_improvement
from mgdm_audio.priors.catalogue import home
from mgdm_core.array_types import Array, Float, Tensor
from recipes.music_prior.songs.song import FIVE_STEMS, RATE, STEMS, SongError
from recipes.music_prior.sound.stream import StemStream, StreamSettings

__all__ = ["SETS", "ValidationSet", "score", "separable", "validation_set"]

MIXTURE_RMS = 0.1
ACTIVE = 0.005  # RMS of a stem that counts as playing in a mixture of RMS 0.1
# Of the 16-bit samples on disk: single strokes of a drum reach 2.3 in mixtures of RMS 0.1.
SCALES = {"A": 8192, "B": 8192, "C": 32_768, "U": 8192}
REAL = Path("audio/slakh_Track02098_first36s")
MIDI = Path("midi")
HELD_OUT_FONT = Path("soundfonts/heldout.sf3")
RENDERS = {
    "A": (24, StreamSettings(segment=131_072, composed_share=0.5, seed=0)),
    "B": (48, StreamSettings(segment=12 * RATE, composed_share=0.5, seed=15)),
    "U": (24, StreamSettings(segment=131_072, composed_share=0.5, seed=31, stems=FIVE_STEMS)),
}
SETS = ("A", "B", "C", "U")


@dataclass(frozen=True)
class ValidationSet:
    """Songs to separate, their truth, and what they are.

    Attributes
    ----------
    name
        One of `SETS`.
    stems
        The four stems in the order of `STEMS` at 22 050 Hz, each mixture with an RMS of 0.1. In set
        U a fifth follows, what is none of them.
    identity
        The name and a fingerprint of the samples: figures of two runs compare where it is equal.
    """

    name: str
    stems: Float[Array, "items stems samples"]
    identity: str


def validation_set(name: str, shared: Path, cache: Path | None = None) -> ValidationSet:
    """Read a validation set, and render it first where that has not been done.

    Parameters
    ----------
    name
        One of `SETS`.
    shared
        The folder that holds `midi`, `soundfonts` and `audio`.
    cache
        Where rendered sets are kept, one FLAC file of four channels per item; by default
        `validation_sets` beside the registered priors (`MGDM_HOME`).

    Raises
    ------
    SongError
        When there is no such set, or what it is made of is not in `shared`.
    """
    if name not in SETS:
        raise SongError(f"a validation set is one of {', '.join(SETS)}; got {name!r}")
    if name == "C":
        samples = _real(shared / REAL)
    else:
        folder = (cache or home() / "validation_sets") / name
        if not folder.is_dir():
            _render(name, shared, folder)
        samples = np.stack([_read(path).T for path in sorted(folder.glob("*.flac"))])
    print_ = hashlib.sha256(samples.tobytes()).hexdigest()[:12]
    stems = samples.astype(np.float32) / np.float32(SCALES[name])
    if name == "C":  # one recording: louder or softer as a whole
        stems *= np.float32(MIXTURE_RMS / np.sqrt(np.mean(np.square(stems.sum(1), dtype=float))))
    return ValidationSet(name, stems, f"{name}-{print_}")


def separable(stems: Float[Array, "stems samples"]) -> Float[Array, "stems samples"] | None:
    """Bring a mixture to an RMS of 0.1; None where fewer than two stems play."""
    rms = np.sqrt(np.mean(np.square(stems.sum(0))))
    if rms < 1e-3:
        return None
    stems = stems * (MIXTURE_RMS / rms)
    active = np.sqrt(np.mean(np.square(stems), axis=1)) > ACTIVE
    return stems if active.sum() >= 2 else None


def with_unknown(stems: Float[Array, "stems samples"]) -> Float[Array, "stems samples"] | None:
    """Make the last stem as loud as the others that play are on average; None without it."""
    rms = np.sqrt(np.mean(np.square(stems), axis=1))
    others = rms[:-1][rms[:-1] > ACTIVE]
    if rms[-1] < 1e-3 or not len(others):
        return None
    stems = stems.copy()
    stems[-1] *= np.sqrt(np.mean(np.square(others))) / rms[-1]
    return separable(stems)


def score(
    separate: Callable[[Tensor], Tensor], stems: Float[Array, "items stems samples"]
) -> ActiveStemScores:
    """Separate every item of a set and measure the stems that are active.

    Parameters
    ----------
    separate
        From mixtures [batch, samples] to stems [batch, stems, samples].
    stems
        The truth.

    Returns
    -------
    ActiveStemScores
        In windows of 4 s every 2 s; `per_stem` and `mean` pool the windows of all items.
    """
    truth = torch.from_numpy(stems)
    mixtures = truth.sum(1)
    estimates = torch.cat([separate(mixture[None]) for mixture in mixtures])
    return active_stem_improvement(estimates.float().cpu(), truth, mixtures, RATE)


def _render(name: str, shared: Path, folder: Path) -> None:
    count, settings = RENDERS[name]
    needed = [shared / MIDI] + ([shared / HELD_OUT_FONT] if name == "B" else [])
    for path in needed:
        if not path.exists():
            raise SongError(f"validation set {name} is made of {path}, which does not exist")
    settings = replace(
        settings,
        midi_dirs=(str(shared / MIDI),),
        heldout_soundfonts=(str(shared / HELD_OUT_FONT),) if name == "B" else (),
        split="valid",
        segments_per_song=1,
        workers=0,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    try:
        number = 0
        for item in StemStream(settings):
            stems = with_unknown(item) if name == "U" else separable(item)
            if stems is None:
                continue
            _write(partial / f"{number:02d}.flac", stems * SCALES[name])
            number += 1
            if number == count:
                break
        if not folder.is_dir():  # another process may have been faster
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, stems: np.ndarray) -> None:
    samples = np.clip(np.rint(stems), -32_768, 32_767).astype(np.int16)
    soundfile.write(path, samples.T, RATE, subtype="PCM_16")


def _read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    if rate != RATE:
        raise SongError(f"{path} has {rate} Hz; validation sets have {RATE} Hz")
    return samples


def _real(folder: Path) -> np.ndarray:
    """Return a real song as it lies on disk, int16 [1, 4, samples]."""
    files = [folder / f"{stem}.flac" for stem in STEMS]
    absent = [path for path in files if not path.is_file()]
    if absent:
        raise SongError(f"validation set C is made of {absent[0]}, which does not exist")
    waves = [_read(path)[:, 0] for path in files]
    return np.stack([wave[: min(map(len, waves))] for wave in waves])[None]
