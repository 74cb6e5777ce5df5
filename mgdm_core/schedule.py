"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps on the levels t = 0, 1, ..., T."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError

__all__ = ["NoiseSchedule"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    r"""Levels 0..T of a Gaussian forward process, moments in float64.

    For s < t the process is Markov: x_t | x_s ~ N(a x_s, (sigma_t^2 - a^2 sigma_s^2) I) with
    a = alpha_t / alpha_s. Variance-preserving and variance-exploding networks are both covered
    by a general (alpha, sigma), with no rescaling.

    Parameters
    ----------
    alpha : Tensor, shape (levels,)
        Signal scale per level; 1 at level 0, positive, never increasing.
    sigma : Tensor, shape (levels,)
        Noise deviation per level; 0 at level 0; sigma / alpha strictly increasing.
    name : str
        For messages and traces.

    Raises
    ------
    SettingsError
        If a rule above does not hold.
    """

    alpha: Float[Tensor, " levels"]
    sigma: Float[Tensor, " levels"]
    name: str = field(default="custom")

    def __post_init__(self) -> None:
        alpha = self.alpha.detach().to("cpu", torch.float64)
        sigma = self.sigma.detach().to("cpu", torch.float64)
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "sigma", sigma)
        if alpha.shape != sigma.shape or alpha.ndim != 1 or len(alpha) < 2:
            raise SettingsError(
                f"a schedule needs alpha and sigma of one shape (levels,) with at least 2 levels; "
                f"found {tuple(alpha.shape)} and {tuple(sigma.shape)}"
            )
        if not bool(torch.isfinite(alpha).all() and torch.isfinite(sigma).all()):
            raise SettingsError("a schedule needs finite alpha and sigma; found NaN or infinity")
        if abs(float(alpha[0]) - 1.0) > 1e-9 or float(sigma[0]) != 0.0:
            raise SettingsError(
                f"level 0 is clean data: alpha 1 and sigma 0; "
                f"found {float(alpha[0])!r} and {float(sigma[0])!r}"
            )
        if bool((alpha <= 0).any()) or bool((alpha.diff() > 1e-12).any()):
            raise SettingsError("alpha must be positive and never increase with the level")
        if bool(((sigma / alpha).diff() <= 0).any()):
            raise SettingsError("sigma / alpha must strictly increase with the level")

    # -- constructors -------------------------------------------------------------------------

    @classmethod
    def from_alphas_cumprod(
        cls, alphas_cumprod: Sequence[float] | Float[Tensor, " steps"], name: str = "vp"
    ) -> NoiseSchedule:
        """Build a variance-preserving schedule from cumulative products alpha-bar, as diffusers.

        Level t = i + 1 has alpha^2 = alphas_cumprod[i]; level 0 is clean data.
        """
        bars = torch.as_tensor(alphas_cumprod, dtype=torch.float64).flatten()
        bars = torch.cat([torch.ones(1, dtype=torch.float64), bars])
        return cls(bars.sqrt(), (1 - bars).clamp_min(0).sqrt(), name)

    @classmethod
    def vp_linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> NoiseSchedule:
        """DDPM's linear schedule (Ho et al. 2020, section 4)."""
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        return cls.from_alphas_cumprod(torch.cumprod(1 - betas, 0), "vp_linear")

    @classmethod
    def vp_cosine(cls, steps: int = 1000, offset: float = 0.008) -> NoiseSchedule:
        """Nichol and Dhariwal 2021, equation 17, betas clipped at 0.999."""
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((grid + offset) / (1 + offset) * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        return cls.from_alphas_cumprod(torch.cumprod(1 - betas, 0), "vp_cosine")

    @classmethod
    def karras(
        cls,
        steps: int = 1000,
        sigma_min: float = 5e-4,
        sigma_max: float = 20.0,
        rho: float = 3.0,
    ) -> NoiseSchedule:
        """Variance-exploding levels of Karras et al. 2022, equation 5; alpha is 1 everywhere."""
        if not 0 < sigma_min < sigma_max or steps < 2 or rho <= 0:
            raise SettingsError(
                f"Karras levels need 0 < sigma_min < sigma_max, steps >= 2, rho > 0; "
                f"found {sigma_min}, {sigma_max}, {steps}, {rho}"
            )
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigma = (low + ramp * (high - low)) ** rho
        sigma = torch.cat([torch.zeros(1, dtype=torch.float64), sigma])
        return cls(torch.ones_like(sigma), sigma, "karras")

    @classmethod
    def from_sigmas(
        cls, sigmas: Sequence[float] | Float[Tensor, " steps"], name: str = "ve"
    ) -> NoiseSchedule:
        """Variance-exploding levels from any increasing positive deviations (level 0 is added)."""
        sigma = torch.as_tensor(sigmas, dtype=torch.float64).flatten()
        sigma = torch.cat([torch.zeros(1, dtype=torch.float64), sigma])
        return cls(torch.ones_like(sigma), sigma, name)

    # -- queries ------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The noisiest level T."""
        return len(self.alpha) - 1

    def at(
        self, t: int | Int[Tensor, " batch"], like: Tensor
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Return (alpha_t, sigma_t) in ``like``'s dtype and device, shaped to broadcast with it.

        Parameters
        ----------
        t : int or Tensor of shape (batch,)
            One level for all items, or one per item.
        like : Tensor, shape (batch, ...)
            The array that the moments will be multiplied with.
        """
        index = torch.as_tensor(t, device="cpu").reshape(-1)
        shape = (-1,) + (1,) * (like.ndim - 1)
        alpha = self.alpha[index].to(like.device, like.dtype).reshape(shape)
        sigma = self.sigma[index].to(like.device, like.dtype).reshape(shape)
        return alpha, sigma

    def level_of_sigma(self, sigma: float) -> int:
        """Level >= 1 whose noise-to-signal ratio sigma / alpha is nearest to ``sigma`` in log."""
        ratio = (self.sigma / self.alpha)[1:]
        return 1 + int((ratio.log() - math.log(sigma)).abs().argmin())

    def spaced(self, count: int, start: int | None = None, stop: int = 1) -> list[int]:
        """``count`` levels from ``start`` (default T) down to ``stop``, evenly spaced, no repeats.

        Examples
        --------
        >>> NoiseSchedule.vp_linear().spaced(4)
        [1000, 667, 334, 1]
        """
        start = self.last if start is None else start
        if not (1 <= stop <= start <= self.last) or count < 1:
            raise SettingsError(
                f"levels run from start down to stop with 1 <= stop <= start <= {self.last}; "
                f"found start {start}, stop {stop}, count {count}"
            )
        grid = np.linspace(start, stop, count) if count > 1 else np.array([start])
        return sorted({int(v) for v in np.rint(grid)}, reverse=True)
