"""Forward operators by capability: forward; adjoint; singular values; proximal.

An operator maps a batch of events ``(batch, *event)`` to a batch of observations
``(batch, *observation)``. It declares what it can do in :attr:`Operator.capabilities`; asking for
anything else raises :class:`~mgdm_core.errors.CapabilityError` naming what is missing. Having an
adjoint means being linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from mgdm_core.array_types import Bool, Float, Shaped, Tensor
from mgdm_core.errors import CapabilityError, SettingsError, ShapeError

__all__ = [
    "SVD",
    "Composition",
    "FunctionOperator",
    "Identity",
    "Mask",
    "Matrix",
    "Operator",
    "Stack",
    "SumOverChannels",
    "conjugate_gradient",
    "flat",
]


def flat(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch size"]:
    """View a batch as one vector per item."""
    return x.reshape(x.shape[0], -1)


class SVD(NamedTuple):
    """A = U diag(values) V^T on flattened events, padded to the event's size n.

    ``values`` has shape (n,), zeros in the null space; ``v_t`` and ``v`` map events to spectral
    coefficients (batch, n) and back (V is orthogonal); ``u_t`` maps an observation to its
    coefficients in the same n slots (zeros where the value is zero) and ``u`` goes back.
    """

    values: Tensor
    v_t: Callable[[Tensor], Tensor]
    v: Callable[[Tensor], Tensor]
    u_t: Callable[[Tensor], Tensor]
    u: Callable[[Tensor], Tensor]


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, "batch *axes"],
    steps: int = 100,
    tolerance: float = 1e-6,
) -> Float[Tensor, "batch *axes"]:
    """Solve apply(u) = rhs for a symmetric positive operator, each item on its own.

    Stops when every item's residual is below ``tolerance`` times its right-hand side's norm.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (flat(a) * flat(b)).sum(-1).reshape((-1,) + (1,) * (a.ndim - 1))

    u = torch.zeros_like(rhs)
    residual, direction = rhs.clone(), rhs.clone()
    energy = dot(residual, residual)
    goal = energy * tolerance**2
    for _ in range(steps):
        if bool((energy <= goal).all()):
            break
        image = apply(direction)
        # A converged item has direction zero: keep it where it is instead of dividing 0 by 0.
        curvature = dot(direction, image)
        step = torch.where(curvature > 0, energy / curvature.clamp_min(1e-300), 0.0 * energy)
        step = torch.where(energy > goal, step, 0.0 * step)
        u = u + step * direction
        residual = residual - step * image
        new_energy = dot(residual, residual)
        ratio = torch.where(energy > 0, new_energy / energy.clamp_min(1e-300), 0.0 * energy)
        direction, energy = residual + ratio * direction, new_energy
    return u


class Operator:
    """Base class: a map that can only go forward.

    Subclasses override what they can do and say so in :attr:`capabilities`, a set out of
    ``forward``, ``adjoint`` (the operator is linear), ``svd`` and ``proximal``.
    """

    capabilities: frozenset[str] = frozenset({"forward"})

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the operator to a batch of events."""
        raise CapabilityError(self, "forward")

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Same as :meth:`forward`."""
        return self.forward(x)

    def require(self, capability: str, needed_by: str) -> None:
        """Raise :class:`CapabilityError` unless the operator declares ``capability``."""
        if capability not in self.capabilities:
            raise CapabilityError(self, capability, needed_by)

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the transpose: <A x, y> = <x, A^T y>."""
        raise CapabilityError(self, "adjoint", "this call")

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Singular value decomposition for events of ``shape``, in ``like``'s dtype and device."""
        raise CapabilityError(self, "svd", "this call")

    def pseudo_inverse(
        self, y: Float[Tensor, "batch ..."], shape: Sequence[int]
    ) -> Float[Tensor, "batch ..."]:
        """Least-norm event that explains ``y`` best, from the SVD, else by conjugate gradients."""
        if "svd" in self.capabilities:
            svd = self.svd(shape, y)
            safe = torch.where(svd.values > 0, svd.values, torch.ones_like(svd.values))
            return svd.v(svd.u_t(y) / safe)
        self.require("adjoint", "pseudo_inverse")
        # The normal equations in x have a solution for any y; those in y only for y in the range.
        return conjugate_gradient(lambda x: self.adjoint(self.forward(x)), self.adjoint(y))

    def proximal(
        self,
        z: Float[Tensor, "batch *event"],
        y: Float[Tensor, "batch ..."],
        weight: Float[Tensor, "..."] | float,
    ) -> Float[Tensor, "batch *event"]:
        """Minimise weight ||A x - y||^2 + ||x - z||^2 over x.

        This is the mean of N(z, v I) conditioned on y = A x + N(0, s^2 I) with weight = v / s^2.
        Closed form with an SVD, else conjugate gradients with the adjoint.

        Parameters
        ----------
        weight : float or Tensor of shape (batch,)
            One weight, or one per item.
        """
        w = torch.as_tensor(weight, dtype=z.dtype, device=z.device).reshape(-1)
        if "svd" in self.capabilities:
            svd = self.svd(z.shape[1:], z)
            c, d = svd.v_t(z), svd.u_t(y)
            w = w[:, None]
            gain = w * svd.values / (1 + w * svd.values**2)
            return svd.v(c + gain * (d - svd.values * c))
        self.require("adjoint", "proximal")
        residual = y - self.forward(z)
        wide = w.reshape((-1,) + (1,) * (y.ndim - 1))

        def gram(u: Tensor) -> Tensor:
            return wide * self.forward(self.adjoint(u)) + u

        return z + self.adjoint(conjugate_gradient(gram, wide * residual))


