"""BSSEval v4 (SDR, ISR, SIR, SAR) by museval, with stems paired by name and silence accounted for.

It runs on the CPU and takes long, so :class:`BssWork` lets the evaluation run it in processes
beside the separation.
"""

from __future__ import annotations

import math
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mgdm_audio.datasets.four_stem import stem_files
from mgdm_audio.datasets.tracks import Track, fit_length, read_mono
from mgdm_audio.errors import AudioError
from mgdm_core.errors import SettingsError

METRICS = ("SDR", "ISR", "SIR", "SAR")


@dataclass(frozen=True)
class BssScores:
    """Scores of one track.

    Attributes
    ----------
    frames : dict of str to dict of str to ndarray
        ``frames[stem][metric]`` is ``[frames]`` in dB; NaN in frames in which any stem is silent.
    medians : dict of str to dict of str to float
        ``medians[stem][metric]``: median over the frames; NaN where no frame counts.
    window, hop : float
        Length and distance of the frames in seconds.
    notes : tuple of str
        Which stems could not be scored, and why.
    """

    frames: dict[str, dict[str, np.ndarray]]
    window: float
    hop: float
    notes: tuple[str, ...] = ()

    @property
    def medians(self) -> dict[str, dict[str, float]]:
        """See the attributes."""
        return {
            stem: {metric: _median(values) for metric, values in held.items()}
            for stem, held in self.frames.items()
        }

    def to_museval_json(self, track_name: str) -> str:
        """Text of the file that museval writes for this track."""
        store = _import_museval().TrackStore(track_name, win=self.window, hop=self.hop)
        for stem, held in self.frames.items():
            store.add_target(stem, {metric: held[metric].tolist() for metric in METRICS})
        return store.json


def bss_eval(
    estimates: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    rate: int,
    window: float = 1.0,
    hop: float = 1.0,
) -> BssScores:
    """Score one track with ``museval.evaluate``.

    Estimates and references are paired by name, in the order of the references. Estimates are cut
    or padded to the references' length.

    museval refuses a stem that is silent throughout. A silent **reference** is left out together
    with its estimate (it adds nothing to the others' scores). A silent **estimate** of a
    reference that is not silent has no scores (NaN) but its reference still counts as
    interference in those of the others. Both are said in the notes.

    Parameters
    ----------
    estimates, references : mapping of str to ndarray
        ``[samples]`` each; estimates may lack stems, which are then not scored.
    window, hop : float
        Length and distance of the frames in seconds. Distortion filters (512 taps) are estimated
        over the whole track, as BSSEval v4 does.

    Raises
    ------
    SettingsError
        If window or hop are not positive.
    AudioError
        If an estimate holds NaN or infinity.

    Notes
    -----
    Vincent, Gribonval, Fevotte, "Performance measurement in blind audio source separation", IEEE
    TASLP 14(4), 2006; Stoter, Liutkus, Ito, "The 2018 Signal Separation Evaluation Campaign".
    """
    if window <= 0 or hop <= 0:
        raise SettingsError(f"window and hop must be positive, found {window} and {hop} seconds")
    notes = []
    names = []
    for name, reference in references.items():
        if name not in estimates:
            notes.append(f"{name} was not estimated: no BSSEval")
        elif not np.any(reference):
            notes.append(f"the reference of {name} is silent: no BSSEval")
        else:
            names.append(name)
    # References that were not estimated are still interference to the others.
    present = [name for name, reference in references.items() if np.any(reference)]
    count = max((len(references[name]) for name in present), default=0)
    win, step = round(window * rate), round(hop * rate)
    size = (count - win + step) // step if win < count else 1
    frames = {name: {m: np.full(size, math.nan) for m in METRICS} for name in references}
    if not names:
        return BssScores(frames, window, hop, tuple(notes))
    truth = np.stack([fit_length(references[name], count) for name in present])
    guess = np.zeros_like(truth, dtype=np.float64)
    silent = set()
    for row, name in enumerate(present):
        if name in names:
            if not np.isfinite(estimates[name]).all():
                raise AudioError(f"the estimate of {name} holds NaN or infinity; it has no score")
            guess[row] = fit_length(estimates[name], count)
        if not guess[row].any():
            silent.add(name)
            # museval scores each estimate by itself but wants all of them audible in every frame.
            guess[row] = truth[row]
            if name in names:
                notes.append(f"the estimate of {name} is silent: no BSSEval")
    museval = _import_museval()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # 0/0 in silent frames is expected and ends as NaN
        scores = museval.evaluate(
            truth[..., None].astype(np.float64),
            guess[..., None],
            win=win,
            hop=step,
            mode="v4",
        )
    for row, name in enumerate(present):
        if name in names and name not in silent:
            # museval.evaluate returns SDR, ISR, SIR, SAR in this order.
            frames[name] = {m: np.asarray(s[row]) for m, s in zip(METRICS, scores, strict=True)}
    used = max(int((~np.isnan(frames[name]["SDR"])).sum()) for name in names)
    if used < size:
        notes.append(f"BSSEval over {used} of {size} frames: in the others a stem is silent")
    return BssScores(frames, window, hop, tuple(notes))


def _median(values: np.ndarray) -> float:
    # An infinite ratio has no place in museval's files, and is left out there as here.
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def _import_museval() -> Any:
    """Import museval also where ffmpeg is missing.

    museval imports musdb for its MUSDB18 reader, and that refuses to load without the ffmpeg
    program. Nothing here reads MUSDB18, so an empty stand-in is enough.
    """
    try:
        import museval
    except RuntimeError:
        sys.modules["musdb"] = types.ModuleType("musdb")
        try:
            import museval
        finally:
            del sys.modules["musdb"]
    return museval


@dataclass(frozen=True)
class BssItem:
    """One track to score."""

    track: Track
    estimates: Path | dict[str, np.ndarray]
    rate: int


@dataclass(frozen=True)
class BssWork:
    """What a scoring process does; see :class:`mgdm_audio.compute.engines.Work`."""

    def start(self, device: str) -> Callable[[BssItem], BssScores]:
        """Import museval; the device is not used."""
        del device
        _import_museval()
        return self._score

    def _score(self, item: BssItem) -> BssScores:
        references = item.track.load(item.rate).stems
        estimates = item.estimates
        if isinstance(estimates, Path):
            files = stem_files(estimates)
            estimates = {name: read_mono(path)[0] for name, path in files.items()}
        # Its least squares are so ill-conditioned that the order of sums shows, by more than a dB
        # where a source hardly sounds: one thread, wherever it runs.
        with threadpool_limits(1):
            return bss_eval(estimates, references, item.rate)
