"""Tables of scores, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mgdm_audio.evaluation.summary import (
    ALL,
    PUBLISHED,
    SILENCE_SAFE,
    RunSummary,
)
from mgdm_audio.metrics.bss_eval import METRICS
from mgdm_audio.metrics.statistics import Interval

__all__ = ["Table", "cost_table", "format_interval", "score_tables", "summary_markdown"]

CAPTIONS = {
    SILENCE_SAFE: (
        "SI-SDR improvement in dB, silence-safe: mean over all windows of all tracks in which more "
        "than one stem and the scored stem sound; 95 % bootstrap interval over tracks"
    ),
    PUBLISHED: (
        "SI-SDR improvement in dB by the published protocol: silent stems are scored too in "
        "windows in which more than one stem sounds; for comparison with published figures only"
    ),
    "SI-SDR": "SI-SDR of the estimates in dB, over the windows of the silence-safe improvement",
}


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    title, caption : str
        Above it, and what its figures are.
    columns : list of str
        Headings; the first column names the rows.
    rows : list of list of str
        Cells.
    """

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


def format_interval(interval: Interval) -> str:
    """``12.34 [11.9, 12.8]``; a dash where there is no figure."""
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} [{interval.low:.1f}, {interval.high:.1f}]"


def score_tables(summary: RunSummary) -> list[Table]:
    """One table per score, variants as rows and stems as columns; BSSEval's four in one."""
    tables = []
    for score in summary.scores:
        if score in METRICS:
            continue
        rows = [
            [v.label, *(format_interval(v.scores[score][s]) for s in (*summary.stems, ALL))]
            for v in summary.variants
        ]
        tables.append(Table(score, CAPTIONS[score], ["", *summary.stems, ALL], rows))
    if METRICS[0] in summary.scores:
        rows = [
            [
                f"{v.label}: {metric}",
                *(format_interval(v.scores[metric][s]) for s in (*summary.stems, ALL)),
            ]
            for v in summary.variants
            for metric in METRICS
        ]
        caption = (
            "museval (BSSEval v4) in dB, frames of 1 s: median over frames, then over tracks; "
            "95 % bootstrap interval over tracks; all: mean over the stems"
        )
        tables.append(Table("BSSEval", caption, ["", *summary.stems, ALL], rows))
    return tables


def cost_table(summary: RunSummary) -> Table:
    """What each variant cost."""
    rows = [
        [
            v.label,
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


def summary_markdown(summary: RunSummary, description: dict[str, Any]) -> str:
    """Summary of a run as a Markdown page.

    Parameters
    ----------
    summary : RunSummary
        Its figures.
    description : dict
        Content of run.json.
    """
    return "\n".join(_page(summary, description))


def _page(summary: RunSummary, description: dict[str, Any]) -> Iterator[str]:
    asked = description["asked"]
    yield f"# Evaluation on {summary.name}\n"
    yield (
        f"{len(asked['tracks'])} tracks at {asked['rate']} Hz, mixture: "
        f"{'the sum of the stems' if asked['mixture'] == 'sum' else 'the mix file'}, "
        f"seed {asked['seed']}.\n"
    )
    yield "## Scores\n"
    for table in score_tables(summary):
        yield table.to_markdown()
    failures = [(v.label, k, e) for v in summary.variants for k, e in v.errors.items()]
    if failures:
        yield "## Failed\n"
        yield from (f"- {label}, {key}: {error}" for label, key, error in failures)
        yield ""
    yield "## Cost\n"
    yield cost_table(summary).to_markdown()


def _figure(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
