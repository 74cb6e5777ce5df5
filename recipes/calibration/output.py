"""Where the commands write, and how they tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mgdm_audio.io.atomic import write_text
from mgdm_audio.reports.tables import Table

__all__ = ["RECORDS", "out_option", "report", "tell"]

RECORDS = "records.jsonl"


def out_option(tier: str) -> Callable[[Any], Any]:
    """The option --out of a tier."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("runs/calibration") / tier,
        show_default=True,
        help="Folder of the records, the table and the pictures.",
    )


def tell(cell: Any, number: int, total: int) -> None:
    """Name the cell that runs."""
    click.echo(f"{number}/{total} {cell.name}", err=True)


def report(
    out: Path, heading: str, tables: Sequence[Table], began: float, failures: Sequence[str] = ()
) -> None:
    """Write and print the tables, and say what failed.

    Raises
    ------
    click.ClickException
        If anything did.
    """
    text = "\n".join([f"## {heading}", "", *(table.to_markdown() for table in tables)])
    write_text(out / "table.md", text)
    click.echo(text)
    click.echo(f"{time.perf_counter() - began:.0f} s; table and pictures in {out}", err=True)
    for line in failures:
        click.echo(f"failed: {line}", err=True)
    if failures:
        raise click.ClickException(f"{len(failures)} failed; the same command tries them again")
