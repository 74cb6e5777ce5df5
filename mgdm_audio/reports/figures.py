"""Pictures of a run: box plots, score against evaluations, spectrograms.

Figures are built without pyplot, so that nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from mgdm_audio.evaluation.compare import Comparison
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import RunSummary
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL, TrackScores
from mgdm_core.array_types import Array, Float

COLOURS = ("#2f6f9f", "#c2662d", "#4d8f4a", "#8e4b8a", "#a8963c", "#5d5d9e", "#b24a52", "#3f8f8f")

FREQUENCIES = (125, 500, 1000, 2000, 4000, 8000, 16000)
"""Ticks of a spectrogram in Hz."""

FAINTEST_DB = -70.0
"""Lower end of a spectrogram's colours."""

SHOWN_TRACKS = 40
"""Up to so many tracks every one is drawn beside its box."""


def track_values(
    run: RunFolder, variant: Variant, keys: list[str], stems: Sequence[str], score: str
) -> dict[str, dict[str, float]]:
    """One score of every evaluated track: ``values[track][stem]`` in dB, the mean as ``all``."""
    values = {}
    for record in run.records(variant, keys):
        if record["error"] is None:
            scores = TrackScores.of(record)
            values[record["track"]] = {s: scores.value(score, s) for s in stems}
            values[record["track"]][ALL] = scores.mean_of(score)
    return values


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Identifiers and dates would change from one drawing to the next.
    with matplotlib.rc_context({"svg.hashsalt": "mgdm", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def _panels(figure: Any, count: int, **shared: bool) -> Any:
    """Axes for so many panels, two in a row; what is left over of the grid stays empty."""
    columns = min(2, count)
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return grid


def _plain(axes: Any, grid: str, *hidden: str) -> None:
    """Pale lines behind what is drawn, no frame at the top, the right and the sides named."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", *hidden]].set_visible(False)


def box_plot(
    values: dict[str, dict[str, dict[str, float]]], stems: Sequence[str], xlabel: str
) -> str:
    """Draw the spread over tracks: one panel per stem, in it a box and its tracks per variant.

    Of ``values[variant][track][stem]`` in dB; NaN is left out. Pictures are ``<svg>`` elements.
    """
    rows = max(1, len(values))
    # Narrow enough to be read on a telephone, where nothing scrolls sideways.
    figure = _figure(5.4, 0.5 + math.ceil(len(stems) / 2) * (0.75 + 0.3 * rows))
    grid = _panels(figure, len(stems), sharex=True, sharey=True)
    for axes, stem in zip(grid.flat, stems):
        for row, tracks in enumerate(values.values()):
            colour = COLOURS[row % len(COLOURS)]
            drawn = [t[stem] for t in tracks.values() if not math.isnan(t.get(stem, math.nan))]
            if drawn:
                _box(axes, row, drawn, colour)
        axes.set_title(stem, fontsize="medium")
        axes.axvline(0.0, color="#888888", linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        _integers(axes.xaxis)
        _plain(axes, "x", "left")
    labels = [textwrap.fill(name, 18) for name in values]
    grid[0, 0].set_yticks(range(len(values)), labels, fontsize="x-small")
    grid[0, 0].set_ylim(rows - 0.4, -0.6)  # the first variant on top
    figure.supxlabel(xlabel, fontsize="medium")
    return _svg(figure)


def _integers(axis: Any) -> None:
    """Whole numbers as ticks, and few of them."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=2))


def _box(axes: Any, row: int, drawn: list[float], colour: str) -> None:
    """Lay one box across a row, with every track where there are few."""
    axes.boxplot(
        [drawn],
        positions=[row],
        orientation="horizontal",
        widths=0.55,
        patch_artist=True,
        manage_ticks=False,
        showfliers=len(drawn) > SHOWN_TRACKS,
        boxprops={"facecolor": colour, "alpha": 0.4, "edgecolor": colour},
        medianprops={"color": "#222222"},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
    )
    if len(drawn) <= SHOWN_TRACKS:
        axes.plot(drawn, [row] * len(drawn), ".", color=colour, markersize=4)
    axes.plot(np.mean(drawn), row, "D", color="#222222", markersize=3)


def sweep_plot(summary: RunSummary) -> str | None:
    """Draw the score against denoiser evaluations; None where that makes no curve.

    Variants of one sampler are joined by a line; bars are 95 % intervals over tracks.
    """
    drawn = [
        v
        for v in summary.variants
        if v.evaluations > 0 and not math.isnan(v.scores[ACTIVE][ALL].value)
    ]
    if len({v.evaluations for v in drawn}) < 2:
        return None
    figure = _figure(5.4, 3.4)
    axes = figure.add_subplot(ylabel=f"{ACTIVE} (dB), mean of the stems")
    _plain(axes, "y")
    samplers: dict[str, list[Any]] = {}
    for variant in drawn:
        samplers.setdefault(variant.label.split(" ")[0], []).append(variant)
    for index, (sampler, variants) in enumerate(samplers.items()):
        variants.sort(key=lambda v: v.evaluations)
        colour = COLOURS[index % len(COLOURS)]
        x = [v.evaluations for v in variants]
        y = [v.scores[ACTIVE][ALL].value for v in variants]
        axes.plot(x, y, "o-", color=colour, label=sampler, markersize=4)
        for variant, across, up in zip(variants, x, y):
            interval = variant.scores[ACTIVE][ALL]
            if not math.isnan(interval.low):
                axes.vlines(across, interval.low, interval.high, color=colour, alpha=0.5)
            label = variant.label.partition(" ")[2]
            axes.annotate(
                label, (across, up), xytext=(4, 4), textcoords="offset points", fontsize="x-small"
            )
    axes.set_xscale("log")
    axes.set_xticks(costs := sorted({v.evaluations for v in drawn}), [f"{x:.0f}" for x in costs])
    axes.minorticks_off()
    _integers(axes.yaxis)
    axes.set_xlabel("denoiser evaluations per window")
    if len(samplers) > 1:
        axes.legend(fontsize="small", frameon=False)
    return _svg(figure)


def difference_plot(comparison: Comparison) -> str:
    """Draw the paired difference of every track, sorted, one panel per stem."""
    rows = comparison.rows
    figure = _figure(5.4, 0.4 + 1.7 * math.ceil(len(rows) / 2))
    grid = _panels(figure, len(rows), sharey=True)
    for axes, row in zip(grid.flat, rows):
        values = sorted(b - a for a, b in row.pairs if not math.isnan(b - a))
        colours = [COLOURS[0] if v >= 0 else COLOURS[1] for v in values]
        axes.bar(range(len(values)), values, color=colours, width=0.9)
        axes.axhline(0.0, color="#444444", linewidth=0.8)
        axes.set_title(row.stem, fontsize="medium")
        axes.set_xticks([])
        _plain(axes, "y", "bottom")
    _integers(grid[0, 0].yaxis)
    figure.supylabel("B less A, per track", fontsize="medium")
    return _svg(figure)


def spectrogram(samples: Float[Array, " samples"], rate: int, peak: float | None = None) -> bytes:
    """Draw a mel spectrogram of a sound as a PNG.

    Parameters
    ----------
    peak : float, optional
        Mel power that is drawn brightest, so that pictures side by side compare; by default the
        sound's own. See :func:`mel_peak`.
    """
    import librosa
    import librosa.display

    power = _mel(samples, rate)
    reference = max(peak if peak is not None else float(power.max(initial=0.0)), 1e-10)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.0))
    axes = figure.add_axes((0.125, 0.2, 0.73, 0.76))  # a layout engine would double the time
    drawn = librosa.display.specshow(
        librosa.power_to_db(power, ref=reference, amin=1e-10 * reference, top_db=None),
        sr=rate,
        hop_length=_hop(rate),
        x_axis="s",
        y_axis="mel",
        fmax=rate / 2,
        vmin=FAINTEST_DB,
        vmax=0.0,
        cmap="magma",
        ax=axes,
    )
    _integers(axes.xaxis)
    high = [f for f in FREQUENCIES if f < rate / 2]
    axes.set_yticks(high, [str(f) for f in high])
    axes.set_xlabel("s", fontsize=7, labelpad=0)
    axes.set_ylabel("Hz", fontsize=7, labelpad=0)
    axes.tick_params(labelsize=6)
    axes.minorticks_off()
    scale = figure.colorbar(drawn, cax=figure.add_axes((0.875, 0.2, 0.02, 0.76)))
    scale.set_ticks([-60, -40, -20, 0])
    scale.set_label("dB", fontsize=7, labelpad=0)
    scale.ax.tick_params(labelsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def mel_peak(samples: Float[Array, " samples"], rate: int) -> float:
    """Largest mel power of a sound, for :func:`spectrogram`."""
    return float(_mel(samples, rate).max(initial=0.0))


def _hop(rate: int) -> int:
    return max(32, rate // 64)


def _mel(samples: np.ndarray, rate: int) -> np.ndarray:
    import librosa

    n_fft = 1 << (max(256, rate // 12) - 1).bit_length()
    return librosa.feature.melspectrogram(
        y=np.ascontiguousarray(samples, dtype=np.float32),
        sr=rate,
        n_fft=n_fft,
        hop_length=_hop(rate),
        n_mels=min(96, n_fft // 16),
    )
