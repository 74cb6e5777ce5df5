"""The working half of ``mgdm-evaluate``: runs an evaluation and shows what came of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Literal

import click

from mgdm_audio.cli.common import EXIT_FAILED, report_error
from mgdm_audio.cli.evaluate_options import print_tables, progress_bars
from mgdm_audio.datasets import Dataset
from mgdm_audio.datasets.tracks import Mixture
from mgdm_audio.evaluation.estimators import EstimatorSpec
from mgdm_audio.evaluation.run import EngineSettings, EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import RunSummary


def evaluate_and_show(
    dataset: Dataset,
    spec: EstimatorSpec,
    variants: list[Variant],
    run: RunFolder,
    engine: EngineSettings,
    rate: int,
    bss: bool,
    report: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    mixture: Mixture,
    keep: Literal["listen", "all", "none"],
    seed: int = 0,
) -> int:
    """Evaluate, print the tables, write summary and report; returns the exit code."""
    import torch

    from mgdm_audio.compute.machine import describe_machine, describe_versions

    settings = EvaluationSettings(rate, mixture, seed, bss, keep)
    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    facts = {
        "Machine": describe_machine(list(engine.devices)),
        "Versions": describe_versions(),
        "Begun": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    with progress_bars(quiet, bss) as tell:
        failed = evaluate(dataset, spec, variants, run, settings, engine, overwrite, facts, tell)
    from mgdm_audio.reports.summary_page import write_summary

    summary = write_summary(run)
    show_summary(summary, run, as_json)
    if report and any(v.tracks for v in summary.variants):
        from mgdm_audio.reports.html import write_report

        page = write_report(run)
        if not as_json:
            click.echo(f"report: {page}")
    if failed:
        report_error(f"{failed} of {len(dataset.tracks) * len(variants)} tracks failed")
        return EXIT_FAILED
    return 0


def show_summary(summary: RunSummary, run: RunFolder, as_json: bool) -> None:
    """Print the tables of a run, or its summary as JSON."""
    from mgdm_audio.reports.tables import cost_table, score_tables

    if as_json:
        click.echo((run.path / "summary.json").read_text(encoding="utf-8"), nl=False)
        return
    print_tables([*score_tables(summary), cost_table(summary)])
    for remark in summary.remarks:
        click.echo(f"note: {remark}")
    click.echo(f"results: {run.path}")
