"""The commands of the recipe."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from mgdm_audio.cli.common import Group
from recipes.calibration.audio_commands import music, self_consistent
from recipes.calibration.fit_commands import expected, fit
from recipes.calibration.output import RECORDS, out_option, report, tell

__all__ = ["main"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """See whether posterior samples are as uncertain as they are wrong.

    Three tiers: `exact` against posteriors that are known, `self` with stems drawn from the audio
    prior itself, `music` with music that the prior has not heard. Each writes a table, reliability
    pictures and one JSON line per finished cell; run again, it goes on where it was stopped.
    """


@main.command("exact")
@out_option("exact")
@click.option("--samplers", metavar="NAME,...", help="Some of those of --list [all].")
@click.option(
    "--cases", type=click.IntRange(8), default=64, show_default=True, help="Simulated truths."
)
@click.option(
    "--draws", type=click.IntRange(4), default=19, show_default=True, help="Draws of each."
)
@click.option(
    "--problem",
    type=click.Choice(["mixing", "linear"]),
    help="Four stems of two numbers that are summed, or one number of 20 seen [both].",
)
@click.option("--quick", is_flag=True, help="Two minutes: a few samplers, the mixing problem, 32 "
              "cases.")  # fmt: skip
@click.option("--list", "list_only", is_flag=True, help="Name the samplers and end.")
def exact(
    out: Path,
    samplers: str | None,
    cases: int,
    draws: int,
    problem: str | None,
    quick: bool,
    list_only: bool,
) -> None:
    """Tier 1: every sampler with its default on posteriors that are known.

    Truths come from the mixture of the exact-posterior benchmark: simulation-based calibration,
    TARP, coverage of central intervals and a classifier between exact draws and the sampler's.
    """
    from recipes.calibration.exact import EXACT, ExactCell, Setting, run_cell
    from recipes.calibration.exact_report import draw_exact, exact_table
    from recipes.calibration.records import run_missing
    from recipes.exact_posterior.variants import MAIN

    known = [EXACT, *MAIN]
    if list_only:
        click.echo(", ".join(known))
        return
    settings = [Setting("mixing", 8, 2), Setting("linear", 20, 1)]
    settings = [setting for setting in settings if problem in (None, setting.task)]
    names = [EXACT, "mgdm", "ding", "tweedie_gibbs", "msdm_dirac", "twisted_smc"]
    if quick:
        settings, cases = settings[:1], min(cases, 32)
    else:
        names = known
    if samplers is not None:
        names = [name.strip() for name in samplers.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no sampler {unknown[0]!r}; valid names: {', '.join(known)}")
    torch.set_num_threads(1)
    began = time.perf_counter()
    cells = [ExactCell(name, setting, cases, draws) for setting in settings for name in names]
    records, failures = run_missing(out / RECORDS, cells, run_cell, tell)
    tables = []
    for k, setting in enumerate(settings):
        own = records[k * len(names) : (k + 1) * len(names)]
        tables.append(exact_table(own, setting))
        draw_exact(own, setting, out / f"reliability_{setting.task}_{setting.dim}.png")
    report(out, "Tier 1: exact posteriors", tables, began, failures)


for command in (fit, expected, music, self_consistent):
    main.add_command(command)
