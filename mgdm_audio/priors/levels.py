"""The noise levels that a waveform prior is used at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mgdm_core.errors import SettingsError
from mgdm_core.schedule import NoiseSchedule


@dataclass(frozen=True)
class Levels:
    """Noise levels a prior is used at: Karras levels (Karras et al. 2022, equation 5).

    Parameters
    ----------
    sigma_min, sigma_max : float
        Smallest and largest noise deviation; the waveform's full scale is 1.
    rho : float
        Bend of the ramp between them.
    steps : int
        Number of levels, clean data not counted.
    kind : str
        Only ``"karras"``.

    Raises
    ------
    SettingsError
        If a value is outside its domain.
    """

    sigma_min: float = 5e-4
    sigma_max: float = 20.0
    rho: float = 3.0
    steps: int = 1000
    kind: str = "karras"

    def __post_init__(self) -> None:
        if self.kind != "karras":
            raise SettingsError(f"levels.kind must be 'karras'; found {self.kind!r}")
        for key in ("sigma_min", "sigma_max", "rho"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise SettingsError(f"levels.{key} must be a number; found {value!r}")
            object.__setattr__(self, key, float(value))
        if not (0 < self.sigma_min < self.sigma_max and math.isfinite(self.sigma_max)):
            raise SettingsError(
                f"levels need 0 < sigma_min < sigma_max, finite; "
                f"found {self.sigma_min} and {self.sigma_max}"
            )
        if not (self.rho > 0 and math.isfinite(self.rho)):
            raise SettingsError(f"levels.rho must be positive; found {self.rho}")
        if not isinstance(self.steps, int) or isinstance(self.steps, bool):
            raise SettingsError(f"levels.steps must be a whole number; found {self.steps!r}")
        if not 2 <= self.steps <= 100_000:
            raise SettingsError(f"levels.steps must be within 2..100000; found {self.steps}")

    def schedule(self) -> NoiseSchedule:
        """Return these levels as a variance-exploding schedule, level 0 added."""
        return NoiseSchedule.karras(self.steps, self.sigma_min, self.sigma_max, self.rho)
