"""The kinds of network that a checkpoint may name, and how each is built from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mgdm_audio.errors import CheckpointError
from mgdm_core.errors import MGDMError

__all__ = ["NETWORK_KINDS", "build_network", "expected_tensors", "stem_count"]

NETWORK_KINDS = ("stft_unet", "unet1d", "unet1d_stack")
_LARGEST_STACK = 64


def _construct(kind: str, config: Mapping[str, Any]) -> nn.Module:
    # Imported here, as a reader of headers needs no network, and one kind does not need the other.
    if kind == "stft_unet":
        from mgdm_audio.priors.stft_unet.network import STFTUNet, STFTUNetConfig

        return STFTUNet(STFTUNetConfig.from_dict(dict(config)))
    from mgdm_audio.priors.unet1d.network import UNet1d, UNet1dConfig

    if kind == "unet1d":
        return UNet1d(UNet1dConfig.from_dict(config))
    if kind == "unet1d_stack":
        from mgdm_audio.priors.waveform_prior import StackedNetwork

        members = config.get("networks")
        if set(config) != {"networks"} or not isinstance(members, list):
            raise CheckpointError(
                f"the configuration of a unet1d_stack is one list 'networks'; "
                f"found the keys {sorted(config)}"
            )
        if not 1 <= len(members) <= _LARGEST_STACK:
            raise CheckpointError(
                f"a unet1d_stack holds 1 to {_LARGEST_STACK} networks; found {len(members)}"
            )
        if not all(isinstance(member, Mapping) for member in members):
            raise CheckpointError("each entry of a unet1d_stack's 'networks' is a configuration")
        return StackedNetwork([UNet1d(UNet1dConfig.from_dict(member)) for member in members])
    raise CheckpointError(
        f"unknown network {kind!r}; this version knows {', '.join(NETWORK_KINDS)}"
    )


def build_network(kind: str, config: Mapping[str, Any], *, meta: bool = False) -> nn.Module:
    """Build a network of one of :data:`NETWORK_KINDS`.

    Parameters
    ----------
    kind : str
        Its kind.
    config : mapping
        Its configuration; checked by the network's own configuration class.
    meta : bool
        Build shapes without memory and without drawing any initial value.

    Raises
    ------
    CheckpointError
        If the kind is unknown or the configuration is not valid.
    """
    if kind not in NETWORK_KINDS:
        raise CheckpointError(
            f"unknown network {kind!r}; this version knows {', '.join(NETWORK_KINDS)}"
        )
    try:
        if meta:
            with torch.device("meta"):
                return _construct(kind, config)
        # Initial values come from torch's global generator; it is put back as it was.
        with torch.random.fork_rng(devices=[]):
            return _construct(kind, config)
    except CheckpointError:
        raise
    except (MGDMError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the configuration of the {kind} is not valid: {error}") from error


def expected_tensors(network: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor that a checkpoint of this network must hold."""
    state = network.state_dict()
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}


def stem_count(network: nn.Module) -> int:
    """How many stems a network denoises."""
    count = getattr(network, "stem_count", None)
    return int(count if count is not None else network.config.stems)  # type: ignore[union-attr]
