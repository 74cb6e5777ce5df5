"""The three masks of the paper at any image size; True is observed.

The published masks are for 256 x 256: rows and columns 50 to 199 missing; columns 128 to 255
missing; only a central block of 78 x 78 kept. Other sizes take the same shares of each side.
"""

from __future__ import annotations

import torch

from mgdm_core.array_types import Bool, Tensor
from mgdm_core.errors import SettingsError


def _band(length: int, first: int, last: int) -> Bool[Tensor, " length"]:
    """True on the share [first / 256, last / 256) of an axis, never empty, never everything."""
    if length < 2:
        raise SettingsError(
            f"a mask needs images of at least 2 x 2 pixels; found a side of {length}"
        )
    low = min(round(first * length / 256), length - 1)
    high = max(round(last * length / 256), low + 1)
    if high - low == length:
        high -= 1
    inside = torch.zeros(length, dtype=torch.bool)
    inside[low:high] = True
    return inside


def centre_mask(height: int, width: int) -> Bool[Tensor, "height width"]:
    """Everything but a central rectangle (centre inpainting)."""
    return ~(_band(height, 50, 200)[:, None] & _band(width, 50, 200)[None])


def half_mask(height: int, width: int) -> Bool[Tensor, "height width"]:
    """The left half (half outpainting)."""
    return _band(width, 0, 128).expand(height, width).clone()


def expand_mask(height: int, width: int) -> Bool[Tensor, "height width"]:
    """Only a central block, 9.3 % of the pixels (expand outpainting)."""
    return _band(height, 89, 167)[:, None] & _band(width, 89, 167)[None]
