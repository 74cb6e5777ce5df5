"""The one cross-fade and the one reflection of the audio package."""

from __future__ import annotations

import torch

from mgdm_core.array_types import Float, Tensor


def fade_in(
    samples: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, " samples"]:
    """Raised-cosine weights from 0 to 1; they and their mirror image sum to one.

    Parameters
    ----------
    samples : int
        Length of the overlap; sample j lies at (j + 1/2) / samples.
    """
    ramp = (torch.arange(samples, dtype=dtype, device=device) + 0.5) / samples
    return torch.sin(0.5 * torch.pi * ramp) ** 2


def reflected(x: Float[Tensor, " samples"], before: int, after: int) -> Float[Tensor, " padded"]:
    """Reflect a signal at its first and last sample, as often as the padding needs."""
    n = x.shape[-1]
    index = torch.arange(-before, n + after)
    if n == 1:
        return x[torch.zeros_like(index)]
    index = index.remainder(2 * (n - 1))
    return x[torch.where(index < n, index, 2 * (n - 1) - index)]
