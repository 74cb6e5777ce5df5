"""results.parquet and summary.json of a run: what other programs read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from mgdm_audio.evaluation.run_folder import RunFolder
from mgdm_audio.evaluation.summary import RunSummary
from mgdm_audio.evaluation.track_scores import (
    ACTIVE,
    KEPT_SILENT,
    LEAK,
    LOST,
    PUBLISHED,
    RETAINED,
    SI_SDR,
    TrackScores,
)
from mgdm_audio.io.atomic import replacing, write_text
from mgdm_audio.io.json_text import json_text
from mgdm_audio.metrics.bss_eval import METRICS

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
    "windows_silent": "int64",
    "si_sdr_improvement": "float64",
    "si_sdr_improvement_published": "float64",
    "si_sdr": "float64",
    "in_its_stem": "float64",
    "leak": "float64",
    "silent_kept_silent": "float64",
    "active_lost": "float64",
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
    """One row per variant, track and stem; a failed track is one row without a stem.

    Rows that separate nothing follow those of the first variant with that track, under their own
    names as variants and ``nothing`` as sampler.
    """
    rows: list[dict[str, Any]] = []
    told: set[tuple[str, str]] = set()
    for variant in run.variants():
        settings = json.dumps(dict(variant.settings))
        for record in run.records(variant, run.description["asked"]["tracks"]):
            where = {"split": record["split"], "track": record["track"]}
            head = {
                "variant": variant.label,
                "sampler": variant.sampler,
                "settings": settings,
                **where,
            }
            if record["error"] is not None:
                rows.append(_row({**head, "error": record["error"]["message"]}))
                continue
            bss = record["bss"] or {}
            notes = [*record["notes"], *record["warnings"], *bss.get("notes", [])]
            cost = {name: record[name] for name in ("evaluations", "vjps", "seconds")}
            rows += _of_stems(record, None, {**head, **cost, "notes": "; ".join(notes)})
            for name in record.get("nothing", {}):
                if (name, record["track"]) not in told:
                    told.add((name, record["track"]))
                    head = {"variant": name, "sampler": "nothing", "settings": "{}", **where}
                    rows += _of_stems(record, name, head)
    return rows


def _of_stems(
    record: dict[str, Any], row: str | None, head: dict[str, Any]
) -> list[dict[str, Any]]:
    scores = TrackScores.of(record, row)
    return [
        _row(
            {
                **head,
                "stem": stem,
                "windows": len(record["si_sdr"][stem]),
                "windows_kept": int(scores.counts[PUBLISHED][index]),
                "windows_scored": int(scores.counts[ACTIVE][index]),
                "windows_silent": int(scores.counts[LEAK][index]),
                "si_sdr_improvement": scores.value(ACTIVE, stem),
                "si_sdr_improvement_published": scores.value(PUBLISHED, stem),
                "si_sdr": scores.value(SI_SDR, stem),
                "in_its_stem": scores.value(RETAINED, stem),
                "leak": scores.value(LEAK, stem),
                "silent_kept_silent": scores.value(KEPT_SILENT, stem),
                "active_lost": scores.value(LOST, stem),
                **{metric.lower(): scores.value(metric, stem) for metric in METRICS},
                "seconds_audio": record["seconds_audio"],
            }
        )
        for index, stem in enumerate(scores.stems)
    ]


def _row(known: dict[str, Any]) -> dict[str, Any]:
    row = {name: known.get(name) for name in COLUMNS}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows of :func:`result_rows` as a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial)


def write_results(run: RunFolder, summary: RunSummary) -> None:
    """Write results.parquet and summary.json of a run."""
    write_parquet(result_rows(run), run.path / "results.parquet")
    write_text(run.path / "summary.json", json_text(plain(summary), indent=1) + "\n")


def plain(value: Any) -> Any:
    """Turn results into what JSON can hold: None stands for NaN."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
