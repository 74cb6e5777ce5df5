"""Priors in the formats of diffusers: unconditional pipelines, or a UNet2DModel and a scheduler.

Only tensors and JSON are read: safetensors first, else a checkpoint that ``torch.load`` accepts
with ``weights_only``. No pipeline code of a repository is run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.priors import (
    GuidedPrior,
    LatentPrior,
    NoisePredictionPrior,
    Prior,
    ScorePrior,
    VelocityPrior,
)
from mgdm_core.schedule import NoiseSchedule
from recipes.images.errors import PriorError
from recipes.images.priors.guided import read_state_dict
from recipes.images.priors.image_prior import ImagePrior

__all__ = ["UnitRangePrior", "download_folder", "is_diffusers_folder", "load_diffusers_prior"]

_VAES = ("VQModel", "AutoencoderKL")


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise PriorError(
            "this prior is in the format of diffusers, which is not installed; "
            "pip install diffusers"
        ) from error
    return diffusers


def is_diffusers_folder(path: Path) -> bool:
    """Whether a folder holds a pipeline, or a U-net with its configuration."""
    return any((path / name).is_file() for name in ("model_index.json", "config.json"))


def download_folder(repository: str) -> Path:
    """Fetch configurations and weights of a hub repository, safetensors where it has them.

    Raises
    ------
    PriorError
        If it cannot be reached, or there is none of that name.
    """
    _diffusers()
    from huggingface_hub import snapshot_download

    try:
        plain = ["*.json", "*/*.json"]
        folder = Path(
            snapshot_download(
                repository, allow_patterns=[*plain, "*.safetensors", "*/*.safetensors"]
            )
        )
        if not any(folder.rglob("*.safetensors")):
            folder = Path(
                snapshot_download(repository, allow_patterns=[*plain, "*.bin", "*/*.bin"])
            )
    except Exception as error:  # the hub's client raises many kinds, all meaning the same here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PriorError(f"{repository!r} cannot be fetched from the hub: {reason}") from error
    return folder


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PriorError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise PriorError(f"{file} holds no JSON object")
    return content


def _load_model(class_name: str, folder: Path) -> Any:
    """Instance of a diffusers model class from a folder, in float32, its tensors read safely."""
    diffusers = _diffusers()
    safe = any(folder.glob("*.safetensors"))
    if not safe:
        files = sorted(folder.glob("*.bin"))
        if not files:
            raise PriorError(f"{folder} holds neither .safetensors nor .bin weights")
        for file in files:
            read_state_dict(file)  # refuses what is no plain tensors before anybody else reads it
    try:
        model = getattr(diffusers, class_name).from_pretrained(
            folder, use_safetensors=safe, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PriorError(f"{folder} does not load as {class_name}: {reason}") from error
    return model.float().eval().requires_grad_(False)


class _SamplePrior(NoisePredictionPrior):
    """Network that predicts x_0 itself from x_t."""

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._call(x, self._time(t))


class UnitRangePrior:
    """A variance-exploding prior on [0, 1] seen on [-1, 1].

    With x' = 2 x - 1 noise of deviation sigma becomes 2 sigma.

    Parameters
    ----------
    prior : Prior
        With alpha = 1 at every level.
    """

    def __init__(self, prior: Prior) -> None:
        inner = prior.schedule
        self.inner = prior
        self.schedule = NoiseSchedule(inner.alpha, 2 * inner.sigma, inner.name)

    def denoise(
        self, x: Float[Tensor, "batch *event"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """Estimate E[x_0 | x_t] in [-1, 1]."""
        return 2 * self.inner.denoise(0.5 * (x + 1), t) - 1


def _network(unet: Any, label: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    if label is None:
        return lambda x, time: unet(x, time).sample
    return lambda x, time: unet(x, time, torch.full((len(x),), label, device=x.device)).sample


def _labelled(
    unet: Any, scheduler: dict[str, Any], folder: Path, label: int | None, guidance: float
) -> Prior:
    """Prior of a U-net, of a class where it knows classes, with classifier-free guidance."""
    classes = unet.config.num_class_embeds
    if unet.config.class_embed_type is not None:
        raise PriorError(
            f"the U-net in {folder} takes a class as {unet.config.class_embed_type!r}; known here "
            f"is a table of classes (num_class_embeds)"
        )
    if classes is None:
        if label is not None or guidance != 1:
            raise PriorError(f"the U-net in {folder} knows no classes; found --label {label}")
        return _prior(unet, scheduler)
    if label is None or not 0 <= label < classes:
        raise PriorError(
            f"the U-net in {folder} is class-conditional: --label is one of 0 to {classes - 1}; "
            f"found {label}"
        )
    of_class = _prior(unet, scheduler, label)
    if guidance == 1:
        return of_class
    # Trained for guidance, such a table has one class more at its end, for none.
    if label == classes - 1:
        raise PriorError(
            f"with guidance the last class, {label}, stands for none; choose one below it"
        )
    return GuidedPrior(of_class, _prior(unet, scheduler, classes - 1), guidance)


def _prior(unet: Any, scheduler: dict[str, Any], label: int | None = None) -> Prior:
    """Prior of a U-net under a scheduler's configuration."""
    diffusers = _diffusers()
    name = scheduler.get("_class_name", "DDPMScheduler")
    if name == "ScoreSdeVeScheduler":
        low, high = float(scheduler["sigma_min"]), float(scheduler["sigma_max"])
        steps = int(scheduler["num_train_timesteps"])
        sigmas = torch.logspace(
            torch.tensor(low).log10().item(),
            torch.tensor(high).log10().item(),
            steps,
            dtype=torch.float64,
        )
        # The images of these networks lie in [0, 1].
        return UnitRangePrior(ScorePrior(_network(unet, label), NoiseSchedule.from_sigmas(sigmas)))
    kind = getattr(diffusers, name, None)
    built = None if kind is None else kind.from_config(scheduler)
    if not hasattr(built, "alphas_cumprod"):
        raise PriorError(
            f"scheduler {name} has no noise levels that are known here; use a pipeline with a "
            f"DDPM, DDIM or other scheduler with alphas_cumprod, or ScoreSdeVeScheduler"
        )
    schedule = NoiseSchedule.from_alphas_cumprod(built.alphas_cumprod, name)  # pyright: ignore
    predicts = scheduler.get("prediction_type", "epsilon")
    families = {
        "epsilon": NoisePredictionPrior,
        "v_prediction": VelocityPrior,
        "sample": _SamplePrior,
    }
    if predicts not in families:
        raise PriorError(
            f"prediction_type is one of {', '.join(families)}; found {predicts!r} in {name}"
        )
    return families[predicts](_network(unet, label), schedule)


