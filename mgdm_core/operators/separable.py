"""Separable linear operators: y = R x C^T per channel, with singular values by Kronecker products.

If R = U_r S_r V_r^T and C = U_c S_c V_c^T, the operator on images is the Kronecker product of the
two: singular values s_r s_c, singular images v_r v_c^T. Block means and Gaussian blur with
reflecting borders are both of this form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.operators.base import SVD, SpectralOperator, flat, folded

# Below this share of the largest, a singular value is rounding noise of the 1-D matrices.
_RANK_TOLERANCE = 1e-6


def reflect_matrix(taps: Float[Tensor, " taps"], length: int) -> Float[Tensor, "length length"]:
    """Matrix of a 1-D correlation with ``taps`` (odd count) and reflecting borders.

    Reflection does not repeat the edge: sample -k reads sample k. Kernels longer than the signal
    are reflected back and forth as often as it takes.
    """
    if len(taps) % 2 == 0:
        raise SettingsError(f"a blur kernel has an odd number of taps; found {len(taps)}")
    if length < 2:
        raise SettingsError(f"reflecting borders need at least 2 pixels a side; found {length}")
    half = len(taps) // 2
    period = 2 * (length - 1)
    row = torch.arange(length)[:, None]
    source = (row + torch.arange(-half, half + 1)[None]).remainder(period)
    source = torch.where(source >= length, period - source, source)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, source, taps.double().expand(length, -1))


def _block_matrix(length: int, block: int) -> Float[Tensor, "blocks length"]:
    """Matrix of means over consecutive blocks; the last one may be shorter."""
    blocks = -(-length // block)
    member = torch.arange(length) // block
    matrix = (member[None] == torch.arange(blocks)[:, None]).double()
    return matrix / matrix.sum(1, keepdim=True)


class Separable(SpectralOperator):
    """y = R x C^T on every channel.

    Parameters
    ----------
    rows : Tensor, shape (out_height, height)
        R.
    columns : Tensor, shape (out_width, width)
        C.
    """

    def __init__(
        self, rows: Float[Tensor, "out_height height"], columns: Float[Tensor, "out_width width"]
    ) -> None:
        self.rows, self.columns = rows.double(), columns.double()
        self._factors = [torch.linalg.svd(m) for m in (self.rows, self.columns)]

    def _check(self, x: Tensor) -> None:
        expected = (self.rows.shape[1], self.columns.shape[1])
        if tuple(x.shape[-2:]) != expected:
            raise ShapeError(
                f"{type(self).__name__} was built for images of {expected[0]} x {expected[1]}; "
                f"found {x.shape[-2]} x {x.shape[-1]}"
            )

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        """R x C^T."""
        self._check(x)
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def adjoint(
        self, y: Float[Tensor, "batch channels out_height out_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """R^T y C."""
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Kronecker product of the decompositions of R and C (computed once in float64)."""
        shape = tuple(int(n) for n in shape)
        (u_r, s_r, vt_r), (u_c, s_c, vt_c) = (
            tuple(m.to(like.device, like.dtype) for m in factor) for factor in self._factors
        )
        rank_r, rank_c = len(s_r), len(s_c)
        values = torch.zeros(shape, dtype=like.dtype, device=like.device)
        product = s_r[:, None] * s_c[None]
        product = torch.where(product > _RANK_TOLERANCE * product.max(), product, 0.0 * product)
        values[:, :rank_r, :rank_c] = product
        left, right, some = u_r[:, :rank_r], u_c[:, :rank_c], values > 0
        beyond = (0, shape[-1] - rank_c, 0, shape[-2] - rank_r)
        return SVD(
            values.reshape(-1),
            lambda x: (vt_r @ x @ vt_c.T).reshape(len(x), -1),
            lambda c: vt_r.T @ folded(c, shape) @ vt_c,
            lambda y: flat(pad(left.T @ y @ right, beyond) * some),
            lambda c: left @ (folded(c, shape) * some)[..., :rank_r, :rank_c] @ right.T,
        )


class BlockMeans(Separable):
    """Means over block x block pixels (super-resolution); border blocks may be smaller.

    Parameters
    ----------
    block : int
        Side of a block: 4 or 16 in the paper.
    height, width : int
    """

    def __init__(self, block: int, height: int, width: int) -> None:
        if block < 2 or block > min(height, width):
            raise SettingsError(
                f"block means take blocks between 2 and the image's shorter side "
                f"({min(height, width)}); found {block}; use larger images or another task"
            )
        self.block = block
        super().__init__(_block_matrix(height, block), _block_matrix(width, block))


class SeparableBlur(Separable):
    """Blur by the outer product of a 1-D kernel with itself, reflecting borders.

    Parameters
    ----------
    taps : Tensor, shape (taps,)
        Odd number of taps.
    height, width : int
    """

    def __init__(self, taps: Float[Tensor, " taps"], height: int, width: int) -> None:
        self.taps = taps.double()
        super().__init__(reflect_matrix(taps, height), reflect_matrix(taps, width))
