"""Log-likelihoods log g(y | x_0): one value per item, never a sum over the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch

from mgdm_core.array_types import Events, Float, Int, Num, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.operators import Operator, Scaled, flat, scaled
from mgdm_core.schedule import fit


class Likelihood:
    """What a sampler asks of a likelihood: subclasses give ``log_prob``.

    Attributes
    ----------
    observation : Tensor, shape (batch, ...)
        One row per item.
    """

    observation: Tensor

    def log_prob(self, x_0: Events) -> Float[Tensor, " batch"]:
        """log g(y_i | x_0_i) for every item i, up to a constant that depends on y only."""
        raise NotImplementedError

    def observing(self, observation: Num[Tensor, "batch ..."]) -> Likelihood:
        """Return the same likelihood of another observation."""
        other = copy(self)
        other.observation = observation
        return other

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> Likelihood:
        """Return the likelihood of the chosen items, in that order (repeats allowed)."""
        index = torch.as_tensor(items, device=self.observation.device, dtype=torch.long)
        return self.observing(self.observation[index])


class ImageLikelihood(Likelihood):
    """A likelihood that sees x_0 through its image A(x_0) alone, each number on its own.

    It can say which Gaussian in the image it looks like near a point, and so takes the place of a
    Gaussian likelihood in methods that linearise.
    """

    operator: Operator

    def image(self, x_0: Events) -> Float[Tensor, "batch ..."]:
        """A(x_0), which has the observation's shape."""
        image = self.operator.forward(x_0)
        if image.shape != self.observation.shape:
            raise ShapeError(
                f"an observation has the shape (batch, *observation) that A(x_0) has, here "
                f"{tuple(image.shape)}; found {tuple(self.observation.shape)}"
            )
        return image

    def log_prob(self, x_0: Events) -> Float[Tensor, " batch"]:
        """log g per item, up to a constant that depends on y only."""
        return self.image_log_prob(flat(self.image(x_0)))

    def image_log_prob(self, image: Float[Tensor, "batch rows"]) -> Float[Tensor, " batch"]:
        """log g per item as a function of A(x_0), flattened."""
        raise NotImplementedError

    def local_gaussian(
        self, image: Float[Tensor, "batch rows"]
    ) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
        """Centre and variance of the Gaussian with log g's slope and information at ``image``."""
        raise NotImplementedError


