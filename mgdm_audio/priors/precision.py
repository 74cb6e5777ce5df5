"""Which arithmetic a network runs fastest in on the machine at hand."""

from __future__ import annotations

import torch

from mgdm_core.errors import SettingsError

PRECISIONS = ("auto", "float32", "bfloat16")


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 runs faster than float32 there.

    A CPU must have bfloat16 instructions (AMX or AVX512-BF16): without them bfloat16 is emulated
    and some hundred times slower than float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def resolve_precision(name: str, device: torch.device | str) -> torch.dtype:
    """Dtype of the network's arithmetic (its weights and its inputs stay float32).

    Parameters
    ----------
    name : str
        ``"float32"``, ``"bfloat16"`` or ``"auto"``, which takes bfloat16 where it is faster.

    Raises
    ------
    SettingsError
        If the name is none of these.
    """
    if name not in PRECISIONS:
        raise SettingsError(f"precision must be one of {PRECISIONS}; found {name!r}")
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
