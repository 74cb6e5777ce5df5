"""``mgdm-evaluate``: separate a data set and score it; check, convert, score, report, compare."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from mgdm_audio.cli.common import (
    EXIT_FAILED,
    as_usage,
    device_option,
    echo_json,
    precision_option,
    prior_option,
    report_error,
)
from mgdm_audio.cli.evaluate_options import (
    DefaultGroup,
    choose_tracks,
    expand_variants,
    parse_devices,
    print_tables,
    progress_bars,
)
from mgdm_audio.datasets import Dataset, open_dataset
from mgdm_audio.evaluation.estimators import (
    EstimateFiles,
    EstimatorSpec,
    PretrainedSpec,
    find_estimates,
)
from mgdm_audio.evaluation.run import EngineSettings, EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import SCORES, SILENCE_SAFE, RunSummary, write_summary
from mgdm_audio.metrics.si_sdr import SLAKH_RATE

__all__ = ["main"]

PRESETS = ("fast", "balanced", "paper")
Options = Callable[[Callable[..., Any]], Callable[..., Any]]


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mgdm", prog_name="mgdm-evaluate")
def main() -> None:
    """Separate every track of a data set and score it.

    `mgdm-evaluate DATASET` is short for `mgdm-evaluate run DATASET`.
    """


def _together(*options: Options) -> Options:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


_FOLDER = click.Path(path_type=Path)
_selection = _together(
    click.option("--split", metavar="NAME|all", help="Split  [default: test where there is one]"),
    click.option("--tracks", metavar="NAME,...", help="Only these tracks."),
    click.option("--limit", type=click.IntRange(1), help="Only the first so many tracks."),
)
_scoring = _together(
    click.option("-o", "--out", type=_FOLDER, help="Folder of the run  [default: in evaluations]"),
    click.option("--rate", default=SLAKH_RATE, show_default=True, help="Hz at which to score."),
    click.option(
        "--museval/--no-museval",
        "bss",
        default=True,
        show_default=True,
        help="Run BSSEval v4 as well: on the CPU, beside the separation.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        default=max(1, (os.cpu_count() or 2) // 2),
        show_default=True,
        help="Processes for BSSEval.",
    ),
    click.option(
        "--keep",
        type=click.Choice(["listen", "all", "none"]),
        default="listen",
        show_default=True,
        help="Sound to keep: excerpts of the best and worst tracks, all stems too, or nothing.",
    ),
    click.option("--report/--no-report", default=True, show_default=True, help="Write the page."),
    click.option("--overwrite", is_flag=True, help="Throw an earlier run in this folder away."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="No progress bars."),
)


# -- separating and scoring -----------------------------------------------------------------------


@main.command("run")
@click.argument("dataset", type=_FOLDER)
@_selection
@prior_option
@click.option("--preset", type=click.Choice(PRESETS), default="balanced", show_default=True)
@click.option(
    "--samplers", metavar="NAME,...", help="Samplers to compare  [default: that of the preset]"
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE[,VALUE...]",
    help="Change a setting; several values make a sweep. SAMPLER:NAME=... for one sampler.",
)
@click.option("--seed", default=0, show_default=True, help="The same for every track.")
@click.option(
    "--mixture",
    type=click.Choice(["sum", "mix"]),
    default="sum",
    show_default=True,
    help="Separate the sum of the reference stems, or the data set's own mixture file.",
)
@device_option
@click.option("--devices", metavar="0,1,...", help="Several devices, a process for each.")
@precision_option
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Windows.")
@click.option(
    "--batch-tracks",
    type=click.IntRange(1),
    help="Tracks whose windows are batched together  [default: 1 on the CPU, else 4]",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="Of the Ray cluster, such as auto  [default: a Ray of its own]")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of each worker  [default: torch's]"
)
@_scoring
def run_command(
    dataset: Path,
    split: str | None,
    tracks: str | None,
    limit: int | None,
    prior: str,
    preset: str,
    samplers: str | None,
    assignments: tuple[str, ...],
    precision: str,
    batch_size: int,
    device: Any,
    devices: str | None,
    engine: str,
    address: str | None,
    threads: int | None,
    batch_tracks: int | None,
    out: Path | None,
    **options: Any,
) -> int:
    """Separate every track of DATASET and score it (the default command).

    DATASET is Slakh2100 as downloaded, the four-stem layout, or folders TRACK/STEM.wav. Stopped at
    any point, the same command goes on where it was.
    """
    if address is not None and engine != "ray":
        raise click.UsageError("--address is for --engine ray")
    spec = make_spec(prior, preset, precision, batch_size)
    names = [n.strip() for n in samplers.split(",")] if samplers else [default_sampler(preset)]
    variants = expand_variants(names, assignments)
    with as_usage():
        spec.check(variants)
        where = parse_devices(devices) if devices else (str(device),)
        settings = EngineSettings(
            engine="ray" if engine == "ray" else "local",
            devices=where,
            threads=threads,
            address=address,
            # On the CPU larger batches are no faster and would change the last bits.
            batch_tracks=batch_tracks or (1 if where[0] == "cpu" else 4),
            bss_jobs=options["jobs"],
        )
    selected = choose_tracks(open_dataset(dataset), split, tracks, limit)
    out = out or Path("evaluations") / f"{dataset.resolve().name}-{Path(prior).stem}-{preset}"
    return _evaluate(selected, spec, variants, RunFolder(out), settings, **options)


def make_spec(prior: str, preset: str, precision: str, batch_size: int) -> PretrainedSpec:
    """Where estimates come from: the product's separator."""
    return PretrainedSpec(prior, preset, precision, batch_size)


