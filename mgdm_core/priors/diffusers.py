"""Priors from models of diffusers: any network, its scheduler's levels, classes, texts, guidance.

Nothing of diffusers is imported here: a network is what returns ``.sample``, a scheduler its
``config`` and, but for flows, its ``alphas_cumprod``.

>>> told, untold = text_conditions(pipeline, "a harbour at dusk")  # doctest: +SKIP
>>> prior = from_diffusers(pipeline.transformer, pipeline.scheduler, told, untold, guidance=4.0)
... # doctest: +SKIP
>>> prior = autoencoded(prior, pipeline.vae)  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from mgdm_core.array_types import Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.priors.guided import GuidedPrior
from mgdm_core.priors.latent import LatentPrior
from mgdm_core.priors.network import (
    FlowPrior,
    NoisePredictionPrior,
    SamplePrior,
    VelocityPrior,
)
from mgdm_core.priors.protocol import Prior
from mgdm_core.schedule import NoiseSchedule

Condition = Mapping[str, Any]
"""Keyword arguments of a network: tensors with one row, for all items, or mappings of such."""

_PREDICTIONS = {
    "epsilon": NoisePredictionPrior,
    "v_prediction": VelocityPrior,
    "sample": SamplePrior,
}


def from_diffusers(
    network: Any,
    scheduler: Any,
    condition: Condition | None = None,
    without: Condition | None = None,
    guidance: float = 1.0,
) -> Prior:
    """Prior of a network on the levels of its scheduler.

    Parameters
    ----------
    network : callable
        Called as ``network(x, timestep=time, **condition).sample``, in its own ``dtype`` if it has
        one: UNet2DModel, UNet2DConditionModel, SD3Transformer2DModel, DiTTransformer2DModel and
        their like. A variance that it predicts beside is left out.
    scheduler : object
        One with ``alphas_cumprod``, and a ``prediction_type`` of epsilon, v_prediction or sample;
        or one for flow matching (FlowMatchEulerDiscreteScheduler), whose network predicts
        eps - x_0. A shift that depends on the image's size is left out: it chooses levels only.
    condition : mapping or None
        What the network is told: ``class_labels``, or ``encoder_hidden_states`` (prompt
        embeddings) and what else it takes.
    without : mapping or None
        What stands for no condition: the class of none, the embeddings of an empty prompt.
    guidance : float
        Scale of classifier-free guidance (:class:`GuidedPrior`). At 1 the network is called with
        the condition alone, at 0 without it alone.

    Raises
    ------
    SettingsError
        If the scheduler's levels, times or prediction are not known; if guidance has no
        ``without``.
    ShapeError
        If a tensor of a condition has not one row.
    """
    if guidance == 1:
        return _prior(network, scheduler, condition or {})
    if condition is None or without is None:
        raise SettingsError(
            f"guidance weighs a condition against none and takes both; found guidance {guidance} "
            f"with condition {_told(condition)} and without {_told(without)}"
        )
    untold = _prior(network, scheduler, without)
    if guidance == 0:
        return untold
    return GuidedPrior(_prior(network, scheduler, condition), untold, guidance)


def _told(condition: Condition | None) -> object:
    return condition and sorted(condition)


def _prior(network: Any, scheduler: Any, condition: Condition) -> Prior:
    _one_row(condition)

    def call(x: Tensor, time: Tensor) -> Tensor:
        return network(x, timestep=time, **_rows(condition, x)).sample

    config, name = scheduler.config, type(scheduler).__name__
    dtype = getattr(network, "dtype", None)
    for key, usual in (("timestep_type", "discrete"), ("invert_sigmas", False)):
        if config.get(key, usual) != usual:
            raise SettingsError(
                f"a scheduler's times are taken with {key} {usual!r} only; "
                f"found {config[key]!r} in {name}"
            )
    if name.startswith("FlowMatch"):
        steps = int(config["num_train_timesteps"])
        dynamic = config.get("use_dynamic_shifting", False)
        levels = NoiseSchedule.flow(steps, 1.0 if dynamic else float(config.get("shift", 1.0)))
        return FlowPrior(call, levels, dtype, time_scale=float(steps))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise SettingsError(
            f"a scheduler says its noise levels by alphas_cumprod or is one for flow matching; "
            f"found {name}"
        )
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in _PREDICTIONS:
        raise SettingsError(
            f"prediction_type is one of {', '.join(_PREDICTIONS)}; found {predicts!r} in {name}"
        )
    levels = NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod, name)
    return _PREDICTIONS[predicts](call, levels, dtype)


def _one_row(condition: Condition) -> None:
    for name, value in condition.items():
        if isinstance(value, Mapping):
            _one_row(value)
        elif isinstance(value, Tensor) and (value.ndim == 0 or len(value) != 1):
            raise ShapeError(
                f"a condition has one row, which is all items'; found {name} of shape "
                f"{tuple(value.shape)}"
            )


def _rows(condition: Condition, x: Tensor) -> dict[str, Any]:
    """The condition for every item of ``x``, on its device and, if floating, in its dtype."""
    out: dict[str, Any] = {}
    for name, value in condition.items():
        if isinstance(value, Mapping):
            value = _rows(value, x)
        elif isinstance(value, Tensor):
            dtype = x.dtype if value.is_floating_point() else value.dtype
            value = value.to(x.device, dtype).expand(len(x), *value.shape[1:])
        out[name] = value
    return out


def text_conditions(
    pipeline: Any, prompt: str, negative_prompt: str = ""
) -> tuple[Condition, Condition]:
    """Conditions of a prompt and of none, by the text encoders of a pipeline.

    For pipelines of the form of StableDiffusionPipeline and StableDiffusion3Pipeline. For others
    give :func:`from_diffusers` the embeddings under the names that the network has for them.

    Raises
    ------
    SettingsError
        If the pipeline encodes its prompts in another form.
    """
    takes = inspect.signature(pipeline.encode_prompt).parameters
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    if "negative_prompt" not in takes:
        raise SettingsError(
            f"{type(pipeline).__name__} takes no negative prompt; give the embeddings as the "
            f"condition yourself"
        )
    encoders = (getattr(pipeline, f"text_encoder{number}", None) for number in ("", "_2", "_3"))
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            # Where the text is read; a condition follows its network's state.
            device=next(encoder.device for encoder in encoders if encoder is not None),
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            **{name: None for name in ("prompt_2", "prompt_3") if name in takes},
        )
    names = ["encoder_hidden_states"]
    if "pooled_projections" in inspect.signature(network.forward).parameters:
        names.append("pooled_projections")
    if len(encoded) != 2 * len(names):
        raise SettingsError(
            f"{type(pipeline).__name__} encodes a prompt as {len(encoded)} arrays and its network "
            f"takes {', '.join(names)}; give the embeddings as the condition yourself"
        )
    told, untold = encoded[0::2], encoded[1::2]
    return dict(zip(names, told)), dict(zip(names, untold))


def autoencoded(prior: Prior, vae: Any) -> LatentPrior:
    """Prior on the latent codes of an AutoencoderKL or a VQModel, with its scale and shift.

    The autoencoder is called in its own ``dtype`` if it has one, as a network is.
    """
    shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
    dtype = getattr(vae, "dtype", None)

    def encode(x: Tensor) -> Tensor:
        out = vae.encode(x.to(dtype or x.dtype))
        z = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
        return z.to(x.dtype) - shift

    def decode(z: Tensor) -> Tensor:
        return vae.decode((z + shift).to(dtype or z.dtype)).sample.to(z.dtype)

    return LatentPrior(prior, encode, decode, float(vae.config.scaling_factor))
