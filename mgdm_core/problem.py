"""What is to be sampled: a prior, a likelihood and the shape of one event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from mgdm_core.array_types import Float, Num, Tensor
from mgdm_core.errors import CapabilityError, ShapeError
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import SVD, SpectralOperator, flat
from mgdm_core.priors import Denoised, Prior
from mgdm_core.schedule import Level, NoiseSchedule


@dataclass
class Meter:
    """Counts the denoiser's evaluations and vector-Jacobian products, per item of the result.

    Attributes
    ----------
    items : int
        Items that share the counts: particles of an item count for that item.
    """

    items: int
    evaluations: float = 0.0
    vjps: float = 0.0

    def count_vjp(self, rows: int, grad: Tensor) -> None:
        """Note that a gradient came back for so many rows: a hook of what was denoised."""
        self.vjps += rows / self.items


@dataclass(frozen=True)
class Problem:
    """p(x_0) and g(y | x_0), for one or more observations.

    Parameters
    ----------
    prior : Prior
        The diffusion prior of x_0, on the device of the observation.
    likelihood : Likelihood
        g, with one observation per item.
    shape : sequence of int
        Shape of one event x_0.
    meter : Meter or None
        Counts what is asked of the prior, where somebody wants to know.
    """

    prior: Prior
    likelihood: Likelihood
    shape: Sequence[int]
    meter: Meter | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def schedule(self) -> NoiseSchedule:
        """The prior's levels."""
        return self.prior.schedule

    @property
    def items(self) -> int:
        """Number of observations."""
        return len(self.likelihood.observation)

    @property
    def device(self) -> torch.device:
        """Where the observation lives."""
        return self.likelihood.observation.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the state: the observation's own, float32 at least. Only a network may be narrower."""
        return torch.promote_types(self.likelihood.observation.dtype, torch.float32)

    @property
    def rows(self) -> int:
        """Numbers observed per item."""
        return flat(self.likelihood.observation).shape[1]

    @cached_property
    def components(self) -> tuple[SVD, Tensor, Tensor, Tensor]:
        """A's SVD, which components are seen, as what, and with which deviation.

        Of a Gaussian likelihood on a :class:`~mgdm_core.SpectralOperator`.
        """
        likelihood: GaussianLikelihood = self.likelihood  # type: ignore[assignment]
        operator: SpectralOperator = likelihood.operator  # type: ignore[assignment]
        svd = operator.svd(self.shape, likelihood.observation)
        seen = svd.values > 1e-6 * svd.values.max()
        safe = torch.where(seen, svd.values, torch.ones_like(svd.values))
        return svd, seen, svd.u_t(likelihood.observation) / safe, likelihood.sigma_y / safe

    def observing(self, observation: Num[Tensor, "batch ..."]) -> Problem:
        """Return the same problem with another observation."""
        return replace(self, likelihood=self.likelihood.observing(observation))

    def select(self, items: Sequence[int]) -> Problem:
        """Return the problem of the chosen observations, in that order (repeats allowed)."""
        return replace(self, likelihood=self.likelihood.select(items))

    # -- the prior, counted --------------------------------------------------------------------

    def _asked(self, x: Tensor, out: Tensor) -> Tensor:
        if out.shape != x.shape:
            raise ShapeError(
                f"a prior returns an estimate of its input's shape {tuple(x.shape)}; "
                f"found {tuple(out.shape)}"
            )
        if self.meter is not None:
            self.meter.evaluations += len(x) / self.meter.items
        return out

    def denoise(self, x: Float[Tensor, "items *event"], t: Level) -> Float[Tensor, "items *event"]:
        """D_t(x) without a graph."""
        with torch.no_grad():
            return self._asked(x, self.prior.denoise(x, t))

    def denoise_with_variance(self, x: Float[Tensor, "items *event"], t: Level) -> Denoised:
        """D_t(x) with its diagonal posterior variance, without a graph."""
        with torch.no_grad():
            out = self.prior.denoise_with_variance(x, t)  # type: ignore[attr-defined]
            self._asked(x, out.mean)
            return out

    def denoise_differentiably(
        self, x: Float[Tensor, "items *event"], t: Level
    ) -> Float[Tensor, "items *event"]:
        """D_t(x) with a graph in x; every product with its Jacobian is counted."""
        out = self._asked(x, self.prior.denoise(x, t))
        if not out.requires_grad:
            raise CapabilityError(self.prior, "vjp")
        if self.meter is not None:
            out = out.view_as(out)
            out.register_hook(partial(self.meter.count_vjp, len(x)))
        return out

    def residual(self, x_0: Float[Tensor, "items *event"]) -> Float[Tensor, " items"] | None:
        """Root mean square of y - A(x_0) per item, where the likelihood has a residual."""
        if not isinstance(self.likelihood, GaussianLikelihood) or len(x_0) != self.items:
            return None
        return flat(self.likelihood.residual(x_0)).square().mean(-1).sqrt()
