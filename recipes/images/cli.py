"""``python -m recipes.images``: restore an image, sweep over tasks and samplers, demo, train."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mgdm_audio.cli.common import Group
from mgdm_audio.io.atomic import FileOutput, commit_all
from mgdm_core.samplers import SAMPLERS
from recipes.images.demo import run_demo
from recipes.images.errors import ImageError
from recipes.images.image_io import image_files, read_image, read_observation, write_image
from recipes.images.metrics import LPIPS, measure_words
from recipes.images.options import (
    common_options,
    device_of,
    made_folder,
    samples_option,
    seed_option,
)
from recipes.images.pictures import comparison
from recipes.images.presets import DEFAULT, apply_changes, checked, describe, settings_for
from recipes.images.priors import PRIOR_FORMS, Told, load_prior
from recipes.images.restore import Restoration, measure, observe, restore
from recipes.images.sweep import PSEUDO_INVERSE, Sweep, run_sweep
from recipes.images.tasks import LINEAR_TASKS, TASKS, Degradation, build_task, task_names

__all__ = ["main"]

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Restore images with a diffusion prior by the samplers of mgdm_core."""


@main.command("tasks")
def list_tasks() -> None:
    """List the tasks, the samplers and the forms of a prior."""
    for name, info in TASKS.items():
        kind = "linear" if name in LINEAR_TASKS else "nonlinear"
        console.print(f"{name:20} {info.title} ({kind}{'' if info.published else ', ours'})")
    console.print(f"samplers: {DEFAULT}, {', '.join(SAMPLERS)}")
    console.print(f"priors: {PRIOR_FORMS}")


