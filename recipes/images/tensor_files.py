"""Named tensors from a file (.safetensors, or .pt / .pth / .bin), without running what it holds."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from mgdm_core.array_types import Float, Tensor

__all__ = ["UnreadableTensors", "checksum", "read_tensors"]


class UnreadableTensors(ValueError):
    """Why a file gives no tensors, in a few words; callers say it in an error of their own."""


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Float[Tensor, "..."]]:
    """Tensors of a state dict, or of the ``state_dict`` in a checkpoint, ``module.`` dropped.

    Raises
    ------
    UnreadableTensors
        If it cannot be read safely or holds anything but named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError) as error:
        raise UnreadableTensors((str(error).splitlines() or ["the file is empty"])[0]) from error
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError) as error:
        # torch's own text advises to run the pickle, which is what must not happen.
        raise UnreadableTensors("it is no file of torch, or needs code to be run") from error
    except Exception as error:  # zip archives, safetensors and decoders each raise kinds of theirs
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableTensors(reason) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise UnreadableTensors("it is no state dict: it holds something other than named tensors")
    return {str(k).removeprefix("module."): v for k, v in state.items()}
