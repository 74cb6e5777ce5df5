"""Guided-diffusion tensors under the names of diffusers' UNet2DModel, and back.

The two hold the same network. The joint query-key-value map of guided-diffusion, whose rows are
sorted by head, becomes three maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mgdm_core.array_types import Float, Tensor
from recipes.images.priors.unet import UNetConfig

__all__ = ["diffusers_config", "from_diffusers", "to_diffusers"]

_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def diffusers_config(config: UNetConfig, sample_size: int) -> dict[str, Any]:
    """Arguments of a UNet2DModel of the same shape."""
    kind = "resnet" if config.resample_blocks else "conv"
    plain = {
        "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
        "conv": ("DownBlock2D", "UpBlock2D"),
    }[kind]
    down = ["AttnDownBlock2D" if attends else plain[0] for attends in config.attention]
    up = ["AttnUpBlock2D" if attends else plain[1] for attends in reversed(config.attention)]
    return {
        "sample_size": sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": tuple(m * config.model_channels for m in config.channel_mult),
        "layers_per_block": config.res_blocks,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "downsample_type": kind,
        "upsample_type": kind,
        "attention_head_dim": config.head_channels,
        "norm_num_groups": config.norm_groups,
        "attn_norm_num_groups": config.norm_groups,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
    }


def _modules(config: UNetConfig) -> Iterator[tuple[str, str, str]]:
    """Pairs of module names, with their kind: residual, attention or plain."""
    for ours, theirs in _FIXED.items():
        yield ours, theirs, "plain"
    levels, n = len(config.channel_mult), config.res_blocks
    index = 1
    for level in range(levels):
        block = f"down_blocks.{level}"
        for k in range(n):
            yield f"input_blocks.{index}.0", f"{block}.resnets.{k}", "residual"
            if config.attention[level]:
                yield f"input_blocks.{index}.1", f"{block}.attentions.{k}", "attention"
            index += 1
        if level != levels - 1:
            if config.resample_blocks:
                yield f"input_blocks.{index}.0", f"{block}.downsamplers.0", "residual"
            else:
                yield f"input_blocks.{index}.0.op", f"{block}.downsamplers.0.conv", "plain"
            index += 1
    yield "middle_block.0", "mid_block.resnets.0", "residual"
    yield "middle_block.1", "mid_block.attentions.0", "attention"
    yield "middle_block.2", "mid_block.resnets.1", "residual"
    index = 0
    for level in reversed(range(levels)):
        block = f"up_blocks.{levels - 1 - level}"
        for k in range(n + 1):
            yield f"output_blocks.{index}.0", f"{block}.resnets.{k}", "residual"
            place = 1
            if config.attention[level]:
                yield f"output_blocks.{index}.1", f"{block}.attentions.{k}", "attention"
                place = 2
            if level > 0 and k == n:
                ours = f"output_blocks.{index}.{place}"
                if config.resample_blocks:
                    yield ours, f"{block}.upsamplers.0", "residual"
                else:
                    yield f"{ours}.conv", f"{block}.upsamplers.0.conv", "plain"
            index += 1


def _heads(config: UNetConfig, rows: int) -> tuple[int, ...]:
    """Shape that separates the rows of the joint map into (heads, 3, channels per head)."""
    return (rows // (3 * config.head_channels), 3, config.head_channels)


def to_diffusers(
    state: Mapping[str, Float[Tensor, "..."]], config: UNetConfig
) -> dict[str, Float[Tensor, "..."]]:
    """State dict of UNet2DModel from one of guided-diffusion."""
    out: dict[str, Tensor] = {}

    def copy(ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in state:
                out[f"{theirs}.{part}"] = state[f"{ours}.{part}"]

    for ours, theirs, kind in _modules(config):
        if kind == "plain":
            copy(ours, theirs)
        elif kind == "residual":
            for a, b in _RES.items():
                copy(f"{ours}.{a}", f"{theirs}.{b}")
        else:
            copy(f"{ours}.norm", f"{theirs}.group_norm")
            for part in ("weight", "bias"):
                joint = state[f"{ours}.qkv.{part}"]
                rows = joint.shape[0]
                shape = _heads(config, rows)
                parts = (
                    joint.reshape(*shape, -1).unbind(1)
                    if config.interleaved_heads
                    else joint.reshape(3, -1, *joint.shape[1:2]).unbind(0)
                )
                for name, piece in zip(("to_q", "to_k", "to_v"), parts):
                    flat = piece.reshape(rows // 3, -1) if part == "weight" else piece.reshape(-1)
                    out[f"{theirs}.{name}.{part}"] = flat.contiguous()
                last = state[f"{ours}.proj_out.{part}"]
                out[f"{theirs}.to_out.0.{part}"] = last[:, :, 0] if part == "weight" else last
    return out


def from_diffusers(
    state: Mapping[str, Float[Tensor, "..."]], config: UNetConfig
) -> dict[str, Float[Tensor, "..."]]:
    """State dict of guided-diffusion from one of UNet2DModel; undoes :func:`to_diffusers`."""
    out: dict[str, Tensor] = {}

    def copy(ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in state:
                out[f"{ours}.{part}"] = state[f"{theirs}.{part}"]

    for ours, theirs, kind in _modules(config):
        if kind == "plain":
            copy(ours, theirs)
        elif kind == "residual":
            for a, b in _RES.items():
                copy(f"{ours}.{a}", f"{theirs}.{b}")
        else:
            copy(f"{ours}.norm", f"{theirs}.group_norm")
            for part in ("weight", "bias"):
                pieces = [state[f"{theirs}.{name}.{part}"] for name in ("to_q", "to_k", "to_v")]
                rows = 3 * pieces[0].shape[0]
                if config.interleaved_heads:
                    heads, _, each = _heads(config, rows)
                    joint = torch.stack([p.reshape(heads, each, -1) for p in pieces], 1)
                else:
                    joint = torch.stack(pieces)
                out[f"{ours}.qkv.{part}"] = (
                    joint.reshape(rows, -1, 1) if part == "weight" else joint.reshape(rows)
                )
                last = state[f"{theirs}.to_out.0.{part}"]
                out[f"{ours}.proj_out.{part}"] = last[:, :, None] if part == "weight" else last
    return out
