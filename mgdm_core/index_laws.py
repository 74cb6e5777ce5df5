"""How the mixture index s, the level at which the observation is met, is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Events
from mgdm_core.conditionals.protocol import Place
from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams
from mgdm_core.precision import wide, widest
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian
from mgdm_core.schedule import Level
from mgdm_core.settings import Settings, at_least, check, positive, share

PUBLISHED_FLOOR = 0.0436
"""Noise-to-signal ratio of level 10 of DDPM's linear schedule."""


@runtime_checkable
class IndexLaw(Protocol):
    """Draws a level in {1, ..., t - 1} (t is at least 2): one int for all, or one per item."""

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Return s; read nothing from the device."""
        ...


def _clip(s: int, place: Place) -> int:
    """One level for every item, clipped to {1, ..., t - 1}."""
    return min(max(1, s), place.t - 1)


@dataclass(frozen=True)
class UniformLaw(Settings):
    """Uniform from the level of noise-to-signal ratio ``floor`` to t: the paper's first phase."""

    floor: float = positive(PUBLISHED_FLOOR)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw uniformly."""
        low = _clip(problem.schedule.level_of_sigma(self.floor), place)
        return noise.integers(low, place.t, x_0.device)


@dataclass(frozen=True)
class UniformFraction(Settings):
    """Uniform on [low t, t): high levels only, where x_0 may still move."""

    low: float = 0.5

    def __post_init__(self) -> None:
        check(0 <= self.low < 1, "low lies in [0, 1)", self.low)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw uniformly from the upper part."""
        return noise.integers(_clip(int(self.low * place.t), place), place.t, x_0.device)


@dataclass(frozen=True)
class NearZero(Settings):
    """Uniform on [1, width]: known to lock observed parts and freeze the rest."""

    width: int = at_least(1, 10)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw near level 0."""
        return noise.integers(1, _clip(self.width, place) + 1, x_0.device)


@dataclass(frozen=True)
class Fraction(Settings):
    """Deterministic s = fraction of t."""

    fraction: float = 0.5

    def __post_init__(self) -> None:
        check(0 < self.fraction < 1, "fraction lies in (0, 1)", self.fraction)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Return the fixed fraction."""
        return _clip(round(self.fraction * place.t), place)


@dataclass(frozen=True)
class NextLevel:
    """s is the next level of the outer grid (at least 1)."""

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Return the next level."""
        return _clip(place.below, place)


@dataclass(frozen=True)
class PublishedMix(Settings):
    """:class:`UniformLaw` for the first ``threshold`` share of the run, then the next level.

    The published settings: floor level 10 of DDPM's 1000, which is stated here by its
    noise-to-signal ratio so that it means the same on any schedule; threshold 0.70 for images,
    0.65 for audio (13 of 20).
    """

    floor: float = positive(PUBLISHED_FLOOR)
    threshold: float = share(0.7)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw by phase."""
        law = UniformLaw(self.floor) if place.before(self.threshold) else NextLevel()
        return law(place, problem, x_0, noise)


@dataclass(frozen=True)
class WeightsLaw(Settings):
    """User weights omega_s: s in {1, ..., t - 1} with probability proportional to omega[s - 1].

    Parameters
    ----------
    omega : tuple of float
        One non-negative weight per level 1..T.
    """

    omega: tuple[float, ...]

    def __post_init__(self) -> None:
        check(
            len(self.omega) > 0 and min(self.omega) >= 0 and self.omega[0] > 0,
            "omega is one non-negative weight per level, positive at level 1",
            self.omega[:4],
        )

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw from the weights below t."""
        if len(self.omega) < place.t - 1:
            raise SettingsError(
                f"omega has one weight per level up to {place.t - 1}; found {len(self.omega)}"
            )
        row = torch.tensor(self.omega[: place.t - 1], dtype=widest(x_0.device), device=x_0.device)
        return noise.categorical(row.expand(len(x_0), -1)) + 1


@dataclass(frozen=True)
class ResidualLaw(Settings):
    """Looks at the observation: the worse x_0 explains y, the higher s.

    With rho = rms(y - A x_0) / sigma_y, the law is uniform on [low, high] with high between the
    next level (rho <= 1: x_0 fits, refine) and t - 1 (rho >= rough: x_0 must move), log-linear in
    between, and low = share of high.

    Parameters
    ----------
    rough : float
        Residual in units of sigma_y that counts as no fit at all.
    share : float
        Lower end of the uniform range as a share of its upper end.
    """

    rough: float = 30.0
    share: float = 0.5

    def __post_init__(self) -> None:
        check(self.rough > 1, "rough is larger than 1", self.rough)
        check(0 <= self.share < 1, "share lies in [0, 1)", self.share)

    def __call__(self, place: Place, problem: Problem, x_0: Events, noise: RandomStreams) -> Level:
        """Draw according to each item's residual."""
        residual = problem.residual(x_0)
        if residual is None:
            raise SettingsError(
                "ResidualLaw looks at y - A(x_0) and needs a Gaussian likelihood; "
                "use another index law for this one"
            )
        ratio = (wide(residual) / gaussian(problem).sigma_y).clamp_min(1e-12)
        share = (ratio.log() / math.log(self.rough)).clamp(0, 1)
        base = _clip(place.below, place)
        high = (base + share * (place.t - 1 - base)).round().long()
        low = torch.minimum((self.share * high).long().clamp_min(1), high)
        return noise.integers(low, high + 1, x_0.device)


INDEX_LAWS: dict[str, type] = {
    "published": PublishedMix,
    "uniform": UniformLaw,
    "uniform-fraction": UniformFraction,
    "near-zero": NearZero,
    "fraction": Fraction,
    "next-level": NextLevel,
    "residual": ResidualLaw,
}
"""Laws that need no argument, by name."""
