"""From the records of tracks to one figure per stem, with its interval over tracks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.evaluation.run_folder import RunFolder, Variant, write_text
from mgdm_audio.metrics.bss_eval import METRICS
from mgdm_audio.metrics.statistics import (
    Interval,
    bootstrap,
    pooled_mean,
    pooled_means,
    track_median,
)

__all__ = [
    "ALL",
    "PUBLISHED",
    "SCORES",
    "SILENCE_SAFE",
    "RunSummary",
    "TrackScores",
    "VariantSummary",
    "plain",
    "result_rows",
    "summarise",
    "write_parquet",
    "write_summary",
]

PUBLISHED = "SI-SDRi published"
SILENCE_SAFE = "SI-SDRi"
SI_SDR = "SI-SDR"
SCORES = (SILENCE_SAFE, PUBLISHED, SI_SDR, *METRICS)
"""Names of all scores; :data:`SILENCE_SAFE` is the one to compare by."""

ALL = "all"
"""Name of the mean over the stems."""


@dataclass(frozen=True)
class TrackScores:
    """Sums and counts over the windows of one track, from which every mean follows.

    Attributes
    ----------
    stems : tuple of str
        Stems that were scored.
    sums : dict of str to ndarray
        By score (:data:`PUBLISHED`, :data:`SILENCE_SAFE`, :data:`SI_SDR`), dB summed over the
        windows that count, ``[stems]``.
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
    def of(cls, record: dict[str, Any]) -> TrackScores:
        """Scores of a record without error.

        Parameters
        ----------
        record : dict
            As the evaluation writes it, with the BSSEval record as ``"bss"`` if there is one.
        """
        stems = tuple(record["stems"])
        count = len(next(iter(record["si_sdr"].values()), []))

        def table(name: str, dtype: type) -> np.ndarray:
            return np.array([record[name][s] for s in stems], dtype).reshape(len(stems), count)

        own, mixed, active = (
            table("si_sdr", float),
            table("mixture_si_sdr", float),
            table("active", bool),
        )
        sounding = np.array(list(record["active"].values()), bool).reshape(-1, count)
        kept = np.broadcast_to(sounding.sum(axis=0) > 1, own.shape)
        values = {PUBLISHED: own - mixed, SILENCE_SAFE: own - mixed, SI_SDR: own}
        masks = {PUBLISHED: kept, SILENCE_SAFE: kept & active, SI_SDR: kept & active}
        medians = ((record.get("bss") or {}).get("medians")) or {}
        bss = {
            metric: np.array(
                [_number(medians.get(stem, {}).get(metric)) for stem in stems], dtype=float
            )
            for metric in METRICS
        }
        return cls(
            stems,
            {name: np.where(masks[name], v, 0.0).sum(axis=1) for name, v in values.items()},
            {name: mask.sum(axis=1).astype(float) for name, mask in masks.items()},
            bss,
        )

    def value(self, score: str, stem: str) -> float:
        """One score of one stem in dB; NaN where no window or frame counts."""
        if stem not in self.stems:
            return math.nan
        row = self.stems.index(stem)
        if score in self.bss:
            return float(self.bss[score][row])
        count = self.counts[score][row]
        return float(self.sums[score][row] / count) if count else math.nan

    @property
    def mean(self) -> float:
        """Mean over the stems of the silence-safe improvement, by which tracks are ranked."""
        return self.mean_of(SILENCE_SAFE)

    def mean_of(self, score: str) -> float:
        """Mean over the stems of one score, in dB; stems without one are left out."""
        known = [v for stem in self.stems if not math.isnan(v := self.value(score, stem))]
        return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class VariantSummary:
    """Scores and cost of one variant over the data set.

    Attributes
    ----------
    label, slug : str
        Name for people and name of the folder.
    tracks, failed, missing : int
        Evaluated, ended with an error, not evaluated yet.
    scores : dict of str to dict of str to Interval
        ``scores[score][stem]``, the mean over stems as stem ``all``.
    evaluations, vjps : float
        Per window, mean over the tracks.
    seconds_per_second : float
        Seconds of separation per second of audio; NaN where nothing was separated.
    hours_of_audio : float
        Length of what was evaluated.
    errors : dict of str to str
        Message by track.
    """

    label: str
    slug: str
    tracks: int
    failed: int
    missing: int
    scores: dict[str, dict[str, Interval]]
    evaluations: float
    vjps: float
    seconds_per_second: float
    hours_of_audio: float
    errors: dict[str, str]


@dataclass(frozen=True)
class RunSummary:
    """What became of a run.

    Attributes
    ----------
    name : str
        Of the data set.
    stems : tuple of str
        Stems scored by any variant.
    scores : tuple of str
        Scores that there are.
    variants : list of VariantSummary
        In the order in which they were asked for.
    """

    name: str
    stems: tuple[str, ...]
    scores: tuple[str, ...]
    variants: list[VariantSummary]