@main.command("restore")
@click.argument("image")
@click.option("-t", "--task", required=True, help="See the command 'tasks'.")
@click.option(
    "-s",
    "--sampler",
    default=DEFAULT,
    show_default=True,
    help="A name; by default for the problem.",
)
@samples_option(4, "Posterior samples.")
@click.option("--observation", is_flag=True, help="IMAGE is degraded already (.npy for spectra).")
@click.option("--truth", type=click.Path(), help="The clean image, for metrics with --observation.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("restored"))
@click.option("--overwrite", is_flag=True, help="Replace the restoration in that folder.")
@common_options
def restore_command(
    image: str,
    task: str,
    sampler: str,
    samples: int,
    observation: bool,
    truth: str | None,
    out: Path,
    overwrite: bool,
    prior_name: str,
    size: int | None,
    head_channels: int | None,
    device: str | None,
    kernel_weights: str | None,
    sigma_y: float,
    seed: int,
    convert: bool,
    changes: tuple[str, ...],
    **told: Any,
) -> None:
    """Degrade IMAGE (a file or digit:N) and restore it; writes images, a picture and a JSON."""
    if truth is not None and not observation:
        raise click.UsageError("--truth goes with --observation; without it IMAGE is the truth")
    checked(sampler)
    task_names(task)
    if _written(out) and not overwrite:
        raise ImageError(
            f"{out} holds a restoration already; use --overwrite to replace it, or another --out"
        )
    where = device_of(device)
    prior = load_prior(
        prior_name,
        device=where,
        size=size,
        head_channels=head_channels,
        told=Told(**told),
    )
    degradation = build_task(task, prior.image_shape, seed=seed, kernel_weights=kernel_weights)
    settings = apply_changes(settings_for(sampler, degradation, prior), changes)
    made_folder(out)
    clean = None
    if observation:
        seen = read_observation(Path(image), prior.image_shape[0], convert=convert)
        y = degradation.observe(seen)[None].to(where)
        if truth is not None:
            clean = read_image(truth, prior.image_shape, prior=prior.name, convert=convert)[None]
    else:
        clean = read_image(image, prior.image_shape, prior=prior.name, convert=convert)[None]
        y = observe(degradation, clean.to(where), sigma_y, seed)
    with _progress() as bar:
        job = bar.add_task(f"{task}, {sampler}", total=1.0)
        result = restore(
            prior,
            degradation,
            y,
            settings,
            samples=samples,
            sigma_y=sigma_y,
            seed=seed,
            callback=lambda p: bar.update(job, completed=p.step / p.steps),
        )
        bar.update(job, completed=1.0)
    record = {
        "image": image,
        "task": task,
        "sampler": sampler,
        "settings": describe(settings),
        "prior": {
            "name": prior.name,
            "image_shape": list(prior.image_shape),
            "latent": prior.latent,
        },
        "samples": samples,
        "sigma_y": sigma_y,
        "seed": seed,
        "machine": f"{platform.machine()}, {where}, torch {torch.__version__}",
    }
    _write_restoration(out, record, degradation, y.cpu(), result, clean)


def _write_restoration(
    out: Path,
    record: dict[str, Any],
    degradation: Degradation,
    y: torch.Tensor,
    result: Restoration,
    clean: torch.Tensor | None,
) -> None:
    captions = []
    record["metrics"] = None
    if clean is not None:
        lpips = LPIPS()
        metrics = measure(clean, result, lpips)[0]
        kept = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        record["metrics"] = {**kept, "lpips_note": lpips.reason}
        captions = [measure_words(metrics)]
        console.print(captions[0])
        if lpips.reason:
            console.print(lpips.reason)
    record["seconds"] = result.seconds
    record["trace"] = result.trace.to_dict()
    outputs: list[FileOutput] = []

    def add(name: str, write: Callable[[Path], object]) -> None:
        outputs.append(FileOutput(out / name, write, overwrite=True))

    for k, sample in enumerate(result.samples[0]):
        add(f"restoration_{k + 1}.png", partial(write_image, image=sample))
    if result.samples.shape[1] > 1:
        add("mean.png", partial(write_image, image=result.mean[0]))
    add("observation.png", partial(write_image, image=degradation.picture(y)[0]))
    seen = y if degradation.keep is None else _full(degradation, y)
    add("observation.npy", partial(_save_array, array=seen[0].numpy()))
    title = f"{TASKS[record['task']].title} · {record['sampler']} · {record['prior']['name']}"
    picture = partial(comparison, degradation=degradation, y=y, restoration=result, truth=clean)
    add("comparison.png", partial(picture, title=title, captions=captions))
    add("result.json", lambda path: path.write_text(json.dumps(record, indent=1)))
    earlier = _written(out)
    commit_all(outputs)
    for path in earlier - {output.path for output in outputs}:
        path.unlink()
    for warning in result.trace.warnings:
        console.print(f"warning: {warning}")
    console.print(f"written to {out}")


def _written(out: Path) -> set[Path]:
    """What an earlier call has written to a folder."""
    names = ("restoration_*.png", "mean.png", "observation.*", "comparison.png", "result.json")
    return {path for name in names for path in out.glob(name)}


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # under another name: NumPy would add a suffix
        np.save(file, array)


def _full(degradation: Degradation, y: torch.Tensor) -> torch.Tensor:
    """Observation of a mask as a whole image, zero where nothing is observed."""
    return degradation.operator.adjoint(y)  # type: ignore[attr-defined]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _numbers(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise click.BadParameter(
            f"--gibbs takes whole numbers such as 1,2,4; found {text!r}"
        ) from error
    if any(v < 1 for v in values):
        raise click.BadParameter(f"--gibbs takes numbers of at least 1; found {text!r}")
    return list(dict.fromkeys(values))


