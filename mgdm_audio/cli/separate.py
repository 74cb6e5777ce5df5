"""``mgdm-separate``: from any recording to its stems."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from mgdm_audio.cli.common import (
    EXIT_FAILED,
    Command,
    as_usage,
    device_option,
    echo_json,
    human_size,
    one_line,
    precision_option,
    prior_option,
)
from mgdm_audio.cli.separate_page import PageType, page_writer
from mgdm_core.errors import MGDMError

__all__ = ["main"]


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUTS...")
@click.option(
    "-o", "--out", default="separated", show_default=True, help="Folder that stems go below."
)
@prior_option
@device_option
@precision_option
@click.option(
    "--filename",
    default="{prior}/{track}/{stem}.{ext}",
    show_default=True,
    help="Name of a stem below --out.",
)
@click.option("--two-stems", metavar="STEM", help="Write one stem and the input minus it.")
@click.option("--stems", metavar="A,B", help="Write these stems only.")
@click.option("--float32", "sample", flag_value="float32", help="Samples: 32-bit float [default].")
@click.option("--int24", "sample", flag_value="int24", help="Samples: 24-bit integer.")
@click.option("--int16", "sample", flag_value="int16", help="Samples: 16-bit integer.")
@click.option("--flac", "container", flag_value="flac", help="Write flac (24-bit, or --int16).")
@click.option("--mp3", "container", flag_value="mp3", help="Write mp3 at 320 kbit/s.")
@click.option(
    "--on-clip",
    type=click.Choice(["gain", "error"]),
    default="gain",
    show_default=True,
    help="When integer output would clip: turn all stems down together, or fail.",
)
@click.option("--no-residual", is_flag=True, help="Share the residual among the stems.")
@click.option("--rate", type=click.Choice(["input", "prior"]), default="input", show_default=True,
              help="Rate of the stems.")  # fmt: skip
@click.option("--mono", is_flag=True, help="With --rate prior: the prior's raw mono output.")
@click.option("--overlap", type=float, help="Share that neighbouring windows have in common.")
@click.option("--window", type=float, metavar="SECONDS", help="Window that the prior sees at once.")
@click.option("--batch-size", default="auto", show_default=True, metavar="N|auto",
              help="Windows evaluated at once.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True)
@click.option("--preset", default="balanced", show_default=True, metavar="fast|balanced|paper")
@click.option("--sampler", help="Another sampler under the same prior.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="Change a setting of the sampler; may be given several times.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), help="Average so many posterior samples.")
@click.option("--save-samples", is_flag=True, help="Write every posterior sample as well.")
@click.option("--uncertainty", is_flag=True, help="Write the samples' deviation (npz, png).")
@click.option("--page", type=PageType(), is_flag=False, flag_value="file", metavar="[folder]",
              help="Write a page to listen to: one file, or for long songs a folder.")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Where tracks are separated: here, or as tasks of a Ray cluster.")  # fmt: skip
@click.option("--address", help="Of the Ray cluster, such as auto  [default: a Ray of its own]")
@click.option("--resume", is_flag=True, help="Leave out tracks that are finished.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print warnings of the sampler as well.")
@click.version_option(package_name="mgdm", prog_name="mgdm-separate")
def main(**given: Any) -> int:
    """Separate recordings into stems with a diffusion prior.

    INPUTS are sound files, folders of them, glob patterns, or - for standard input. Stems are
    written at the input's rate, channels and length; they and the residual sum to the input.
    """
    from mgdm_audio.priors import catalogue as registry
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.separation import file_plan as jobs

    with as_usage():
        sampling = _sampling(given)
        path = registry.resolve(given["prior"])
        header = read_header(path)
        choice = _choice(given, header.stems)
        batch_size = _batch_size(given["batch_size"])
        options = _file_options(given)
        if given["resume"] and given["overwrite"]:
            raise click.UsageError("--resume keeps files and --overwrite replaces them; choose one")
        if given["engine"] == "ray":
            from mgdm_audio.compute.engines_ray import import_ray

            import_ray()
            if "-" in given["inputs"]:
                raise click.UsageError("--engine ray reads files; standard input is local")
        elif given["address"] is not None:
            raise click.UsageError("--address is for --engine ray")
        # The name it was asked for by, where that is a name; a path gives the file's own.
        asked = given["prior"]
        name = asked if asked in {e.name for e in registry.list_priors()} else path.stem
        plan = jobs.plan_jobs(
            given["inputs"], given["out"], name, choice, template=given["filename"]
        )
        write_page = page_writer(given, name)
    needed = sum(jobs.estimated_bytes(job, choice) for job in plan.jobs)
    if not plan.jobs:
        for refused in plan.refused:
            click.echo(f"error: {refused.reason}", err=True)
        return EXIT_FAILED
    jobs.check_output_folder(given["out"], needed)
    failures = {refused.source: refused.reason for refused in plan.refused}

    from mgdm_audio.separation.files import refuse_existing

    todo = []
    for job in plan.jobs:
        try:
            choice.format.check(
                header.rate if options.raw else job.info.rate,
                1 if options.raw else job.info.channels,
            )
            if not given["overwrite"] and not given["resume"]:
                refuse_existing(job)
            todo.append(job)
        except MGDMError as error:
            failures[job.source] = one_line(error)
    if given["dry_run"]:
        return _print_plan(given, todo, failures, sampling, header, choice, needed)

    from mgdm_audio.cli.separate_run import run_all, run_on_ray

    common: dict[str, Any] = {
        "path": path,
        "sampling": sampling,
        "choice": choice,
        "options": options,
        "batch_size": batch_size,
    }
    if given["engine"] == "ray":
        from mgdm_audio.separation.file_work import SeparationWork

        work = SeparationWork(**common, precision=given["precision"], resume=given["resume"])
        records = run_on_ray(todo, given, work, failures, write_page)
    else:
        records = run_all(todo, given, **common, failures=failures, write_page=write_page)
    if given["as_json"]:
        echo_json({"tracks": records, "failed": failures})
    for source, reason in failures.items():
        click.echo(f"error: {_prefixed(source, reason)}", err=True)
    if failures:
        total = len(records) + len(failures)
        click.echo(f"{len(failures)} of {total} inputs failed", err=True)
        return EXIT_FAILED
    return 0


def _prefixed(source: str, reason: str) -> str:
    from mgdm_audio.errors import display_name

    label = display_name(source)
    return reason if label in reason else f"{label}: {reason}"


def assignments_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Split NAME=VALUE pairs."""
    changes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--set takes NAME=VALUE; found {pair!r}")
        changes[name.strip()] = value
    return changes


