"""The table: means over the problems, one row per sampler and setting, Markdown and Parquet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgdm_audio.io.atomic import replacing
from recipes.exact_posterior.runner import cost

__all__ = ["Row", "markdown", "rows_of", "write_parquet"]

Row = dict[str, Any]
GROUP = ("task", "dim", "observations", "noise", "sampler")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def rows_of(records: Sequence[dict[str, Any]]) -> list[Row]:
    """Means over problems, best sampler first within each setting."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in GROUP)].append(record)
    rows = []
    for names, members in groups.items():
        row: Row = dict(zip(GROUP, names))
        row["problems"] = len(members)
        row["samples"] = members[0]["samples"]
        row["particles"] = members[0].get("particles", False)
        row["gibbs"] = members[0].get("gibbs")
        for name in (
            "sliced_wasserstein",
            "floor",
            "mode_error",
            "mode_floor",
            "residual_ratio",
            "coverage",
            "evaluations",
            "vjps",
            "seconds",
            "peak_memory",
        ):
            row[name] = _mean([member.get(name) for member in members])
        row["standard_error"] = _error([member["sliced_wasserstein"] for member in members])
        row["cost"] = _mean([cost(member) for member in members])
        rows.append(row)

    def order(row: Row) -> tuple:
        noise = -1.0 if row["noise"] is None else row["noise"]
        setting = (row["task"], row["dim"], row["observations"], noise)
        return (*setting, row["sliced_wasserstein"])

    return sorted(rows, key=order)


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def markdown(rows: Sequence[Row], heading: str) -> str:
    """One Markdown table for all settings."""
    lines = [
        f"# {heading}",
        "",
        "Sliced Wasserstein-1 to exact samples (mean over problems, ± standard error); its floor "
        "is the distance of two exact sets. Mode error: total variation between the modes' shares "
        "and their exact weights. Residual: root mean square of y - A(x) over that of exact "
        "samples. Coverage: share of exact samples inside the samples' central 90 % interval, mean "
        "over directions. Evaluations and vector-Jacobian products (VJP) per sample; cost "
        "= evaluations + 2 VJP. Memory: growth of the process at its peak. P: particles interact.",
        "",
        "| task | d | observed | sigma_y | sampler | P | sliced W1 | floor | mode error | "
        "residual | coverage | "
        "evaluations | VJP | cost | seconds | MiB | problems |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = row["standard_error"]
        distance = _number(row["sliced_wasserstein"])
        if spread is not None:
            distance += f" ± {spread:.2f}"
        memory = row["peak_memory"]
        cells = [
            row["task"],
            str(row["dim"]),
            str(row["observations"]),
            _number(row["noise"], "g"),
            row["sampler"],
            "yes" if row["particles"] else "",
            distance,
            _number(row["floor"]),
            _number(row["mode_error"]),
            _number(row["residual_ratio"]),
            _number(row["coverage"]),
            _number(row["evaluations"], ".0f"),
            _number(row["vjps"], ".0f"),
            _number(row["cost"], ".0f"),
            _number(row["seconds"], ".1f"),
            _number(None if memory is None else memory / 2**20, ".0f"),
            str(row["problems"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_parquet(records: Sequence[dict[str, Any]], path: Path) -> str | None:
    """Write one line per run; return what to say where pandas or pyarrow is absent."""
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        return (
            f"{path.name} is left out: {error.name} is a development dependency; "
            "pip install 'mgdm[dev]' (or pandas and pyarrow) and run again with --resume"
        )
    frame = pandas.DataFrame(list(records))
    if "warnings" in frame:
        frame["warnings"] = [", ".join(names) for names in frame["warnings"]]
    with replacing(path) as partial:
        frame.to_parquet(partial, index=False)
    return None
