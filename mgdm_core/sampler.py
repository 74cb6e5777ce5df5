"""What a sampler is: a frozen dataclass with ``requires``, ``plan``, ``init`` and ``step``.

:func:`mgdm_core.sample` runs any of them. A sampler looks at the problem once, in ``requires`` and
``plan``; ``step`` is pure arithmetic on the state and reads no number from the device, so it runs
on meta tensors and can be compiled or captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from mgdm_core.array_types import Bool, Events, Float, Int, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.likelihoods import GaussianLikelihood, ImageLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, SpectralOperator, SumOverChannels
from mgdm_core.problem import Problem
from mgdm_core.settings import Settings, check


class Info(NamedTuple):
    """What one step tells: tensors that nobody has looked at.

    Attributes
    ----------
    level : int
        Noise level of the step.
    x : Tensor, shape (items, ...)
        State after the step, checked for NaN.
    x_0 : Tensor, shape (batch, *event)
        Estimate of x_0 after the step.
    index : int or Tensor or None
        Level s at which the observation was met.
    loss_before, loss_after : Tensor or None, shape (batch,)
        -log g per item before and after a conditional draw.
    valid : Tensor of bool or None, shape (batch,)
        False for items that cannot go on for a reason of the method's own.
    extra : dict of str to Tensor or None
        More numbers per item for the trace.
    """

    level: int
    x: Float[Tensor, "items ..."]
    x_0: Float[Tensor, "batch ..."]
    index: int | Int[Tensor, " batch"] | None = None
    loss_before: Float[Tensor, " batch"] | None = None
    loss_after: Float[Tensor, " batch"] | None = None
    valid: Bool[Tensor, " batch"] | None = None
    extra: dict[str, Tensor] | None = None


class Result(NamedTuple):
    """What :meth:`Sampler.finish` returns: one sample per item, and all particles of an item."""

    x: Tensor
    particles: Tensor | None = None


@dataclass(frozen=True)
class Start:
    """Where a run begins instead of at pure noise.

    Parameters
    ----------
    x_0 : Tensor, shape (batch, *event)
        A first estimate. :func:`mgdm_core.sample` takes one per observation or per sample and
        gives the sampler one per sample, where its state lives.
    level : int or None
        Level to noise it to; None for the sampler's own first level.
    """

    x_0: Events
    level: int | None = None


@dataclass(frozen=True)
class Sampler(Settings):
    """Base of all samplers; a subclass is a frozen dataclass whose fields are its settings.

    Attributes
    ----------
    name : str
        For the command line, traces and messages.
    paper : str
        Source.
    needs : frozenset of str
        What it asks of a problem: ``gaussian`` likelihood; ``linear``, ``spectral`` or ``mixing``
        operator; ``vjp`` through the denoiser.
    interacting : bool
        Whether it keeps several interacting particles per item.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    interacting: ClassVar[bool] = False

    def requires(self, problem: Problem) -> None:
        """Raise :class:`CapabilityError`, naming what is missing, if the problem will not do."""
        require(problem, self.name, *sorted(self.needs))

    def plan(self, problem: Problem, start: Start | None = None) -> Any:
        """Settle the levels that are really run, phases and rates, once.

        What is returned has ``steps``, their number; states are NamedTuples of tensors with
        ``step``, the number taken.
        """
        raise NotImplementedError

    def init(
        self, problem: Problem, plan: Any, noise: RandomStreams, start: Start | None = None
    ) -> Any:
        """Return the state before the first step."""
        raise NotImplementedError

    def step(
        self, problem: Problem, plan: Any, state: Any, noise: RandomStreams
    ) -> tuple[Any, Info]:
        """Take one step; read nothing from the device."""
        raise NotImplementedError

    def finish(self, problem: Problem, plan: Any, state: Any, noise: RandomStreams) -> Result:
        """Return the samples of the last state: its ``x``, unless a sampler says otherwise."""
        return Result(state.x)


def lacks(problem: Problem, need: str) -> bool:
    """Whether the problem does not have what a sampler asks for by that name."""
    likelihood = problem.likelihood
    if need == "gaussian":
        return not isinstance(likelihood, GaussianLikelihood)
    if need == "local_gaussian":
        return not isinstance(likelihood, ImageLikelihood)
    kinds = {"linear": LinearOperator, "spectral": SpectralOperator, "mixing": SumOverChannels}
    if need in kinds:
        operator = getattr(likelihood, "operator", None)
        return not isinstance(operator, kinds[need])
    return False


def require(problem: Problem, who: str, *needs: str) -> None:
    """Raise :class:`CapabilityError` for the first of the needs that the problem lacks."""
    for need in needs:
        if lacks(problem, need):
            owner = problem.likelihood
            if need not in ("gaussian", "local_gaussian"):
                owner = getattr(owner, "operator", owner)
            raise CapabilityError(owner, need, who)


def gaussian(problem: Problem) -> GaussianLikelihood:
    """Return the likelihood of a problem that a sampler has found to be Gaussian."""
    require(problem, "this method", "gaussian")
    return problem.likelihood  # type: ignore[return-value]


def locally_gaussian(problem: Problem, who: str) -> ImageLikelihood:
    """Return the likelihood as one that looks Gaussian near a point, or say that it does not."""
    require(problem, who, "local_gaussian")
    return problem.likelihood  # type: ignore[return-value]


def first_level(problem: Problem, start: Start | None, level: int | None = None) -> int:
    """Level that a run begins at: the start's, else ``level``, else the noisiest."""
    last = problem.schedule.last
    if start is None or start.level is None:
        return last if level is None else level
    check(1 <= start.level <= last, f"a start's level lies in 1..{last}", start.level)
    return start.level


def first_state(
    problem: Problem, level: int, noise: RandomStreams, start: Start | None, particles: int = 0
) -> Float[Tensor, "items *event"]:
    """x at the first level: pure noise, or the start's estimate noised to its level.

    With ``particles`` every item has as many, next to each other, that share the item's stream.
    """
    alpha, sigma = problem.schedule.moments(level)
    x = sigma * draw(problem, noise, particles)
    if start is None:
        return x
    return alpha * (start.x_0.repeat_interleave(particles, 0) if particles else start.x_0) + x


def draw(
    problem: Problem, noise: RandomStreams, particles: int = 0
) -> Float[Tensor, "items *event"]:
    """Standard normal numbers in the state's shape, dtype and device."""
    shape: Sequence[int] = (particles, *problem.shape) if particles else problem.shape
    drawn = noise.normal(shape, problem.dtype, problem.device)
    return drawn.flatten(0, 1) if particles else drawn
