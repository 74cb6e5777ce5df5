"""Tables of scores, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mgdm_audio.evaluation.compare import Comparison
from mgdm_audio.evaluation.summary import RunSummary
from mgdm_audio.evaluation.track_scores import (
    ACTIVE,
    ALL,
    KEPT_SILENT,
    LEAK,
    LOST,
    PUBLISHED,
    RETAINED,
    SI_SDR,
)
from mgdm_audio.metrics.bss_eval import METRICS
from mgdm_audio.metrics.statistics import Interval

TITLES = {
    ACTIVE: "SI-SDR improvement, active stems",
    PUBLISHED: "SI-SDR improvement by the published protocol",
    SI_SDR: "SI-SDR, active stems",
    RETAINED: "What of a stem is in it",
    LEAK: "Leaked into silent stems",
    KEPT_SILENT: "Silent stems that come out silent",
    LOST: "Active stems that are lost",
}
"""Heading of each score's table."""

_INTERVAL = "95 % bootstrap interval over tracks"

CAPTIONS = {
    ACTIVE: (
        "In dB; the figure to compare by. Mean over all windows of all tracks in which the stem "
        f"and the rest of the mixture have an RMS of at least 0.001; {_INTERVAL}"
    ),
    PUBLISHED: (
        "In dB; for comparison with published figures only. Silent stems are scored too wherever "
        "two others sound, and an exactly silent one is worth up to 100 dB: compare with the rows "
        f"that separate nothing; {_INTERVAL}"
    ),
    SI_SDR: f"Of the estimates in dB, over the windows of the first table; {_INTERVAL}",
    RETAINED: (
        "In percent: the stem's part in its estimate, <estimate, stem> / <stem, stem>, over the "
        "windows of the first table. SI-SDR is blind to it: 100 is the whole stem, an equal share "
        f"of the mixture has 100 over the number of stems; {_INTERVAL}"
    ),
    LEAK: (
        "Power of the estimate in dB relative to the mixture, over the windows in which the stem "
        f"is silent (RMS below 0.001) and the mixture is not; {_INTERVAL}"
    ),
    KEPT_SILENT: (
        "In percent of those windows; silent is 60 dB below the mixture. A dash: no stem was silent"
    ),
    LOST: (
        "In percent of the windows in which the stem is active: those in which its estimate is 60 "
        "dB or more below the mixture"
    ),
}


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    caption: str
    columns: list[str]
    rows: list[list[str]]

    def to_markdown(self) -> str:
        """The table as GitHub's Markdown."""
        lines = [f"### {self.title}", "", self.caption + ".", ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "---|" + "---:|" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(map(_escape, row)) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def decimal(value: float, digits: int = 2) -> str:
    """A figure without the sign that rounding leaves of nothing; a dash where there is none."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def format_interval(interval: Interval, digits: int = 2) -> str:
    """``12.34 [11.9, 12.8]``; a dash where there is no figure."""
    said = decimal(interval.value, digits)
    if math.isnan(interval.value) or math.isnan(interval.low):
        return said
    return f"{said} [{decimal(interval.low, 1)}, {decimal(interval.high, 1)}]"


def score_tables(summary: RunSummary) -> list[Table]:
    """One table per score, rows that separate nothing below; BSSEval's four scores in one."""
    tables = []
    named = [(v.name, v.scores) for v in summary.variants]
    named += [(n.name, n.scores) for n in summary.nothing]
    for score in summary.scores:
        if score in METRICS:
            continue
        digits = 1 if score in (RETAINED, LEAK, KEPT_SILENT, LOST) else 2
        rows = [
            [name, *(format_interval(scores[score][s], digits) for s in (*summary.stems, ALL))]
            for name, scores in named
        ]
        tables.append(Table(TITLES[score], CAPTIONS[score], ["", *summary.stems, ALL], rows))
    if METRICS[0] in summary.scores:
        rows = [
            [
                f"{v.name}: {metric}",
                *(format_interval(v.scores[metric][s]) for s in (*summary.stems, ALL)),
            ]
            for v in summary.variants
            for metric in METRICS
        ]
        caption = (
            "museval (BSSEval v4) in dB, frames of 1 s: median over frames, then over tracks; "
            f"{_INTERVAL}; all: mean over the stems"
        )
        tables.append(Table("BSSEval", caption, ["", *summary.stems, ALL], rows))
    return tables


def cost_table(summary: RunSummary) -> Table:
    """What each variant cost."""
    rows = [
        [
            v.name,
            str(v.tracks),
            str(v.failed),
            str(v.missing),
            _figure(v.evaluations, ".0f"),
            _figure(v.vjps, ".0f"),
            _figure(v.seconds_per_second, ".3g"),
        ]
        for v in summary.variants
    ]
    columns = [
        "",
        "tracks",
        "failed",
        "not yet",
        "NFE per window",
        "VJPs per window",
        "s per s of audio",
    ]
    return Table(
        "Evaluations and time",
        "Separation alone, without reading and scoring. NFE: denoiser evaluations of all posterior "
        "samples",
        columns,
        rows,
    )


def comparison_table(comparison: Comparison) -> Table:
    """Means of both, paired difference with its interval, and the test."""
    rows = []
    for row in comparison.rows:
        result = row.result
        a, b = row.means
        rows.append(
            [
                row.stem,
                _figure(a, ".2f"),
                _figure(b, ".2f"),
                format_interval(result.difference),
                _figure(result.median, ".2f"),
                f"{result.better}/{result.worse}",
                _figure(result.p_value, ".2g"),
                *(_figure(value, ".2f") for value in row.nothing.values()),
            ]
        )
    score = comparison.score
    caption = (
        f"{TITLES.get(score, score)}, mean over each track's windows, {len(comparison.tracks)} "
        f"tracks in common. A: {comparison.names[0]}. B: {comparison.names[1]}. "
        f"Difference: mean over tracks with {_INTERVAL}; p: Wilcoxon signed-rank test, "
        "two-sided, not corrected for the number of rows"
    )
    columns = ["", "A", "B", "B less A", "median", "B above/below", "p"]
    columns += comparison.rows[0].nothing
    return Table("Paired comparison", caption, columns, rows)


def _figure(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
