"""JPEG as a differentiable operator (ITU-T T.81, baseline, 4:2:0)."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.operators.base import Operator

# ITU-T T.81, tables K.1 (luminance) and K.2 (chrominance).
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
# Deviation, in steps, of the error that rounding="smoothed" takes a coefficient to have.
_SMOOTHING = 0.2


def _tables() -> tuple[Tensor, Tensor]:
    luma = torch.tensor(_LUMA, dtype=torch.float64)
    chroma = torch.full((8, 8), 99.0, dtype=torch.float64)
    chroma[:4, :4] = torch.tensor(_CHROMA_CORNER, dtype=torch.float64)
    return luma, chroma


def _dct_matrix() -> Float[Tensor, "8 8"]:
    """Orthonormal DCT-II."""
    n = torch.arange(8, dtype=torch.float64)
    matrix = 0.5 * torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16)
    matrix[0] *= 0.5**0.5
    return matrix


def _colour_matrix() -> Float[Tensor, "3 3"]:
    """R, G, B to Y, Cb, Cr (JFIF, ITU-R BT.601 luma weights)."""
    r, b = 0.299, 0.114
    g = 1 - r - b
    y = torch.tensor([r, g, b], dtype=torch.float64)
    cb = (torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) - y) / (2 * (1 - b))
    cr = (torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) - y) / (2 * (1 - r))
    return torch.stack([y, cb, cr])


class JPEG(Operator):
    """Compress and decompress: colour transform, 4:2:0 chroma, DCT, quantisation, and back.

    Nonlinear and piecewise constant, so the gradient of rounding is a choice. One channel is coded
    as luma alone. Sides that are no multiple of 16 (8 for one channel) are extended by their edge.

    Parameters
    ----------
    quality : float
        In (0, 100], scaled as the IJG library does.
    rounding : {"straight_through", "smoothed", "cubic"}
        ``straight_through``: round, with the gradient of the identity. ``smoothed``: round, with
        the gradient of round's mean over a normal error of deviation 0.2: a sixth amid a step, so
        that the noise of an observation whose step is right hardly pushes towards the next.
        ``cubic``: round(c) + (c - round(c))^3, whose own gradient is used.
    published : bool
        True: quantisation steps as in the published image experiments, which transpose the
        tables and leave steps fractional and unbounded. False: as a JPEG file has them (integers
        in 1..255).
    """

    def __init__(
        self, quality: int | float, rounding: str = "straight_through", published: bool = True
    ) -> None:
        if not 0 < quality <= 100:
            raise SettingsError(f"JPEG quality lies in (0, 100]; found {quality}")
        if rounding not in ("straight_through", "smoothed", "cubic"):
            raise SettingsError(
                f"rounding is straight_through, smoothed or cubic; found {rounding!r}"
            )
        self.quality, self.rounding = quality, rounding
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        steps = []
        for table in _tables():
            scaled = table * scale / 100
            if published:
                # At quality 100 the formula gives zero: the smallest step of a file is one.
                steps.append(scaled.T.clamp_min(1e-3) if scale > 0 else torch.ones(8, 8).double())
            else:
                steps.append((scaled + 0.5).floor().clamp(1, 255))
        self._steps = steps
        self._dct = _dct_matrix()
        self._colour = _colour_matrix()
        self._colour_back = torch.linalg.inv(self._colour)

    def _round(self, c: Tensor) -> Tensor:
        nearest = c.detach().round()
        if self.rounding == "cubic":
            return nearest + (c - nearest) ** 3
        slope = 1.0
        if self.rounding == "smoothed":
            # A staircase's derivative is a comb at the halves; smoothed, each tooth a Gaussian.
            away = torch.stack([c.detach() - nearest - half for half in (-1.5, -0.5, 0.5, 1.5)])
            teeth = (-0.5 * (away / _SMOOTHING) ** 2).exp().sum(0)
            slope = teeth / (_SMOOTHING * (2 * math.pi) ** 0.5)
        return nearest + slope * (c - c.detach())

    def _code(
        self, plane: Float[Tensor, "batch height width"], steps: Float[Tensor, "8 8"]
    ) -> Float[Tensor, "batch height width"]:
        """Quantise the 8 x 8 DCT coefficients of one plane."""
        batch, height, width = plane.shape
        dct, steps = self._dct.to(plane), steps.to(plane)
        blocks = plane.reshape(batch, height // 8, 8, width // 8, 8).transpose(2, 3)
        kept = self._round(dct @ blocks @ dct.T / steps) * steps
        return (dct.T @ kept @ dct).transpose(2, 3).reshape(batch, height, width)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Compressed image in [-1, 1], from one in [-1, 1]."""
        channels, height, width = x.shape[1:]
        if channels not in (1, 3):
            raise ShapeError(f"JPEG codes 1 or 3 channels; found {channels}")
        multiple = 16 if channels == 3 else 8
        extra = (-width % multiple, -height % multiple)
        grey = functional.pad(127.5 * (x + 1), (0, extra[0], 0, extra[1]), mode="replicate")
        if channels == 1:
            out = self._code(grey[:, 0] - 128, self._steps[0])[:, None] + 128
        else:
            ycc = torch.einsum("ij,bjhw->bihw", self._colour.to(x), grey)
            luma = self._code(ycc[:, 0] - 128, self._steps[0]) + 128
            small = functional.avg_pool2d(ycc[:, 1:], 2)
            coded = self._code(small.flatten(0, 1), self._steps[1]).reshape(small.shape)
            chroma = coded.repeat_interleave(2, -1).repeat_interleave(2, -2)
            planes = torch.cat([luma[:, None], chroma], 1)
            out = torch.einsum("ij,bjhw->bihw", self._colour_back.to(x), planes)
        return out[..., :height, :width].clamp(0, 255) / 127.5 - 1