class GaussianLikelihood(ImageLikelihood):
    """y = A(x_0) + sigma_y eps.

    Parameters
    ----------
    operator : Operator
        A, linear or not.
    observation : Tensor, shape (batch, *observation)
        y.
    sigma_y : float or Tensor
        Deviation of the observation noise, positive. A setting of the method where the
        observation is exact. A tensor has as many axes as the observation and broadcasts with it:
        shape (batch, 1, ...) for one per item, (1, *observation) for one per entry. Where it
        differs, operator, observation and residual are kept in units of it, and ``sigma_y`` is 1.

    Attributes
    ----------
    unit : float or Tensor, shape (batch,)
        What a residual of one is worth in the observation as it was given, for settings in its
        units: the root mean square of an item's ``sigma_y`` where it differs, else 1.
    """

    def __init__(
        self,
        operator: Operator,
        observation: Float[Tensor, "batch ..."],
        sigma_y: float | Float[Tensor, "..."],
    ) -> None:
        sigma = torch.as_tensor(sigma_y, dtype=torch.float64, device="cpu")
        if not bool((sigma > 0).all()):
            raise SettingsError(
                f"sigma_y is positive; found {float(sigma.min())}; for an exact observation give a "
                f"small one"
            )
        self.unit: float | Float[Tensor, " batch"] = 1.0
        if sigma.ndim > 0:
            sizes = zip(sigma.shape, observation.shape)
            if sigma.ndim != observation.ndim or any(n not in (1, m) for n, m in sizes):
                raise ShapeError(
                    f"sigma_y is a number or broadcasts with the observation, whose shape is "
                    f"{tuple(observation.shape)}, axis by axis; found {tuple(sigma.shape)}"
                )
        if bool((sigma != sigma.reshape(-1)[0]).any()):
            # In the state's precision: a half may not hold what is divided by a small deviation.
            wide = observation.to(torch.promote_types(observation.dtype, torch.float32))
            factors = (1 / sigma).to(wide)
            operator, observation = scaled(operator, factors), factors * wide
            self.unit = flat(sigma.square()).mean(-1).sqrt().expand(len(wide)).to(wide)
            sigma = torch.ones(1)
        self.operator = operator
        self.observation = observation
        self.sigma_y = float(sigma.reshape(-1)[0])

    @property
    def deviation(self) -> float | Float[Tensor, " batch"]:
        """``sigma_y`` in the observation's own units; of an item in the mean where it differs."""
        return self.sigma_y * self.unit

    def observing(self, observation: Num[Tensor, "batch ..."]) -> Likelihood:
        """Return the same likelihood of another observation."""
        other = super().observing(observation)
        if isinstance(self.unit, Tensor):
            other.unit = self.unit.to(observation)  # type: ignore[attr-defined]
        return other

    def select(self, items: Sequence[int] | Int[Tensor, " chosen"]) -> Likelihood:
        """Return the likelihood of the chosen items, in that order (repeats allowed)."""
        chosen = super().select(items)
        if isinstance(self.operator, Scaled):
            chosen.operator = self.operator.select(torch.as_tensor(items))  # type: ignore
        if isinstance(self.unit, Tensor):
            index = torch.as_tensor(items, dtype=torch.long).to(self.unit.device)
            chosen.unit = self.unit[index]  # type: ignore[attr-defined]
        return chosen

    def in_data_units(self, value: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Turn what is kept in units of an item's noise into the observation's own units."""
        return fit(self.unit, value) * value

    def with_deviation(self, sigma_y: float) -> GaussianLikelihood:
        """Return the likelihood with another deviation, in the observation's own units.

        Where entries differ they go on to, around a root mean square of ``sigma_y``.
        """
        other = copy(self)
        if isinstance(self.unit, Tensor):
            factors = self.in_data_units(torch.ones_like(self.observation))
            other.operator = scaled(self.operator, factors)
            other.observation, other.unit = factors * self.observation, 1.0
        other.sigma_y = sigma_y
        return other

    def residual(self, x_0: Events) -> Float[Tensor, "batch ..."]:
        """y - A(x_0)."""
        return self.observation - self.image(x_0)

    def image_log_prob(self, image: Float[Tensor, "batch rows"]) -> Float[Tensor, " batch"]:
        """-||y - image||^2 / (2 sigma_y^2) per item."""
        return -0.5 * (flat(self.observation) - image).square().sum(-1) / self.sigma_y**2

    def local_gaussian(
        self, image: Float[Tensor, "batch rows"]
    ) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
        """y and sigma_y^2, wherever the image is."""
        return flat(self.observation), torch.full_like(image, self.sigma_y**2)


class PoissonLikelihood(ImageLikelihood):
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
        observation: Num[Tensor, "batch ..."],
        gain: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        if not gain > 0 or not floor > 0:
            raise SettingsError(f"gain and floor are positive; found {gain} and {floor}")
        if bool((observation < 0).any()):
            raise SettingsError("Poisson counts are non-negative; found a negative observation")
        self.operator, self.observation = operator, observation
        self.gain, self.floor = float(gain), float(floor)

    def rate(self, image: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Expected counts of A(x_0), clipped from below."""
        return (self.gain * image).clamp_min(self.floor)

    def image_log_prob(self, image: Float[Tensor, "batch rows"]) -> Float[Tensor, " batch"]:
        """Sum of y log rate - rate per item, rate = gain image."""
        rate = self.rate(image)
        return (flat(self.observation) * rate.log() - rate).sum(-1)

    def local_gaussian(
        self, image: Float[Tensor, "batch rows"]
    ) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
        """Working response and variance of Fisher scoring (McCullagh and Nelder 1989, section 2.5).

        Centre y / gain and variance rate / gain^2. Where nothing was counted the information
        vanishes with the rate and log g is a line: there the variance is that of at least one
        count, and the centre keeps the line's slope.
        """
        counts, rate = flat(self.observation), self.rate(image)
        none = counts == 0
        variance = torch.where(none, rate.clamp_min(1.0), rate) / self.gain**2
        centre = torch.where(none, rate / self.gain - self.gain * variance, counts / self.gain)
        return centre, variance


class CallableLikelihood(Likelihood):
    """Any log-likelihood of your own.

    Parameters
    ----------
    log_prob : callable
        Takes (x_0, observation), both with the batch first, and returns shape (batch,).
    observation : Tensor, shape (batch, ...)
        Whole numbers, such as labels, stay whole.
    """

    def __init__(
        self, log_prob: Callable[[Tensor, Tensor], Tensor], observation: Num[Tensor, "batch ..."]
    ) -> None:
        self._log_prob = log_prob
        self.observation = observation

    def log_prob(self, x_0: Events) -> Float[Tensor, " batch"]:
        """Return the callable's value, one per item."""
        value = self._log_prob(x_0, self.observation)
        if value.shape != x_0.shape[:1]:
            raise SettingsError(
                f"a log-likelihood returns one value per item, shape ({len(x_0)},); "
                f"found {tuple(value.shape)}; sum over the event, not over the batch"
            )
        return value
