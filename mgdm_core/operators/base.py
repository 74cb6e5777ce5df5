"""The classes of forward operators, and what each class gets for free.

An operator maps a batch of events ``(batch, *event)`` to a batch of observations
``(batch, *observation)``. An :class:`Operator` can only go forward; a :class:`LinearOperator` adds
its adjoint, and with it the proximal map and the pseudo-inverse by conjugate gradients; a
:class:`SpectralOperator` adds its singular values, which make both closed forms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from mgdm_core.array_types import Events, Float, Shaped, Tensor
from mgdm_core.schedule import fit


def flat(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch size"]:
    """View a batch as one vector per item."""
    return x.reshape(x.shape[0], -1)


def dot(a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Inner product of each item of one batch with that of another."""
    return (flat(a) * flat(b)).sum(-1)


def folded(x: Shaped[Tensor, "batch ..."], shape: Sequence[int]) -> Shaped[Tensor, "batch ..."]:
    """View every item of a batch in another shape of the same size."""
    return x.reshape(x.shape[0], *shape)


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


FAR = 0.01
"""Residual, relative to the right-hand side, from which a solve is warned of."""


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Float[Tensor, "batch *axes"],
    steps: int = 100,
    tolerance: float = 1e-6,
) -> Float[Tensor, "batch *axes"]:
    """Solve apply(u) = rhs for a symmetric positive operator, each item on its own.

    An item rests once its residual is below ``tolerance`` times its right-hand side's norm. There
    are at most as many steps as unknowns; on the CPU, where looking costs nothing, the loop also
    ends when every item rests, and an end far from the solution is warned of.
    """
    u = torch.zeros_like(rhs)
    residual, direction = rhs.clone(), rhs.clone()
    energy = _fitted(residual, residual)
    goal = energy * tolerance**2
    tiny = torch.finfo(rhs.dtype).tiny
    # Rounding spoils the directions' conjugacy: a few steps beyond the number of unknowns.
    for _ in range(min(steps, 2 * rhs[0].numel() + 8)):
        if rhs.device.type == "cpu" and bool((energy <= goal).all()):
            break
        image = apply(direction)
        # A converged item has direction zero: keep it where it is instead of dividing 0 by 0.
        curvature = _fitted(direction, image)
        active = (curvature > 0) & (energy > goal)
        step = torch.where(active, energy / curvature.clamp_min(tiny), torch.zeros_like(energy))
        u = u + step * direction
        residual = residual - step * image
        new_energy = _fitted(residual, residual)
        direction = residual + new_energy / energy.clamp_min(tiny) * direction
        energy = new_energy
    if rhs.device.type == "cpu" and bool((energy > goal * (FAR / tolerance) ** 2).any()):
        warnings.warn(
            f"{steps} steps of conjugate gradients left more than {FAR:.0%} of an equation "
            f"unsolved: the noise is very small beside what the operator sees; give a larger "
            f"sigma_y, or an operator with an SVD",
            stacklevel=2,
        )
    return u


def _fitted(
    a: Float[Tensor, "batch *axes"], b: Float[Tensor, "batch *axes"]
) -> Float[Tensor, "batch ..."]:
    """Inner product of each item, in a shape that multiplies the items."""
    return fit(dot(a, b), a)  # type: ignore[return-value]


class Operator:
    """A map that can only go forward."""

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the operator to a batch of events."""
        raise NotImplementedError

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Same as :meth:`forward`."""
        return self.forward(x)


class LinearOperator(Operator):
    """A linear map with its adjoint; the rest is by conjugate gradients."""

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the transpose: <A x, y> = <x, A^T y>."""
        raise NotImplementedError

    def pseudo_inverse(
        self, y: Float[Tensor, "batch ..."], shape: Sequence[int]
    ) -> Float[Tensor, "batch ..."]:
        """Least-norm event of ``shape`` that explains ``y`` best."""
        # The normal equations in x have a solution for any y; those in y only for y in the range.
        return conjugate_gradient(lambda x: self.adjoint(self.forward(x)), self.adjoint(y))

    def proximal(
        self, z: Events, y: Float[Tensor, "batch ..."], weight: Float[Tensor, "..."] | float
    ) -> Events:
        """Minimise weight ||A x - y||^2 + ||x - z||^2 over x.

        This is the mean of N(z, v I) conditioned on y = A x + N(0, s^2 I) with weight = v / s^2.

        Parameters
        ----------
        weight : float or Tensor of shape (batch,)
            One weight, or one per item.
        """
        w = fit(weight, y)
        solved = conjugate_gradient(
            lambda u: w * self.forward(self.adjoint(u)) + u, w * (y - self.forward(z))
        )
        return z + self.adjoint(solved)

    def solve_gram(
        self,
        v: Float[Tensor, "batch ..."],
        weight: Float[Tensor, "..."] | float,
        shape: Sequence[int],
    ) -> Float[Tensor, "batch ..."]:
        """(weight A A^T + I)^-1 v for events of ``shape``."""
        w = fit(weight, v)
        return conjugate_gradient(lambda u: w * self.forward(self.adjoint(u)) + u, v)


class SpectralOperator(LinearOperator):
    """A linear map with its singular value decomposition."""

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Singular value decomposition for events of ``shape``, in ``like``'s dtype and device."""
        raise NotImplementedError

    def pseudo_inverse(
        self, y: Float[Tensor, "batch ..."], shape: Sequence[int]
    ) -> Float[Tensor, "batch ..."]:
        """Least-norm event of ``shape`` that explains ``y`` best, in closed form."""
        svd = self.svd(shape, y)
        safe = torch.where(svd.values > 0, svd.values, torch.ones_like(svd.values))
        return svd.v(svd.u_t(y) / safe)

    def solve_gram(
        self,
        v: Float[Tensor, "batch ..."],
        weight: Float[Tensor, "..."] | float,
        shape: Sequence[int],
    ) -> Float[Tensor, "batch ..."]:
        """(weight A A^T + I)^-1 v for events of ``shape``, in closed form."""
        svd = self.svd(shape, v)
        d = svd.u_t(v)
        square = fit(weight, d) * svd.values**2
        # What U does not reach passes as it is.
        return v - svd.u(square / (1 + square) * d)

    def proximal(
        self, z: Events, y: Float[Tensor, "batch ..."], weight: Float[Tensor, "..."] | float
    ) -> Events:
        """Minimise weight ||A x - y||^2 + ||x - z||^2 over x, in closed form."""
        svd = self.svd(z.shape[1:], z)
        c, d = svd.v_t(z), svd.u_t(y)
        w = fit(weight, c)
        gain = w * svd.values / (1 + w * svd.values**2)
        return svd.v(c + gain * (d - svd.values * c))


def size_of(shape: Sequence[int]) -> int:
    """Numbers in one event of ``shape``."""
    return int(torch.Size(shape).numel())
