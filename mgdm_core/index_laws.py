"""How the mixture index s, the level at which the observation is met, is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.randomness import RandomStreams
from mgdm_core.schedule import NoiseSchedule

__all__ = [
    "INDEX_LAWS",
    "Fraction",
    "IndexContext",
    "IndexLaw",
    "NearZero",
    "NextLevel",
    "PublishedMix",
    "ResidualLaw",
    "UniformFraction",
    "UniformLaw",
    "WeightsLaw",
]


class IndexContext(NamedTuple):
    """What a law may look at.

    ``t`` the current level, ``next_level`` the level after it, ``step`` of ``steps`` outer steps,
    ``residual`` the root mean square of y - A(x_0) per item (or None) and ``sigma_y``.
    """

    t: int
    next_level: int
    step: int
    steps: int
    schedule: NoiseSchedule
    streams: RandomStreams
    residual: Float[Tensor, " batch"] | None = None
    sigma_y: float | None = None

    def fill(self, s: int) -> Int[Tensor, " batch"]:
        """One level for every item, clipped to {1, ..., t - 1}."""
        return torch.full((len(self.streams),), min(max(1, s), self.t - 1))


@runtime_checkable
class IndexLaw(Protocol):
    """Draws one level in {1, ..., t - 1} per item (t is at least 2)."""

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Return s, one per item."""
        ...


def _check(condition: bool, rule: str, found: object) -> None:
    if not condition:
        raise SettingsError(f"{rule}; found {found}")


@dataclass(frozen=True)
class UniformLaw:
    """Uniform on [floor, t): the paper's first phase."""

    floor: int = 10

    def __post_init__(self) -> None:
        _check(self.floor >= 1, "floor is a level of at least 1", self.floor)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw uniformly."""
        low = min(self.floor, context.t - 1)
        return context.streams.integers(low, context.t)


@dataclass(frozen=True)
class UniformFraction:
    """Uniform on [low t, t): high levels only, where x_0 may still move."""

    low: float = 0.5

    def __post_init__(self) -> None:
        _check(0 <= self.low < 1, "low lies in [0, 1)", self.low)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw uniformly from the upper part."""
        low = min(max(1, int(self.low * context.t)), context.t - 1)
        return context.streams.integers(low, context.t)


@dataclass(frozen=True)
class NearZero:
    """Uniform on [1, width]: known to lock observed parts and freeze the rest."""

    width: int = 10

    def __post_init__(self) -> None:
        _check(self.width >= 1, "width is at least 1", self.width)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw near level 0."""
        return context.streams.integers(1, min(self.width, context.t - 1) + 1)


@dataclass(frozen=True)
class Fraction:
    """Deterministic s = fraction of t."""

    fraction: float = 0.5

    def __post_init__(self) -> None:
        _check(0 < self.fraction < 1, "fraction lies in (0, 1)", self.fraction)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Return the fixed fraction."""
        return context.fill(round(self.fraction * context.t))


@dataclass(frozen=True)
class NextLevel:
    """s is the next level of the outer grid (at least 1)."""

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Return the next level."""
        return context.fill(context.next_level)


@dataclass(frozen=True)
class PublishedMix:
    """Uniform on [floor, t) for the first ``threshold`` share of the steps, then the next level.

    The published settings: floor 10; threshold 0.70 for images, 0.65 for audio (13 of 20).
    """

    floor: int = 10
    threshold: float = 0.7

    def __post_init__(self) -> None:
        _check(0 <= self.threshold <= 1, "threshold lies in [0, 1]", self.threshold)
        _check(self.floor >= 1, "floor is a level of at least 1", self.floor)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw by phase."""
        if context.step < round(self.threshold * context.steps):
            return UniformLaw(self.floor)(context)
        return NextLevel()(context)


@dataclass(frozen=True)
class WeightsLaw:
    """User weights omega_s: s in {1, ..., t - 1} with probability proportional to omega[s - 1].

    Parameters
    ----------
    omega : tuple of float
        One non-negative weight per level 1..T.
    """

    omega: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(
            len(self.omega) > 0 and min(self.omega) >= 0 and self.omega[0] > 0,
            "omega is one non-negative weight per level, positive at level 1",
            self.omega[:4],
        )

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw from the weights below t."""
        if len(self.omega) < context.t - 1:
            raise SettingsError(
                f"omega has one weight per level up to {context.t - 1}; found {len(self.omega)}"
            )
        row = torch.tensor(self.omega[: context.t - 1], dtype=torch.float64)
        return context.streams.categorical(row.expand(len(context.streams), -1)) + 1


@dataclass(frozen=True)
class ResidualLaw:
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
        _check(self.rough > 1, "rough is larger than 1", self.rough)
        _check(0 <= self.share < 1, "share lies in [0, 1)", self.share)

    def __call__(self, context: IndexContext) -> Int[Tensor, " batch"]:
        """Draw according to each item's residual."""
        if context.residual is None or context.sigma_y is None:
            raise SettingsError(
                "ResidualLaw looks at y - A(x_0) and needs a Gaussian likelihood; "
                "use another index law for this one"
            )
        ratio = (context.residual.double().cpu() / context.sigma_y).clamp_min(1e-12)
        share = (ratio.log() / torch.tensor(self.rough).log()).clamp(0, 1)
        base = min(max(1, context.next_level), context.t - 1)
        high = (base + share * (context.t - 1 - base)).round().long()
        low = torch.minimum((self.share * high).long().clamp_min(1), high)
        return context.streams.integers(low, high + 1)


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
