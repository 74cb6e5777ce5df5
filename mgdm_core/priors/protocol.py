"""What a sampler asks of a prior.

``denoise(x_t, t)`` estimates E[x_0 | x_t] on the levels of the prior's own schedule. It must be
differentiable in ``x`` for samplers that use vector-Jacobian products, and must run under
``torch.no_grad`` for those that do not. The level is one int for all items or one per item.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Events, Int, Tensor
from mgdm_core.schedule import NoiseSchedule


@runtime_checkable
class Prior(Protocol):
    """What a sampler asks of a prior."""

    schedule: NoiseSchedule

    def denoise(self, x: Events, t: int | Int[Tensor, " batch"]) -> Events:
        """Estimate E[x_0 | x_t = x] at level(s) ``t``; at level 0 this is ``x`` itself."""
        ...


class Denoised(NamedTuple):
    """A posterior mean with a posterior variance that is diagonal in some basis.

    ``variance`` has the shape that ``basis.forward(mean)`` has.
    """

    mean: Tensor
    variance: Tensor
    basis: object


@runtime_checkable
class VariancePrior(Prior, Protocol):
    """A prior that also knows Var[x_0 | x_t] as a diagonal in a basis of its choice."""

    def denoise_with_variance(self, x: Events, t: int | Int[Tensor, " batch"]) -> Denoised:
        """Return the posterior mean and the diagonal posterior variance."""
        ...


def level_vector(t: int | Tensor, batch: int, device: torch.device) -> Int[Tensor, " batch"]:
    """Return one level per item on ``device``, from one int or one level per item."""
    if isinstance(t, int):
        return torch.full((batch,), t, device=device)
    index = t.to(device).reshape(-1)
    return index.expand(batch) if len(index) == 1 else index
