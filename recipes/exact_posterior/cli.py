"""Command line of the benchmark."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mgdm_audio.cli.common import Command
from mgdm_audio.io.atomic import write_text
from recipes.exact_posterior.memory import growth_curve
from recipes.exact_posterior.pictures import (
    cost_picture,
    gibbs_picture,
    memory_picture,
    plane_picture,
)
from recipes.exact_posterior.problems import TASKS, Case, build, stems_of
from recipes.exact_posterior.runner import (
    Job,
    append,
    digest,
    job_key,
    key,
    plan,
    read_records,
    run_job,
    sample_path,
)
from recipes.exact_posterior.table import markdown, rows_of, write_parquet
from recipes.exact_posterior.variants import ABLATIONS, MAIN, VARIANTS, chosen

__all__ = ["main"]

QUICK_SAMPLERS = (
    "mgdm,mgdm-published,dps,pgdm,ddrm,diffpir,guess_and_guide,twisted_smc,mcg_diff,smc_diff"
)


def _list_of(kind: Callable[[str], Any]) -> Callable[..., list | None]:
    """Click callback for comma-separated values."""

    def parse(context: click.Context, option: click.Parameter, text: str | None) -> list | None:
        if text is None:
            return None
        try:
            return [kind(part.strip()) for part in text.split(",") if part.strip()]
        except ValueError as error:
            raise click.BadParameter(f"comma-separated values, such as 20,80; {error}") from error

    return parse


def cases_of(
    tasks: Sequence[str],
    dims: Sequence[int],
    observations: Sequence[int],
    noises: Sequence[float],
    problems: int,
) -> list[Case]:
    """Every problem of the benchmark's grid; those with a posterior by quadrature are planar.

    Of the mixing problem, whose observed numbers follow from the dimension, d up to 20; of the
    masked one, those that hide something.
    """
    cases = []
    for task in tasks:
        free = {"linear": dims, "masked": dims, "mixing": [d for d in dims if d <= 20]}
        for dim in free.get(task, (2,)):
            for rows in [dim // stems_of(dim)] if task == "mixing" else observations:
                if task == "masked" and rows >= dim:
                    continue
                for noise in (None,) if task == "poisson" else noises:
                    cases += [Case(task, dim, rows, noise, p) for p in range(problems)]
    return list(dict.fromkeys(cases))


def _initialise() -> None:
    torch.set_num_threads(1)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


def _in_processes(
    jobs: Sequence[Job], workers: int, folder: Path
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Jobs and their records as they come.

    A process that dies, mostly for want of memory, takes those beside it along: what is left then
    runs in one process, in order, where the job that ends it is known.
    """
    left, spawn = list(jobs), get_context("spawn")
    while left:
        broken = set()
        with ProcessPoolExecutor(workers, spawn, initializer=_initialise) as pool:
            futures = {pool.submit(run_job, job, folder=folder): job for job in left}
            try:
                for future in as_completed(futures):
                    try:
                        yield futures[future], future.result()
                    except BrokenProcessPool:
                        broken.add(futures[future])
            except BaseException:  # stopped: what has not begun need not be waited for
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        left = [job for job in left if job in broken]
        if left and workers == 1:
            yield left.pop(0), {"error": "its process died; is there enough memory?"}
        workers = 1


def _run_all(
    jobs: Sequence[Job],
    workers: int,
    folder: Path,
    console: Console,
    store: Callable[[dict[str, Any]], None],
) -> list[str]:
    """Run the jobs; store what is measured at once; return a line for every failure."""
    failures = []

    with _progress(console) as progress:
        whole = progress.add_task("runs", total=len(jobs))

        def take(job: Job, record: dict[str, Any]) -> None:
            if "error" in record:
                where = f"{job.case.title()}, problem {job.case.problem}"
                failures.append(f"{job.name} on {where}: {record['error']}")
            else:
                store(record)
            progress.advance(whole)

        if workers > 1:
            for job, record in _in_processes(jobs, workers, folder):
                take(job, record)
            return failures
        one = progress.add_task("", total=1)
        for job in jobs:
            progress.reset(one, total=1, description=f"{job.name} ({job.case.title()})")

            def report(step: Any) -> None:
                progress.update(one, completed=step.step, total=step.steps)

            take(job, run_job(job, report, folder))
    return failures


