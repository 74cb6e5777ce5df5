"""The working half of ``mgdm-separate``: everything that loads the model."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch

from mgdm_audio.cli.common import one_line
from mgdm_audio.compute.engines_ray import RayPool
from mgdm_audio.errors import display_name
from mgdm_audio.priors.catalogue import resolve
from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.sampling.cost import count_evaluations
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.separation.file_plan import FileJob, OutputChoice
from mgdm_audio.separation.file_work import SeparationWork
from mgdm_audio.separation.files import FileOptions, is_done, run_job, run_key
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import CancelledError

__all__ = ["estimate_cost", "run_all", "run_on_ray"]


def run_all(
    todo: list[FileJob],
    given: Mapping[str, Any],
    *,
    path: Path,
    sampling: SamplingSettings,
    choice: OutputChoice,
    options: FileOptions,
    batch_size: int,
    failures: dict[str, str],
    write_page: Callable[[FileJob], Path] | None = None,
) -> list[dict[str, Any]]:
    """Separate all tracks; what fails is added to ``failures`` and the rest goes on."""
    prior = load_prior(path, device=given["device"], precision=given["precision"])
    quiet = given["quiet"] or given["as_json"]

    def note(text: str) -> None:
        if not given["quiet"]:
            click.echo(f"note: {text}", err=True)

    separator = Separator(prior, sampling, batch_size=batch_size, on_note=note)
    records: list[dict[str, Any]] = []
    with _progress(len(todo), quiet) as show:
        for job in todo:
            label = display_name(job.source)
            if given["resume"] and is_done(job, run_key(separator, job, choice, options)):
                note(f"{label}: finished before, left as it is")
                _page(write_page, job, failures, quiet, show.echo)
                show.file_done()
                continue
            try:
                record = run_job(separator, job, choice, options, show.start(label), note)
            except (KeyboardInterrupt, CancelledError):
                raise
            except Exception as error:
                failures[job.source] = one_line(error)
            else:
                records.append(record)
                if not quiet:
                    _say(record, job, given["verbose"], show.echo)
                _page(write_page, job, failures, quiet, show.echo)
            show.file_done()
    return records


def run_on_ray(
    todo: list[FileJob],
    given: Mapping[str, Any],
    work: SeparationWork,
    failures: dict[str, str],
    write_page: Callable[[FileJob], Path] | None = None,
) -> list[dict[str, Any]]:
    """As :func:`run_all`, every track a task of a Ray cluster; records in the order of ``todo``."""
    quiet = given["quiet"] or given["as_json"]
    by_key = {str(i): job for i, job in enumerate(todo)}
    records: dict[str, dict[str, Any]] = {}
    pool = RayPool(work, given["address"], str(given["device"]))
    try:
        with _progress(len(todo), quiet) as show:
            for outcome in pool.run(by_key.items()):
                job = by_key[outcome.key]
                label = display_name(job.source)
                result = outcome.value
                if outcome.error is not None:
                    failures[job.source] = " ".join(outcome.error.split())
                elif result.record is None:
                    if not given["quiet"]:
                        click.echo(f"note: {label}: finished before, left as it is", err=True)
                else:
                    records[outcome.key] = result.record
                    if not quiet:
                        _say(result.record, job, given["verbose"], show.echo)
                if outcome.error is None:
                    _page(write_page, job, failures, quiet, show.echo)
                for text in result.notes if result is not None and not given["quiet"] else ():
                    click.echo(f"note: {text}", err=True)
                show.file_done()
    finally:
        pool.close()
    return [records[key] for key in by_key if key in records]


def _say(
    record: Mapping[str, Any], job: FileJob, verbose: bool, echo: Callable[[str], None]
) -> None:
    factor = record["seconds"] / max(record["seconds_of_audio"], 1e-9)
    echo(
        f"{display_name(job.source)} -> {display_name(job.record.parent)}: "
        f"{', '.join(record['stems'])} in {record['seconds']:.1f} s "
        f"({factor:.2f} times real time, {record['evaluations']:.0f} evaluations per sample)"
    )
    if verbose:
        for warning in record["warnings"]:
            echo(f"warning: {warning}")


def _page(
    write_page: Callable[[FileJob], Path] | None,
    job: FileJob,
    failures: dict[str, str],
    quiet: bool,
    echo: Callable[[str], None],
) -> None:
    """Write the track's page; where that fails the stems stay, and the failure is told."""
    if write_page is None:
        return
    try:
        path = write_page(job)
    except Exception as error:
        failures[job.source] = f"the stems are written, but not the page: {one_line(error)}"
    else:
        if not quiet:
            echo(f"listening page: {path}")


class _Show:
    """Progress of files and within a file; silent when there is nothing to draw on."""

    def __init__(self, files: int, bars: Any | None) -> None:
        self._bars = bars
        self._files = bars.add_task("files", total=files) if bars and files > 1 else None
        self._file: Any | None = None

    def start(self, label: str) -> Callable[[float], object]:
        """Bar of one file; returns what takes the fraction done."""
        if self._bars is None:
            return lambda share: None
        bars, self._file = self._bars, self._bars.add_task(label, total=1.0)
        return lambda share, task=self._file: bars.update(task, completed=share)

    def file_done(self) -> None:
        """Close the bar of the file."""
        if self._bars is None:
            return
        if self._file is not None:
            self._bars.remove_task(self._file)
            self._file = None
        if self._files is not None:
            self._bars.advance(self._files)

    def echo(self, text: str) -> None:
        """Print a line above the bars."""
        if self._bars is None:
            click.echo(text)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(files: int, quiet: bool) -> Iterator[_Show]:
    if quiet or not sys.stderr.isatty():
        yield _Show(files, None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Show(files, bars)


def estimate_cost(given: Mapping[str, Any], sampling: SamplingSettings) -> dict[str, float]:
    """Real-time factor and memory, from two evaluations of one window.

    The evaluations per level are those of the sampler on a chunk of one window: it is run with a
    prior that only counts.
    """
    prior = load_prior(
        resolve(given["prior"]), device=given["device"], precision=given["precision"]
    )
    sampler = StemSampler(prior, sampling, batch_size=1)
    x = torch.zeros(1, len(prior.stems), sampler.window, device=prior.device) + 0.01
    level = prior.schedule.level_of_sigma(0.1)
    seconds = []
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            prior.denoise(x, level)
            if prior.device.type == "cuda":
                torch.cuda.synchronize(prior.device)
            seconds.append(time.perf_counter() - began)
    evaluations, vjps = count_evaluations(sampling, prior.schedule, len(prior.stems))
    per_window = min(seconds) * (evaluations + 2 * vjps) * sampling.samples
    factor = per_window / (sampler.hop / prior.rate)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    # Some twenty arrays of a chunk live at once: state, estimates, spectra and their sums.
    chunk = 20 * 4 * len(prior.stems) * sampling.samples * sampler.chunk_length()
    return {"real_time_factor": factor, "memory": float(peak + chunk)}