_LINEAR = frozenset({"forward", "adjoint", "proximal"})
_FULL = _LINEAR | {"svd"}


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


class Identity(Operator):
    """Everything is observed."""

    capabilities = _FULL

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the event itself."""
        return x

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return the observation itself."""
        return y

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """All singular values are one."""
        shape = tuple(shape)
        ones = torch.ones(_size(shape), dtype=like.dtype, device=like.device)

        def fold(c: Tensor) -> Tensor:
            return c.reshape(c.shape[0], *shape)

        return SVD(ones, flat, fold, flat, fold)


class Mask(Operator):
    """Observe some entries: y is the vector of kept entries, in row-major order.

    Parameters
    ----------
    keep : Tensor of bool, shape (*event)
        True where the event is observed.
    """

    capabilities = _FULL

    def __init__(self, keep: Bool[Tensor, "..."]) -> None:
        if not bool(keep.any()):
            raise SettingsError("a mask observes at least one entry; found none")
        self.keep = keep
        self._index = keep.reshape(-1).nonzero()[:, 0]

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch kept"]:
        """Select the kept entries."""
        if x.shape[1:] != self.keep.shape:
            raise ShapeError(
                f"the mask has event shape {tuple(self.keep.shape)}; found {tuple(x.shape[1:])}"
            )
        return flat(x)[:, self._index.to(x.device)]

    def adjoint(self, y: Float[Tensor, "batch kept"]) -> Float[Tensor, "batch ..."]:
        """Put the kept entries back, zeros elsewhere."""
        out = torch.zeros(y.shape[0], self.keep.numel(), dtype=y.dtype, device=y.device)
        out[:, self._index.to(y.device)] = y
        return out.reshape(y.shape[0], *self.keep.shape)

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Singular values are one on kept entries and zero elsewhere; V is the identity."""
        values = self.keep.reshape(-1).to(like.device, like.dtype)

        def fold(c: Tensor) -> Tensor:
            return c.reshape(c.shape[0], *self.keep.shape)

        return SVD(values, flat, fold, lambda y: flat(self.adjoint(y)), lambda c: c[:, self._index])


class Matrix(Operator):
    """A dense matrix on flattened events.

    Parameters
    ----------
    matrix : Tensor, shape (observation, event)
    event_shape : sequence of int, optional
        Shape that the adjoint folds to; flat events by default.
    """

    capabilities = _FULL

    def __init__(
        self, matrix: Float[Tensor, "observation event"], event_shape: Sequence[int] | None = None
    ) -> None:
        self.matrix = matrix
        self.event_shape = (matrix.shape[1],) if event_shape is None else tuple(event_shape)
        if _size(self.event_shape) != matrix.shape[1]:
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
        self._svd = (u, padded, v_t)

    def _like(self, x: Tensor) -> Tensor:
        return self.matrix.to(x.device, x.dtype)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch observation"]:
        """Multiply each flattened event by the matrix."""
        return flat(x) @ self._like(x).T

    def adjoint(self, y: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch ..."]:
        """Multiply each observation by the transpose."""
        return (y @ self._like(y)).reshape(y.shape[0], *self.event_shape)

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Decomposition computed once in float64."""
        u, values, v_t = (a.to(like.device, like.dtype) for a in self._svd)
        n, rank = v_t.shape[0], int((self._svd[1] > 0).sum())

        def to_slots(y: Tensor) -> Tensor:
            out = torch.zeros(y.shape[0], n, dtype=y.dtype, device=y.device)
            out[:, :rank] = (y @ u)[:, :rank]
            return out

        return SVD(
            values,
            lambda x: flat(x) @ v_t.T,
            lambda c: (c @ v_t).reshape(c.shape[0], *self.event_shape),
            to_slots,
            lambda c: c[:, :rank] @ u[:, :rank].T,
        )


