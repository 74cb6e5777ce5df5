"""The command of :mod:`recipes.speed`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from mgdm_audio.cli.common import Command, device_option, precision_option, prior_option
from mgdm_audio.compute.machine import describe_machine, describe_versions
from mgdm_audio.io.atomic import write_text
from recipes.speed.timing import Measurement

__all__ = ["main", "rows"]

PARTS = ("network", "separation", "scoring", "overhead")
COLUMNS = ("what", "seconds", "processor seconds", "per second of audio", "in forwards", "overhead")
_LENGTH = click.FloatRange(0.1, 36_000.0)  # seconds


def rows(measured: Sequence[Measurement], on_cpu: bool = True) -> Iterator[tuple[str, ...]]:
    """Cells of the table; the first measurement of the network is the unit of the ratios.

    On a CPU ratios are of processor seconds, which other programs on the machine hardly change.
    """

    def cost(m: Measurement) -> float:
        return m.processor if on_cpu else m.wall

    unit = next((m for m in measured if m.part == "network"), None)
    for m in measured:
        ratio = overhead = ""
        if unit is not None:
            ratio = f"{cost(m) / cost(unit):.2f}"
            if m.forwards:
                overhead = f"{cost(m) / (m.forwards * cost(unit)):.2f}"
        yield (
            m.name,
            f"{m.wall:.2f}",
            f"{m.processor:.2f}",
            f"{m.wall / m.audio:.4f}" if m.audio else "",
            ratio,
            overhead,
        )


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@prior_option
@device_option
@precision_option
@click.option("--only", metavar="PART,...", help=f"Some of {', '.join(PARTS)}.")
@click.option("--seconds", type=_LENGTH, default=10.0, show_default=True,
              help="Length that is separated.")  # fmt: skip
@click.option("--score", type=_LENGTH, default=600.0, show_default=True,
              help="Seconds scored with SI-SDR.")  # fmt: skip
@click.option("--museval", type=_LENGTH, default=36.0, show_default=True,
              help="Seconds scored with museval.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write a file as well.")
def main(
    prior: str,
    device: object,
    precision: str,
    only: str | None,
    seconds: float,
    score: float,
    museval: float,
    repeats: int,
    json_path: Path | None,
) -> None:
    """Print what the network, the presets, the scores and the samplers cost, as a Markdown table.

    "in forwards": cost in forwards of the network on one window (batch 1), by processor seconds on
    a CPU. "overhead": that, over the forwards that are part of the work; 1 would be the network
    and nothing else.
    """
    parts = [name.strip() for name in only.split(",")] if only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise click.UsageError(
            f"--only takes {', '.join(PARTS)}; found {', '.join(sorted(unknown))}"
        )
    from mgdm_audio.priors.catalogue import resolve
    from mgdm_audio.priors.checkpoint.store import load_prior
    from recipes.speed.overhead import time_overhead
    from recipes.speed.scoring import time_scoring
    from recipes.speed.separation import time_network, time_presets

    where = str(device)
    facts = {**describe_machine([where]), **describe_versions(), "prior": prior}
    measured: list[Measurement] = []

    def follow(found: Iterator[Measurement]) -> None:
        for one in found:
            measured.append(one)
            click.echo(f"{one.name}: {one.wall:.2f} s", err=True)

    if {"network", "separation"} & set(parts):
        loaded = load_prior(resolve(prior), device=where, precision=precision)
        facts |= {"precision": loaded.precision, "sha256": loaded.checksum}
        follow(time_network(loaded, repeats))
        if "separation" in parts:
            follow(time_presets(loaded, seconds))
    if "scoring" in parts:
        follow(time_scoring(score, museval, repeats, where))
    if "overhead" in parts:
        follow(time_overhead(repeats, where))
    click.echo("; ".join(f"{name}: {value}" for name, value in facts.items()))
    click.echo(f"\n| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for cells in rows(measured, where == "cpu"):
        click.echo(f"| {' | '.join(cells)} |")
    if json_path is not None:
        found = {"facts": facts, "measured": [asdict(m) for m in measured]}
        write_text(json_path, json.dumps(found, indent=1) + "\n")
