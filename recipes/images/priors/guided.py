"""OpenAI guided-diffusion checkpoints: the FFHQ 256 model of DPS, the unconditional ImageNet one.

A checkpoint is a bare state dict. Its shape is read off the tensors; only what no tensor shows
(channels per head, order of the heads, normalisation groups) is a setting, with the published
values as defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.priors import NoisePredictionPrior
from mgdm_core.schedule import NoiseSchedule
from recipes.images.errors import PriorError
from recipes.images.priors.unet import UNet, UNetConfig
from recipes.images.tensor_files import UnreadableTensors, read_tensors

__all__ = ["guided_config", "load_guided_prior", "read_state_dict"]

State = Mapping[str, Float[Tensor, "..."]]


def read_state_dict(path: Path) -> dict[str, Float[Tensor, "..."]]:
    """Tensors of a checkpoint (.safetensors, or .pt / .pth / .bin), without running what it holds.

    Raises
    ------
    PriorError
        If it cannot be read safely, or is no state dict.
    """
    try:
        return read_tensors(path)
    except UnreadableTensors as error:
        raise PriorError(
            f"{path} cannot be read as a checkpoint of plain tensors ({error}); "
            f"files that need code to be run are refused: re-save it as safetensors"
        ) from error


def _tensor(state: State, name: str) -> Float[Tensor, "..."]:
    if name not in state:
        raise PriorError(f"this is no guided-diffusion checkpoint: it has no {name!r}")
    return state[name]


def guided_config(
    state: State,
    *,
    head_channels: int = 64,
    interleaved_heads: bool = True,
    norm_groups: int = 32,
) -> UNetConfig:
    """Shape of the U-net whose tensors these are.

    Raises
    ------
    PriorError
        If they are not those of an unconditional guided-diffusion U-net.
    """
    for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"):
        _tensor(state, name)
    if "label_emb.weight" in state:
        raise PriorError(
            "this guided-diffusion checkpoint is class-conditional; use an unconditional one"
        )
    width, in_channels = state["input_blocks.0.0.weight"].shape[:2]
    n_in = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("input_blocks."))
    # The last output block of every level but the finest carries an upsampler after the rest.
    upsampler = re.compile(r"output_blocks\.(\d+)\.([12])\.(in_layers\.0|conv)\.weight")
    levels = 1 + sum(1 for k in state if upsampler.fullmatch(k))
    if n_in % levels:
        raise PriorError(
            f"{n_in} input blocks do not divide into {levels} levels: not a guided-diffusion U-net"
        )
    res_blocks = n_in // levels - 1
    mult, attention = [], []
    for level in range(levels):
        name = f"input_blocks.{1 + level * (res_blocks + 1)}"
        out = _tensor(state, f"{name}.0.out_layers.3.weight").shape[0]
        if out % width:
            raise PriorError(f"level {level} is {out} wide, no multiple of the first, {width}")
        mult.append(out // width)
        attention.append(f"{name}.1.qkv.weight" in state)
    emb = _tensor(state, "input_blocks.1.0.emb_layers.1.weight").shape[0]
    return UNetConfig(
        in_channels=in_channels,
        out_channels=state["out.2.weight"].shape[0],
        model_channels=width,
        channel_mult=tuple(mult),
        res_blocks=res_blocks,
        attention=tuple(attention),
        head_channels=head_channels,
        scale_shift=emb == 2 * mult[0] * width,
        resample_blocks=not any(k.endswith(".op.weight") for k in state),
        norm_groups=norm_groups,
        interleaved_heads=interleaved_heads,
    )


def load_guided_prior(
    path: Path, device: torch.device | str = "cpu", *, head_channels: int = 64
) -> NoisePredictionPrior:
    """Prior from a checkpoint on DDPM's linear schedule of 1000 levels, as all of them have.

    A learned variance is split off. The channels of the images are
    ``prior.network.config.in_channels``.

    Raises
    ------
    PriorError
        If the file is not such a checkpoint.
    """
    state = read_state_dict(path)
    network = UNet(guided_config(state, head_channels=head_channels))
    try:
        network.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise PriorError(f"{path} does not fit the U-net read off it: {reason}") from error
    if network.config.out_channels not in (
        network.config.in_channels,
        2 * network.config.in_channels,
    ):
        raise PriorError(
            f"a prior puts out as many channels as it takes, or twice as many with a learned "
            f"variance; found {network.config.in_channels} in, {network.config.out_channels} out"
        )
    network.eval().requires_grad_(False).to(device)
    return NoisePredictionPrior(network, NoiseSchedule.vp_linear())
