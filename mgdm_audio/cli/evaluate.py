"""``mgdm-evaluate``: separate a data set and score it; check, convert, score, report, compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgdm_audio.cli.common import (
    CONTEXT,
    EXIT_FAILED,
    device_option,
    echo_json,
    precision_option,
    prior_option,
    together,
)
from mgdm_audio.cli.evaluate_options import (
    ACTIVE,
    SCORES,
    SLAKH_RATE,
    DefaultGroup,
    choose_tracks,
    expand_variants,
    parse_devices,
    print_tables,
)

# What separates and scores is imported by the commands: it comes with torch, seconds that `--help`
# and a mistyped option should not take.
if TYPE_CHECKING:
    from mgdm_audio.evaluation.estimators import PretrainedSpec

PRESETS = ("fast", "balanced", "paper")


@click.group(cls=DefaultGroup, context_settings=CONTEXT)
@click.version_option(package_name="mgdm", prog_name="mgdm-evaluate")
def main() -> None:
    """Separate every track of a data set and score it.

    `mgdm-evaluate DATASET` is short for `mgdm-evaluate run DATASET`.
    """


_FOLDER = click.Path(path_type=Path)
_selection = together(
    click.option("--split", metavar="NAME|all", help="Split  [default: test where there is one]"),
    click.option("--tracks", metavar="NAME,...", help="Only these tracks."),
    click.option("--limit", type=click.IntRange(1), help="Only the first so many tracks."),
)
_mixture = click.option(
    "--mixture",
    type=click.Choice(["sum", "mix"]),
    default="sum",
    help="What was to be separated: the sum of the reference stems, or the mixture file.",
)
_scoring = together(
    click.option("-o", "--out", type=_FOLDER, help="Folder of the run  [default: in evaluations]"),
    click.option("--rate", default=SLAKH_RATE, help="Hz at which to score."),
    click.option(
        "--museval/--no-museval",
        "bss",
        default=True,
        help="Run BSSEval v4 as well: on the CPU, beside the separation.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        default=max(1, (os.cpu_count() or 2) // 2),
        help="Processes for BSSEval.",
    ),
    click.option(
        "--keep",
        type=click.Choice(["listen", "all", "none"]),
        default="listen",
        help="Sound to keep: excerpts of the best and worst tracks, all stems too, or nothing.",
    ),
    click.option("--report/--no-report", default=True, help="Write the page."),
    click.option("--overwrite", is_flag=True, help="Throw an earlier run in this folder away."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="No progress bars."),
)


# -- separating and scoring -----------------------------------------------------------------------


@main.command("run")
@click.argument("dataset", type=_FOLDER)
@_selection
@prior_option
@click.option("--preset", type=click.Choice(PRESETS), default="balanced")
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
@click.option("--seed", default=0, help="The same for every track.")
@_mixture
@device_option
@click.option("--devices", metavar="0,1,...", help="Several devices, a process for each.")
@precision_option
@click.option("--batch-size", type=click.IntRange(1), default=4, help="Windows.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local")
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
    out: Path | None,
    **options: Any,
) -> int:
    """Separate every track of DATASET and score it (the default command).

    DATASET is Slakh2100 as downloaded, the four-stem layout, or folders TRACK/STEM.wav. Stopped at
    any point, the same command goes on where it was.
    """
    if address is not None and engine != "ray":
        raise click.UsageError("--address is for --engine ray")
    from mgdm_audio.cli.evaluate_run import evaluate_and_show
    from mgdm_audio.datasets import open_dataset
    from mgdm_audio.evaluation.estimators import PretrainedSpec
    from mgdm_audio.evaluation.run import EngineSettings
    from mgdm_audio.evaluation.run_folder import RunFolder

    spec = make_spec(prior, preset, precision, batch_size)
    samplers = default_sampler(preset) if samplers is None else samplers
    variants = expand_variants([n.strip() for n in samplers.split(",")], assignments)
    spec.check(variants)
    where = parse_devices(devices) if devices is not None else (str(device),)
    settings = EngineSettings(
        engine="ray" if engine == "ray" else "local",
        devices=where,
        threads=threads,
        address=address,
        bss_jobs=options.pop("jobs"),
    )
    selected = choose_tracks(open_dataset(dataset), split, tracks, limit)
    if isinstance(spec, PretrainedSpec):
        spec = spec.over(selected.stems)
    out = out or Path("evaluations") / f"{dataset.resolve().name}-{Path(prior).stem}-{preset}"
    return evaluate_and_show(selected, spec, variants, RunFolder(out), settings, **options)


def make_spec(prior: str, preset: str, precision: str, batch_size: int) -> PretrainedSpec:
    """Where estimates come from: the product's separator."""
    from mgdm_audio.evaluation.estimators import PretrainedSpec

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
@click.option("--allow-missing", is_flag=True, help="Leave out tracks and stems without estimates.")
@click.option(
    "--estimate-pattern",
    metavar="PATTERN",
    help='How the estimates are named, such as "generated_{stem}_{n}.wav": {stem}, and {track} or '
    "{n} for the track's name or number  [default: TRACK/STEM.wav]",
)
@click.option(
    "--reference-pattern",
    metavar="PATTERN",
    help="How the references are named  [default: a data set's layout]",
)
@click.option(
    "--mixture-pattern",
    metavar="PATTERN",
    help="How the mixtures beside the references are named; with --reference-pattern.",
)
@_mixture
@_scoring
def score_command(
    estimates: Path,
    references: Path,
    split: str | None,
    tracks: str | None,
    limit: int | None,
    name: str | None,
    allow_missing: bool,
    estimate_pattern: str | None,
    reference_pattern: str | None,
    mixture_pattern: str | None,
    out: Path | None,
    **options: Any,
) -> int:
    """Score stems that any program made.

    ESTIMATES holds TRACK/STEM.wav, with or without split folders around; REFERENCES is a data set.
    Tracks and stems are paired by name. The patterns are for files that are named otherwise, such
    as the published outputs of a paper; any rate will do.
    """
    if not estimates.is_dir():
        raise click.UsageError(f"{estimates} is not a folder; give the folder of the estimates")
    if mixture_pattern is not None and reference_pattern is None:
        raise click.UsageError("--mixture-pattern goes with --reference-pattern")
    from mgdm_audio.cli.evaluate_run import evaluate_and_show
    from mgdm_audio.datasets import open_dataset
    from mgdm_audio.datasets.discover import check_names
    from mgdm_audio.datasets.patterns import open_patterns
    from mgdm_audio.evaluation.estimators import EstimateFiles
    from mgdm_audio.evaluation.run import EngineSettings
    from mgdm_audio.evaluation.run_folder import RunFolder, Variant

    check_names([estimates.resolve()])
    spec = EstimateFiles(estimates, estimate_pattern, allow_missing)
    if reference_pattern is None:
        found = open_dataset(references)
    else:
        found = open_patterns(references, reference_pattern, mixture_pattern)
    selected = choose_tracks(found, split, tracks, limit)
    if allow_missing:
        find = spec.finder()
        there = [t.key for t in selected.tracks if find(t) is not None]
        if not there:
            raise click.UsageError(f"{estimates} has estimates for none of the tracks")
        if left_out := [t.key for t in selected.tracks if t.key not in there]:
            click.echo(f"note: left out, without estimates: {', '.join(left_out)}", err=True)
            selected = selected.select(names=there)
    variant = Variant(name or estimates.resolve().name)
    out = out or Path("evaluations") / f"{references.resolve().name}-{variant.slug}"
    settings = EngineSettings(bss_jobs=options.pop("jobs"))
    return evaluate_and_show(selected, spec, [variant], RunFolder(out), settings, **options)