class SumOverChannels(Operator):
    """The mixing operator: y = sum_k x_k over the first event axis (stems).

    Parameters
    ----------
    channels : int
        Number of stems.
    """

    capabilities = _FULL

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
        rest = _size(shape[1:])
        values = torch.zeros(self.channels, rest, dtype=like.dtype, device=like.device)
        values[0] = self.channels**0.5

        def v_t(x: Tensor) -> Tensor:
            return flat(torch.einsum("kc,bcn->bkn", rotation, x.reshape(len(x), shape[0], rest)))

        def v(c: Tensor) -> Tensor:
            turned = torch.einsum("kc,bkn->bcn", rotation, c.reshape(len(c), shape[0], rest))
            return turned.reshape(len(c), *shape)

        def u_t(y: Tensor) -> Tensor:
            out = torch.zeros(len(y), self.channels, rest, dtype=y.dtype, device=y.device)
            out[:, 0] = flat(y)
            return flat(out)

        def u(c: Tensor) -> Tensor:
            return c.reshape(len(c), self.channels, rest)[:, 0].reshape(len(c), *shape[1:])

        return SVD(values.reshape(-1), v_t, v, u_t, u)


class Composition(Operator):
    """outer after inner. Linear (adjoint, proximal by conjugate gradients) when both are."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        self.outer, self.inner = outer, inner
        both = outer.capabilities & inner.capabilities
        self.capabilities = _LINEAR if "adjoint" in both else frozenset({"forward"})

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply inner, then outer."""
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply outer's adjoint, then inner's."""
        self.require("adjoint", "Composition.adjoint")
        return self.inner.adjoint(self.outer.adjoint(y))


class Stack(Operator):
    """Several observations of one event, flattened and joined in order.

    Parameters
    ----------
    operators : sequence of Operator
    observation_shapes : sequence of shapes
        Shape of each operator's observation, to split what the adjoint receives.
    """

    def __init__(
        self, operators: Sequence[Operator], observation_shapes: Sequence[Sequence[int]]
    ) -> None:
        if len(operators) == 0 or len(operators) != len(observation_shapes):
            raise SettingsError(
                f"a stack needs operators and one observation shape for each; "
                f"found {len(operators)} and {len(observation_shapes)}"
            )
        self.operators = tuple(operators)
        self.observation_shapes = tuple(tuple(s) for s in observation_shapes)
        linear = all("adjoint" in op.capabilities for op in operators)
        self.capabilities = _LINEAR if linear else frozenset({"forward"})

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch joined"]:
        """Apply every operator and join the flattened observations."""
        return torch.cat([flat(op.forward(x)) for op in self.operators], dim=1)

    def adjoint(self, y: Float[Tensor, "batch joined"]) -> Float[Tensor, "batch ..."]:
        """Sum of the adjoints of the parts."""
        self.require("adjoint", "Stack.adjoint")
        sizes = [_size(s) for s in self.observation_shapes]
        parts = y.split(sizes, dim=1)
        images = [
            op.adjoint(part.reshape(len(y), *shape))
            for op, part, shape in zip(self.operators, parts, self.observation_shapes)
        ]
        return torch.stack(images).sum(0)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= int(length)
    return size
