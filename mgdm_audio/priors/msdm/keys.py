"""How the tensors of a published MSDM network are called, and how ours are.

The published network (audio-diffusion-pytorch 0.0.43) names its parts by the containers they sit
in; ours are named by what they do. Each of our tensors has exactly one published counterpart,
given by replacing the parts of its name below, in order; four kinds of tensor also lose the axes
of length 1 that the published network carries for broadcasting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.checkpoint.layout import compare_names
from mgdm_audio.priors.networks import build_network, expected_tensors
from mgdm_core.array_types import Tensor

_RENAMINGS = (
    (r"^embedding\.frequencies$", "to_time.0.0.weights"),
    (r"^embedding\.project\.", "to_time.0.1."),
    (r"^embedding\.first\.", "to_mapping.0."),
    (r"^embedding\.second\.", "to_mapping.2."),
    (r"^fold\.", "to_in.module_list."),
    (r"^unfold\.", "to_out.module_list."),
    (r"^down\.(\d+)\.resample\.", r"downsamples.\1.downsample."),
    (r"^up\.(\d+)\.resample\.", r"upsamples.\1.upsample."),
    (r"^down\.", "downsamples."),
    (r"^up\.", "upsamples."),
    (r"^bottom\.first\.", "bottleneck.pre_block."),
    (r"^bottom\.last\.", "bottleneck.post_block."),
    (r"^bottom\.", "bottleneck."),
    (r"\.attention\.norm\.weight$", ".attention.fn.norm.g"),
    (r"\.attention\.query\.", ".attention.fn.to_q."),
    (r"\.attention\.key_value\.", ".attention.fn.to_kv."),
    (r"\.attention\.output\.", ".attention.fn.attention.to_out.0."),
    (r"\.attention\.output_norm\.weight$", ".attention.fn.attention.to_out.1.g"),
    (r"\.transformer\.norm1\.weight$", ".transformer.feed_forward.0.g"),
    (r"\.transformer\.expand\.", ".transformer.feed_forward.1."),
    (r"\.transformer\.norm2\.weight$", ".transformer.feed_forward.3.g"),
    (r"\.transformer\.contract\.", ".transformer.feed_forward.4."),
    (r"\.norm([12])\.(weight|bias)$", r".block\1.groupnorm.\2"),
    (r"\.conv([12])\.", r".block\1.project."),
    (r"\.modulation\.", ".to_scale_shift.to_scale_shift.1."),
    (r"\.shortcut\.", ".to_out."),
)


def published_name(key: str) -> str:
    """Published name of one of our tensors.

    Examples
    --------
    >>> published_name("down.3.transformer.attention.query.weight")
    'downsamples.3.transformer.attention.fn.to_q.weight'
    """
    for pattern, replacement in _RENAMINGS:
        key = re.sub(pattern, replacement, key)
    return key


def published_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that one of our tensors (named as ours, of our shape) has in a published network."""
    if re.search(r"\.transformer\.(expand|contract)\.weight$", key):
        return (*shape, 1)  # a convolution of one tap there, a linear map here
    if re.search(r"\.transformer\.norm[12]\.weight$", key):
        return (1, *shape, 1)
    return shape


def from_published(
    state: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> dict[str, Tensor]:
    """Rename and reshape a published state dict for the network of ``config``.

    Parameters
    ----------
    state : mapping
        Tensors by their published names, without a prefix.
    config : mapping
        A `UNet1dConfig` as plain values.

    Returns
    -------
    dict
        Float32 tensors by our names, complete.

    Raises
    ------
    CheckpointError
        If a tensor is missing, left over, of another shape, or no floating point tensor.
    """
    ours = expected_tensors(build_network("unet1d", config, meta=True))
    theirs = {published_name(key): key for key in ours}
    compare_names(theirs, state, where)
    result = {}
    for name, key in theirs.items():
        shape, value = ours[key][0], state[name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{where}: {name!r} is not a floating point tensor")
        wanted = published_shape(key, shape)
        if tuple(value.shape) != wanted:
            raise CheckpointError(
                f"{where}: tensor {name!r} must have the shape {wanted}; found {tuple(value.shape)}"
            )
        result[key] = value.float().reshape(shape)
    return result
