"""What ``mgdm-evaluate`` makes of its arguments, and how it shows progress."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mgdm_audio.cli.common import DeviceType, Group, stderr_console

if TYPE_CHECKING:
    from mgdm_audio.datasets import Dataset
    from mgdm_audio.evaluation.run import Progress
    from mgdm_audio.evaluation.run_folder import Variant
    from mgdm_audio.reports.tables import Table

# As in track_scores and si_sdr, which come with torch; a test compares them.
ACTIVE = "SI-SDRi"
SCORES = (
    *(ACTIVE, "SI-SDRi published", "SI-SDR", "in its stem"),
    *("leak", "silent kept silent", "active lost"),
    *("SDR", "ISR", "SIR", "SAR"),
)
SLAKH_RATE = 22_050


class DefaultGroup(Group):
    """A group whose command ``run`` need not be typed: ``mgdm-evaluate DATASET``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front of arguments that begin with no command."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] == "--compare":
            args = ["compare", *args[1:]]
        elif args and args[0] not in self.commands and args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def expand_variants(samplers: Sequence[str], assignments: Sequence[str]) -> list[Variant]:
    """Every sampler with every combination of the values that were given.

    Parameters
    ----------
    assignments : sequence of str
        ``name=value`` or ``name=value,value,...``; ``sampler:name=value`` for one sampler only.
    """
    from mgdm_audio.evaluation.run_folder import Variant

    given: dict[str, list[tuple[str, list[str]]]] = {sampler: [] for sampler in samplers}
    for text in assignments:
        left, equals, right = text.partition("=")
        sampler, colon, name = left.rpartition(":")
        values = _split(right)
        if not equals or not name.strip() or not all(values):
            raise click.UsageError(
                f"--set needs name=value or name=value,value,..., found {text!r}"
            )
        if colon and sampler not in given:
            raise click.UsageError(
                f"--set {text}: sampler {sampler!r} is not run; --samplers has {', '.join(given)}"
            )
        for one in [sampler] if colon else samplers:
            given[one].append((name.strip(), values))
    return [
        Variant(sampler, tuple(zip([name for name, _ in sets], combination, strict=True)))
        for sampler, sets in given.items()
        for combination in itertools.product(*(values for _, values in sets))
    ]


def _split(text: str) -> list[str]:
    """Split at commas outside brackets: ``1,(2,3)`` is two values."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse_devices(text: str) -> tuple[str, ...]:
    """Turn ``0,1`` into ``("cuda:0", "cuda:1")``; names such as ``cpu`` stay what they are."""
    names = [part.strip() for part in text.split(",")]
    names = [f"cuda:{name}" if name.isdigit() else name for name in names]
    return tuple(str(DeviceType().convert(name, None, None)) for name in names)


def choose_tracks(
    dataset: Dataset, split: str | None, names: str | None, limit: int | None
) -> Dataset:
    """Tracks to work on; the split ``test`` where there is one and none was asked for."""
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    if names is not None and not wanted:
        raise click.UsageError(
            f"--tracks names at least one track; found {names!r}; "
            "give such as Track00001,Track00002, or leave --tracks out for all"
        )
    if split is None:
        split = "test" if "test" in dataset.splits and not wanted else "all"
    return dataset.select(None if split == "all" else split, wanted, limit)


@contextmanager
def progress_bars(quiet: bool, bss: bool) -> Iterator[Any]:
    """Bars on standard error for tracks and BSSEval; yields what ``evaluate`` reports to."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    def failed(progress: Progress) -> str | None:
        if progress.error is None:
            return None
        what = "" if progress.kind == "track" else " BSSEval"
        return f"{progress.key} ({progress.variant}{what}): {progress.error}"

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", markup=False),
    ]
    with Bars(*columns, console=stderr_console(), disable=quiet) as bars:
        kinds = {"track": "separate"} | ({"bss": "BSSEval"} if bss else {})
        tasks = {k: bars.add_task(text, total=None, last="") for k, text in kinds.items()}

        def show(progress: Progress) -> None:
            if (line := failed(progress)) is not None:
                bars.console.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
            bars.update(
                tasks[progress.kind],
                completed=progress.done,
                total=progress.total,
                last=progress.key,
            )

        yield show


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on standard output."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # nobody's window: lines need not break
        console = Console(width=200)
    for table in tables:
        shown = RichTable(title=table.title, caption=table.caption, caption_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(Text(column), justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