def _side(unet: Any, folder: Path) -> tuple[int, int]:
    size = unet.config.sample_size
    if size is None:
        raise PriorError(f"the U-net in {folder} does not say its sample_size")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _part(folder: Path, name: str) -> Path:
    """Folder of a pipeline's part; old repositories keep a single model at the top."""
    return folder / name if (folder / name).is_dir() else folder


def load_diffusers_prior(
    folder: Path,
    name: str,
    device: torch.device | str = "cpu",
    label: int | None = None,
    guidance: float = 1.0,
) -> ImagePrior:
    """Prior from a folder: a pipeline, a U-net with a scheduler, or a latent pipeline.

    Parameters
    ----------
    folder : Path
    name : str
        What the prior is called in results.
    device : torch.device or str
    label : int or None
        Class, for a U-net that knows classes.
    guidance : float
        Scale of classifier-free guidance towards the class, against the last class of the table.

    Raises
    ------
    PriorError
        If a part is missing or of an unknown kind, or the class is not one of the U-net's.
    """
    index_file = folder / "model_index.json"
    index = _read_json(index_file) if index_file.is_file() else {}
    config = _read_json(_part(folder, "unet") / "config.json")
    class_name = config.get("_class_name", "UNet2DModel")
    if class_name != "UNet2DModel":
        raise PriorError(
            f"a prior has a UNet2DModel, with or without classes; found {class_name} in {folder}"
        )
    unet = _load_model("UNet2DModel", _part(folder, "unet")).to(device)
    scheduler_file = _part(folder, "scheduler") / "scheduler_config.json"
    if not scheduler_file.is_file():
        raise PriorError(f"{folder} has no scheduler_config.json to say the noise levels")
    prior = _labelled(unet, _read_json(scheduler_file), folder, label, guidance)
    name = name if label is None else f"{name}, class {label}, guidance {guidance:g}"
    height, width = _side(unet, folder)
    shape = (unet.config.in_channels, height, width)
    for part, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[1] in _VAES:
            vae = _load_model(entry[1], _part(folder, part)).to(device)
            return _latent(name, prior, vae, entry[1], shape)
    known = ("unet", "scheduler")
    other = [k for k, v in index.items() if isinstance(v, list) and v[1] and k not in known]
    if other:
        raise PriorError(
            f"{folder} is no unconditional pipeline that is known here: it also has "
            f"{', '.join(other)}"
        )
    return ImagePrior(name, prior, shape, shape, "ffhq-pixel")


def _latent(
    name: str, prior: Prior, vae: Any, kind: str, shape: tuple[int, int, int]
) -> ImagePrior:
    """Latent prior with the autoencoder's decoder, differentiable through the quantiser too."""
    if vae.config.latent_channels != shape[0]:
        raise PriorError(
            f"the autoencoder of {name} has {vae.config.latent_channels} latent channels, its "
            f"U-net {shape[0]}"
        )
    shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def encode(x: Tensor) -> Tensor:
        out = vae.encode(x)
        z = out.latents if kind == "VQModel" else out.latent_dist.mode()
        return z - shift

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z + shift).sample

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    latent = LatentPrior(prior, encode, decode, float(vae.config.scaling_factor))
    image_shape = (vae.config.out_channels, shape[1] * factor, shape[2] * factor)
    return ImagePrior(name, latent, image_shape, shape, "ffhq-latent")