def default_sampler(preset: str) -> str:
    """Sampler of a preset."""
    from mgdm_audio.sampling.presets import sampling_settings

    return sampling_settings(preset).sampler


@main.command("score")
@click.argument("estimates", type=_FOLDER)
@click.argument("references", type=_FOLDER)
@_selection
@click.option("--name", help="Name of the row  [default: the folder's]")
@click.option("--allow-missing", is_flag=True, help="Leave out tracks without estimates.")
@_scoring
def score_command(
    estimates: Path,
    references: Path,
    split: str | None,
    tracks: str | None,
    limit: int | None,
    name: str | None,
    allow_missing: bool,
    out: Path | None,
    **options: Any,
) -> int:
    """Score stems that any program made.

    ESTIMATES holds TRACK/STEM.wav, with or without split folders around; REFERENCES is a data set.
    Tracks and stems are paired by name.
    """
    if not estimates.is_dir():
        raise click.UsageError(f"{estimates} is not a folder; give the folder of the estimates")
    selected = choose_tracks(open_dataset(references), split, tracks, limit)
    missing = [t.name for t in selected.tracks if find_estimates(estimates, t) is None]
    if missing and allow_missing:
        there = [t.key for t in selected.tracks if t.name not in missing]
        if not there:
            raise click.UsageError(f"{estimates} has estimates for none of the tracks")
        report_error(f"left out, without estimates: {len(missing)} tracks")
        selected = selected.select(names=there)
    variant = Variant(name or estimates.resolve().name)
    out = out or Path("evaluations") / f"{references.resolve().name}-{variant.slug}"
    settings = EngineSettings(bss_jobs=options["jobs"])
    run = RunFolder(out)
    return _evaluate(selected, EstimateFiles(estimates), [variant], run, settings, **options)


