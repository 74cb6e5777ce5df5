"""What MGDM asks of a conditional."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from mgdm_core.array_types import Events, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.schedule import Level


class Place(NamedTuple):
    """Where in the run a step stands, from the grid that is really run.

    Attributes
    ----------
    t, above, below : int
        The outer level, the one before it and the one after it (or, at the last, half of t).
    step, steps : int
        Number of the outer level, from 0, and how many there are.
    """

    t: int
    above: int
    below: int
    step: int
    steps: int

    def before(self, share: float) -> bool:
        """Whether less than this share of the run is done."""
        return self.step < round(share * self.steps)


class ConditionalDraw(NamedTuple):
    """x_s with -log g per item before and after (None where it costs an extra evaluation)."""

    x_s: Tensor
    loss_before: Tensor | None = None
    loss_after: Tensor | None = None


@runtime_checkable
class Conditional(Protocol):
    """Draws x_s | x_0, x_t, y."""

    def requires(self, problem: Problem) -> None:
        """Raise :class:`~mgdm_core.errors.CapabilityError` if the problem will not do."""
        ...

    def __call__(
        self,
        problem: Problem,
        x_0: Events,
        x_t: Events,
        s: Level,
        place: Place,
        noise: RandomStreams,
    ) -> ConditionalDraw:
        """Make one draw at level s; read nothing from the device."""
        ...
