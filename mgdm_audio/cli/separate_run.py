"""The working half of ``mgdm-separate``: tracks go through the workers, progress is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgdm_audio.cli.common import report_error, stderr_console
from mgdm_audio.compute.speed import duration_words, speed_words
from mgdm_audio.errors import display_name, one_line
from mgdm_audio.separation.confidence import RELIABLE_DB
from mgdm_audio.separation.file_plan import FileJob
from mgdm_audio.separation.file_work import FileResult, open_pool
from mgdm_audio.separation.request import SeparateRequest

if TYPE_CHECKING:
    from rich.progress import Progress

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
    """A small table of what is expected, and the stretches that are not reliable."""
    yield f"{'improvement':>20}{'80 % of seconds':>18}{'SI-SDR':>11}{'not reliable':>16}"
    for stem, rows in said["stems"].items():
        sounding = [i for i, value in enumerate(rows["expected"]) if value is not None]
        if not sounding:
            yield f"{stem:<9.9}{'silent':>11}"
            continue
        middle, low, high, quality = (
            sum(rows[name][i] for i in sounding) / len(sounding)
            for name in ("expected", "low", "high", "si_sdr")
        )
        poor = sum(rows["si_sdr"][i] < RELIABLE_DB for i in sounding)
        interval = f"{low:.1f} to {high:.1f}"
        seconds = f"{poor * said['seconds']:.0f} of {len(sounding) * said['seconds']:.0f} s"
        yield f"{stem:<9.9}{middle:>8.1f} dB{interval:>18}{quality:>8.1f} dB{seconds:>16}"
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


class _Show:
    """Progress of files and within a file; where bars are disabled, lines alone."""

    def __init__(self, todo: list[FileJob], bars: Progress) -> None:
        known = [job.info.seconds for job in todo if job.info.seconds]
        usual = sum(known) / len(known) if known else 1.0
        self._weights = {job.source: job.info.seconds or usual for job in todo}
        self._finished = 0.0
        self._files, self._count = len(todo), 0
        self._bars, self._task = bars, bars.add_task("", total=sum(self._weights.values()))
        bars.advance(self._task, 0)  # the speed is measured from here, so one report tells it

    def watch(self, job: FileJob) -> Callable[[float], object]:
        """Begin a file; returns what takes the fraction of it that is done."""
        label, weight = display_name(job.source), self._weights[job.source]
        if self._files > 1:
            label = f"{self._count + 1}/{self._files} {label}"

        def tell(share: float) -> None:
            done = self._finished + share * weight
            self._bars.update(self._task, completed=done, description=label)

        self._bars.update(self._task, description=label)
        return tell

    def done(self, job: FileJob) -> None:
        """Count a file as done."""
        self._finished += self._weights[job.source]
        self._count += 1
        self._bars.update(self._task, completed=self._finished)

    def say(self, text: str, err: bool = False) -> None:
        """Print a line; above the bar where there is one."""
        if self._bars.disable:
            click.echo(text, err=err)
        else:
            self._bars.console.print(text, markup=False, soft_wrap=True)

    def say_error(self, text: str) -> None:
        """Print an error when it happens."""
        if self._bars.disable:
            report_error(text)
        else:
            self.say(f"error: {text}")


@contextmanager
def _progress(todo: list[FileJob], quiet: bool) -> Iterator[_Show]:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    hidden = quiet or sys.stderr is None or not sys.stderr.isatty()
    # At the speed of the whole run: a chunk may take longer than the 30 s that rich looks back.
    with progress.Progress(
        *columns, console=stderr_console(), disable=hidden, speed_estimate_period=1e9
    ) as bars:
        yield _Show(todo, bars)
