"""Checkpoints of a training: read without running anything in them, written whole."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mgdm_audio.io.atomic import replacing
from mgdm_core.errors import MGDMError

__all__ = ["read_checkpoint", "write_checkpoint"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Checkpoint of a run: tensors and plain values only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MGDMError(f"no checkpoint at {path}") from error
    except (EOFError, RuntimeError, UnpicklingError) as error:
        raise MGDMError(
            f"{path} is no checkpoint of a training, or was cut off; --resume never starts anew"
        ) from error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint that appears whole."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
