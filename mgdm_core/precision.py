"""The widest numbers that a device has: sums, norms and log-weights are kept in them."""

from __future__ import annotations

import torch

from mgdm_core.array_types import Float, Num, Tensor

__all__ = ["wide", "widest"]

_WITHOUT_FLOAT64 = frozenset({"mps"})


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's devices, which have none."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def wide(x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x in the widest numbers of its device."""
    return x.to(widest(x.device))
