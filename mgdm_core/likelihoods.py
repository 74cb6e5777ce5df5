"""Log-likelihoods log g(y | x_0): one value per item, never a sum over the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators import Operator, flat

__all__ = ["CallableLikelihood", "GaussianLikelihood", "Likelihood", "PoissonLikelihood"]


@runtime_checkable
class Likelihood(Protocol):
    """What a sampler asks of a likelihood.

    ``observation`` has one row per item; ``select`` re-orders or repeats the items, which particle
    methods use.
    """

    observation: Tensor

    def log_prob(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """log g(y_i | x_0_i) for every item i, up to a constant that depends on y only."""
        ...

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> Likelihood:
        """Return the likelihood of the chosen items, in that order (repeats allowed)."""
        ...


def _index(items: Sequence[int] | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(items, device=like.device, dtype=torch.long)


class GaussianLikelihood:
    """y = A(x_0) + sigma_y eps.

    Parameters
    ----------
    operator : Operator
        A, linear or not.
    observation : Tensor, shape (batch, *observation)
        y.
    sigma_y : float
        Deviation of the observation noise, positive. A setting of the method where the
        observation is exact.
    """

    def __init__(
        self, operator: Operator, observation: Float[Tensor, "batch ..."], sigma_y: float
    ) -> None:
        if not sigma_y > 0:
            raise SettingsError(
                f"sigma_y is positive; found {sigma_y}; for an exact observation give a small one"
            )
        self.operator = operator
        self.observation = observation
        self.sigma_y = float(sigma_y)

    def residual(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch ..."]:
        """y - A(x_0)."""
        return self.observation - self.operator.forward(x_0)

    def log_prob(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """-||y - A(x_0)||^2 / (2 sigma_y^2) per item."""
        return -0.5 * flat(self.residual(x_0)).square().sum(-1) / self.sigma_y**2

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> GaussianLikelihood:
        """Keep the chosen items."""
        rows = self.observation[_index(items, self.observation)]
        return GaussianLikelihood(self.operator, rows, self.sigma_y)


class PoissonLikelihood:
    """y ~ Poisson(gain A(x_0)), rates clipped from below.

    Parameters
    ----------
    operator : Operator
        A; its output should be non-negative.
    observation : Tensor, shape (batch, *observation)
        Counts.
    gain : float
        Expected count per unit of A(x_0), positive.
    floor : float
        Smallest rate: keeps the logarithm and its gradient finite.
    """

    def __init__(
        self,
        operator: Operator,
        observation: Float[Tensor, "batch ..."],
        gain: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        if not gain > 0 or not floor > 0:
            raise SettingsError(f"gain and floor are positive; found {gain} and {floor}")
        if bool((observation < 0).any()):
            raise SettingsError("Poisson counts are non-negative; found a negative observation")
        self.operator, self.observation = operator, observation
        self.gain, self.floor = float(gain), float(floor)

    def rate(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch ..."]:
        """Expected counts, clipped from below."""
        return (self.gain * self.operator.forward(x_0)).clamp_min(self.floor)

    def log_prob(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """Sum of y log rate - rate per item (log y! left out)."""
        rate = self.rate(x_0)
        return flat(self.observation * rate.log() - rate).sum(-1)

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> PoissonLikelihood:
        """Keep the chosen items."""
        rows = self.observation[_index(items, self.observation)]
        return PoissonLikelihood(self.operator, rows, self.gain, self.floor)


class CallableLikelihood:
    """Any log-likelihood of your own.

    Parameters
    ----------
    log_prob : callable
        Takes (x_0, observation), both with the batch first, and returns shape (batch,).
    observation : Tensor, shape (batch, ...)
    """

    def __init__(
        self, log_prob: Callable[[Tensor, Tensor], Tensor], observation: Float[Tensor, "batch ..."]
    ) -> None:
        self._log_prob = log_prob
        self.observation = observation

    def log_prob(self, x_0: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """Return the callable's value, one per item."""
        value = self._log_prob(x_0, self.observation)
        if value.shape != x_0.shape[:1]:
            raise SettingsError(
                f"a log-likelihood returns one value per item, shape ({len(x_0)},); "
                f"found {tuple(value.shape)}; sum over the event, not over the batch"
            )
        return value

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> CallableLikelihood:
        """Keep the chosen items."""
        return CallableLikelihood(self._log_prob, self.observation[_index(items, self.observation)])
