"""Tables of a sweep: PSNR by task and sampler, every figure, curves of quality against R."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgdm_audio.io.atomic import replacing, write_text
from recipes.images.pictures import gibbs_curves
from recipes.images.tasks import TASKS

__all__ = ["COLUMNS", "write_tables"]

COLUMNS = (
    ("psnr_mean", "PSNR of mean (dB)", 2),
    ("psnr_sample", "PSNR of a sample (dB)", 2),
    ("ssim_mean", "SSIM of mean", 3),
    ("lpips_sample", "LPIPS", 3),
    ("seconds", "seconds per image", 1),
    ("evaluations", "evaluations", 0),
    ("vjps", "gradients", 0),
)


def _mean(values: Sequence[float]) -> float:
    """Of all or of none: a column is about the same images in every row."""
    return sum(values) / len(values) if values else math.nan


def _summary(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per task and sampler, means over images."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        key = (record["task"], record["label"])
        line = lines.setdefault(
            key,
            {
                "task": record["task"],
                "sampler": record["label"],
                "gibbs": record["gibbs"],
                "rows": [],
                "note": "",
            },
        )
        line["rows"] += record.get("rows", [])
        line["note"] = record.get("skipped", line["note"])
    for line in lines.values():
        rows = line.pop("rows")
        line["images"] = len(rows)
        for name, _, _ in COLUMNS:
            line[name] = _mean([row.get(name, math.nan) for row in rows])
    return list(lines.values())


def write_tables(
    folder: Path, records: Sequence[dict[str, Any]], lpips_reason: str | None
) -> list[dict[str, Any]]:
    """table.csv, table.md and, where R was varied, gibbs.png."""
    lines = _summary(records)
    names = ["task", "sampler", "images", *(name for name, _, _ in COLUMNS), "note"]
    with replacing(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    notes = [f"- {r['task']}, {r['sampler']}: {r['note']}" for r in lines if r["note"]]
    if lpips_reason:
        notes.insert(0, f"- {lpips_reason}")
    parts = [_by_task(lines), _every_figure(lines), notes]
    write_text(folder / "table.md", "\n\n".join("\n".join(p) for p in parts if p) + "\n")
    curves: dict[str, dict[int, float]] = {}
    for line in lines:
        if line["gibbs"] is not None and math.isfinite(line["psnr_mean"]):
            curves.setdefault(line["task"], {})[line["gibbs"]] = line["psnr_mean"]
    if any(len(points) > 1 for points in curves.values()):
        gibbs_curves(folder / "gibbs.png", curves, ylabel="PSNR of the posterior mean (dB)")
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _by_task(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """PSNR / SSIM of the mean, a task a row and a sampler a column."""
    samplers = list(dict.fromkeys(line["sampler"] for line in lines))
    cells: dict[str, dict[str, str]] = {}
    for line in lines:
        text = _number(line["psnr_mean"], 1)
        if text:
            text += f" / {_number(line['ssim_mean'], 3)}"
        cells.setdefault(line["task"], {})[line["sampler"]] = text
    head = ["PSNR (dB) / SSIM of the mean", *samplers]
    rows = [
        _row([TASKS[task].title, *(row.get(s, "") for s in samplers)])
        for task, row in cells.items()
    ]
    return [_row(head), "|" + "---|" * len(head), *rows]


def _every_figure(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """All figures, a task and sampler a row."""
    head = ["task", "sampler", "images", *(title for _, title, _ in COLUMNS)]
    rows = [
        _row(
            [
                TASKS[line["task"]].title,
                line["sampler"],
                str(line["images"]),
                *(_number(line[name], digits) for name, _, digits in COLUMNS),
            ]
        )
        for line in lines
    ]
    return [_row(head), "|" + "---|" * len(head), *rows]
