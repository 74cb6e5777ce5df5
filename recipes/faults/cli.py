"""The commands of the recipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import click

from mgdm_audio.cli.common import EXIT_FAILED, Group
from recipes.faults.commands import Bench, Finding

__all__ = ["main", "table"]

STATES = ("clean", "lost", "traceback", "skipped")


class _Default(Group):
    """``python -m recipes.faults`` alone is a campaign."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["campaign", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Default, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Do harm to the commands, and see whether anything is lost by it.

    `python -m recipes.faults` is short for `python -m recipes.faults campaign`.
    """


@main.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              default=Path("runs/faults"), show_default=True,
              help="Folder of results.jsonl, faults.json and table.md.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--quick", is_flag=True, help="Some of every group, about a minute.")
@click.option("--only", metavar="GROUP", help="Only cases of this group.")
@click.option("--overwrite", is_flag=True, help="Begin anew instead of going on.")
@click.option("-q", "--quiet", is_flag=True, help="Print the table only.")
def campaign(
    out: Path, seed: int, quick: bool, only: str | None, overwrite: bool, quiet: bool
) -> int:
    """Run every case that has no result yet in OUT, and write the table.

    The exit code is 1 if something was lost or a traceback was seen.
    """
    if not hasattr(os, "fork"):
        raise click.ClickException("the campaign forks its processes; run it on Linux or macOS")
    import torch

    from recipes.faults.cases import GROUPS, cases_of
    from recipes.faults.material import make_material

    if only is not None and only not in GROUPS:
        raise click.UsageError(f"--only takes one of {', '.join(GROUPS)}; found {only!r}")
    torch.set_num_threads(1)  # a process with threads of its own does not fork well
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    if overwrite:
        results.unlink(missing_ok=True)
    done = _read(results, seed)
    with tempfile.TemporaryDirectory(prefix="mgdm-faults-") as temporary:
        bench = Bench(Path(temporary), make_material(Path(temporary) / "material"), seed)
        for case in cases_of(bench, quick):
            if (only is not None and case.group != only) or (case.group, case.name) in done:
                continue
            started = time.time()
            try:
                found = case.run(bench)
            except Exception as error:  # such as results that cannot be read
                found = Finding("lost", f"cannot be judged: {type(error).__name__}: {error}")
            row = {"seed": seed, "group": case.group, "name": case.name, "status": found.status,
                   "detail": found.detail, "seconds": round(time.time() - started, 2)}  # fmt: skip
            done[case.group, case.name] = row
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if not quiet and found.status != "clean":
                click.echo(f"{found.status}: {case.group}: {case.name}: {found.detail}")
    rows = list(done.values())
    text = table(rows)
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "faults.json").write_text(json.dumps(_facts(rows, seed), indent=1), encoding="utf-8")
    click.echo(text, nl=False)
    return EXIT_FAILED if any(r["status"] in ("lost", "traceback") for r in rows) else 0


def _read(results: Path, seed: int) -> dict[tuple[str, str], dict]:
    """Results of an earlier call with this seed; a line that was cut off counts as none."""
    found = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["seed"] == seed:
                found[row["group"], row["name"]] = row
    return found


def table(rows: list[dict]) -> str:
    """One line per group: tried, clean, lost, tracebacks, skipped."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = [
        "| what | tried | clean | lost | tracebacks | skipped |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for group in [*groups, "all"]:
        states = [r["status"] for r in rows if group in ("all", r["group"])]
        tried = len(states) - states.count("skipped")
        counts = [tried, *(states.count(state) for state in STATES)]
        lines.append(f"| {group} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def _facts(rows: list[dict], seed: int) -> dict:
    from mgdm_audio.compute.machine import describe_machine, describe_versions

    return {
        "seed": seed,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": describe_machine(["cpu"]),
        "versions": describe_versions(),
        "command": " ".join(["python -m recipes.faults", *sys.argv[1:]]),
        "cases": rows,
    }


@main.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              default=Path("runs/faults-fuzz"), show_default=True,
              help="Folder of what was found and of fuzz.json.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0.01, 1440), default=10.0, show_default=True,
              help="For each reader.")  # fmt: skip
@click.option("--only", metavar="READER", help="Such as audio, checkpoint or pickle.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def fuzz(out: Path, minutes: float, only: str | None, seed: int) -> int:
    """Feed the readers of sound files and checkpoints with what no program wrote.

    With atheris installed inputs grow where they reach new code, else seeds are damaged at random.
    Found is whatever is not one of the readers' own errors: another exception, a crash, a minute
    without an end, more than 1 GB of memory. The exit code is 1 if there is any.
    """
    from recipes.faults.fuzzing import TARGETS

    if only is not None and only not in TARGETS:
        raise click.UsageError(f"--only takes one of {', '.join(TARGETS)}; found {only!r}")
    rows = []
    for target in TARGETS if only is None else (only,):
        where = out / target
        where.mkdir(parents=True, exist_ok=True)
        words = [target, str(60 * minutes), str(where), str(seed)]
        done = subprocess.run(
            [sys.executable, "-m", "recipes.faults.fuzzing", *words],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
        (where / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
        facts = dict(re.findall(r"stat::(\w+):\s*(\d+)", done.stdout + done.stderr))
        row = {
            "reader": target,
            "inputs": int(facts.get("number_of_executed_units", 0)),
            "memory_mb": int(facts.get("peak_rss_mb", 0)),
            "found": 0 if done.returncode == 0 else 1,
        }
        rows.append(row)
        click.echo(f"{target}: {row['inputs']} inputs, {row['memory_mb']} MB", err=True)
    lines = ["| reader | inputs | peak memory | found |", "|---|---:|---:|---:|"]
    lines += [
        f"| {r['reader']} | {r['inputs']} | {r['memory_mb']} MB | {r['found']} |" for r in rows
    ]
    facts = {**_facts(rows, seed), "minutes": minutes}
    (out / "fuzz.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    click.echo("\n".join(lines))
    return EXIT_FAILED if any(row["found"] for row in rows) else 0