def summarise(run: RunFolder) -> RunSummary:
    """Join the records of all tracks.

    Parameters
    ----------
    run : RunFolder
        A run, finished or not.

    Raises
    ------
    AudioError
        If the folder holds no run.
    """
    asked = run.description["asked"]
    found = {v: list(run.records(v, asked["tracks"])) for v in run.variants()}
    good = [r for records in found.values() for r in records if r["error"] is None]
    stems = tuple(s for s in asked["stems"] if any(s in r["stems"] for r in good))
    scores = SCORES if asked.get("bss") else SCORES[:3]
    variants = [
        _summarise_variant(v, records, len(asked["tracks"]), stems, scores)
        for v, records in found.items()
    ]
    return RunSummary(Path(asked["dataset"]).name, stems, tuple(scores), variants)


def _summarise_variant(
    variant: Variant,
    records: list[dict[str, Any]],
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
        len(good),
        len(records) - len(good),
        tracks - len(records),
        {name: _intervals(held, stems, name) for name in names},
        _mean([r["evaluations"] for r in good]),
        _mean([r["vjps"] for r in good]),
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
        found[stem] = bootstrap(pooled_mean, sums[row, some], counts[row, some])
    some = (counts > 0).any(axis=0)
    return {**found, ALL: bootstrap(pooled_means, sums[:, some], counts[:, some])}


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value


COLUMNS = {
    "variant": "string",
    "sampler": "string",
    "settings": "string",
    "split": "string",
    "track": "string",
    "stem": "string",
    "windows": "int64",
    "windows_kept": "int64",
    "windows_scored": "int64",
    "si_sdr_improvement": "float64",
    "si_sdr_improvement_published": "float64",
    "si_sdr": "float64",
    "sdr": "float64",
    "isr": "float64",
    "sir": "float64",
    "sar": "float64",
    "evaluations": "float64",
    "vjps": "float64",
    "seconds_audio": "float64",
    "seconds": "float64",
    "notes": "string",
    "error": "string",
}
"""Columns of results.parquet and their types; one row per variant, track and stem."""


def result_rows(run: RunFolder) -> list[dict[str, Any]]:
    """One row per variant, track and stem; a failed track is one row without a stem."""
    rows = []
    for variant in run.variants():
        settings = json.dumps(dict(variant.settings))
        for record in run.records(variant, run.description["asked"]["tracks"]):
            head = {
                "variant": variant.label,
                "sampler": variant.sampler,
                "settings": settings,
                "split": record["split"],
                "track": record["track"],
            }
            if record["error"] is not None:
                rows.append(_row({**head, "error": record["error"]["message"]}))
                continue
            scores = TrackScores.of(record)
            bss = record["bss"] or {}
            notes = [*record["notes"], *record["warnings"], *bss.get("notes", [])]
            for row, stem in enumerate(scores.stems):
                values = {metric.lower(): scores.value(metric, stem) for metric in METRICS}
                rows.append(
                    _row(
                        {
                            **head,
                            "stem": stem,
                            "windows": len(record["si_sdr"][stem]),
                            "windows_kept": int(scores.counts[PUBLISHED][row]),
                            "windows_scored": int(scores.counts[SILENCE_SAFE][row]),
                            "si_sdr_improvement": scores.value(SILENCE_SAFE, stem),
                            "si_sdr_improvement_published": scores.value(PUBLISHED, stem),
                            "si_sdr": scores.value(SI_SDR, stem),
                            **values,
                            "evaluations": record["evaluations"],
                            "vjps": record["vjps"],
                            "seconds_audio": record["seconds_audio"],
                            "seconds": record["seconds"],
                            "notes": "; ".join(notes),
                        }
                    )
                )
    return rows


def _row(known: dict[str, Any]) -> dict[str, Any]:
    row = {name: known.get(name) for name in COLUMNS}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows of :func:`result_rows` as a Parquet file, whole or not at all.

    Parameters
    ----------
    rows : list of dict
        The rows.
    path : Path
        Where to.
    """
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    partial = path.with_name(f".mgdm-{path.name}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)
    os.replace(partial, path)


def write_summary(run: RunFolder) -> RunSummary:
    """Write results.parquet, summary.json and summary.md of a run, and return the summary."""
    from mgdm_audio.reports.tables import summary_markdown

    summary = summarise(run)
    write_parquet(result_rows(run), run.path / "results.parquet")
    content = json.dumps(plain(summary), indent=1, ensure_ascii=False)
    write_text(run.path / "summary.json", content + "\n")
    write_text(run.path / "summary.md", summary_markdown(summary, run.description))
    return summary


def plain(value: Any) -> Any:
    """Turn results into what JSON can hold: None stands for NaN.

    Parameters
    ----------
    value : object
        Dataclasses, dictionaries, lists and numbers.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
