"""summary.md of a run, and the call that writes everything a run is summed up in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mgdm_audio.evaluation.result_files import write_results
from mgdm_audio.evaluation.run_folder import RunFolder
from mgdm_audio.evaluation.summary import RunSummary, summarise
from mgdm_audio.io.atomic import write_text
from mgdm_audio.reports.tables import cost_table, score_tables


def write_summary(run: RunFolder) -> RunSummary:
    """Write results.parquet, summary.json and summary.md of a run, and return the summary."""
    summary = summarise(run)
    write_results(run, summary)
    write_text(run.path / "summary.md", "\n".join(_page(summary, run.description["asked"])))
    return summary


def lead(asked: dict[str, Any]) -> str:
    """One sentence of what was done, from what run.json says was asked."""
    mixture = "the sum of the stems" if asked["mixture"] == "sum" else "the mix file"
    return (
        f"{len(asked['tracks'])} tracks at {asked['rate']} Hz; what was separated is {mixture}; "
        f"seed {asked['seed']}."
    )


def _page(summary: RunSummary, asked: dict[str, Any]) -> Iterator[str]:
    yield f"# Evaluation on {summary.name}\n"
    yield lead(asked) + "\n"
    yield from (f"{remark}.\n" for remark in summary.remarks)
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
