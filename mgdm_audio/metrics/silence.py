"""Scores that silence cannot flatter: active stems only, and what silent stems were given.

The published protocol scores silent stems in windows where others sound, and an exactly silent
reference can be worth 100 dB. Here a stem is scored where there is something to separate, and
silence has scores of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mgdm_audio.metrics.si_sdr import (
    HOP_SECONDS,
    WINDOW_SECONDS,
    WindowScores,
    score_windows,
    slakh_windows,
)
from mgdm_audio.metrics.statistics import Interval, bootstrap, pooled_mean
from mgdm_core.array_types import Bool, Float, Tensor
from mgdm_core.errors import ShapeError

ACTIVE_RMS = 1e-3
"""A stem is active in a window where its root mean square is at least this (full scale is 1)."""

LOST_DB = -60.0
"""An estimate at most this many dB above the mixture (so 60 dB below it) counts as silent."""


def active_stems(scores: WindowScores) -> Bool[Tensor, "stems windows"]:
    """Where a stem's improvement counts: it sounds, and so does something else.

    Both the stem and the rest of the mixture have a root mean square of at least
    :data:`ACTIVE_RMS`. Where nothing else sounds there is nothing to separate, and the mixture
    taken as estimate is perfect.
    """
    return (scores.rms >= ACTIVE_RMS) & (scores.rest_rms >= ACTIVE_RMS)


def silent_stems(scores: WindowScores) -> Bool[Tensor, "stems windows"]:
    """Where a stem is silent (below :data:`ACTIVE_RMS`) while the mixture sounds."""
    return (scores.rms < ACTIVE_RMS) & (scores.mixture_rms >= ACTIVE_RMS)


def leaked_power(scores: WindowScores) -> Float[Tensor, "stems windows"]:
    """Power of the estimate over that of the mixture; 0 where the mixture is silent.

    Over the windows of :func:`silent_stems` it is what leaked: their mean in dB is the score.
    """
    power = scores.mixture_rms.square()
    ratio = scores.estimate_rms.square() / power
    return torch.where(power > 0, ratio, torch.zeros_like(ratio))


def silent_output(scores: WindowScores) -> Bool[Tensor, "stems windows"]:
    """Where the estimate is silent: at most :data:`LOST_DB` dB relative to the mixture."""
    return scores.estimate_rms <= 10 ** (LOST_DB / 20) * scores.mixture_rms


def earned_si_sdr(scores: WindowScores) -> Float[Tensor, "stems windows"]:
    """SI-SDR of the estimates; where one is silent, at most that of the mixture.

    Silence has 0 dB against anything that sounds, by the protocol's eps, and a mixture in which a
    stem is soft has less: a lost stem would be an improvement.
    """
    lost = torch.minimum(scores.si_sdr, scores.mixture_si_sdr)
    return torch.where(silent_output(scores), lost, scores.si_sdr)


@dataclass(frozen=True)
class ActiveStemScores:
    """SI-SDR improvement over active stems, of one recording or of several.

    ``retained`` is what of each stem is in its estimate, which SI-SDR is blind to.
    """

    improvement: Float[Tensor, "*items stems windows"]
    active: Bool[Tensor, "*items stems windows"]
    retained: Float[Tensor, "*items stems windows"]

    def _pooled(self, values: Tensor) -> Tensor:
        stems = self.active.shape[-2]
        counts = self.active.movedim(-2, 0).reshape(stems, -1)
        values = values.movedim(-2, 0).reshape(stems, -1)
        # 0 / 0 is NaN: no window, no score.
        return torch.where(counts, values, 0.0).sum(-1) / counts.sum(-1)

    @property
    def per_stem(self) -> Float[Tensor, " stems"]:
        """Mean over all windows of all recordings in which the stem counts; NaN if none does."""
        return self._pooled(self.improvement)

    @property
    def retained_per_stem(self) -> Float[Tensor, " stems"]:
        """What of each stem is in its estimate, over the same windows."""
        return self._pooled(self.retained)

    @property
    def interval(self) -> Interval:
        """The lead figure with its 95 % bootstrap interval over the recordings."""
        shape = (-1, *self.active.shape[-2:])
        active = self.active.reshape(shape)
        gains = torch.where(active, self.improvement.reshape(shape), 0.0)
        sums, counts = (x.sum(-1).double().numpy().T for x in (gains, active))  # stems x recordings
        return bootstrap(lambda s, c: np.nanmean(pooled_mean(s, c), axis=0), sums, counts)

    @property
    def mean(self) -> float:
        """Mean over the stems that have a score, in dB: the lead figure."""
        return float(torch.nanmean(self.per_stem))


def active_stem_improvement(
    estimates: Float[Tensor, "*items stems samples"],
    references: Float[Tensor, "*reference_items reference_stems reference_samples"],
    mixture: Float[Tensor, "*mixture_items mixture_samples"],
    rate: int,
    window: float = WINDOW_SECONDS,
    hop: float = HOP_SECONDS,
) -> ActiveStemScores:
    """SI-SDR improvement over active stems: the figure that leads every table.

    In windows of 4 s every 2 s (the last may be short, and a recording of less than a window is
    one window), the improvement SI-SDR(estimate) - SI-SDR(mixture) of a stem counts where the
    stem's own RMS is at least 1e-3 and that of the rest of the mixture too, see
    :func:`active_stems`; a silent estimate improves nothing (:func:`earned_si_sdr`).

    Parameters
    ----------
    estimates, references : Tensor
        Stems in the same order, ``[..., stems, samples]``; leading axes are recordings.
    mixture : Tensor
        What was separated, ``[..., samples]``.
    rate : int
        Samples per second.
    window, hop : float
        Seconds.

    Returns
    -------
    ActiveStemScores
        ``per_stem`` and ``mean``, and the windows behind them.

    Raises
    ------
    ShapeError
        If the shapes do not go together.
    """
    if estimates.ndim < 2 or estimates.shape != references.shape:
        raise ShapeError(
            "estimates and references must have one shape [..., stems, samples], found "
            f"{tuple(estimates.shape)} and {tuple(references.shape)}; cut or pad them first"
        )
    *items, stems, n = references.shape
    if tuple(mixture.shape) != (*items, n):
        raise ShapeError(
            f"the mixture must be {(*items, n)}, found {tuple(mixture.shape)}; cut or pad it first"
        )
    windows = slakh_windows(n, rate, window, hop)
    if not windows and n:
        windows = [(0, n)]
    rows = zip(
        estimates.reshape(-1, stems, n), references.reshape(-1, stems, n), mixture.reshape(-1, n)
    )
    found = [score_windows(*row, rate, windows) for row in rows]
    shape = (*items, stems, len(windows))
    if not found:
        none = torch.zeros(shape)
        return ActiveStemScores(none, none.bool(), none)
    return ActiveStemScores(
        torch.stack([earned_si_sdr(s) - s.mixture_si_sdr for s in found]).reshape(shape),
        torch.stack([active_stems(s) for s in found]).reshape(shape),
        torch.stack([s.retained for s in found]).reshape(shape),
    )
