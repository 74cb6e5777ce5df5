"""``mgdm-separate``: from any recording to its stems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal as human_size  # such as 1.6 GB

from mgdm_audio.cli.common import (
    CONTEXT,
    EXIT_FAILED,
    Command,
    device_option,
    echo_json,
    precision_option,
    prior_option,
    report_error,
)
from mgdm_audio.cli.separate_page import PageType, page_writer

if TYPE_CHECKING:
    from mgdm_audio.io.encoders import OutputFormat
    from mgdm_audio.priors.checkpoint.header import PriorHeader
    from mgdm_audio.separation.estimate import Estimate
    from mgdm_audio.separation.file_plan import FileJob, JobPlan
    from mgdm_audio.separation.request import SeparateRequest

_CHEAP = 30  # evaluations per window below which no prior of ours takes 20 times real time
_SLOW = 20.0


def _list_models(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from mgdm_audio.cli.models import print_priors

        print_priors()
        ctx.exit(0)


@click.command(cls=Command, context_settings=CONTEXT)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUTS...")
@click.option("-o", "--out", default="separated", help="Folder that stems go below.")
@click.option("-r", "--recursive", is_flag=True, help="Search folders to any depth.")
@prior_option
@click.option("--list-models", is_flag=True, is_eager=True, expose_value=False,
              callback=_list_models, help="List the priors and exit.")  # fmt: skip
@device_option
@precision_option
@click.option(
    "--filename",
    "--pattern",
    "filename",
    default="{prior}/{track}/{stem}.{ext}",
    help="Name of a stem below --out; {source_dir} and {source_ext} are there too.",
)
@click.option("--two-stems", metavar="STEM", help="Write one stem and the input minus it.")
@click.option("--stems", metavar="A,B", help="Write these stems only.")
@click.option("--without", multiple=True, metavar="STEM",
              help="The recordings hold none of it; may be given several times.")  # fmt: skip
@click.option("--closed", is_flag=True,
              help="The same as --without other: nothing but the named stems plays.")  # fmt: skip
@click.option("--float32", is_flag=True, help="Samples: 32-bit float [default].")
@click.option("--int24", is_flag=True, help="Samples: 24-bit integer.")
@click.option("--int16", is_flag=True, help="Samples: 16-bit integer.")
@click.option("--flac", is_flag=True, help="Write flac (24-bit, or --int16).")
@click.option("--mp3", is_flag=True, help="Write mp3.")
@click.option("--mp3-bitrate", type=click.IntRange(32, 320), metavar="KBIT/S",
              help="Of mp3  [default: 320, or what the rate allows]")  # fmt: skip
@click.option(
    "--on-clip",
    type=click.Choice(["gain", "error"]),
    default="gain",
    help="When integer output would clip: turn all stems down together, or fail.",
)
@click.option("--no-residual", is_flag=True, help="Share the residual among the stems.")
@click.option("--rate", type=click.Choice(["input", "prior"]), default="input",
              help="Rate of the stems.")  # fmt: skip
@click.option("--mono", is_flag=True, help="With --rate prior: the prior's raw mono output.")
@click.option("--overlap", type=float, help="Share that neighbouring windows have in common.")
@click.option("--window", type=float, metavar="SECONDS", help="Window that the prior sees at once.")
@click.option("--shifts", type=click.IntRange(1, 32), metavar="N",
              help="Average so many separations with shifted windows.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1, 4096), default=4,
              help="Windows evaluated at once.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**62), default=0)
@click.option("--preset", metavar="fast|balanced|posterior|paper",
              help="How thoroughly  [default: balanced; posterior with --uncertainty]")  # fmt: skip
@click.option("--sampler", help="Another sampler under the same prior.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="Change a setting of the sampler; may be given several times.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1, 64), help="Average so many posterior samples.")
@click.option("--save-samples", is_flag=True, help="Write every posterior sample as well.")
@click.option("--uncertainty", is_flag=True, help="Write how sure it is (npz, png), and say it.")
@click.option("--page", type=PageType(), is_flag=False, flag_value="file", metavar="[folder]",
              help="Write a page to listen to: one file, or for long songs a folder.")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1,
              help="Files at once, each in a process with its share of the cores.")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local",
              help="Where tracks are separated: here, or as tasks of a Ray cluster.")  # fmt: skip
@click.option("--address", help="Of the Ray cluster, such as auto  [default: a Ray of its own]")
@click.option("--resume", is_flag=True, help="Leave out tracks that this very call has finished.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--dry-run", is_flag=True, help="Check all but the sound itself and print the plan.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before very slow work.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print warnings of the sampler as well.")
@click.version_option(package_name="mgdm", prog_name="mgdm-separate")
@click.pass_context
def main(
    context: click.Context,
    as_json: bool,
    dry_run: bool,
    yes: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> int:
    """Separate recordings into stems with a diffusion prior.

    INPUTS are sound files, folders of them, glob patterns, or - for standard input. Stems are
    written at the input's rate, channels and length; they and the residual sum to the input.

    Exit codes: 0 all done, 1 an input failed, 2 wrong usage, 129, 130 and 143 for a hangup, Ctrl-C
    and termination.
    """
    from mgdm_audio.separation.file_plan import check_output_folder, estimated_bytes, plan_jobs
    from mgdm_core.errors import SettingsError

    try:
        request, header = _request(given)
        if request.engine == "ray":
            from mgdm_audio.compute.engines_ray import import_ray

            import_ray()
        plan = plan_jobs(request)
        write_page = page_writer(request, given["page"])
    except SettingsError as error:
        raise click.UsageError(str(error), ctx=context) from error
    if not quiet:
        for note in plan.notes:
            click.echo(f"note: {note}", err=True)
    needed = sum(estimated_bytes(job, request) for job in plan.jobs)
    if plan.jobs:
        check_output_folder(request.out, needed)
    todo, failures = _admitted(request, header, plan)
    for reason in failures.values():
        report_error(reason)
    records: list[dict[str, Any]] = []
    if dry_run:
        _print_plan(request, header, todo, failures, needed, as_json)
    elif todo:
        _warn_if_slow(request, header, todo, yes, quiet)
        from mgdm_audio.cli.separate_run import run_all

        records = run_all(
            request,
            todo,
            failures,
            quiet=quiet,
            as_json=as_json,
            verbose=verbose,
            write_page=write_page,
        )
    if as_json and not dry_run:
        echo_json({"tracks": records, "failed": failures})
    if failures and not dry_run and len(plan.jobs) + len(plan.refused) > 1:
        total = len(plan.jobs) + len(plan.refused)
        click.echo(f"{len(failures)} of {total} inputs failed", err=True)
    return EXIT_FAILED if failures else 0


# -- from options to a request --------------------------------------------------------------------


def _request(given: dict[str, Any]) -> tuple[SeparateRequest, PriorHeader]:
    from mgdm_audio.priors.catalogue import canonical_name, resolve
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.priors.closed import OTHER, stems_told
    from mgdm_audio.sampling.presets import sampling_settings, usual_preset
    from mgdm_audio.separation.request import OutputChoice, SeparateRequest

    if "{" in given["prior"]:
        raise click.UsageError(
            f"--name is the prior's, as -n; a pattern of file names is given by --filename; "
            f"found {given['prior']!r}"
        )
    path = resolve(given["prior"])
    header = read_header(path)
    sampling = sampling_settings(
        given["preset"] or usual_preset(header, given["uncertainty"] and not given["sampler"]),
        sampler=given["sampler"],
        changes=assignments_of(given["assignments"]),
        samples=given["samples"],
        window=given["window"],
        overlap=given["overlap"],
        shifts=given["shifts"],
    )
    output = _format(given)
    raw = given["rate"] == "prior"
    if given["mono"] != raw:
        raise click.UsageError(
            "--rate prior and --mono go together: they give the prior's raw output"
        )
    if given["resume"] and given["overwrite"]:
        raise click.UsageError("--resume keeps files and --overwrite replaces them; choose one")
    if given["closed"] and OTHER not in header.stems:
        raise click.UsageError(
            f"--closed leaves out the stem {OTHER}; {header.name or path.stem} has the stems "
            f"{', '.join(header.stems)}"
        )
    lacking = (*given["without"], *([OTHER] if given["closed"] else []))
    stems = stems_told(header, lacking)
    without = tuple(stem for stem in header.stems if stem not in stems)
    wanted = given["stems"]
    request = SeparateRequest(
        inputs=tuple(given["inputs"]),
        out=Path(given["out"]),
        prior=path,
        # The name it was asked for by, where that is a name; a path gives the file's own.
        prior_name=canonical_name(given["prior"]) or path.stem,
        sampling=sampling,
        choice=OutputChoice.of(
            stems,
            without=without,
            stems=None if wanted is None else [s.strip() for s in wanted.split(",") if s.strip()],
            two_stems=given["two_stems"],
            residual=not given["no_residual"],
            format=output,
        ),
        without=without,
        template=given["filename"],
        recursive=given["recursive"],
        seed=given["seed"],
        device=str(given["device"]),
        precision=given["precision"],
        batch_size=given["batch_size"],
        raw=raw,
        save_samples=given["save_samples"],
        uncertainty=given["uncertainty"],
        on_clip=given["on_clip"],
        existing="resume" if given["resume"] else "overwrite" if given["overwrite"] else "refuse",
        engine=given["engine"],
        address=given["address"],
        jobs=given["jobs"],
    )
    return request, header


def assignments_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Split NAME=VALUE pairs."""
    changes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--set takes NAME=VALUE; found {pair!r}")
        changes[name.strip()] = value
    return changes


