"""From the record of one track to sums and counts over its windows, of which every mean is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mgdm_audio.metrics.bss_eval import METRICS
from mgdm_audio.metrics.si_sdr import WindowScores
from mgdm_audio.metrics.silence import (
    active_stems,
    earned_si_sdr,
    leaked_power,
    silent_output,
    silent_stems,
)
from mgdm_audio.metrics.statistics import known_mean

ACTIVE = "SI-SDRi"
PUBLISHED = "SI-SDRi published"
SI_SDR = "SI-SDR"
LEAK = "leak"
KEPT_SILENT = "silent kept silent"
LOST = "active lost"
RETAINED = "in its stem"
SCORES = (ACTIVE, PUBLISHED, SI_SDR, RETAINED, LEAK, KEPT_SILENT, LOST, *METRICS)
"""Names of all scores; :data:`ACTIVE` is the one to compare by."""

ALL = "all"
"""Name of the mean over the stems."""

_FAINTEST = 1e-15
"""A leak this far below the mixture (150 dB) is shown for none at all."""


def in_units(score: str, mean: Any) -> Any:
    """What is shown of a mean over windows: a leak in dB, shares in percent, the rest as it is."""
    if score == LEAK:
        return 10 * np.log10(np.maximum(mean, _FAINTEST))
    return 100 * mean if score in (RETAINED, KEPT_SILENT, LOST) else mean


def record_of(scores: WindowScores, stems: list[str], scored: list[str]) -> dict[str, Any]:
    """What a record keeps of a track's windows; the inverse of what :class:`TrackScores` reads."""

    def table(values: torch.Tensor, names: list[str]) -> dict[str, list]:
        return {name: values[stems.index(name)].tolist() for name in names}

    return {
        "si_sdr": table(scores.si_sdr, scored),
        "mixture_si_sdr": table(scores.mixture_si_sdr, scored),
        "active": table(scores.active, stems),
        "rms": table(scores.rms, scored),
        "rest_rms": table(scores.rest_rms, scored),
        "estimate_rms": table(scores.estimate_rms, scored),
        "mixture_rms": scores.mixture_rms.tolist(),
        "retained": table(scores.retained, scored),
    }


def nothing_of(scores: WindowScores, stems: list[str], scored: list[str]) -> dict[str, Any]:
    """What a record keeps of a row that separates nothing; the rest is the track's own."""
    whole = record_of(scores, stems, scored)
    return {name: whole[name] for name in ("si_sdr", "estimate_rms", "retained")}


def has_levels(record: dict[str, Any]) -> bool:
    """Whether a record knows the levels of its windows; those of version 0.1.0 do not."""
    return "rms" in record


def _windows_of(record: dict[str, Any], row: str | None) -> tuple[WindowScores, torch.Tensor]:
    """Scores of the estimated stems, and the windows that the published protocol counts."""
    stems = record["stems"]
    held = record if row is None else record["nothing"][row]
    count = len(next(iter(record["si_sdr"].values()), []))

    def table(source: dict[str, Any], name: str, dtype: torch.dtype = torch.float64):
        rows = [source[name][s] for s in stems]
        return torch.tensor(rows, dtype=dtype).reshape(len(stems), count)

    shape = len(record["active"]), count  # a track of no more than 2 s has no windows
    every = torch.tensor(list(record["active"].values()), dtype=torch.bool).reshape(shape)
    active = table(record, "active", torch.bool)
    if has_levels(record):
        rms, rest, own = (
            table(record, "rms"),
            table(record, "rest_rms"),
            table(held, "estimate_rms"),
        )
        mixed = torch.tensor(record["mixture_rms"], dtype=torch.float64)
    else:
        # Levels were not kept: what the protocol takes for active stands for them.
        rms = active.double()
        rest = (every.sum(0) - active.int() > 0).double()
        own = torch.full_like(rms, math.nan)
        mixed = torch.full((count,), math.nan, dtype=torch.float64)
    # Records of before 4 December 2026 do not know it.
    kept = table(held, "retained") if "retained" in held else torch.full_like(rms, math.nan)
    scores = WindowScores(
        [],
        table(held, "si_sdr"),
        table(record, "mixture_si_sdr"),
        active,
        rms,
        own,
        rest,
        mixed,
        kept,
    )
    return scores, every.sum(0) > 1


@dataclass(frozen=True)
class TrackScores:
    """Sums and counts over the windows of one track, from which every mean follows.

    Attributes
    ----------
    stems : tuple of str
        Stems that were scored.
    sums : dict of str to ndarray
        By score but those of BSSEval, summed over the windows that count, ``[stems]``.
    counts : dict of str to ndarray
        Number of those windows, ``[stems]``.
    bss : dict of str to ndarray
        By metric of BSSEval, median over frames, ``[stems]``; NaN where there is none.
    """

    stems: tuple[str, ...]
    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    bss: dict[str, np.ndarray]

    @classmethod
    def of(cls, record: dict[str, Any], row: str | None = None) -> TrackScores:
        """Scores of a record without error.

        Parameters
        ----------
        record : dict
            As the evaluation writes it, with the BSSEval record as ``"bss"`` if there is one.
        row : str, optional
            A row that separates nothing, of ``record["nothing"]``; the estimates by default.
        """
        stems = tuple(record["stems"])
        scores, kept = _windows_of(record, row)
        active, silent = active_stems(scores), silent_stems(scores)
        out, earned = silent_output(scores), earned_si_sdr(scores)
        levels = torch.full_like(active, has_levels(record))
        counted = {
            ACTIVE: (earned - scores.mixture_si_sdr, active),
            PUBLISHED: (scores.improvement, kept.expand_as(active)),
            SI_SDR: (earned, active),
            RETAINED: (scores.retained, active & ~scores.retained.isnan()),
            LEAK: (leaked_power(scores), silent & levels),
            KEPT_SILENT: (out.double(), silent & levels),
            LOST: (out.double(), active & levels),
        }
        medians = (((record.get("bss") or {}).get("medians")) or {}) if row is None else {}
        bss = {  # None becomes NaN
            metric: np.array([medians.get(stem, {}).get(metric) for stem in stems], dtype=float)
            for metric in METRICS
        }
        return cls(
            stems,
            {n: torch.where(mask, v, 0.0).sum(1).numpy() for n, (v, mask) in counted.items()},
            {n: mask.sum(1).double().numpy() for n, (_, mask) in counted.items()},
            bss,
        )

    def value(self, score: str, stem: str) -> float:
        """One score of one stem, in its unit; NaN where no window or frame counts."""
        if stem not in self.stems:
            return math.nan
        row = self.stems.index(stem)
        if score in self.bss:
            return float(self.bss[score][row])
        count = self.counts[score][row]
        return float(in_units(score, self.sums[score][row] / count)) if count else math.nan

    def mean_of(self, score: str) -> float:
        """Mean over the stems of one score; stems without one are left out."""
        return known_mean([self.value(score, stem) for stem in self.stems])
