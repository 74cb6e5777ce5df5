"""Priors on images by name or path."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from recipes.images.errors import PriorUsageError
from recipes.images.priors.diffusers_prior import (
    Told,
    download_folder,
    is_diffusers_folder,
    load_diffusers_prior,
)
from recipes.images.priors.digits import DIGITS_FILE, SIDE, load_digits_prior
from recipes.images.priors.guided import load_guided_prior
from recipes.images.priors.image_prior import ImagePrior
from recipes.images.tensor_files import checksum

__all__ = ["PRIOR_FORMS", "ImagePrior", "Told", "load_prior"]

PRIOR_FORMS = (
    "'digits' (embedded); a .safetensors file of train-digits; a folder of diffusers; OWNER/NAME "
    "on the hub, such as google/ddpm-celebahq-256; a guided-diffusion checkpoint (.pt, "
    ".safetensors)"
)
_REPOSITORY = re.compile(r"(hub:)?[\w.-]+/[\w.-]+")
# No tensor of a guided-diffusion checkpoint tells its image size; both published ones are at 256.
GUIDED_SIDE, GUIDED_HEAD = 256, 64


def load_prior(
    name: str,
    *,
    device: torch.device | str = "cpu",
    size: int | None = None,
    head_channels: int | None = None,
    told: Told | None = None,
) -> ImagePrior:
    """Prior by name or path.

    Parameters
    ----------
    name : str
        See :data:`PRIOR_FORMS`.
    device : torch.device or str
    size : int, optional
        Side of the images, for guided-diffusion checkpoints (256 by default).
    head_channels : int, optional
        Channels per attention head, for guided-diffusion checkpoints (64 by default).
    told : Told, optional
        Class or text and the guidance towards it, for diffusers' networks.

    Raises
    ------
    PriorUsageError
        With the valid forms, if there is no such prior; if a prior is told what it does not take.
    PriorError
        If a file is damaged or no prior.
    """
    path = Path(name).expanduser()
    guided = path.is_file() and not (path.suffix == ".safetensors" and _is_digits(path))
    if (size, head_channels) != (None, None) and not guided:
        raise PriorUsageError(
            f"--size and --head-channels are for checkpoints of guided-diffusion; found {name!r}"
        )
    if told not in (None, Told()) and (name == "digits" or path.is_file()):
        raise PriorUsageError(
            f"--label, --prompt and --guidance are for networks of diffusers; found {name!r}"
        )
    if name == "digits":
        return _digits("digits", DIGITS_FILE, device)
    if path.is_dir():
        if not is_diffusers_folder(path):
            raise PriorUsageError(
                f"folder {path} has neither model_index.json nor config.json; "
                f"a prior is one of: {PRIOR_FORMS}"
            )
        return load_diffusers_prior(path, path.name, device, told)
    if path.is_file():
        if not guided:
            return _digits(path.stem, path, device)
        heads = GUIDED_HEAD if head_channels is None else head_channels
        prior = load_guided_prior(path, device, head_channels=heads)
        config = prior.network.config  # type: ignore[attr-defined]
        side = GUIDED_SIDE if size is None else size
        if side % config.stride:
            raise PriorUsageError(
                f"--size is a multiple of {config.stride} for {path}; found {side}"
            )
        shape = (config.in_channels, side, side)
        preset = "ffhq-pixel" if config.model_channels < 256 else "imagenet-pixel"
        told_apart = f"{checksum(path)}, heads of {heads}"
        return ImagePrior(path.stem, prior, shape, shape, preset, told_apart)
    if _REPOSITORY.fullmatch(name) and not path.suffix:
        repository = name.removeprefix("hub:")
        return load_diffusers_prior(download_folder(repository), repository, device, told)
    raise PriorUsageError(f"no prior {name!r}; a prior is one of: {PRIOR_FORMS}")


def _digits(name: str, path: Path, device: torch.device | str) -> ImagePrior:
    shape, prior = (1, SIDE, SIDE), load_digits_prior(path, device)
    return ImagePrior(name, prior, shape, shape, "digits", checksum(path))


def _is_digits(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "sigma_data" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False
