"""Exact conditioning of a Gaussian on a linear observation, for covariances that are cheap.

x ~ N(m, C), y = A x + sigma_y eps. A draw of x | y is z + C A^T (A C A^T + sigma_y^2 I)^-1
(y + sigma_y e - A z) with z ~ N(m, C) ("perturb and project"); with z = m and no noise it is the
conditional mean. No gradient of a network is involved.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol, runtime_checkable

from mgdm_core.array_types import Events, Float, Num, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, SumOverChannels, conjugate_gradient
from mgdm_core.schedule import fit


@runtime_checkable
class Basis(Protocol):
    """An orthonormal basis or tight frame acting on the last axis of an event.

    White noise of deviation one has unit variance per coefficient.
    """

    def forward(self, x: Float[Tensor, "..."]) -> Num[Tensor, "..."]:
        """Coefficients."""
        ...

    def inverse(self, coefficients: Num[Tensor, "..."], length: int) -> Float[Tensor, "..."]:
        """Signal of ``length`` samples."""
        ...


class IdentityBasis:
    """The samples themselves."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return ``x``."""
        return x

    def inverse(self, coefficients: Float[Tensor, "..."], length: int) -> Float[Tensor, "..."]:
        """Return the coefficients."""
        return coefficients


def condition_gaussian(
    mean: Events,
    variance: Float[Tensor, "..."],
    operator: LinearOperator,
    y: Float[Tensor, "batch ..."],
    sigma_y: float,
    *,
    basis: Basis | None = None,
    noise: RandomStreams | None = None,
) -> Events:
    r"""Condition N(mean, C) on y = A x + sigma_y eps, C diagonal in ``basis``.

    Parameters
    ----------
    mean : Tensor, shape (batch, *event)
    variance : Tensor
        Shape (batch,): one variance per item, C = v I, solved by the operator's proximal map.
        Otherwise the shape of ``basis.forward(mean)``: the diagonal. For the mixing operator each
        coefficient is then solved on its own, gain v_k / (sum_j v_j + sigma_y^2): a generalised
        Wiener step. For any other linear operator the solve is by conjugate gradients.
    noise : RandomStreams or None
        Given: an exact draw. None: the conditional mean.
    """
    if noise is not None:
        y = y + sigma_y * noise.normal_like(y)
    if variance.ndim == 1:
        z = mean
        if noise is not None:
            z = mean + fit(variance.clamp_min(0).sqrt(), mean) * noise.normal_like(mean)
        return operator.proximal(z, y, variance.clamp_min(0) / sigma_y**2)

    basis = IdentityBasis() if basis is None else basis
    length = mean.shape[-1]
    v = variance.clamp_min(0)
    z = mean
    if noise is not None:
        white = basis.forward(noise.normal_like(mean))
        z = mean + basis.inverse(v.sqrt() * white, length)
    if isinstance(operator, SumOverChannels):
        # Every coefficient is a sum of independent stems: the solve is a division.
        gain = v / (v.sum(1, keepdim=True) + sigma_y**2)
        rest = basis.forward(y - operator.forward(z))
        return z + basis.inverse(gain * rest[:, None], length)
    spread = partial(_spread, basis, v)
    solved = conjugate_gradient(
        lambda u: operator.forward(spread(operator.adjoint(u))) + sigma_y**2 * u,
        y - operator.forward(z),
    )
    return z + spread(operator.adjoint(solved))


def _spread(basis: Basis, variance: Float[Tensor, "..."], x: Events) -> Events:
    """Multiply by a covariance that is diagonal in the basis."""
    return basis.inverse(variance * basis.forward(x), x.shape[-1])