def _evaluate(
    dataset: Dataset,
    spec: EstimatorSpec,
    variants: list[Variant],
    run: RunFolder,
    engine: EngineSettings,
    rate: int,
    bss: bool,
    jobs: int,
    keep: str,
    report: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    mixture: str = "sum",
    seed: int = 0,
) -> int:
    import torch

    from mgdm_audio.compute.machine import describe_machine, describe_versions

    del jobs  # in engine
    with as_usage():
        settings = EvaluationSettings(
            rate=rate,
            mixture="mix" if mixture == "mix" else "sum",
            seed=seed,
            bss=bss,
            keep={"listen": "listen", "all": "all"}.get(keep, "none"),  # type: ignore[arg-type]
        )
    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    facts = {
        "Machine": describe_machine(list(engine.devices)),
        "Versions": describe_versions(),
        "Begun": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    with progress_bars(quiet, bss) as tell:
        failed = evaluate(dataset, spec, variants, run, settings, engine, overwrite, facts, tell)
    summary = write_summary(run)
    _show(summary, run, as_json)
    if report and any(v.tracks for v in summary.variants):
        from mgdm_audio.reports.html import write_report

        page = write_report(run)
        if not as_json:
            click.echo(f"report: {page}")
    if failed:
        report_error(f"{failed} of {len(dataset.tracks) * len(variants)} tracks failed")
        return EXIT_FAILED
    return 0


def _show(summary: RunSummary, run: RunFolder, as_json: bool) -> None:
    from mgdm_audio.reports.tables import cost_table, score_tables

    if as_json:
        click.echo((run.path / "summary.json").read_text(encoding="utf-8"), nl=False)
        return
    print_tables([*score_tables(summary), cost_table(summary)])
    click.echo(f"results: {run.path}")


# -- looking at results ---------------------------------------------------------------------------


@main.command("report")
@click.argument("run", type=_FOLDER)
def report_command(run: Path) -> None:
    """Write summary, results.parquet and the page of RUN again."""
    from mgdm_audio.reports.html import write_report

    folder = RunFolder(run)
    _show(write_summary(folder), folder, as_json=False)
    click.echo(f"report: {write_report(folder)}")


@main.command("compare")
@click.argument("run_a", type=_FOLDER)
@click.argument("run_b", type=_FOLDER)
@click.option("--a", "variant_a", metavar="VARIANT", help="Row of RUN_A, where it has several.")
@click.option("--b", "variant_b", metavar="VARIANT", help="Row of RUN_B, where it has several.")
@click.option("--score", type=click.Choice(SCORES), default=SILENCE_SAFE, show_default=True)
@click.option("-o", "--out", type=_FOLDER, help="Folder of the page  [default: none is written]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare_command(
    run_a: Path,
    run_b: Path,
    variant_a: str | None,
    variant_b: str | None,
    score: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Put two runs side by side: paired differences and a paired test.

    `mgdm-evaluate --compare RUN_A RUN_B` means the same.
    """
    from mgdm_audio.evaluation.compare import compare_runs, comparison_table
    from mgdm_audio.evaluation.summary import plain
    from mgdm_audio.reports.html import write_comparison

    found = compare_runs(RunFolder(run_a), RunFolder(run_b), variant_a, variant_b, score)
    if as_json:
        echo_json(plain(found))
    else:
        print_tables([comparison_table(found)])
        for text in found.remarks:
            click.echo(f"note: {text}")
    if out is not None:
        page = write_comparison(found, out)
        if not as_json:
            click.echo(f"report: {page}")


# -- data sets ------------------------------------------------------------------------------------


@main.command("check")
@click.argument("dataset", type=_FOLDER)
@click.option("--split", metavar="NAME", help="Only this split.")
@click.option("--deep", is_flag=True, help="Decode every sample.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_command(dataset: Path, split: str | None, deep: bool, as_json: bool) -> int:
    """Say what is in DATASET, what is missing and what is broken, without separating.

    The exit code is 1 if a track cannot be evaluated.
    """
    from mgdm_audio.cli.evaluate_check import check_json, print_check
    from mgdm_audio.datasets.check import check_dataset

    found = check_dataset(choose_tracks(open_dataset(dataset), split or "all", None, None), deep)
    if as_json:
        echo_json(check_json(found))
    else:
        print_check(found)
    return EXIT_FAILED if found.broken else 0


@main.command("convert")
@click.argument("dataset", type=_FOLDER)
@click.argument("out", type=_FOLDER)
@click.option("--split", metavar="NAME", help="Only this split.")
@click.option("--rate", default=SLAKH_RATE, show_default=True, help="Hz.")
@click.option(
    "--subtype",
    type=click.Choice(["PCM_16", "PCM_24", "FLOAT"]),
    default="PCM_16",
    show_default=True,
)
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True,
    help="Processes.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no remarks.")
def convert_command(
    dataset: Path, out: Path, split: str | None, rate: int, subtype: str, jobs: int, quiet: bool
) -> int:
    """Write raw Slakh2100 (or any DATASET) as OUT/SPLIT/TRACK/STEM.wav, mono.

    What is there already is left alone, so a stopped command goes on where it was.
    """
    from mgdm_audio.cli.evaluate_check import show_conversion
    from mgdm_audio.datasets.convert import convert_dataset

    selected = choose_tracks(open_dataset(dataset), split or "all", None, None)
    with as_usage():
        outcomes = convert_dataset(selected, out, rate, subtype, jobs)
        failed = show_conversion(outcomes, len(selected.tracks), quiet)
    return EXIT_FAILED if failed else 0
