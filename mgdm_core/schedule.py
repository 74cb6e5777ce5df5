"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps on the levels t = 0, 1, ..., T."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mgdm_core.array_types import Events, Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.precision import widest

Level = int | Int[Tensor, " levels"]
Moment = float | Float[Tensor, " levels"]
"""A number of the schedule: a float at a level that the host knows, else one per item, float64."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    r"""Levels 0..T of a Gaussian forward process, moments in float64.

    For s < t the process is Markov: x_t | x_s ~ N(a x_s, (sigma_t^2 - a^2 sigma_s^2) I) with
    a = alpha_t / alpha_s. Variance-preserving, variance-exploding and flow-matching networks are
    covered by a general (alpha, sigma), with no rescaling.

    Parameters
    ----------
    alpha : Tensor, shape (levels,)
        Signal scale per level; 1 at level 0, never increasing, positive but at level T, where 0
        means that nothing is left of the signal.
    sigma : Tensor, shape (levels,)
        Noise deviation per level; 0 at level 0; sigma / alpha strictly increasing.
    name : str
        For messages and traces.

    Raises
    ------
    SettingsError
        If a rule above does not hold.
    """

    alpha: Float[Tensor, " steps"]
    sigma: Float[Tensor, " steps"]
    name: str = field(default="custom")
    _tables: dict = field(default_factory=dict, init=False, repr=False)

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
        low = bool((alpha[:-1] <= 0).any()) or float(alpha[-1]) < 0
        if low or bool((alpha.diff() > 1e-12).any()):
            raise SettingsError(
                "alpha must be positive (it may be 0 at the last level) and never increase with "
                "the level"
            )
        if self.last == 1 and float(alpha[-1]) == 0:
            raise SettingsError("level 1 holds some signal; found alpha 0 there; take more levels")
        if bool((self.ratio.diff() <= 0).any()):
            raise SettingsError("sigma / alpha must strictly increase with the level")
        self._tables["host"] = (alpha.tolist(), sigma.tolist())

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_tables": {"host": self._tables["host"]}}

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
        cls, steps: int = 1000, sigma_min: float = 5e-4, sigma_max: float = 20.0, rho: float = 3.0
    ) -> NoiseSchedule:
        """Variance-exploding levels of Karras et al. 2022, equation 5; alpha is 1 everywhere."""
        if not 0 < sigma_min < sigma_max or steps < 2 or rho <= 0:
            raise SettingsError(
                f"Karras levels need 0 < sigma_min < sigma_max, steps >= 2, rho > 0; "
                f"found {sigma_min}, {sigma_max}, {steps}, {rho}"
            )
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        return cls.from_sigmas((low + ramp * (high - low)) ** rho, "karras")

    @classmethod
    def from_sigmas(
        cls, sigmas: Sequence[float] | Float[Tensor, " steps"], name: str = "ve"
    ) -> NoiseSchedule:
        """Variance-exploding levels from any increasing positive deviations (level 0 is added)."""
        sigma = torch.as_tensor(sigmas, dtype=torch.float64).flatten()
        sigma = torch.cat([torch.zeros(1, dtype=torch.float64), sigma])
        return cls(torch.ones_like(sigma), sigma, name)

    @classmethod
    def flow(cls, steps: int = 1000, shift: float = 1.0) -> NoiseSchedule:
        """Rectified flow: alpha = 1 - u, sigma = u for u = 1/steps, ..., 1 (Liu et al. 2023).

        ``shift`` moves the levels towards noise, u -> shift u / (1 + (shift - 1) u), as Esser et
        al. 2024 (equation 23) do for large images. alpha is 0 at the last level.
        """
        if not shift > 0:
            raise SettingsError(f"shift is positive; found {shift}")
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        u = shift * u / (1 + (shift - 1) * u)
        u[-1] = 1  # rounding misses it for some shifts
        return cls(1 - u, u, "flow")

    # -- queries ------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The noisiest level T."""
        return len(self.alpha) - 1

    @property
    def top(self) -> int:
        """The noisiest level that holds any signal: T, or T - 1 where alpha_T is 0."""
        return self.last if self._tables["host"][0][-1] > 0 else self.last - 1

    @property
    def ratio(self) -> Float[Tensor, " steps"]:
        """Noise-to-signal ratio sigma / alpha per level, infinite where alpha is 0."""
        return self.sigma / self.alpha

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both moments on a device, moved there once."""
        if device not in self._tables:
            dtype = widest(device)
            self._tables[device] = (self.alpha.to(device, dtype), self.sigma.to(device, dtype))
        return self._tables[device]

    def moments(self, t: Level) -> tuple[Moment, Moment]:
        """(alpha_t, sigma_t): floats at one level, or one of each per item on t's device."""
        if isinstance(t, int):
            alpha, sigma = self._tables["host"]
            return alpha[t], sigma[t]
        table = self._table(t.device)
        return table[0][t], table[1][t]

    def at(self, t: Level, like: Tensor) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Return (alpha_t, sigma_t) as arrays in ``like``'s dtype that broadcast with it.

        Parameters
        ----------
        t : int or Tensor of shape (batch,)
            One level for all items, or one per item, on ``like``'s device.
        like : Tensor, shape (batch, ...)
            The array that the moments will be multiplied with.
        """
        alpha, sigma = (fit(moment, like) for moment in self.moments(t))
        if isinstance(alpha, Tensor) and isinstance(sigma, Tensor):
            return alpha, sigma
        shape = (1,) * like.ndim
        return like.new_full(shape, float(alpha)), like.new_full(shape, float(sigma))

    def level_of_sigma(self, sigma: float) -> int:
        """Level >= 1 whose noise-to-signal ratio sigma / alpha is nearest to ``sigma`` in log."""
        ratio = self.ratio[1 : self.top + 1]
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


def root(value: Moment) -> Moment:
    """Square root of a moment, 0 where rounding took it below 0."""
    return value.clamp_min(0).sqrt() if isinstance(value, Tensor) else math.sqrt(max(value, 0.0))


def fit(value: Moment, x: Events) -> float | Float[Tensor, "..."]:
    """A moment in ``x``'s dtype, shaped to multiply it item by item."""
    if not isinstance(value, Tensor):
        return float(value)
    return value.to(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
