"""How ``mgdm-evaluate check`` and ``convert`` show what they found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from mgdm_audio.cli.common import stderr_console
from mgdm_audio.cli.evaluate_options import print_tables
from mgdm_audio.compute.engines import Outcome
from mgdm_audio.datasets.check import DatasetCheck
from mgdm_audio.datasets.convert import Converted
from mgdm_audio.reports.tables import Table

_SHOWN = 20


def check_json(found: DatasetCheck) -> dict[str, Any]:
    """Findings as plain data."""
    dataset = found.dataset
    return {
        "root": str(dataset.root),
        "kind": dataset.kind,
        "edition": found.edition(),
        "splits": {
            split: {"tracks": count, "expected": found.expected(split)}
            for split, count in dataset.splits.items()
        },
        "stems": found.stem_counts(),
        "hours": sum(t.seconds for t in found.tracks) / 3600,
        "ignored": [str(p) for p in dataset.ignored],
        "broken": [{"track": f.track, "text": f.text} for f in found.broken],
        "remarks": [{"track": f.track, "text": f.text} for f in found.findings if not f.broken],
    }


def print_check(found: DatasetCheck) -> None:
    """Print splits, stems and findings."""
    dataset, edition = found.dataset, found.edition()
    kind = {"slakh": "raw Slakh2100", "stems": "folders TRACK/STEM.wav"}[dataset.kind]
    of = f", nearest to the {edition} edition" if edition else ""
    rows = []
    for split, count in dataset.splits.items():
        expected = found.expected(split)
        held = [t for t in found.tracks if t.split == split]
        stems = Counter(name for t in held for name in t.stems)
        rows.append(
            [
                split or "(none)",
                str(count) if expected is None else f"{count} of {expected}",
                f"{sum(t.seconds for t in held) / 3600:.2f}",
                ", ".join(sorted({str(r) for t in held for r in t.rates})),
                *(str(stems[name]) for name in dataset.stems),
                str(len({f.track for t in held for f in t.findings if f.broken})),
            ]
        )
    columns = ["split", "tracks", "hours", "Hz", *(f"with {s}" for s in dataset.stems), "broken"]
    print_tables([Table(str(dataset.root), kind + of, columns, rows)])
    for path in dataset.ignored:
        click.echo(f"ignored: {path} is no track")
    for finding in found.broken:
        click.echo(f"broken: {finding.track}: {finding.text}")
    remarks = [f for f in found.findings if not f.broken]
    for remark in remarks[:_SHOWN]:
        click.echo(f"note: {remark.track}: {remark.text}")
    if len(remarks) > _SHOWN:
        click.echo(f"and {len(remarks) - _SHOWN} more remarks; --json lists all")


def show_conversion(outcomes: Iterator[Outcome], total: int, quiet: bool) -> int:
    """Follow a conversion with a progress bar; returns the number of tracks that failed."""
    from rich.progress import Progress

    fresh = failed = 0
    with Progress(console=stderr_console(), disable=quiet) as bars:
        task = bars.add_task("convert", total=total)
        for outcome in outcomes:
            bars.advance(task)
            if outcome.error is not None:
                failed += 1
                line = f"{outcome.key}: {' '.join(outcome.error.split())}"
                bars.console.print(f"error: {line}", markup=False, soft_wrap=True)
                continue
            result: Converted = outcome.value
            fresh += result.fresh
            if not quiet:
                for note in result.notes:
                    bars.console.print(f"note: {result.key}: {note}", markup=False, soft_wrap=True)
    there = total - fresh - failed
    click.echo(f"{fresh} tracks written, {there} there already, {failed} failed")
    return failed
