"""What the commands of the recipe share: options, device, folder of results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from recipes.images.priors import PRIOR_FORMS
from recipes.images.restore import SEEDS, SIGMA_Y

__all__ = ["common_options", "device_of", "made_folder", "samples_option", "seed_option"]


seed_option = click.option(
    "--seed", type=click.IntRange(0, SEEDS - 1), default=0, show_default=True
)


def samples_option(default: int, text: str) -> Callable[..., Any]:
    """How many samples to draw."""
    many = click.IntRange(1)
    return click.option("-n", "--samples", type=many, default=default, show_default=True, help=text)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that loads a prior."""
    options = [
        click.option(
            "--prior", "prior_name", default="digits", show_default=True, help=PRIOR_FORMS
        ),
        click.option(
            "--size",
            type=click.IntRange(1),
            help="Image side, for guided-diffusion checkpoints [256].",
        ),
        click.option(
            "--head-channels", type=click.IntRange(1), help="Channels per head, same [64]."
        ),
        click.option("--label", type=int, help="Class, for class-conditional diffusers priors."),
        click.option("--prompt", help="Text, for diffusers priors with text encoders."),
        click.option("--negative-prompt", "negative", default="", help="What stands for no text."),
        click.option(
            "--prompt-embeds",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A file of embeddings in place of --prompt.",
        ),
        click.option(
            "--guidance",
            default=1.0,
            show_default=True,
            help="Classifier-free guidance towards the class or text, against none.",
        ),
        click.option(
            "-d", "--device", default=None, help="cpu, cuda, ... [cuda where there is one]"
        ),
        click.option(
            "--kernel-weights", type=click.Path(), help="GOPRO_wVAE.pth, for nonlinear_blur."
        ),
        click.option(
            "--sigma-y",
            type=click.FloatRange(min=0, min_open=True),
            default=SIGMA_Y,
            show_default=True,
            help="Deviation of the noise.",
        ),
        seed_option,
        click.option(
            "--convert", is_flag=True, help="Convert modes, crop and resize images to fit."
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="NAME=VALUE",
            help="Change a setting of the sampler, such as gibbs=4 or conditional.steps=10.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def device_of(name: str | None) -> torch.device:
    """Device by its name, tried; without one CUDA where there is some."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.UsageError(
            f"device {name!r} cannot be used: {reason}; give another, such as cpu"
        ) from error
    return device


def made_folder(path: Path) -> Path:
    """Folder for the results, made before anything is computed; goes again if it stays empty."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        click.get_current_context().call_on_close(partial(_drop_empty, missing))
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(
            f"results cannot be written to {path}: {error.strerror or error}"
        ) from error
    return path


def _drop_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it holds something, or never was
            folder.rmdir()
