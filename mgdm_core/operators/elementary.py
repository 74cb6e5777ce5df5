"""The operators that most problems are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn.functional import pad

from mgdm_core.array_types import Float, Num, Shaped, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.operators.base import SVD, Operator, SpectralOperator, flat, folded, size_of


class FunctionOperator(Operator):
    """Any differentiable function as a (nonlinear) operator.

    Parameters
    ----------
    function : callable
        Maps (batch, *event) to (batch, *observation), item by item.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the function."""
        return self.function(x)


class Identity(SpectralOperator):
    """Everything is observed."""

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the event itself."""
        return x

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the observation itself."""
        return y

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """All singular values are one."""
        shape = tuple(shape)
        ones = torch.ones(size_of(shape), dtype=like.dtype, device=like.device)
        fold = partial(folded, shape=shape)
        return SVD(ones, flat, fold, flat, fold)


class Mask(SpectralOperator):
    """Observe some entries: y is the vector of kept entries, in row-major order.

    Parameters
    ----------
    keep : Tensor of bool, shape (*event)
        True where the event is observed; zeros and ones of another type will do.
    """

    def __init__(self, keep: Shaped[Tensor, "..."]) -> None:
        if keep.dtype != torch.bool:
            if not bool(((keep == 0) | (keep == 1)).all()):
                raise SettingsError(
                    f"a mask holds True and False, or ones and zeros; found {keep.dtype} up to "
                    f"{keep.max().item():g}: compare it first, such as keep > 0"
                )
            keep = keep == 1
        if not bool(keep.any()):
            raise SettingsError("a mask observes at least one entry; found none")
        self.keep = keep
        self._index = keep.reshape(-1).nonzero()[:, 0]
        self._moved: dict[torch.device, Tensor] = {}

    def _kept(self, x: Tensor) -> Tensor:
        """The kept entries' positions on ``x``'s device, moved there once."""
        if x.device not in self._moved:
            self._moved[x.device] = self._index.to(x.device)
        return self._moved[x.device]

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch kept"]:
        """Select the kept entries."""
        if x.shape[1:] != self.keep.shape:
            raise ShapeError(
                f"the mask has event shape {tuple(self.keep.shape)}; found {tuple(x.shape[1:])}"
            )
        return flat(x).index_select(1, self._kept(x))

    def adjoint(self, y: Float[Tensor, "batch kept"]) -> Float[Tensor, "batch ..."]:
        """Put the kept entries back, zeros elsewhere."""
        out = y.new_zeros(y.shape[0], self.keep.numel())
        return out.index_copy(1, self._kept(y), y).reshape(y.shape[0], *self.keep.shape)

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Singular values are one on kept entries and zero elsewhere; V is the identity."""
        values = self.keep.reshape(-1).to(like.device, like.dtype)
        return SVD(
            values,
            flat,
            partial(folded, shape=self.keep.shape),
            lambda y: flat(self.adjoint(y)),
            lambda c: c.index_select(1, self._kept(c)),
        )


class Matrix(SpectralOperator):
    """A dense matrix on flattened events.

    Parameters
    ----------
    matrix : Tensor, shape (observation, event)
    event_shape : sequence of int, optional
        Shape that the adjoint folds to; flat events by default.
    """

    def __init__(
        self, matrix: Num[Tensor, "observation event"], event_shape: Sequence[int] | None = None
    ) -> None:
        if matrix.is_complex():
            raise ShapeError(
                f"a matrix is real; found {matrix.dtype}: stack its real and imaginary parts"
            )
        self.matrix = matrix
        self.event_shape = (matrix.shape[1],) if event_shape is None else tuple(event_shape)
        if size_of(self.event_shape) != matrix.shape[1]:
            raise ShapeError(
                f"a matrix with {matrix.shape[1]} columns acts on events of that size; "
                f"found event shape {self.event_shape}"
            )
        wide = matrix.detach().to("cpu", torch.float64)
        u, values, v_t = torch.linalg.svd(wide, full_matrices=True)
        # A value that is rounding error alone is a zero: nothing may divide by it.
        noise = max(wide.shape) * torch.finfo(torch.float64).eps
        values = torch.where(values > noise * values.max(), values, 0.0)
        padded = torch.zeros(matrix.shape[1], dtype=torch.float64)
        padded[: len(values)] = values
        self._svd, self._rank = (u, padded, v_t), int((padded > 0).sum())
        self._moved: dict[tuple, tuple[Tensor, ...]] = {}

    def _like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The matrix, U, the singular values and V^T in ``x``'s dtype and device, moved once."""
        key = (x.device, x.dtype)
        if key not in self._moved:
            self._moved[key] = tuple(a.to(*key) for a in (self.matrix, *self._svd))
        return self._moved[key]

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch observation"]:
        """Multiply each flattened event by the matrix."""
        return flat(x) @ self._like(x)[0].T

    def adjoint(self, y: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch ..."]:
        """Multiply each observation by the transpose."""
        return (y @ self._like(y)[0]).reshape(y.shape[0], *self.event_shape)

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Decomposition computed once in float64."""
        _, u, values, v_t = self._like(like)
        n, rank = v_t.shape[0], self._rank
        return SVD(
            values,
            lambda x: flat(x) @ v_t.T,
            lambda c: folded(c @ v_t, self.event_shape),
            lambda y: pad((y @ u)[:, :rank], (0, n - rank)),
            lambda c: c[:, :rank] @ u[:, :rank].T,
        )


class SumOverChannels(SpectralOperator):
    """The mixing operator: y = sum_k x_k over the first event axis (stems).

    Parameters
    ----------
    channels : int
        Number of stems.
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise SettingsError(f"the mixing operator sums at least one channel; found {channels}")
        self.channels = channels
        # Householder reflection that takes the constant direction to the first axis.
        e = torch.zeros(channels, dtype=torch.float64)
        e[0] = 1
        v = torch.full((channels,), channels**-0.5, dtype=torch.float64) - e
        norm = v.square().sum()
        eye = torch.eye(channels, dtype=torch.float64)
        self._rotation = eye if norm < 1e-30 else eye - 2 * torch.outer(v, v) / norm

    def forward(self, x: Float[Tensor, "batch channels *rest"]) -> Float[Tensor, "batch *rest"]:
        """Sum the channels."""
        if x.shape[1] != self.channels:
            raise ShapeError(
                f"the mixing operator sums {self.channels} channels; found {x.shape[1]}"
            )
        return x.sum(1)

    def adjoint(self, y: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch channels *rest"]:
        """Copy the observation to every channel."""
        return y[:, None].expand(-1, self.channels, *y.shape[1:]).clone()

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """One singular value sqrt(channels) per sample; V rotates the channel axis."""
        shape = tuple(shape)
        rotation = self._rotation.to(like.device, like.dtype)
        rest = size_of(shape[1:])
        values = torch.zeros(self.channels, rest, dtype=like.dtype, device=like.device)
        values[0] = self.channels**0.5
        rows = (self.channels, rest)
        return SVD(
            values.reshape(-1),
            lambda x: flat(torch.einsum("kc,bcn->bkn", rotation, folded(x, rows))),
            lambda c: folded(torch.einsum("kc,bkn->bcn", rotation, folded(c, rows)), shape),
            lambda y: pad(flat(y), (0, (self.channels - 1) * rest)),
            lambda c: folded(folded(c, rows)[:, 0], shape[1:]),
        )
