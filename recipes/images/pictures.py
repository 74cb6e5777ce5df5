"""Comparison pictures: labelled, one scale for all images, no axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08)


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
    figure = _figure(1.45 * len(names) + 0.4, 1.6 * rows + 0.5)
    axes = figure.subplots(rows, len(names), squeeze=False)
    heat = None
    for row in range(rows):
        column = 0
        panels = [] if truth is None else [truth[row]]
        panels += [observed[row], *restoration.samples[row, :shown]]
        panels += [mean[row]] if several else []
        for image in panels:
            _show(axes[row, column], image)
            column += 1
        if several:
            heat = axes[row, column].imshow(
                deviation[row].numpy(), cmap="magma", vmin=0, vmax=top, interpolation="nearest"
            )
            if captions:
                axes[row, column - 1].set_xlabel(captions[row], fontsize=7, color=_INK)
        elif captions:
            axes[row, -1].set_xlabel(captions[row], fontsize=7, color=_INK)
        for axis in axes[row]:
            _bare(axis)
    for axis, name in zip(axes[0], names):
        axis.set_title(name, fontsize=8, color=_INK, pad=4)
    if heat is not None:
        bar = figure.colorbar(heat, ax=axes[:, -1].tolist(), fraction=0.046, pad=0.04)
        bar.ax.tick_params(labelsize=6, length=2, width=0.4)
        bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    if title:
        figure.suptitle(title, fontsize=9, color=_INK, y=1.0 + 0.02 / rows, va="bottom")
    _save(figure, path)


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
    several = any(r.samples.shape[1] > 1 for _, r, _ in parts.values())
    lines: list[tuple[str, Sequence[Tensor]]] = [("truth", list(truth))]
    for name, (observed, restoration, note) in parts.items():
        lines.append((TASKS[name].title, list(observed)))
        what = "posterior mean" if several else "restoration"
        lines.append((f"{what}\n{note}", list(restoration.mean)))
    columns = len(truth)
    heights = [1.0 if k % 2 == 0 else 1.12 for k in range(len(lines))]
    heights[0] = 1.12
    figure = _figure(0.85 * columns + 1.4, 0.85 * sum(heights) + 0.2)
    axes = figure.subplots(
        len(lines),
        columns,
        squeeze=False,
        gridspec_kw={"hspace": 0.06, "wspace": 0.06, "height_ratios": heights},
    )
    for row, (label, images) in enumerate(lines):
        for axis, image in zip(axes[row], images):
            _show(axis, image)
            _bare(axis)
            axis.set_anchor("N" if row == 0 or row % 2 == 0 else "S")
        axes[row, 0].set_ylabel(
            label, fontsize=7, color=_INK, rotation=0, ha="right", va="center", labelpad=6
        )
    if title:
        figure.suptitle(title, fontsize=9, color=_INK, y=0.92, va="bottom")
    _save(figure, path)


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
