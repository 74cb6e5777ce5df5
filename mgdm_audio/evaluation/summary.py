"""From the records of tracks to one figure per stem, with its interval over tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.track_scores import ALL, SCORES, TrackScores, has_levels, in_units
from mgdm_audio.metrics.bss_eval import METRICS
from mgdm_audio.metrics.statistics import (
    Interval,
    bootstrap,
    known_mean,
    pooled_mean,
    track_median,
)

Scores = dict[str, dict[str, Interval]]
"""``scores[score][stem]``, the mean over stems as stem ``all``."""


@dataclass(frozen=True)
class VariantSummary:
    """Scores and cost of one variant over the data set.

    Attributes
    ----------
    label, slug : str
        Name by which it is asked for, and name of the folder.
    name : str
        For tables: the label with the preset that it started from.
    tracks, failed, missing : int
        Evaluated, ended with an error, not evaluated yet.
    evaluations, vjps : float
        Per window, mean over the tracks.
    seconds_per_second : float
        Seconds of separation per second of audio; NaN where nothing was separated.
    """

    label: str
    slug: str
    name: str
    tracks: int
    failed: int
    missing: int
    scores: Scores
    evaluations: float
    vjps: float
    seconds_per_second: float
    hours_of_audio: float
    errors: dict[str, str]


@dataclass(frozen=True)
class NothingSummary:
    """Scores of a row that separates nothing."""

    name: str
    scores: Scores


@dataclass(frozen=True)
class RunSummary:
    """What became of a run; ``nothing`` is over all tracks that any variant was scored on."""

    name: str
    stems: tuple[str, ...]
    scores: tuple[str, ...]
    variants: list[VariantSummary]
    nothing: list[NothingSummary]
    remarks: list[str]


def summarise(run: RunFolder) -> RunSummary:
    """Join the records of all tracks."""
    asked = run.description["asked"]
    found = {v: list(run.records(v, asked["tracks"])) for v in run.variants()}
    good = [r for records in found.values() for r in records if r["error"] is None]
    stems = tuple(s for s in asked["stems"] if any(s in r["stems"] for r in good))
    scores = tuple(s for s in SCORES if s not in METRICS or asked.get("bss"))
    preset = (asked.get("estimator") or {}).get("preset")
    variants = [
        _summarise_variant(v, records, preset, len(asked["tracks"]), stems, scores)
        for v, records in found.items()
    ]
    remarks = []
    old = len({r["track"] for r in good if not has_levels(r)})
    if old:
        remarks.append(
            f"{old} of {len({r['track'] for r in good})} tracks were scored by version 0.1.0, "
            "which kept no levels: of them a stem counts as active where the published protocol "
            "says so, and silence has no scores; evaluate again for both"
        )
    return RunSummary(
        Path(asked["dataset"]).name, stems, scores, variants, _nothing(good, stems, scores), remarks
    )


def _nothing(
    good: list[dict[str, Any]], stems: tuple[str, ...], names: tuple[str, ...]
) -> list[NothingSummary]:
    by_track: dict[str, dict[str, dict[str, Any]]] = {}
    for record in good:
        for row in record.get("nothing", {}):
            held = by_track.setdefault(row, {})
            # Of several variants the one that scored most stems.
            before = held.get(record["track"])
            if before is None or len(before["stems"]) < len(record["stems"]):
                held[record["track"]] = record
    rows = {
        row: [TrackScores.of(record, row) for record in held.values()]
        for row, held in by_track.items()
    }
    return [
        NothingSummary(row, {name: _intervals(held, stems, name) for name in names})
        for row, held in rows.items()
    ]


def _summarise_variant(
    variant: Variant,
    records: list[dict[str, Any]],
    preset: str | None,
    tracks: int,
    stems: tuple[str, ...],
    names: Sequence[str],
) -> VariantSummary:
    good = [r for r in records if r["error"] is None]
    held = [TrackScores.of(r) for r in good]
    errors = {r["track"]: r["error"]["message"] for r in records if r["error"]}
    errors |= {
        r["track"]: f"BSSEval: {r['bss']['error']['message']}"
        for r in good
        if r["bss"] and r["bss"]["error"]
    }
    seconds = sum(r["seconds_audio"] for r in good)
    return VariantSummary(
        variant.label,
        variant.slug,
        variant.label if preset is None else f"{variant.label} (preset {preset})",
        len(good),
        len(records) - len(good),
        tracks - len(records),
        {name: _intervals(held, stems, name) for name in names},
        known_mean([r["evaluations"] for r in good]),
        known_mean([r["vjps"] for r in good]),
        sum(r["seconds"] for r in good) / seconds if seconds else math.nan,
        seconds / 3600,
        errors,
    )


def _intervals(held: list[TrackScores], stems: tuple[str, ...], name: str) -> dict[str, Interval]:
    """Interval of one score for every stem and for their mean."""
    if name in METRICS:
        values = np.array([[t.value(name, s) for t in held] for s in stems])
        values = values.reshape(len(stems), len(held))
        found = {s: bootstrap(track_median, row[~np.isnan(row)]) for s, row in zip(stems, values)}
        complete = values[:, ~np.isnan(values).any(axis=0)]
        return {
            **found,
            ALL: bootstrap(lambda x: np.asarray(track_median(x)).mean(axis=0), complete),
        }
    sums, counts = (
        np.array(
            [[a[name][t.stems.index(s)] if s in t.stems else 0.0 for t, a in pairs] for s in stems]
        ).reshape(len(stems), len(held))
        for pairs in ([(t, t.sums) for t in held], [(t, t.counts) for t in held])
    )
    found = {}
    for row, stem in enumerate(stems):
        some = counts[row] > 0
        found[stem] = bootstrap(
            lambda s, c: in_units(name, pooled_mean(s, c)), sums[row, some], counts[row, some]
        )
    # A draw of tracks without a stem that others have tells nothing of the mean over all stems.
    some, own = (counts > 0).any(axis=0), (counts > 0).any(axis=1)
    everything = bootstrap(
        lambda s, c: in_units(name, np.asarray(pooled_mean(s, c)).mean(axis=0)),
        sums[own][:, some],
        counts[own][:, some],
    )
    return {**found, ALL: everything}
