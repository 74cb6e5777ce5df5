"""Which device a network runs on, from the word a user gave."""

from __future__ import annotations

import torch

from mgdm_core.errors import SettingsError


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that is there.

    Parameters
    ----------
    device : str or torch.device
        ``auto`` (CUDA, then MPS, then the CPU), ``cpu``, ``cuda``, ``cuda:0``, ... or ``mps``.

    Raises
    ------
    SettingsError
        For any other word, and for a device that this machine lacks.
    """
    text = str(device).strip().lower() if isinstance(device, str | torch.device) else repr(device)
    kind, colon, number = text.partition(":")
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if text == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if kind not in ("cpu", "cuda", "mps") or (
        colon and not (number.isascii() and number.isdigit() and (kind == "cuda" or number == "0"))
    ):
        raise SettingsError(f"a device is auto, cpu, cuda, cuda:0, ... or mps; found {device!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not mps:
            raise SettingsError("mps is not available on this machine; use cpu or auto")
        return torch.device("mps")
    if not cuda:
        raise SettingsError("no CUDA device is available; use cpu or auto")
    if int(number or 0) >= cuda:
        raise SettingsError(f"{text}: this machine has cuda:0 to cuda:{cuda - 1}")
    return torch.device("cuda", int(number or 0))