def _format(given: dict[str, Any]) -> OutputFormat:
    from mgdm_audio.io.encoders import OutputFormat

    for names in (("flac", "mp3"), ("float32", "int24", "int16")):
        chosen = [f"--{name}" for name in names if given[name]]
        if len(chosen) > 1:
            raise click.UsageError(f"{' and '.join(chosen)} exclude each other; choose one")
    sample = next((name for name in ("float32", "int24", "int16") if given[name]), None)
    if given["mp3"] and sample:
        raise click.UsageError(f"--mp3 has samples of its own kind; leave out --{sample}")
    if given["flac"] and sample == "float32":
        raise click.UsageError("--flac holds integers; --float32 is for wav; choose one")
    if given["mp3_bitrate"] is not None and not given["mp3"]:
        raise click.UsageError("--mp3-bitrate is for --mp3")
    container = "flac" if given["flac"] else "mp3" if given["mp3"] else "wav"
    return OutputFormat(container, sample, given["mp3_bitrate"] or 320)


def _admitted(
    request: SeparateRequest, header: PriorHeader, plan: JobPlan
) -> tuple[list[FileJob], dict[str, str]]:
    """Jobs that can be done, and why each of the others cannot, by its source."""
    from mgdm_audio.errors import display_name, one_line
    from mgdm_audio.separation.files import refuse_existing
    from mgdm_core.errors import MGDMError

    failures = dict(plan.refused)
    todo: list[FileJob] = []
    for job in plan.jobs:
        try:
            request.choice.format.check(
                header.rate if request.raw else job.info.rate,
                1 if request.raw else job.info.channels,
            )
            if request.existing == "refuse":
                refuse_existing(job)
        except MGDMError as error:
            label, reason = display_name(job.source), one_line(error)
            failures[job.source] = reason if label in reason else f"{label}: {reason}"
        else:
            todo.append(job)
    return todo, failures


