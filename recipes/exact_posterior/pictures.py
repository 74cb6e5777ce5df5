"""Pictures of the benchmark, as PNG files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import BboxBase

from mgdm_audio.io.atomic import replacing
from recipes.exact_posterior.problems import Case
from recipes.exact_posterior.table import Row

__all__ = ["cost_picture", "gibbs_picture", "memory_picture", "plane_picture"]

BLUE, ORANGE, GREY = "#1f5fa8", "#d9731a", "#8a8a8a"


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))
    return path


def plane_picture(
    case: Case,
    exact: torch.Tensor,
    samples: dict[str, torch.Tensor],
    distances: dict[str, float],
    path: Path,
) -> Path:
    """2-D posteriors side by side, the exact one first."""
    panels = {"exact": exact, **samples}
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, (name, points) in zip(axes, panels.items()):
        if name != "exact":
            axis.scatter(exact[:, 0], exact[:, 1], s=9, color=GREY, alpha=0.25, linewidths=0)
        colour = BLUE if name == "exact" else ORANGE
        axis.scatter(points[:, 0], points[:, 1], s=6, color=colour, alpha=0.7, linewidths=0)
        distance = f" ({distances[name]:.2f})" if name in distances else ""
        axis.set_title(name + distance, fontsize=10)
        axis.set(xlim=(-24, 24), ylim=(-24, 24), aspect="equal")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(f"{case.title()}: samples (exact in grey, sliced W1 in brackets)", fontsize=11)
    return _save(figure, path)


def _settings(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["task"], row["dim"], row["observations"], row["noise"]].append(row)
    return groups


def _title(setting: tuple) -> str:
    task, dim, observations, noise = setting
    return Case(task, dim, observations, noise, 0).title()


def _grid(count: int) -> tuple[Figure, Any]:
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(5.2 * columns, 4 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def _set_apart(labels: Sequence[Annotation], frame: BboxBase) -> None:
    """Move names up until none covers another, and to the left where the frame ends."""
    placed: list[BboxBase] = []
    for label in sorted(labels, key=lambda one: one.get_window_extent().y0):
        if label.get_window_extent().x1 > frame.x1:
            label.set_horizontalalignment("right")
            label.xyann = (-4, 3)
        while any(label.get_window_extent().overlaps(other) for other in placed):
            label.xyann = (label.xyann[0], label.xyann[1] + 2)
        placed.append(label.get_window_extent())


def cost_picture(rows: Sequence[Row], path: Path) -> Path:
    """Error against evaluations, one panel per setting, the floor as a line."""
    groups = _settings(rows)
    figure, axes = _grid(len(groups))
    names: dict[Any, list[Annotation]] = {}
    for axis, (setting, members) in zip(axes, groups.items()):
        axis.axhline(members[0]["floor"], color=GREY, linestyle="--", linewidth=1)
        names[axis] = []
        for row in members:
            ours = row["sampler"].startswith("mgdm")
            marker = "s" if row["particles"] else "o"
            colour = ORANGE if ours else BLUE
            axis.errorbar(
                row["cost"],
                row["sliced_wasserstein"],
                yerr=row["standard_error"],
                fmt=marker,
                color=colour,
                markersize=5,
                elinewidth=0.8,
            )
            names[axis].append(
                axis.annotate(
                    row["sampler"],
                    (row["cost"], row["sliced_wasserstein"]),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
            )
        axis.set(xscale="log", yscale="log", ylabel="sliced Wasserstein-1")
        axis.margins(x=0.22)
        axis.set_xlabel("evaluations per sample (a VJP counts as two more)")
        axis.set_title(_title(setting), fontsize=10)
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    figure.suptitle(
        "Error against cost; squares: interacting particles; dashed: floor", fontsize=11
    )
    figure.draw_without_rendering()  # where things are is known after that
    for axis, labels in names.items():
        _set_apart(labels, axis.bbox)
    return _save(figure, path)


def gibbs_picture(rows: Sequence[Row], path: Path) -> Path | None:
    """Error against R for the families of MGDM that were run with several; None without any."""
    families: dict[tuple, dict[str, list[Row]]] = {}
    for setting, members in _settings(rows).items():
        lines: dict[str, list[Row]] = defaultdict(list)
        for row in members:
            family = row["sampler"].rsplit("-r", 1)[0] if row["gibbs"] else ""
            if family in ("mgdm-published", "mgdm-linearised"):
                lines[family].append(row)
        several = {name: found for name, found in lines.items() if len(found) > 1}
        if several:
            families[setting] = several
    if not families:
        return None
    figure, axes = _grid(len(families))
    for axis, (setting, lines) in zip(axes, families.items()):
        floor = next(iter(lines.values()))[0]["floor"]
        axis.axhline(floor, color=GREY, linestyle="--", linewidth=1, label="floor")
        for colour, (name, members) in zip((ORANGE, BLUE), sorted(lines.items())):
            members = sorted(members, key=lambda row: row["gibbs"])
            axis.errorbar(
                [row["gibbs"] for row in members],
                [row["sliced_wasserstein"] for row in members],
                yerr=[row["standard_error"] or 0.0 for row in members],
                marker="o",
                color=colour,
                label=name,
            )
        axis.set(xscale="log", xlabel="R, Gibbs repetitions", ylabel="sliced Wasserstein-1")
        axis.set_xticks([1, 2, 4, 8], labels=["1", "2", "4", "8"])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_title(_title(setting), fontsize=10)
        axis.legend(fontsize=8)
    for axis in axes[len(families) :]:
        axis.set_axis_off()
    return _save(figure, path)


def memory_picture(points: Sequence[dict[str, Any]], path: Path) -> Path | None:
    """Peak memory of one posterior sample against particles (for MGDM: R)."""
    known = [point for point in points if point["peak_memory"] is not None]
    if not known:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(point["sampler"] for point in known):
        line = [point for point in known if point["sampler"] == name]
        axis.plot(
            [point["particles"] for point in line],
            [max(point["peak_memory"], 2**12) / 2**20 for point in line],
            marker="o",
            linewidth=2.5 if name == "mgdm" else 1.2,
            color="#222222" if name == "mgdm" else None,
            label=name,
        )
    axis.set(xscale="log", yscale="log", xlabel="particles per sample (MGDM: R)")
    axis.set_ylabel("MiB at the peak")
    axis.set_title(f"Memory of one posterior sample, d = {known[0]['dim']}", fontsize=10)
    axis.legend(fontsize=8)
    return _save(figure, path)