def _sampling(given: Mapping[str, Any]) -> Any:
    from mgdm_audio.sampling.presets import sampling_settings

    return sampling_settings(
        given["preset"],
        sampler=given["sampler"],
        changes=assignments_of(given["assignments"]),
        samples=given["samples"],
        window=given["window"],
        overlap=given["overlap"],
    )


def _choice(given: Mapping[str, Any], stems: tuple[str, ...]) -> Any:
    from mgdm_audio.io.encoders import OutputFormat
    from mgdm_audio.separation.file_plan import OutputChoice

    container = given["container"] or "wav"
    wanted = given["stems"]
    return OutputChoice.of(
        stems,
        stems=None if wanted is None else [s.strip() for s in wanted.split(",") if s.strip()],
        two_stems=given["two_stems"],
        residual=not given["no_residual"],
        format=OutputFormat(container, given["sample"]),
    )


def _batch_size(text: str) -> int:
    if text == "auto":
        return 4
    if not text.isdigit() or int(text) < 1:
        raise click.UsageError(
            f"--batch-size is auto or a whole number of at least 1; found {text!r}"
        )
    return int(text)


def _file_options(given: Mapping[str, Any]) -> Any:
    from mgdm_audio.separation.files import FileOptions

    raw = given["rate"] == "prior"
    if given["mono"] != raw:
        raise click.UsageError(
            "--rate prior and --mono go together: they give the prior's raw output"
        )
    if given["no_residual"] and (given["stems"] or given["two_stems"]):
        raise click.UsageError("--no-residual needs all stems; leave out --stems and --two-stems")
    return FileOptions(
        seed=given["seed"],
        overwrite=given["overwrite"] or given["resume"],
        on_clip=given["on_clip"],
        share_residual=given["no_residual"],
        raw=raw,
        save_samples=given["save_samples"],
        uncertainty=given["uncertainty"],
    )


def _print_plan(
    given: Mapping[str, Any],
    todo: list[Any],
    failures: Mapping[str, str],
    sampling: Any,
    header: Any,
    choice: Any,
    needed: int,
) -> int:
    """Say what would be done, with an estimate of time and memory from a few evaluations."""
    from mgdm_audio.cli.separate_run import estimate_cost
    from mgdm_audio.errors import display_name

    known = [job.info.seconds or 0.0 for job in todo]
    began = time.perf_counter()
    cost = estimate_cost(given, sampling)
    plan = {
        "tracks": [
            {
                "source": job.source,
                "seconds": job.info.seconds,
                "rate": job.info.rate,
                "channels": job.info.channels,
                "outputs": {k: str(v) for k, v in job.outputs.items()},
            }
            for job in todo
        ],
        "failed": dict(failures),
        "prior": header.name,
        "sampler": sampling.sampler,
        "samples": sampling.samples,
        "seconds_of_audio": sum(known),
        "estimated_seconds": cost["real_time_factor"] * sum(known),
        "estimated_real_time_factor": cost["real_time_factor"],
        "estimated_memory": cost["memory"],
        "disk": needed,
        "estimated_in": time.perf_counter() - began,
    }
    if given["as_json"]:
        echo_json(plan)
    else:
        for job in todo:
            length = "?" if job.info.seconds is None else f"{job.info.seconds:.1f} s"
            click.echo(
                f"{display_name(job.source)}: {length}, {job.info.rate} Hz, "
                f"{job.info.channels} ch -> {display_name(job.record.parent)}"
            )
        click.echo(
            f"{sampling.sampler}, {sampling.samples} sample(s): about "
            f"{plan['estimated_seconds']:.0f} s ({cost['real_time_factor']:.2f} times real time), "
            f"{human_size(int(cost['memory']))} of memory, {human_size(needed)} of disk"
        )
    for source, reason in failures.items():
        click.echo(f"error: {_prefixed(source, reason)}", err=True)
    return EXIT_FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