def _kept(path: Path) -> dict[tuple, dict[str, Any]]:
    """Records, of whatever problems, of samplers that are still what was measured."""
    try:
        found = {key(record): record for record in read_records(path)}
    except (KeyError, TypeError) as error:
        raise click.UsageError(
            f"{path} holds something other than this benchmark's records; choose another --json, "
            "or leave out --resume, which replaces it"
        ) from error
    current = {(name, digest(variant)) for name, variant in VARIANTS.items()}
    return {names: record for names, record in found.items() if (names[0], names[-1]) in current}


def _draw_planes(jobs: Sequence[Job], records: list[dict[str, Any]], out: Path) -> None:
    """Side-by-side pictures of the first problem of every planar setting."""
    distances = {key(record): record["sliced_wasserstein"] for record in records}
    planes: dict[Case, list[Job]] = {}
    for job in jobs:
        path = sample_path(job, out / "samples")
        if path is not None and path.exists() and job_key(job) in distances:
            planes.setdefault(job.case, []).append(job)
    for case, members in planes.items():
        drawn = {}
        for job in members:
            path = sample_path(job, out / "samples")
            assert path is not None
            drawn[job.name] = torch.from_numpy(np.load(path))
        noise = "" if case.noise is None else f"_noise{case.noise:g}"
        exact = build(case, members[0].samples).exact
        titles = {job.name: distances[job_key(job)] for job in members}
        target = out / f"plane_{case.task}_{case.observations}{noise}.png"
        plane_picture(case, exact, drawn, titles, target)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--tasks",
    callback=_list_of(str),
    help="linear, masked, mixing, nonlinear, poisson [all, but linear "
    "alone once --dims, --observations or --noise is given]",
)
@click.option(
    "--dims", callback=_list_of(int), help="Dimensions of the linear problems [2,20,80,200]"
)
@click.option("--observations", callback=_list_of(int), help="Observed numbers [1,3]")
@click.option("--noise", callback=_list_of(float), help="Observation deviations sigma_y [0.05,0.5]")
@click.option("--problems", type=click.IntRange(1), help="Problems per setting [4; 1 with --quick]")
@click.option(
    "--samples", type=click.IntRange(2), help="Samples per posterior [500; 100 with --quick]"
)
@click.option(
    "--samplers", callback=_list_of(str), help="Names, or the groups main, ablations, all [main]"
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the records go, one object a line [OUT/records.jsonl]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    show_default=True,
    default=Path("runs/exact_posterior"),
    help="Folder of the table and the pictures",
)
@click.option("--resume", is_flag=True, help="Keep the records that are there, run what is missing")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes side by side, one thread each",
)
@click.option("--pictures/--no-pictures", default=True, show_default=True)
@click.option(
    "--quick", is_flag=True, help="About two minutes: few samples, one problem, d 2 and 20"
)
@click.option("--list", "list_only", is_flag=True, help="Name the samplers and end")
def main(
    tasks: list[str] | None,
    dims: list[int] | None,
    observations: list[int] | None,
    noise: list[float] | None,
    problems: int | None,
    samples: int | None,
    samplers: list[str] | None,
    json_path: Path | None,
    out: Path,
    resume: bool,
    jobs: int,
    pictures: bool,
    quick: bool,
    list_only: bool,
) -> None:
    """Run every sampler against posteriors known exactly; write one table and pictures.

    The prior is a mixture of 25 Gaussians. Linear problems, masks and mixing among them, have their
    posterior in closed form, the nonlinear and the Poisson one in the plane by quadrature.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if list_only:
        console.print("main:", ", ".join(MAIN))
        console.print("ablations:", ", ".join(ABLATIONS))
        return
    torch.set_num_threads(1)
    narrowed = dims is not None or observations is not None or noise is not None
    tasks = tasks or (["linear"] if narrowed else list(TASKS))
    for name in tasks:
        if name not in TASKS:
            raise click.BadParameter(f"tasks are {', '.join(TASKS)}; found {name}")
    for value in dims or ():
        if value < 2 or value % 2:
            raise click.BadParameter(f"a dimension is even and at least 2; found {value}")
    for value in observations or ():
        if value < 1:
            raise click.BadParameter(f"at least 1 number is observed; found {value}")
    for value in noise or ():
        if not 0 < value < math.inf:
            raise click.BadParameter(f"a noise is positive and finite; found {value}")
    dims = dims or ([2, 20] if quick else [2, 20, 80, 200])
    observations = observations or ([1] if quick else [1, 3])
    noise = noise or ([0.05] if quick else [0.05, 0.5])
    problems = problems or (1 if quick else 4)
    samples = samples or (100 if quick else 500)
    names = samplers or (QUICK_SAMPLERS.split(",") if quick else ["main"])
    try:
        rows = chosen(names)
    except KeyError as error:
        raise click.BadParameter(str(error.args[0])) from error

    (out / "samples").mkdir(parents=True, exist_ok=True)
    records_path = json_path or out / "records.jsonl"
    records_path.parent.mkdir(parents=True, exist_ok=True)
    cases = cases_of(tasks, dims, observations, noise, problems)
    wanted, left_out = plan(rows, cases, samples)
    for line in left_out:
        console.print(f"left out: {line}", style="dim")
    kept = _kept(records_path) if resume and records_path.exists() else {}
    # Whole or not at all: what is kept may have taken hours.
    write_text(records_path, "".join(json.dumps(record) + "\n" for record in kept.values()))
    store = append(records_path)
    missing = [job for job in wanted if job_key(job) not in kept]
    console.print(
        f"{len(missing)} runs, {len(wanted) - len(missing)} kept from before; "
        f"records in {records_path}"
    )
    began = time.perf_counter()
    failures = _run_all(missing, jobs, out / "samples", console, store)
    measured = {key(record): record for record in read_records(records_path)}
    records = [measured[job_key(job)] for job in wanted if job_key(job) in measured]
    if records:
        _report(records, wanted, out, pictures, quick, console)
        console.print(f"{time.perf_counter() - began:.0f} s; table and pictures in {out}")
    for line in failures:
        console.print(f"failed: {line}", style="red")
    if failures:
        raise click.ClickException(
            f"{len(failures)} of {len(missing)} runs failed; --resume tries them again"
        )
    if not records:
        raise click.ClickException("nothing was measured")


def _report(
    records: list[dict[str, Any]],
    jobs: Sequence[Job],
    out: Path,
    pictures: bool,
    quick: bool,
    console: Console,
) -> None:
    """Write the table in both forms, print its short version and draw the pictures."""
    rows = rows_of(records)
    heading = f"Samplers against exact posteriors, {jobs[0].samples} samples each"
    write_text(out / "table.md", markdown(rows, heading))
    complaint = write_parquet(records, out / "table.parquet")
    if complaint:
        console.print(complaint, style="yellow")
    for row in rows:
        noise = "" if row["noise"] is None else f" sigma_y {row['noise']:g}"
        console.print(
            f"{row['task']} d {row['dim']} m {row['observations']}{noise}  {row['sampler']:28s}"
            f" W1 {row['sliced_wasserstein']:6.2f} (floor {row['floor']:.2f})"
            f" modes {row['mode_error']:.2f} cost {row['cost']:6.0f} {row['seconds']:6.1f} s",
        )
    if not pictures:
        return
    cost_picture(rows, out / "error_against_evaluations.png")
    if gibbs_picture(rows, out / "error_against_gibbs.png") is None:
        console.print("no picture of the error against R: run several, such as mgdm-published-r2")
    _draw_planes(jobs, records, out)
    counts = [10, 100, 1000, 10000] if quick else [10, 100, 1000, 10000, 30000]
    with console.status("memory against particles"):
        if memory_picture(growth_curve(counts), out / "memory_against_particles.png") is None:
            console.print("no picture of the memory: this system cannot reset its peak mark")
