"""Networks at equal processor time: the same songs, one thread each; what they separate then."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgdm_audio.io.atomic import write_text
from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.song_options import music_options

if TYPE_CHECKING:
    from recipes.music_prior.sound.validation_sets import ValidationSet

__all__ = ["compare"]

NETWORKS = (
    "cpu-2h",
    "cpu-2h-12s",
    "cpu-2h-4096",
    "cpu-2h-pitch",
    "cpu-dual",
    "cpu-dual-12s",
    "cpu-tfc",
)


def _train(out: Path, preset: str, arguments: list[str]) -> None:
    """One run of the training in a process of its own; goes on where it was stopped."""
    command = [sys.executable, "-m", "recipes.music_prior", "train", "--out", os.fspath(out)]
    command += ["--preset", preset, "--threads", "1", "--devices", "1", "--decay-steps", "0"]
    done = subprocess.run([*command, *arguments], check=False)
    if done.returncode:
        raise click.ClickException(f"the training of {preset} ended with {done.returncode}")


def _row(run: Path, sets: list[ValidationSet]) -> dict[str, Any]:
    """Figures of a run: steps, processor time, loss of the last quarter, the sets."""
    import torch

    from mgdm_audio.sampling.presets import sampling_settings
    from recipes.music_prior.training.validate import read_prior, validate

    torch.set_num_threads(1)
    log = run / "log.csv"
    rows = list(csv.DictReader(log.read_text("utf-8").splitlines())) if log.exists() else []
    if not rows:
        raise MGDMError(f"{run} has no line in its log: it takes more --cpu-seconds")
    late = rows[-max(1, len(rows) // 4) :]
    prior = read_prior(run / "last.pt")
    scores = validate(prior, sets, sampling_settings("fast"))
    return {
        "steps": prior.training["steps"],
        "cpu_seconds": prior.training["cpu_seconds"],
        "parameters": sum(p.numel() for p in prior.network.parameters()),
        "loss": sum(float(row["loss"]) for row in late) / len(late),
        "sets": {key[0]: value["per_stem"] for key, value in scores.items()},
    }


def _told(row: dict[str, Any]) -> str:
    parts = [f"{row['network']:14s} {row['steps']:5d} steps"]
    parts.append(f"{row['cpu_seconds'] / row['steps']:.2f} CPU s each  loss {row['loss']:.3f}")
    for name, stems in row["sets"].items():
        each = ", ".join(f"{value:.1f}" for value in stems)
        parts.append(f"{name} {sum(stems) / len(stems):.2f} ({each})")
    return "  ".join(parts)


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--shared",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with midi, soundfonts and audio, which the sets are made of.",
)
@click.option("--network", "networks", multiple=True, help="Training preset  [default: seven].")
@click.option("--cpu-seconds", default=1260.0, show_default=True, help="Of every training.")
@click.option("--learning-rate", default=7e-4, show_default=True)
@click.option("--sets", "names", default="CB", show_default=True)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights that all start from, instead of from average spectra.",
)
@music_options
def compare(
    out: Path,
    shared: Path,
    networks: tuple[str, ...],
    cpu_seconds: float,
    learning_rate: float,
    names: str,
    init: Path | None,
    midi_dirs: tuple[str, ...],
    soundfonts: tuple[str, ...],
    heldout_soundfonts: tuple[str, ...],
    composed_share: float,
) -> None:
    """Train networks for the same processor time, one after the other, and score them.

    What OUT/comparison.jsonl holds already is not done again; other settings need another OUT.
    """
    from recipes.music_prior.sound.validation_sets import validation_set
    from recipes.music_prior.training.presets import preset

    asked = {
        "--cpu-seconds": [cpu_seconds],
        "--learning-rate": [learning_rate],
        "--composed-share": [composed_share],
        "--midi-dir": [*midi_dirs],
        "--soundfont": [*soundfonts],
        "--heldout-soundfont": [*heldout_soundfonts],
        "--init": [] if init is None else [os.fspath(init)],
    }
    given = [str(text) for name, values in asked.items() for v in values for text in (name, v)]
    table, settings = out / "comparison.jsonl", out / "comparison.json"
    asked = {**asked, "--sets": [names]}
    if table.exists() or settings.exists():
        before = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
        other = [name for name in asked if before.get(name) != asked[name]]
        if other:
            raise SettingsError(
                f"{out} holds a comparison with other {', '.join(other)}; give another folder"
            )
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    try:
        known = {row["network"]: row for row in map(json.loads, lines)}
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{table} has a line that is no row ({error}); remove it") from error
    chosen = networks or NETWORKS
    # Before anything is trained: what there is not, is refused here.
    for network in chosen:
        preset(network)
    sets = [validation_set(n, shared) for n in names] if {*chosen} - {*known} else []
    write_text(settings, json.dumps(asked))
    for network in chosen:
        if network not in known:
            _train(out / network, network, given)
            known[network] = {"network": network, **_row(out / network, sets)}
            write_text(table, "".join(json.dumps(row) + "\n" for row in known.values()))
        click.echo(_told(known[network]))