@main.command("sweep")
@click.option(
    "--tasks", default="published", show_default=True, help="Names, or all, published, linear."
)
@click.option(
    "--samplers", default=DEFAULT, show_default=True, help=f"Names; {PSEUDO_INVERSE} is one too."
)
@click.option(
    "--images",
    default="digits:20",
    show_default=True,
    help="A folder; digits:N, the first N held-out digits; digits:A-B, those from A to B.",
)
@click.option("--gibbs", default="", help="MGDM's R, such as 1,2,4,6: draws quality against R.")
@samples_option(1, "Posterior samples per image.")
@click.option("--batch", type=int, help="Images per run [20 for digits, else 1].")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/images"))
@common_options
def sweep_command(
    tasks: str,
    samplers: str,
    images: str,
    gibbs: str,
    samples: int,
    batch: int | None,
    out: Path,
    prior_name: str,
    size: int | None,
    head_channels: int | None,
    device: str | None,
    kernel_weights: str | None,
    sigma_y: float,
    seed: int,
    convert: bool,
    changes: tuple[str, ...],
    **told: Any,
) -> None:
    """Restore a folder of images under many tasks with many samplers; resumable; writes a table.

    --set takes SAMPLER:NAME=VALUE here, for one of the samplers.
    """
    parts = (name.strip() for name in samplers.split(","))
    chosen = list(dict.fromkeys(name for name in parts if name))
    for name in chosen:
        if name != PSEUDO_INVERSE:
            checked(name)
    plan = Sweep(
        tasks=task_names(tasks),
        samplers=chosen,
        gibbs=_numbers(gibbs),
        samples=samples,
        sigma_y=sigma_y,
        seed=seed,
        batch=(20 if prior_name == "digits" else 1) if batch is None else batch,
        changes=changes,
        kernel_weights=kernel_weights,
    )
    where = device_of(device)
    prior = load_prior(
        prior_name,
        device=where,
        size=size,
        head_channels=head_channels,
        told=Told(**told),
    )

    def load(name: str) -> torch.Tensor:
        return read_image(name, prior.image_shape, prior=prior.name, convert=convert)

    names = image_files(images)
    made_folder(out)
    with _progress() as bar:
        job = bar.add_task("sweep", total=1)

        def report(cell: str, done: int, total: int) -> None:
            bar.update(job, description=cell, completed=done, total=total)

        done = run_sweep(out, plan, prior, names, load, device=where, report=report)
    console.print((out / "table.md").read_text())
    console.print(f"written to {out}")
    failed = [cell for cell in done if "failed" in cell]
    for cell in failed:
        where = f"{cell['task']}, {cell['label']}, {', '.join(cell['images'])}"
        click.echo(f"failed: {where}: {cell['failed']}", err=True)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(done)} cells failed; the same command tries them again"
        )


@main.command("demo")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/images-demo"))
@click.option("--digits", "count", default=8, show_default=True, help="Digits in the row.")
@samples_option(4, "Posterior samples per digit.")
@seed_option
def demo_command(out: Path, count: int, samples: int, seed: int) -> None:
    """Restore a row of held-out digits under four tasks with the embedded prior; no download."""
    made_folder(out)
    with _progress() as bar:
        job = bar.add_task("demo", total=1.0)
        lines = run_demo(
            out,
            count=count,
            samples=samples,
            seed=seed,
            report=lambda name, share: bar.update(job, description=name, completed=share),
        )
    for line in lines:
        console.print(line)
    console.print(f"written to {out / 'demo.png'}")


@main.command("train-digits")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help=".safetensors",
)
@click.option("--steps", default=3000, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--seed", default=0, show_default=True)
def train_command(out: Path, steps: int, batch: int, seed: int) -> None:
    """Train the digits prior anew (minutes on a CPU); use it as --prior FILE."""
    from recipes.images.train_digits import train_digits

    if out.suffix != ".safetensors":  # by that --prior knows it
        raise click.UsageError(f"the name of the prior ends in .safetensors; found {out.name}")
    made_folder(out.parent)
    with _progress() as bar:
        job = bar.add_task("training", total=steps)
        final = train_digits(
            out,
            steps=steps,
            batch=batch,
            seed=seed,
            report=lambda step, loss: bar.update(
                job, completed=step, description=f"training, loss {loss:.3f}"
            ),
            report_every=10,
        )
    console.print(f"held-out loss {final:.4f}; written to {out}")
