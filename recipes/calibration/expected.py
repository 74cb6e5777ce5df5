"""Does what is expected of a stem hold? Its order, its intervals, and what is not reliable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mgdm_audio.io.atomic import replacing
from mgdm_audio.reports.tables import Table
from mgdm_audio.sampling.recalibration import Recalibration
from mgdm_audio.separation.confidence import RELIABLE_DB
from mgdm_core.array_types import Array, Float, Int
from recipes.calibration.fit import Gains

__all__ = ["draw_expected", "expected_table", "rank_correlation", "reliable_table"]


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's; NaN for fewer than three or where one does not vary."""
    a, b = np.asarray(a), np.asarray(b)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)  # type: ignore[attr-defined]


def _rank(pairs: Any) -> float:
    columns = np.array(pairs).reshape(-1, 2).T
    return rank_correlation(columns[0], columns[1])


def _pairs(
    found: Sequence[Gains], fit: Recalibration, stems: Sequence[str], k: int
) -> list[tuple[Float[Array, " seconds"], Float[Array, " seconds"]]]:
    """Expected and true improvement of a stem in the seconds that count, piece by piece."""
    plane, own = fit.improvement[stems[k]], [gain.of(k) for gain in found]
    return [(plane.expected(said, level), true) for true, said, level in own]


def expected_table(
    found: Sequence[Gains], fit: Recalibration, stems: Sequence[str], title: str
) -> Table:
    """One row per stem, and one of all: pieces are also taken by the mean of their stems."""
    rows, together, seconds = [], [[] for _ in found], [[], []]
    for k, stem in enumerate(stems):
        line = fit.improvement[stem]
        own = _pairs(found, fit, stems, k)
        if not any(len(e) for e, _ in own):  # one that plays in no piece has nothing to gain
            continue
        said, true = (np.concatenate([pair[j] for pair in own]) for j in (0, 1))
        means = [(e.mean(), t.mean()) for e, t in own if len(e)]
        for piece, (e, t) in zip(together, own):
            piece += [(e.mean(), t.mean())] if len(e) else []
        seconds[0] += said.tolist()
        seconds[1] += true.tolist()
        rest = true - said
        held = (rest >= line.low) & (rest <= line.high)
        rows.append([
            stem, str(len(means)), str(len(said)), f"{true.mean():.1f}", f"{said.mean():.1f}",
            f"{100 * held.mean():.0f}", f"{100 * (rest < line.low).mean():.0f}",
            f"{rank_correlation(said, true):.2f}",
            f"{_rank(means):.2f}",
        ])  # fmt: skip
    pieces = [np.mean(rows_, 0) for rows_ in together if rows_]
    of_stems = [pair for piece in together for pair in piece]
    rows.append([
        "pieces, mean of their stems", str(len(pieces)), "",
        f"{np.mean([p[1] for p in pieces]):.1f}", f"{np.mean([p[0] for p in pieces]):.1f}", "", "",
        f"{rank_correlation(seconds[0], seconds[1]):.2f}",
        f"{_rank(pieces):.2f}",
    ])  # fmt: skip
    rows.append([
        "stems of pieces", str(len(of_stems)), "", "", "", "", "", "",
        f"{_rank(of_stems):.2f}",
    ])  # fmt: skip
    columns = ["", "pieces", "seconds", "true dB", "expected dB", "held %", "below %",
               "rank corr., seconds", "rank corr., pieces"]  # fmt: skip
    caption = (
        f"{title}, fitted on {fit.fitted_on}. SI-SDR improvement by the second: mean true and "
        "expected, per cent of seconds in the 80 % interval and below it, rank correlation of "
        "expected and true over seconds and over pieces"
    )
    return Table("Expected improvement", caption, columns, rows)


def reliable_table(
    found: Sequence[Gains], fit: Recalibration, stems: Sequence[str], title: str
) -> Table:
    """One row per stem: whether what is called not reliable is more wrong than right."""
    rows, totals = [], np.zeros(4, int)
    for k, stem in enumerate(stems):
        true, said, level = np.concatenate([gain.quality(k) for gain in found], 1)
        expected, line = fit.si_sdr[stem].expected(said, level), fit.si_sdr[stem]
        left = true - expected
        poor, called = true < RELIABLE_DB, expected < RELIABLE_DB
        counts = np.array([len(true), poor.sum(), called.sum(), (poor & called).sum()])
        totals += counts
        rows.append([
            stem, *_called(counts), f"{100 * ((left >= line.low) & (left <= line.high)).mean():.0f}"
            if len(true) else "", f"{rank_correlation(expected, true):.2f}",
        ])  # fmt: skip
    rows.append(["all", *_called(totals), "", ""])
    columns = ["", "seconds", "worse than 0 dB %", "called so %", "of those it is %",
               "of the worse called %", "held %", "rank corr."]  # fmt: skip
    caption = (
        f"{title}, fitted on {fit.fitted_on}. Seconds in which an estimate is heard: how many have "
        f"a true SI-SDR below {RELIABLE_DB:g} dB (one that does not play has), how many are called "
        "not reliable, how many of either are both; per cent of seconds in the 80 % interval of "
        "the SI-SDR, and rank correlation of expected and true"
    )
    return Table("Not reliable", caption, columns, rows)


def _called(counts: Int[Array, " 4"]) -> list[str]:
    """Seconds, and in per cent: poor, called poor, of those called poor, of the poor called."""
    seconds, poor, called, both = counts.tolist()
    pairs = ((poor, seconds), (called, seconds), (both, called), (both, poor))
    return [str(seconds), *(f"{100 * a / b:.0f}" if b else "" for a, b in pairs)]


def draw_expected(
    found: Sequence[Gains], fit: Recalibration, stems: Sequence[str], title: str, path: Path
) -> None:
    """True against expected improvement, one panel per stem, seconds pale and pieces dark."""
    from matplotlib.figure import Figure

    playing = [k for k in range(len(stems)) if any(gain.counts[k].any() for gain in found)]
    figure = Figure(figsize=(2.4 * len(playing) + 0.4, 2.9), layout="constrained")
    panels = figure.subplots(1, len(playing), squeeze=False, sharey=True)[0]
    for k, axes in zip(playing, panels):
        own, line = _pairs(found, fit, stems, k), fit.improvement[stems[k]]
        said, true = (np.concatenate([pair[j] for pair in own]) for j in (0, 1))
        axes.scatter(said, true, s=3, alpha=0.25, linewidths=0)
        axes.scatter(*zip(*[(e.mean(), t.mean()) for e, t in own if len(e)]), s=14, color="#1b3a5c")
        ends = np.array([said.min(), said.max()])
        axes.plot(ends, ends, color="#999999", linewidth=0.8)
        axes.fill_between(
            ends, ends + line.low, ends + line.high, color="#c2662d", alpha=0.2, linewidth=0
        )
        axes.set(title=stems[k], xlabel="expected dB")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("true dB")
    figure.suptitle(f"{title}: seconds, pieces (dark), 80 % interval", fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
