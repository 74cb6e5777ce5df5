"""The working half of ``mgdm-separate``: tracks go through the workers, progress is shown."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mgdm_audio.cli.common import report_error, stderr_console
from mgdm_audio.compute.speed import duration_words, speed_words
from mgdm_audio.errors import display_name, one_line
from mgdm_audio.separation.confidence import RELIABLE_DB
from mgdm_audio.separation.file_plan import FileJob
from mgdm_audio.separation.file_work import FileResult, open_pool
from mgdm_audio.separation.request import SeparateRequest

__all__ = ["TimeLeft", "confidence_lines", "run_all"]

_MOST_STRETCHES = 8


def run_all(
    request: SeparateRequest,
    todo: list[FileJob],
    failures: dict[str, str],
    *,
    quiet: bool,
    as_json: bool,
    verbose: bool,
    write_page: Callable[[FileJob], Path] | None = None,
) -> list[dict[str, Any]]:
    """Separate all tracks; what fails is said at once, added to ``failures``, and the rest goes on.

    Returns
    -------
    list of dict
        Records of what is separated, in the order of ``todo``; ``resumed`` says of which it was so
        before.
    """
    by_key = {str(i): job for i, job in enumerate(todo)}
    records: dict[str, dict[str, Any]] = {}
    with _progress(todo, quiet or as_json) as show:
        pool = open_pool(request, show.watch)
        try:
            for outcome in pool.run(by_key.items()):
                job = by_key[outcome.key]
                label = display_name(job.source)
                result: FileResult = outcome.value or FileResult(None)
                error = result.error if outcome.error is None else " ".join(outcome.error.split())
                if not quiet:
                    for text in result.notes:
                        show.say(f"note: {text}", err=True)
                if error is not None:
                    failures[job.source] = error if label in error else f"{label}: {error}"
                    show.say_error(failures[job.source])
                elif result.record is None:
                    held = json.loads(job.record.read_text(encoding="utf-8"))
                    records[outcome.key] = {**held, "resumed": True}
                    if not quiet:
                        show.say(f"note: {label}: finished before, left as it is", err=True)
                else:
                    records[outcome.key] = result.record
                    if not (quiet or as_json):
                        _summary(result.record, job, verbose, show.say)
                if error is None and write_page is not None:
                    _page(write_page, job, failures, quiet or as_json, show)
                show.done(job)
        finally:
            pool.close()
    return [records[key] for key in by_key if key in records]


def _summary(
    record: Mapping[str, Any], job: FileJob, verbose: bool, say: Callable[[str], None]
) -> None:
    seconds, audio = record["seconds"], record["seconds_of_audio"]
    per_window = record["evaluations_per_window"]
    say(
        f"{display_name(job.source)} -> {display_name(job.record.parent)}: "
        f"{', '.join(record['stems'])} in {duration_words(seconds)} "
        f"({speed_words(seconds, audio)}, {per_window:g} evaluation(s) per window)"
    )
    if record.get("uncertainty_note"):
        say(f"note: {record['uncertainty_note']}")
    if record.get("confidence"):
        for line in confidence_lines(record["confidence"]):
            say(line)
    if verbose:
        for warning in record["warnings"]:
            say(f"warning: {warning}")


def confidence_lines(said: Mapping[str, Any]) -> Iterator[str]:
    """A small table of expected improvements, and the stretches that are not reliable."""
    yield f"{'expected':>20}{'80 % interval':>18}{'not reliable':>16}"
    for stem, rows in said["stems"].items():
        sounding = [i for i, value in enumerate(rows["expected"]) if value is not None]
        if not sounding:
            yield f"{stem:<9.9}{'silent':>11}"
            continue
        middle, low, high = (
            sum(rows[name][i] for i in sounding) / len(sounding)
            for name in ("expected", "low", "high")
        )
        poor = sum(rows["expected"][i] < RELIABLE_DB for i in sounding)
        interval = f"{low:.1f} to {high:.1f}"
        seconds = f"{poor * said['seconds']:.0f} of {len(sounding) * said['seconds']:.0f} s"
        yield f"{stem:<9.9}{middle:>8.1f} dB{interval:>18}{seconds:>16}"
    stretches = said["not_reliable"]
    yield from stretches[:_MOST_STRETCHES]
    if len(stretches) > _MOST_STRETCHES:
        yield f"and {len(stretches) - _MOST_STRETCHES} more, in mgdm.json"


def _page(
    write_page: Callable[[FileJob], Path],
    job: FileJob,
    failures: dict[str, str],
    quiet: bool,
    show: _Show,
) -> None:
    """Write the track's page; where that fails the stems stay, and the failure is told."""
    try:
        path = write_page(job)
    except Exception as error:
        reason = f"the stems are written, but not the page: {one_line(error)}"
        failures[job.source] = f"{display_name(job.source)}: {reason}"
        show.say_error(failures[job.source])
    else:
        if not quiet:
            show.say(f"listening page: {display_name(path)}")


class TimeLeft:
    """How long the rest takes, at the speed so far: over all files, by seconds of sound."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._began = clock()
        self._first: float | None = None  # nothing is told before there are two reports

    def __call__(self, done: float) -> str:
        """Words for the time left when so many seconds of sound are done; "" at first."""
        if done <= 0 or self._first is None:
            self._first = done if done > 0 else self._first
            return ""
        spent = self._clock() - self._began
        return f"{duration_words(max(0.0, spent * (self._total - done) / done))} left"


class _Show:
    """Progress of files and within a file; silent when there is nothing to draw on."""

    def __init__(self, todo: list[FileJob], bars: Any | None) -> None:
        known = [job.info.seconds for job in todo if job.info.seconds]
        usual = sum(known) / len(known) if known else 1.0
        self._weights = {job.source: job.info.seconds or usual for job in todo}
        self._total = sum(self._weights.values())
        self._finished = 0.0
        self._files, self._count = len(todo), 0
        self._bars, self._left = bars, TimeLeft(self._total)
        self._task = bars.add_task("", total=1.0, left="") if bars else None

    def watch(self, job: FileJob) -> Callable[[float], object]:
        """Begin a file; returns what takes the fraction of it that is done."""
        if self._bars is None:
            return lambda share: None
        label, weight = display_name(job.source), self._weights[job.source]
        if self._files > 1:
            label = f"{self._count + 1}/{self._files} {label}"

        def tell(share: float) -> object:
            self._update(self._finished + share * weight, description=label)
            return None

        self._bars.update(self._task, description=label)
        return tell

    def _update(self, done: float, **fields: Any) -> None:
        if self._bars is not None:
            fields |= {"completed": done / self._total, "left": self._left(done)}
            self._bars.update(self._task, **fields)

    def done(self, job: FileJob) -> None:
        """Count a file as done."""
        self._finished += self._weights[job.source]
        self._count += 1
        self._update(self._finished)

    def say(self, text: str, err: bool = False) -> None:
        """Print a line; above the bar where there is one."""
        if self._bars is None:
            click.echo(text, err=err)
        else:
            self._bars.console.print(text, markup=False, soft_wrap=True)

    def say_error(self, text: str) -> None:
        """Print an error when it happens."""
        if self._bars is None:
            report_error(text)
        else:
            self.say(f"error: {text}")


@contextmanager
def _progress(todo: list[FileJob], quiet: bool) -> Iterator[_Show]:
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield _Show(todo, None)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=stderr_console()) as bars:
        yield _Show(todo, bars)
