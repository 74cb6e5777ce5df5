"""Priors in the formats of diffusers: pipelines, or a network and a scheduler.

Only tensors and JSON are read: safetensors first, else a checkpoint that ``torch.load`` accepts
with ``weights_only``. No pipeline code of a repository is run.
"""

from __future__ import annotations

import inspect
import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.priors import Prior, ScorePrior, autoencoded, from_diffusers, text_conditions
from mgdm_core.priors.diffusers import Condition
from mgdm_core.schedule import NoiseSchedule
from recipes.images.errors import PriorError, PriorUsageError
from recipes.images.priors.guided import read_state_dict
from recipes.images.priors.image_prior import ImagePrior

__all__ = [
    "Told",
    "UnitRangePrior",
    "download_folder",
    "is_diffusers_folder",
    "load_diffusers_prior",
]

_VAES = ("VQModel", "AutoencoderKL")
_NETWORKS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "DiTTransformer2DModel",
)
_TEXT_PARTS = tuple(
    f"{part}{number}" for part in ("tokenizer", "text_encoder") for number in ("", "_2", "_3")
)


@dataclass(frozen=True)
class Told:
    """What a prior is told, and the guidance towards it.

    Parameters
    ----------
    label : int or None
        Class, of a network with a table of them.
    prompt, negative : str
        Text, and what stands for none; the pipeline's text encoders read both.
    prompt_embeds : Path or None
        File of embeddings in their place: ``prompt_embeds``, ``negative_prompt_embeds`` and, where
        the network takes them, ``pooled_prompt_embeds`` and ``negative_pooled_prompt_embeds``.
    guidance : float
        Scale of classifier-free guidance.
    """

    label: int | None = None
    prompt: str | None = None
    negative: str = ""
    prompt_embeds: Path | None = None
    guidance: float = 1.0

    def named(self, name: str) -> str:
        """Name of a prior that is told this."""
        about = {"class": self.label, "text": self.prompt or self.prompt_embeds}
        said = [f"{kind} {value}" for kind, value in about.items() if value is not None]
        return ", ".join([name, *said, f"guidance {self.guidance:g}"]) if said else name


def _line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
        plain = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
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
        raise PriorError(
            f"{repository!r} cannot be fetched from the hub: {_line(error)}"
        ) from error
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
        raise PriorError(f"{folder} does not load as {class_name}: {_line(error)}") from error
    return model.float().eval().requires_grad_(False)


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


def _conditions(
    network: Any, part: str, folder: Path, told: Told
) -> tuple[Condition | None, Condition | None]:
    """What the network is told, and what stands for none; (None, None) where it takes nothing."""
    config, name = network.config, type(network).__name__
    takes_text = "encoder_hidden_states" in inspect.signature(network.forward).parameters
    if takes_text:
        if (told.prompt is None) == (told.prompt_embeds is None) or told.label is not None:
            raise PriorUsageError(
                f"the {name} in {folder} takes a text: --prompt, or --prompt-embeds with a file of "
                f"its embeddings; found {told}"
            )
        if told.prompt_embeds is not None and told.negative:
            raise PriorUsageError(
                f"with --prompt-embeds what stands for no text is in the file; found "
                f"--negative-prompt {told.negative!r}"
            )
        if told.prompt is not None:
            pipeline = _text_pipeline(folder, part, network)
            return text_conditions(pipeline, told.prompt, told.negative)
        assert told.prompt_embeds is not None
        return _embeddings(told.prompt_embeds)
    if told.prompt is not None or told.prompt_embeds is not None or told.negative:
        raise PriorUsageError(f"the {name} in {folder} takes no text; found {told}")
    if config.get("class_embed_type") is not None:
        raise PriorError(
            f"the {name} in {folder} takes a class as {config.class_embed_type!r}; known here is a "
            f"table of classes (num_class_embeds)"
        )
    # With guidance in mind a U-net's table has one class more at its end, for none; DiT's has one
    # more than it says.
    beyond = config.get("num_embeds_ada_norm")
    count = config.get("num_class_embeds") if beyond is None else beyond
    if count is None:
        if told.label is not None or told.guidance != 1:
            raise PriorUsageError(
                f"the {name} in {folder} knows no classes; found --label {told.label}"
            )
        return None, None
    if told.label is None or not 0 <= told.label < count:
        raise PriorUsageError(
            f"the {name} in {folder} is class-conditional: --label is one of 0 to {count - 1}; "
            f"found {told.label}"
        )
    none = count - 1 if beyond is None else beyond
    if told.guidance != 1 and told.label == none:
        raise PriorUsageError(
            f"with guidance the last class, {none}, stands for none; choose one below it"
        )
    told_class, no_class = ({"class_labels": torch.tensor([k])} for k in (told.label, none))
    return told_class, no_class


