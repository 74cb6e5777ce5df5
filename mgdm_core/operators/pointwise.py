"""Nonlinear degradations without a network: clipping, Fourier modulus, blur in linear light."""

from __future__ import annotations

import torch
from torch.nn import functional

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators.base import Operator
from mgdm_core.operators.convolution import gaussian_taps
from mgdm_core.operators.separable import SeparableBlur


class HighDynamicRange(Operator):
    """y = clip(gain x, -1, 1): a sensor that saturates.

    Parameters
    ----------
    gain : float
        2 in the paper.
    """

    def __init__(self, gain: float = 2.0) -> None:
        if not gain > 0:
            raise SettingsError(f"the gain of the sensor is positive; found {gain}")
        self.gain = gain

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Scale and clip; the gradient is zero where it clips."""
        return (self.gain * x).clamp(-1, 1)


class PhaseRetrieval(Operator):
    """Modulus of the centred orthonormal 2-D Fourier transform of the zero-padded image.

    The image is mapped to [0, 1] first; each side gets ``oversampling / 8`` of its length as
    padding on both ends, so oversampling 2 makes 256 into 384.

    Parameters
    ----------
    oversampling : float
        2 in the paper; 0 for no padding.
    """

    def __init__(self, oversampling: float = 2.0) -> None:
        if oversampling < 0:
            raise SettingsError(f"oversampling is not negative; found {oversampling}")
        self.oversampling = oversampling

    def padding(self, length: int) -> int:
        """Zeros added on each end of a side."""
        return int(self.oversampling / 8 * length)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        """Modulus of the spectrum, zero frequency in the middle."""
        rows, columns = self.padding(x.shape[-2]), self.padding(x.shape[-1])
        padded = functional.pad(0.5 * (x + 1), (columns, columns, rows, rows))
        centred = torch.fft.ifftshift(padded, dim=(-2, -1))
        spectrum = torch.fft.fft2(centred, norm="ortho")
        return torch.fft.fftshift(spectrum, dim=(-2, -1)).abs()


class GammaBlur(Operator):
    """Nonlinear blur without a network: gamma to linear light, then a blur that grows outwards.

    A lens blurs light, not gamma-coded values, and it blurs the corners more than the centre:
    u = ((x + 1) / 2)^gamma, then (1 - w) u + w blur(u) with w = the squared distance from the
    centre, 1 in the corners, then back to [-1, 1] without undoing the gamma. Values of x below -1
    are continued oddly, so that the gradient never dies.

    Parameters
    ----------
    height, width : int
    sigma : float
        Deviation of the blur in pixels.
    gamma : float
    """

    def __init__(self, height: int, width: int, sigma: float = 3.0, gamma: float = 2.2) -> None:
        if not gamma >= 1:
            raise SettingsError(f"gamma is at least 1; found {gamma}")
        self.gamma = gamma
        self.blur = SeparableBlur(gaussian_taps(sigma), height, width)
        rows = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
        columns = torch.linspace(-1, 1, width, dtype=torch.float64)[None]
        self.share = 0.5 * (rows**2 + columns**2)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the blurred light in [-1, 1]."""
        level = 0.5 * (x + 1)
        # |u|^gamma has slope 0 at 0 for gamma > 1, which the clamp keeps finite.
        light = level.sign() * level.abs().clamp_min(1e-12) ** self.gamma
        share = self.share.to(x)
        return 2 * ((1 - share) * light + share * self.blur.forward(light)) - 1
