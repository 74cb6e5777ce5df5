"""The table and the pictures of tier 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgdm_audio.io.atomic import replacing
from mgdm_audio.reports.tables import Table
from recipes.calibration.exact import Setting
from recipes.calibration.scores import NOMINAL
from recipes.calibration.statistics import LEVELS

__all__ = ["c2st_bound", "draw_exact", "exact_table", "verdict"]

SIGNIFICANT = 0.01
MARGIN = 0.05


def c2st_bound(record: dict[str, Any]) -> float:
    """Accuracy above which the classifier sees a difference: three standard errors over 0.5."""
    tested = 2 * record["cases"] * record["draws"]
    return 0.5 + 3 * math.sqrt(0.25 / tested)


def verdict(record: dict[str, Any]) -> str:
    """``passes``, or what fails and in which direction the intervals err at 90 %."""
    if "error" in record:
        return "not run"
    failed = []
    if record["rank_p"] < SIGNIFICANT:
        failed.append("ranks")
    if record["tarp_p"] < SIGNIFICANT:
        failed.append("TARP")
    if record["c2st"] > c2st_bound(record):
        failed.append("C2ST")
    if abs(record["coverage_z"]) > 3:
        failed.append("coverage")
    if not failed:
        return "passes"
    off = record["coverage"]["0.9"] - 0.9
    how = "too narrow" if off < -MARGIN else "too wide" if off > MARGIN else "width holds"
    return f"fails {', '.join(failed)}; {how}"


def exact_table(records: Sequence[dict[str, Any]], setting: Setting) -> Table:
    """One row per sampler, those that pass first, then by the classifier's accuracy."""
    rows = []

    def order(record: dict[str, Any]) -> tuple:
        return (verdict(record) != "passes", record.get("c2st", 2.0))

    for record in sorted(records, key=order):
        if "error" in record:
            rows.append([record["sampler"], *["–"] * 9, f"not run: {record['error']}"])
            continue
        cost = record["evaluations"] + 2 * record["vjps"]
        rows.append(
            [
                record["sampler"],
                *(f"{100 * record['coverage'][str(share)]:.0f}" for share in NOMINAL),
                f"{record['rank_p']:.2g}",
                f"{record['tarp_p']:.2g}",
                f"{record['c2st']:.3f}",
                f"{cost:.0f}",
                f"{record['processor_seconds']:.1f}",
                verdict(record),
            ]
        )
    done = [r for r in records if "error" not in r]
    cases, draws = (done[0]["cases"], done[0]["draws"]) if done else (0, 0)
    bound = f"{c2st_bound(done[0]):.3f}" if done else "–"
    columns = ["", *(f"{100 * share:.0f} %" for share in NOMINAL), "ranks p", "TARP p"]
    columns += ["C2ST", "cost", "s", "verdict"]
    caption = (
        f"{cases} simulated truths, {draws} draws of each. Per cent of truths in the central "
        "interval of that share, mean over 6 directions, rejected where 90 % is missed by three "
        "standard errors; p-values of the ranks (7 chi-square "
        "tests, Bonferroni) and of TARP (Kolmogorov-Smirnov), rejected below "
        f"{SIGNIFICANT}; accuracy of a classifier, rejected above {bound}; cost: evaluations + "
        "2 VJP per draw; s: processor seconds. The row `exact` draws from the posterior itself"
    )
    return Table(setting.title, caption, columns, rows)


def draw_exact(records: Sequence[dict[str, Any]], setting: Setting, path: Path) -> None:
    """One small reliability picture per sampler: coverage against what was asked."""
    from matplotlib.figure import Figure

    done = [record for record in records if "error" not in record]
    if not done:
        return
    across = min(6, len(done))
    down = -(-len(done) // across)
    figure = Figure(figsize=(1.7 * across, 1.9 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(done) :]:
        axes.set_visible(False)
    for axes, record in zip(panels, done):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.7)
        axes.plot(LEVELS, record["coverage_curve"], color="#2f6f9f", label="central intervals")
        axes.plot(LEVELS, record["tarp_curve"], color="#c2662d", label="TARP")
        passed = verdict(record) == "passes"
        axes.set_title(record["sampler"], fontsize=8, color="#1b7a3d" if passed else "black")
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect=1)
        axes.tick_params(labelsize=7)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2,
        fontsize=8, frameon=False,
    )  # fmt: skip
    figure.suptitle(f"{setting.title}: share of truths covered against share asked", fontsize=9)
    figure.supxlabel("nominal", fontsize=8)
    figure.supylabel("covered", fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
