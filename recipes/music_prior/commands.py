"""The commands of the recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click

from mgdm_audio.cli.common import Group
from recipes.music_prior.song_options import (
    music_options,
    segment_source,
    song_options,
    stream_settings,
)

__all__ = ["main"]


class _Lazy(Group):
    """Commands in files of their own, imported when they are asked for."""

    _elsewhere = {  # noqa: RUF012
        "inspect": ("recipes.music_prior.sound.inspect_songs", "main"),
        "instruments": ("recipes.music_prior.sound.inspect_instruments", "main"),
        "average": ("recipes.music_prior.training.average", "average"),
        "compare": ("recipes.music_prior.training.compare", "compare"),
        "join": ("recipes.music_prior.training.join", "join"),
        "part": ("recipes.music_prior.training.join", "part"),
        "kit": ("recipes.music_prior.training.kit", "kit"),
        "carry": ("recipes.music_prior.training.kit", "carry"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._elsewhere:
            module, name = self._elsewhere[cmd_name]
            return getattr(import_module(module), name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compose, render, train, validate and export the bundled music prior."""


@main.command()
@click.option("--hours", type=float, help="How many hours of songs to render.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--example", type=click.Path(path_type=Path), help="Folder for the example instead.")
@click.option("--split", type=click.Choice(("train", "valid")), default="train", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@music_options
def render(hours, out, example, split, seed, **music) -> None:
    """Render whole songs to {out}/{split}/TrackNNNNN/{bass,drums,guitar,piano}.wav at 22 050 Hz.

    What is there is kept: the command goes on where an earlier one stopped.
    """
    from recipes.music_prior.sound import render_files

    if example is not None:
        click.echo(str(render_files.write_example(example, music["soundfonts"])))
        return
    if hours is None or out is None:
        raise click.UsageError("give --hours and --out, or --example FOLDER")
    settings = stream_settings(**music, seed=seed, split=split)
    for folder, seconds, done in render_files.write_tracks(settings, out, hours):
        click.echo(f"{folder}  {seconds:.0f} s  ({done / 3600:.2f} of {hours:g} h)")


@main.command("sets")
@click.argument("shared", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where they are kept [default: validation_sets in MGDM_HOME or the user's cache].",
)
def sets(shared: Path, cache: Path | None) -> None:
    """Render the validation sets A, B and C from the material in SHARED; show what they are."""
    from recipes.music_prior.sound.validation_sets import SETS, validation_set

    for name in SETS:
        found = validation_set(name, shared, cache)
        items, _, samples = found.stems.shape
        click.echo(f"{found.identity}  {items} x {samples / 22_050:.1f} s")


@main.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--preset", "preset_name", default="cpu-2h", show_default=True)
@click.option("--resume", type=click.Choice(["auto", "never"]), default="auto", show_default=True)
@click.option("--minutes", type=float, help="Save and leave after this long.")
@click.option("--cpu-seconds", type=float, help="Save and leave after this much processor time.")
@click.option("--stop-after", type=int, help="Save and leave after this many steps.")
@click.option("--steps", type=int, help="Length of the whole run in steps.")
@click.option("--decay-steps", type=int, help="Steps of the final fall of the learning rate.")
@click.option("--learning-rate", type=float)
@click.option("--batch", type=int)
@click.option("--crop", type=click.FloatRange(0.1), help="Seconds of an item  [default: 3].")
@click.option("--cross-talk", type=float, help="Share of items with cross-talk; 0: white noise.")
@click.option("--items-per-step", type=float, help="New segments per step.")
@click.option(
    "--augmentation",
    type=click.FloatRange(0, 1),
    help="Of remixing, speeds, textures and equalisers: share of the usual.",
)
@click.option(
    "--decibels",
    type=click.FloatRange(0),
    help="Weight of the decibels of active stems beside the denoising loss.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--dry", is_flag=True, help="Every part of the preset, in a few tiny steps.")
@click.option("--compile/--no-compile", "compiled", default=None)
@click.option("--threads", type=int, help="CPU threads per process.")
@click.option(
    "--devices",
    type=click.IntRange(1),
    help="Processes, each with --batch items; without it every GPU has one, a CPU one.",
)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Exported weights to start from; a narrower network is widened.",
)
@song_options
def train(
    out: Path,
    preset_name: str,
    resume: str,
    minutes: float | None,
    cpu_seconds: float | None,
    stop_after: int | None,
    steps: int | None,
    decay_steps: int | None,
    learning_rate: float | None,
    batch: int | None,
    crop: float | None,
    cross_talk: float | None,
    items_per_step: float | None,
    augmentation: float | None,
    decibels: float | None,
    seed: int,
    dry: bool,
    compiled: bool | None,
    threads: int | None,
    devices: int | None,
    init: Path | None,
    data_dir: Path | None,
    **songs,
) -> None:
    """Train, or go on training the run in --out."""
    import torch
    from lightning.fabric.utilities import rank_zero_only

    from recipes.music_prior.songs.song import RATE, STEMS
    from recipes.music_prior.sound.stream import StreamSettings
    from recipes.music_prior.training.presets import preset
    from recipes.music_prior.training.train import train

    if threads:
        torch.set_num_threads(threads)
    settings = preset(preset_name, dry)
    changes = {
        "steps": steps,
        "decay_steps": decay_steps,
        "learning_rate": learning_rate,
        "compile": compiled,
        "decibels": decibels,
        "seed": seed,
    }
    settings = replace(settings, **{k: v for k, v in changes.items() if v is not None})
    samples = None if crop is None else round(crop * RATE)
    changes = {"batch": batch, "items_per_step": items_per_step, "crop": samples}
    changes = {k: v for k, v in changes.items() if v is not None}
    settings = replace(settings, data=replace(settings.data, **changes))
    if augmentation is not None:
        settings = replace(settings, data=settings.data.augmented(augmentation))
    songs["segment"] = max(
        StreamSettings.segment, -(-settings.data.crop * 5 // 4)
    )  # some are played faster
    if cross_talk is not None:
        settings = replace(settings, corruption=replace(settings.corruption, cross_talk=cross_talk))
    songs["other"] = settings.network.stems > len(STEMS)
    source, identity = segment_source(data_dir, seed=seed, split="train", **songs)
    origin = None
    if init is not None:
        from recipes.music_prior.training.export import read_network

        origin = read_network(init)
    # Of several processes the first one speaks.
    echo = rank_zero_only(click.echo)
    echo(f"{preset_name}: {json.dumps(settings.to_dict())}")

    def progress(row: dict[str, float]) -> None:
        eta = row["eta_seconds"]
        click.echo(
            f"step {row['step']:.0f}/{row['steps']:.0f}  loss {row['loss']:.3f} "
            f"(low {row['loss_low']:.3f} middle {row['loss_middle']:.3f} "
            f"high {row['loss_high']:.3f})  |g| {row['gradient_norm']:.2f}  "
            f"{row['step_seconds']:.2f} s/step  waiting {100 * row['waiting_share']:.1f} %  "
            f"ETA {hours(eta)}"
        )

    state = train(
        settings,
        source,
        out,
        resume=resume == "auto",
        minutes=minutes,
        cpu_seconds=cpu_seconds,
        stop_after=stop_after,
        origin=origin,
        identity=identity,
        report_every=1 if dry else 20,
        progress=progress,
        devices=devices or "auto",
    )
    echo(f"saved step {state['step']} in {os.fspath(out)}")


@main.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    default="mgdm_audio/weights/music_stems.safetensors",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights of CHECKPOINT as a safetensors file."""
    from recipes.music_prior.training.export import export as write

    header = write(checkpoint, out)
    size = out.stat().st_size / 1e6
    click.echo(f"{out}: {size:.1f} MB, step {header.training['steps']}")


@main.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--segments", default=48, show_default=True, help="Segments of 6 s.")
@click.option(
    "--other", is_flag=True, help="A fifth stem: other instruments and voices in half of it."
)
@song_options
def pack(out: Path, segments: int, data_dir: Path | None, **songs) -> None:
    """Render segments into shards, for training where nothing can be rendered."""
    from recipes.music_prior.training.sources import pack as write

    source, _ = segment_source(data_dir, seed=0, split="train", **songs)
    size = write(source, out, segments)
    click.echo(f"{segments} segments, {size / 1e6:.1f} MB in {out}")


@main.command()
@click.argument("checkpoints", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--shared",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with midi, soundfonts and audio, which the sets are made of.",
)
@click.option("--sets", "names", default="ABC", show_default=True, help="Of A, B, C, U.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Of the sets.")
@click.option("--preset", "preset_name", help="Way to separate  [default: that of mgdm-separate].")
@click.option("--sampler", help="Another sampler, with its own settings.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Sampler setting.")
@click.option("--denoise", is_flag=True, help="Denoising of clean stems in white noise, too.")
@click.option("--alone", is_flag=True, help="Where stems end that play alone, too.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Keep the figures.")
@click.option("--label", default="", help="Kept with the figures.")
@click.option("--threads", type=int, help="CPU threads.")
def validate(
    checkpoints: tuple[Path, ...],
    shared: Path,
    names: str,
    cache: Path | None,
    preset_name: str | None,
    sampler: str | None,
    changes: tuple[str, ...],
    denoise: bool,
    alone: bool,
    out: Path | None,
    label: str,
    threads: int | None,
) -> None:
    """Measure CHECKPOINTS (of the training, or exported) on the validation sets.

    A fifth stem is told to be silent. With --out a line is added to OUT/validation.jsonl, and
    OUT/validation.png drawn from it and from the run's log.
    """
    import torch

    from mgdm_audio.sampling.presets import DEFAULT_PRESET, sampling_settings
    from mgdm_audio.sampling.recalibration import recalibration
    from recipes.music_prior.songs.song import STEMS
    from recipes.music_prior.sound.validation_sets import validation_set
    from recipes.music_prior.training import validate as validation

    if threads:
        torch.set_num_threads(threads)
    if any("=" not in change for change in changes):
        raise click.UsageError("--set takes NAME=VALUE")
    if not names:
        raise click.UsageError("--sets names at least one of A, B, C and U; found none")
    values = dict(change.split("=", 1) for change in changes)
    sampling = sampling_settings(preset_name or DEFAULT_PRESET, sampler=sampler, changes=values)
    sets = [validation_set(name, shared, cache) for name in names]
    for path in checkpoints:
        prior = validation.read_prior(path)
        spent = prior.training.get("cpu_seconds", 0)
        click.echo(f"{path}: step {prior.training['steps']}, {spent / 3600:.2f} core-hours {label}")
        if sampling.recalibrated and recalibration(prior.checksum) is None:
            click.echo("  nothing was fitted for it: its shares are not corrected")

        def show(identity: str, scores) -> None:
            click.echo(f"  {identity}  {_decibels(scores.per_stem.tolist())}")
            found: dict[str, float] = dict(zip(STEMS, scores.retained_per_stem.tolist()))
            bounds = f"{scores.interval.low:.2f} to {scores.interval.high:.2f}"
            click.echo(f"  {identity}  95 % over songs {bounds} dB; in its stem {_shares(found)}")

        result = validation.validate(
            prior, sets, sampling, denoise=denoise, alone=alone, progress=show
        )
        for sigma, per_stem in result.get("denoising_sdr", {}).items():
            click.echo(f"  denoising at {sigma:g}: " + _decibels(per_stem))
        for stem, shares in result.get("alone", {}).items():
            click.echo(f"  {stem} alone ends in {_shares(shares)}")
        for name, figures in result.items():
            if "wiener" in figures:
                wiener, cost = figures["wiener"], figures["real_time"]
                click.echo(f"  {name}  Wiener {wiener:.2f} dB; {cost:.2f} s per second of music")
            elif name not in ("denoising_sdr", "alone"):
                click.echo(f"  {name}  the unknown sound ends in {_shares(figures)}")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            line = {"file": path.name, "label": label, "cpu_seconds": spent, **result}
            with (out / "validation.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            validation.plot(out, out / "validation.png")


def _shares(shares: Mapping[str, float]) -> str:
    return "  ".join(f"{stem} {share:.0%}" for stem, share in shares.items())


def hours(seconds: float) -> str:
    """Write a duration in hours and minutes."""
    whole, minutes = divmod(round(seconds / 60), 60)
    return f"{whole} h {minutes} min"


def _decibels(per_stem: list[float]) -> str:
    stems = zip(("bass", "drums", "guitar", "piano"), per_stem)
    parts = "  ".join(f"{name} {value:.2f}" for name, value in stems)
    return f"{sum(per_stem) / len(per_stem):.2f} dB ({parts})"