# -- looking at results ---------------------------------------------------------------------------


@main.command("report")
@click.argument("run", type=_FOLDER)
def report_command(run: Path) -> None:
    """Write summary, results.parquet and the page of RUN again."""
    from mgdm_audio.cli.evaluate_run import show_summary
    from mgdm_audio.evaluation.run_folder import RunFolder
    from mgdm_audio.reports.html import write_report
    from mgdm_audio.reports.summary_page import write_summary

    folder = RunFolder(run)
    show_summary(write_summary(folder), folder, as_json=False)
    click.echo(f"report: {write_report(folder)}")


@main.command("compare")
@click.argument("run_a", type=_FOLDER)
@click.argument("run_b", type=_FOLDER)
@click.option("--a", "variant_a", metavar="VARIANT", help="Row of RUN_A, where it has several.")
@click.option("--b", "variant_b", metavar="VARIANT", help="Row of RUN_B, where it has several.")
@click.option("--score", type=click.Choice(SCORES), default=ACTIVE)
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
    from mgdm_audio.evaluation.compare import compare_runs
    from mgdm_audio.evaluation.result_files import plain
    from mgdm_audio.evaluation.run_folder import RunFolder
    from mgdm_audio.reports.html import write_comparison
    from mgdm_audio.reports.tables import comparison_table

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
    from mgdm_audio.datasets import open_dataset
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
@click.option("--rate", default=SLAKH_RATE, help="Hz.")
@click.option("--subtype", type=click.Choice(["PCM_16", "PCM_24", "FLOAT"]), default="PCM_16")
@click.option(
    "--jobs", type=click.IntRange(1), default=os.cpu_count() or 1,
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
    from mgdm_audio.datasets import open_dataset
    from mgdm_audio.datasets.convert import convert_dataset

    selected = choose_tracks(open_dataset(dataset), split or "all", None, None)
    outcomes = convert_dataset(selected, out, rate, subtype, jobs)
    failed = show_conversion(outcomes, len(selected.tracks), quiet)
    return EXIT_FAILED if failed else 0
