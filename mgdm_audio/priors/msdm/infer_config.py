"""Sizes of a published MSDM network, from its tensors' shapes and its hyper-parameters.

What the shapes say is taken from them, and hyper-parameters that disagree are an error; what
they cannot say (groups of the normalisations, heads, scaling) comes from the hyper-parameters,
else from a stated default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_core.errors import SettingsError

Shapes = Mapping[str, tuple[int, ...]]

# Their names for what ours are called otherwise.
_HYPER_NAMES = {
    "sigma_data": "diffusion_sigma_data",
    "dynamic_threshold": "diffusion_dynamic_threshold",
}
# Defaults of audio-diffusion-pytorch 0.0.43, which hold where hyper-parameters leave a key out.
_PACKAGE = {
    "resnet_groups": 8,
    "attention_heads": 8,
    "kernel_multiplier_downsample": 2,
    "use_skip_scale": True,
    "sigma_data": 0.1,
    "dynamic_threshold": 0.0,
}
# The published MSDM networks, for files without hyper-parameters.
_PUBLISHED = _PACKAGE | {"sigma_data": 0.2}


def infer_config(
    shapes: Shapes, hyper: Mapping[str, Any] | None, where: str
) -> tuple[UNet1dConfig, dict[str, Any]]:
    """Return the sizes of a network, and the settings that had to be assumed.

    Parameters
    ----------
    shapes : mapping
        Shapes of the published tensors, by name without prefix.
    hyper : mapping or None
        Hyper-parameters as plain values; None if the file has none.

    Raises
    ------
    CheckpointError
        If the shapes belong to no such network, or the hyper-parameters contradict them.
    """
    known = {} if hyper is None else hyper
    given = {}
    for key in UNet1dConfig.__dataclass_fields__:
        value = known.get(_HYPER_NAMES.get(key, key))
        if isinstance(value, bool | int | float) or (
            isinstance(value, list) and all(isinstance(v, bool | int) for v in value)
        ):
            given[key] = value
    defaults = _PUBLISHED if hyper is None else _PACKAGE
    assumed = {key: value for key, value in defaults.items() if key not in given}
    free = {key: given.get(key, defaults[key]) for key in defaults}
    try:
        found = _from_shapes(shapes, free)
    except (KeyError, IndexError, ZeroDivisionError, TypeError) as error:
        raise CheckpointError(
            f"{where}: its tensors are not those of an MSDM network ({error} is missing)"
        ) from error
    for key in sorted(set(found) & set(given)):
        if found[key] != given[key]:
            raise CheckpointError(
                f"{where}: the hyper-parameters say {key} {given[key]!r:.80}, "
                f"the tensors {found[key]!r:.80}"
            )
    for key in found:
        assumed.pop(key, None)
    try:
        return UNet1dConfig.from_dict(free | found), assumed
    except (SettingsError, TypeError) as error:
        raise CheckpointError(f"{where}: no valid network: {error}") from error


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that ``pattern`` captures in a name; 0 if none."""
    matches = (re.match(pattern, name) for name in shapes)
    return max((int(match.group(1)) + 1 for match in matches if match), default=0)


def _from_shapes(shapes: Shapes, free: Mapping[str, Any]) -> dict[str, Any]:
    channels = 2 * shapes["to_time.0.0.weights"][0]
    folds = _count(shapes, r"to_in\.module_list\.(\d{1,4})\.")
    inner = shapes[f"to_in.module_list.{folds - 1}.block.block2.project.weight"][0]
    levels = range(_count(shapes, r"downsamples\.(\d{1,4})\.downsample\."))
    down = [shapes[f"downsamples.{i}.downsample.weight"] for i in levels]
    kernel = int(free["kernel_multiplier_downsample"])
    found: dict[str, Any] = {
        "in_channels": shapes["to_in.module_list.0.block.block1.project.weight"][1],
        "channels": channels,
        "patch_blocks": folds,
        "patch_factor": channels // inner,
        "multipliers": [1, *(shape[0] // channels for shape in down)],
        "factors": [(shape[2] - 1) // kernel for shape in down],
        "num_blocks": [_count(shapes, rf"downsamples\.{i}\.blocks\.(\d{{1,4}})\.") for i in levels],
        "attentions": [f"downsamples.{i}.{_QUERY}" in shapes for i in levels],
        "use_attention_bottleneck": "bottleneck.attention.fn.to_q.weight" in shapes,
        "use_nearest_upsample": any(
            re.match(r"upsamples\.\d+\.upsample\.1\.weight", name) for name in shapes
        ),
    }
    queries = [name for name in shapes if name.endswith("attention.fn.to_q.weight")]
    if queries:
        found["attention_features"] = shapes[queries[0]][0] // int(free["attention_heads"])
    expansions = [name for name in shapes if name.endswith("transformer.feed_forward.1.weight")]
    if expansions:
        shape = shapes[expansions[0]]
        found["attention_multiplier"] = shape[0] // shape[1]
    return found


_QUERY = "transformer.attention.fn.to_q.weight"