def _cost_words(cost: Estimate) -> str:
    from mgdm_audio.compute.speed import duration_words, speed_words

    return f"{duration_words(cost.seconds)}, {speed_words(cost.seconds, cost.seconds_of_audio)}"


def _warn_if_slow(
    request: SeparateRequest, header: PriorHeader, todo: list[FileJob], yes: bool, quiet: bool
) -> None:
    """Ask before work that takes more than 20 times real time; say so where nobody can answer."""
    from mgdm_audio.sampling.cost import count_evaluations

    sampling = request.sampling
    count = len(header.stems) - len(request.without)
    evaluations, vjps = count_evaluations(sampling, header.levels.schedule(), count)
    if yes or (evaluations + 2 * vjps) * sampling.runs * sampling.shifts <= _CHEAP:
        return
    from mgdm_audio.separation.estimate import estimate

    cost = estimate(request, [job.info for job in todo])
    if cost.seconds <= _SLOW * cost.seconds_of_audio:
        return
    message = f"this is going to take about {_cost_words(cost)}"
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        if not click.confirm(f"{message}; --preset fast is quicker. Go on?", err=True):
            raise click.ClickException("nothing was separated: the answer was no")
    elif not quiet:
        click.echo(f"note: {message}; --preset fast is quicker, --yes goes unasked", err=True)


def _print_plan(
    request: SeparateRequest,
    header: PriorHeader,
    todo: list[FileJob],
    failures: dict[str, str],
    needed: int,
    as_json: bool,
) -> None:
    """Say what would be done, with time and memory from one window measured here."""
    from mgdm_audio.errors import display_name
    from mgdm_audio.separation.estimate import estimate

    cost = estimate(request, [job.info for job in todo])
    if as_json:
        echo_json(
            {
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
                "failed": failures,
                "prior": header.name,
                "sampler": request.sampling.sampler,
                "samples": request.sampling.samples,
                "seconds_of_audio": cost.seconds_of_audio,
                "estimated_seconds": cost.seconds,
                "estimated_memory": cost.memory,
                "disk": needed,
            }
        )
        return
    for job in todo:
        length = "?" if job.info.seconds is None else f"{job.info.seconds:.1f} s"
        click.echo(
            f"{display_name(job.source)}: {length}, {job.info.rate} Hz, "
            f"{job.info.channels} ch -> {display_name(job.record.parent)}"
        )
    if todo:
        click.echo(
            f"{request.sampling.sampler}, {request.sampling.samples} sample(s): about "
            f"{_cost_words(cost)}, once started; {human_size(cost.memory)} of memory, "
            f"{human_size(needed)} of disk"
        )


if __name__ == "__main__":
    sys.exit(main(prog_name="mgdm-separate"))