def _embeddings(file: Path) -> tuple[Condition, Condition | None]:
    """Conditions of a file of embeddings, under the names that diffusers' pipelines have."""
    state = read_state_dict(file)
    names = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}
    told, untold = (
        {ours: state[start + theirs] for theirs, ours in names.items() if start + theirs in state}
        for start in ("", "negative_")
    )
    if "encoder_hidden_states" not in told:
        raise PriorError(
            f"{file} holds prompt_embeds, and with guidance negative_prompt_embeds; found "
            f"{', '.join(sorted(state))}"
        )
    return told, untold or None


def _text_pipeline(folder: Path, part: str, network: Any) -> Any:
    """The pipeline with its text encoders, around a network that is loaded already."""
    try:
        return _diffusers().DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **{part: network, "vae": None}
        )
    except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
        raise PriorError(f"the text encoders in {folder} do not load: {_line(error)}") from error


def _prior(network: Any, scheduler: dict[str, Any], folder: Path, part: str, told: Told) -> Prior:
    """Prior of a network under a scheduler's configuration."""
    name = scheduler.get("_class_name", "DDPMScheduler")
    condition, without = _conditions(network, part, folder, told)
    if name == "ScoreSdeVeScheduler":
        if condition is not None:
            raise PriorError(f"{folder}: under {name} a network that is told nothing is known here")
        low, high = math.log10(scheduler["sigma_min"]), math.log10(scheduler["sigma_max"])
        steps = int(scheduler["num_train_timesteps"])
        levels = NoiseSchedule.from_sigmas(torch.logspace(low, high, steps, dtype=torch.float64))
        # The images of these networks lie in [0, 1].
        return UnitRangePrior(ScorePrior(lambda x, time: network(x, time).sample, levels))
    kind = getattr(_diffusers(), name, None)
    if kind is None:
        raise PriorError(f"diffusers has no scheduler {name}")
    try:
        return from_diffusers(
            network, kind.from_config(scheduler), condition, without, told.guidance
        )
    except SettingsError as error:
        raise PriorError(f"{folder}: {error}") from error


def _side(network: Any, folder: Path) -> tuple[int, int]:
    size = network.config.sample_size
    if size is None:
        raise PriorError(f"the network in {folder} does not say its sample_size")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _part(folder: Path, name: str) -> Path:
    """Folder of a pipeline's part; old repositories keep a single model at the top."""
    return folder / name if (folder / name).is_dir() else folder


def load_diffusers_prior(
    folder: Path, name: str, device: torch.device | str = "cpu", told: Told | None = None
) -> ImagePrior:
    """Prior from a folder: a pipeline, a network with a scheduler, or a latent pipeline.

    Parameters
    ----------
    folder : Path
    name : str
        What the prior is called in results.
    device : torch.device or str
    told : Told or None
        Class or text, for a network that takes one, and the guidance towards it.

    Raises
    ------
    PriorError
        If a part is missing or of an unknown kind, or what the network is told is not what it
        takes.
    """
    told = told or Told()
    index_file = folder / "model_index.json"
    index = _read_json(index_file) if index_file.is_file() else {}
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    config = _read_json(_part(folder, part) / "config.json")
    class_name = config.get("_class_name", "UNet2DModel")
    if class_name not in _NETWORKS:
        raise PriorError(
            f"a prior's network is one of {', '.join(_NETWORKS)}; found {class_name} in {folder}"
        )
    scheduler_file = _part(folder, "scheduler") / "scheduler_config.json"
    if not scheduler_file.is_file():
        raise PriorError(f"{folder} has no scheduler_config.json to say the noise levels")
    known = (part, "scheduler", *_TEXT_PARTS)
    vaes = {k: v[1] for k, v in index.items() if isinstance(v, list) and v[1] in _VAES}
    other = [k for k, v in index.items() if isinstance(v, list) and v[1] and k not in known]
    if other and not vaes:
        raise PriorError(
            f"{folder} is no pipeline that is known here: it also has {', '.join(other)}"
        )
    network = _load_model(class_name, _part(folder, part)).to(device)
    prior = _prior(network, _read_json(scheduler_file), folder, part, told)
    identity = f"{folder.resolve()}, {told}"
    height, width = _side(network, folder)
    shape = (network.config.in_channels, height, width)
    for vae_part, kind in vaes.items():
        vae = _load_model(kind, _part(folder, vae_part)).to(device)
        if vae.config.latent_channels != shape[0]:
            raise PriorError(
                f"the autoencoder of {name} has {vae.config.latent_channels} latent channels, its "
                f"network {shape[0]}"
            )
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        image_shape = (vae.config.out_channels, height * factor, width * factor)
        latent = autoencoded(prior, vae)
        return ImagePrior(told.named(name), latent, image_shape, shape, "ffhq-latent", identity)
    return ImagePrior(told.named(name), prior, shape, shape, "ffhq-pixel", identity)
