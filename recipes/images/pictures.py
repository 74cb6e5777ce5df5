"""Comparison pictures: labelled, one scale for all images, no axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mgdm_audio.io.atomic import replacing
from mgdm_core.array_types import Float, Tensor
from recipes.images.restore import Restoration
from recipes.images.tasks import TASKS, Degradation

__all__ = ["comparison", "gibbs_curves", "task_grid"]

_MISSING = (0.78, 0.84, 0.93)
_INK = "#222222"


def _figure(width: float, height: float):
    """Figure that is drawn without a display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


class _Sheet:
    """Panels of one size in rows and columns, placed in inches from the upper left corner.

    Subplots would shrink a panel that has a colour bar or a label; here all keep one scale.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        panel: tuple[float, float],
        gaps: Sequence[float],
        column_gap: float,
        margins: tuple[float, float, float, float],
    ) -> None:
        """``gaps`` stand above each row but the first; margins: left, right, top, bottom."""
        left, right, top, bottom = margins
        self.panel = width, height = panel
        self.size = (
            left + columns * width + (columns - 1) * column_gap + right,
            top + rows * height + sum(gaps) + bottom,
        )
        self.figure = _figure(*self.size)
        self.rows = [top + k * height + sum(gaps[:k]) for k in range(rows)]
        self.columns = [left + k * (width + column_gap) for k in range(columns)]

    def axis(self, row: int, column: int):
        """Bare axes of a panel."""
        axis = self.place(self.columns[column], self.rows[row], *self.panel)
        _bare(axis)
        return axis

    def place(self, x: float, y: float, width: float, height: float):
        """Axes at x to the right and y down from the corner."""
        wide, high = self.size
        return self.figure.add_axes(
            (x / wide, 1 - (y + height) / high, width / wide, height / high)
        )

    def text(self, x: float, y: float, words: str, **style) -> None:
        """Text at x to the right and y down from the corner."""
        self.figure.text(x / self.size[0], 1 - y / self.size[1], words, color=_INK, **style)


def _show(axis, image: Float[Tensor, "channels height width"]) -> None:
    """Image in [-1, 1] on the common scale; missing pixels (NaN) in a light blue."""
    array = image.detach().cpu().float().permute(1, 2, 0).numpy()
    missing = np.isnan(array).any(-1)
    grey = np.clip(0.5 * (np.nan_to_num(array) + 1), 0, 1)
    if grey.shape[-1] == 1:
        grey = np.repeat(grey, 3, -1)
    grey[missing] = _MISSING
    axis.imshow(grey, interpolation="nearest")


def _bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.4)
        spine.set_color("#999999")


def _save(figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, format="png", bbox_inches="tight", pad_inches=0.08)


def comparison(
    path: Path,
    degradation: Degradation,
    y: Float[Tensor, "images ..."],
    restoration: Restoration,
    truth: Float[Tensor, "images channels height width"] | None = None,
    *,
    title: str = "",
    captions: Sequence[str] = (),
    max_samples: int = 3,
) -> None:
    """Truth, observation, samples, posterior mean and deviation per pixel, one row per image.

    Parameters
    ----------
    path : Path
        PNG to write.
    truth : Tensor, optional
        Left out where it is not known.
    title : str
        Above everything.
    captions : sequence of str
        Under each row's mean, such as its PSNR.
    """
    shown = min(max_samples, restoration.samples.shape[1])
    several = restoration.samples.shape[1] > 1
    names = ([] if truth is None else ["truth"]) + ["observation"]
    names += [f"sample {k + 1}" if several else "restoration" for k in range(shown)]
    names += ["posterior mean", "deviation per pixel"] if several else []
    rows = len(y)
    observed = degradation.picture(y)
    mean, deviation = restoration.mean, restoration.deviation
    top = max(float(deviation.max()), 1e-3)
    gap = 0.24 if captions else 0.08
    sheet = _Sheet(
        rows,
        len(names),
        panel=_panel(1.4, degradation.event_shape),
        gaps=[gap] * (rows - 1),
        column_gap=0.08,
        margins=(0.05, 0.45 if several else 0.05, 0.5 if title else 0.24, 0.2),
    )
    width, height = sheet.panel
    for row in range(rows):
        panels = [] if truth is None else [truth[row]]
        panels += [observed[row], *restoration.samples[row, :shown]]
        panels += [mean[row]] if several else []
        for column, image in enumerate(panels):
            _show(sheet.axis(row, column), image)
        # The figures are those of the mean, or of the only restoration: the last panel so far.
        if captions:
            middle = sheet.columns[len(panels) - 1] + 0.5 * width
            low = sheet.rows[row] + height + 0.05
            sheet.text(middle, low, captions[row], fontsize=6.5, ha="center", va="top")
        if several:
            heat = sheet.axis(row, len(panels)).imshow(
                deviation[row].numpy(), cmap="magma", vmin=0, vmax=top, interpolation="nearest"
            )
            if row == 0:
                strip = sheet.place(
                    sheet.columns[-1] + width + 0.06,
                    sheet.rows[0],
                    0.09,
                    sheet.rows[-1] + height - sheet.rows[0],
                )
                bar = sheet.figure.colorbar(heat, cax=strip)
                bar.ax.tick_params(labelsize=6, length=2, width=0.4)
                bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    for x, name in zip(sheet.columns, names):
        high = sheet.rows[0] - 0.05
        sheet.text(x + 0.5 * width, high, name, fontsize=8, ha="center", va="bottom")
    if title:
        sheet.text(sheet.columns[0], 0.05, title, fontsize=9, ha="left", va="top")
    _save(sheet.figure, path)


def _panel(side: float, shape: Sequence[int]) -> tuple[float, float]:
    """Width and height in inches of a panel for images of a shape, the longer side given."""
    rows, columns = shape[-2:]
    longer = max(rows, columns)
    return side * columns / longer, side * rows / longer


def task_grid(
    path: Path,
    truth: Float[Tensor, "images channels height width"],
    parts: Mapping[str, tuple[Tensor, Restoration, str]],
    *,
    title: str = "",
) -> None:
    """A row of images under several tasks: the truth, then observation and restoration per task.

    Parameters
    ----------
    parts : mapping of task name to (observation pictures, restoration, note)
        The note stands beside the restorations, such as their PSNR.
    """
    lines: list[tuple[str, Sequence[Tensor]]] = [("truth", list(truth))]
    gaps = []
    for name, (observed, restoration, note) in parts.items():
        what = "posterior mean" if restoration.samples.shape[1] > 1 else "restoration"
        lines.append((TASKS[name].title, list(observed)))
        lines.append((f"{what}\n{note}", list(restoration.mean)))
        gaps += [0.14, 0.04]
    sheet = _Sheet(
        len(lines),
        len(truth),
        panel=_panel(0.8, truth.shape),
        gaps=gaps,
        column_gap=0.04,
        margins=(1.35, 0.05, 0.32 if title else 0.05, 0.05),
    )
    for row, (label, images) in enumerate(lines):
        for column, image in enumerate(images):
            _show(sheet.axis(row, column), image)
        middle = sheet.rows[row] + 0.5 * sheet.panel[1]
        sheet.text(sheet.columns[0] - 0.08, middle, label, fontsize=7.5, ha="right", va="center")
    if title:
        sheet.text(sheet.columns[0], 0.05, title, fontsize=9, ha="left", va="top")
    _save(sheet.figure, path)


def gibbs_curves(path: Path, curves: Mapping[str, Mapping[int, float]], *, ylabel: str) -> None:
    """Quality against R, one line per task, on one axis."""
    figure = _figure(5.2, 3.4)
    axis = figure.subplots()
    for name, points in curves.items():
        order = sorted(points)
        title = TASKS[name].title
        axis.plot(order, [points[r] for r in order], marker="o", ms=3.5, lw=1.2, label=title)
    ticks = sorted({r for points in curves.values() for r in points})
    axis.set_xticks(ticks)
    axis.set_xlabel("Gibbs repetitions per level, R", fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, lw=0.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)
