"""Long audio as overlapping windows and back.

Windows start every ``hop`` samples; the ends of the signal are reflected, so that its first and
last samples lie as deep inside a window as the middle of a cross-fade does. Windows are added up
under raised-cosine fades that are divided by their sum, so the weights on every sample sum to one
whatever the overlap. Both directions stream: memory is bounded by the window, not by the signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError

__all__ = ["OverlapAdder", "WindowCutter", "WindowPlan", "cut", "fade", "plan_windows"]


@dataclass(frozen=True)
class WindowPlan:
    """Where windows lie on a signal.

    Parameters
    ----------
    starts : tuple of int
        First sample of each window, strictly increasing; negative where the beginning is
        reflected.
    window : int
        Samples in a window.
    hop : int
        Samples from one start to the next; less before the last window, which is moved back so
        as to end just behind the signal.
    length : int
        Samples in the signal.
    """

    starts: tuple[int, ...]
    window: int
    hop: int
    length: int

    def __post_init__(self) -> None:
        if self.window < 1 or not 1 <= self.hop <= self.window or self.length < 1:
            raise SettingsError(
                f"windows need length >= 1 and 1 <= hop <= window; "
                f"found length {self.length}, window {self.window}, hop {self.hop}"
            )
        steps = [b - a for a, b in zip(self.starts, self.starts[1:])]
        if (
            not self.starts
            or self.starts[0] > 0
            or self.starts[-1] + self.window < self.length
            or any(not 1 <= step <= self.hop for step in steps)
        ):
            raise SettingsError(
                f"windows must cover the signal in steps of 1..hop; found starts {self.starts}"
            )

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def shared(self, index: int) -> int:
        """Samples at the start of window ``index`` that the window before it has too."""
        if index == 0:
            return 0
        return self.window - (self.starts[index] - self.starts[index - 1])

    def inside(self, index: int) -> tuple[int, int]:
        """First sample and end of the part of the signal that window ``index`` covers."""
        start = self.starts[index]
        return max(start, 0), min(start + self.window, self.length)


def plan_windows(length: int, window: int, hop: int) -> WindowPlan:
    """Lay windows over a signal.

    A signal no longer than a window gets one window with the signal in its middle. A longer one
    gets windows every ``hop`` samples from half an overlap before its start; the last window ends
    half an overlap behind its end.

    Parameters
    ----------
    length : int
        Samples in the signal, at least 1.
    window, hop : int
        Samples; 1 <= hop <= window.

    Raises
    ------
    SettingsError
        If a number is out of its range.

    Examples
    --------
    >>> plan_windows(10, 6, 4).starts
    (-1, 3, 5)
    """
    if length < 1 or window < 1 or not 1 <= hop <= window:
        raise SettingsError(
            f"windows need length >= 1 and 1 <= hop <= window; "
            f"found length {length}, window {window}, hop {hop}"
        )
    if length <= window:
        return WindowPlan((-((window - length) // 2),), window, hop, length)
    lead = (window - hop) // 2
    last = length + lead - window
    count = -(-(last + lead) // hop) + 1
    return WindowPlan((*(i * hop - lead for i in range(count - 1)), last), window, hop, length)


def _reflected(start: int, stop: int, length: int) -> Int[Tensor, " samples"]:
    """Indices start..stop-1 folded into 0..length-1 by reflection without repeating the ends."""
    index = torch.arange(start, stop)
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def _pad(
    segment: Float[Tensor, "*leading kept"], plan: WindowPlan, index: int
) -> Float[Tensor, "*leading window"]:
    # Reflecting the window's own part is the same as reflecting the whole signal: at the left end
    # that part begins with the signal, at the right end it ends with it, and the padding (half an
    # overlap at most) is shorter than the part; a signal within one window is its own part.
    start = plan.starts[index]
    first, stop = plan.inside(index)
    if (first, stop) == (start, start + plan.window):
        return segment.clone()
    fold = _reflected(start - first, start - first + plan.window, stop - first)
    return segment[..., fold.to(segment.device)]


def cut(
    x: Float[Tensor, "*leading samples"], plan: WindowPlan, index: int
) -> Float[Tensor, "*leading window"]:
    """Cut window ``index`` out of a signal; a copy, reflected where the signal ends.

    Parameters
    ----------
    x : Tensor, shape (..., samples)
        The whole signal.
    plan : WindowPlan
        Of the signal's length.
    index : int
        0 to ``plan.count - 1``.

    Raises
    ------
    ShapeError
        If the signal has not the length of the plan.
    """
    if x.shape[-1] != plan.length:
        raise ShapeError(f"the plan is for {plan.length} samples; found {x.shape[-1]}")
    first, stop = plan.inside(index)
    return _pad(x[..., first:stop], plan, index)


class WindowCutter:
    """Windows out of a stream of blocks, in order; holds at most a window and a block.

    Parameters
    ----------
    plan : WindowPlan
        Of the stream's length.
    """

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._next = 0
        self._buffer: Tensor | None = None
        self._origin = 0

    def push(self, block: Float[Tensor, "*leading samples"]) -> list[Float[Tensor, "*leading w"]]:
        """Take the next block and return the windows that it completes, as `cut` gives them.

        Raises
        ------
        ShapeError
            If more samples arrive than the plan has.
        """
        buffer = block if self._buffer is None else torch.cat([self._buffer, block], -1)
        end = self._origin + buffer.shape[-1]
        if end > self.plan.length:
            raise ShapeError(f"the plan is for {self.plan.length} samples; found {end} or more")
        done = []
        while self._next < self.plan.count and self.plan.inside(self._next)[1] <= end:
            first, stop = self.plan.inside(self._next)
            segment = buffer[..., first - self._origin : stop - self._origin]
            done.append(_pad(segment, self.plan, self._next))
            self._next += 1
        keep = self.plan.inside(self._next)[0] if self._next < self.plan.count else end
        keep = min(max(keep, self._origin), end)
        self._buffer = buffer[..., keep - self._origin :].clone()
        self._origin = keep
        return done


def fade(plan: WindowPlan) -> Float[Tensor, " window"]:
    """Weights of a window before they are divided by their sum: raised-cosine ends, positive.

    Returns
    -------
    Tensor of float64, shape (window,)
        Over an overlap of at most half a window, the fade out and the fade in sum to one.
    """
    overlap = min(plan.window - plan.hop, plan.window // 2)
    position = torch.arange(plan.window, dtype=torch.float64) + 0.5
    edge = torch.minimum(position, plan.window - position)
    if overlap == 0:
        return torch.ones_like(edge)
    return torch.sin((edge / overlap).clamp(max=1) * (math.pi / 2)) ** 2


class OverlapAdder:
    """Windows in order, in; the finished signal block by block, out. Holds one window.

    Sums are in float64 on the CPU whatever the windows' dtype and device: the seams then depend
    on neither.

    Parameters
    ----------
    plan : WindowPlan
        Where the windows lie.
    """

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._next = 0
        self._fade = fade(plan)
        self._weight = torch.zeros(plan.window, dtype=torch.float64)
        self._sum: Tensor | None = None

    def add(self, window: Float[Tensor, "*leading window"]) -> Float[Tensor, "*leading samples"]:
        """Add the next window and return the samples that no later window touches.

        Parameters
        ----------
        window : Tensor, shape (..., window)
            Same leading shape every time.

        Returns
        -------
        Tensor, shape (..., samples)
            In the window's dtype, on the CPU; the blocks put together are the signal.

        Raises
        ------
        ShapeError
            If the window has another length, or there are no more windows.
        """
        plan = self.plan
        if self._next >= plan.count or window.shape[-1] != plan.window:
            raise ShapeError(
                f"expected {plan.count} windows of {plan.window} samples; "
                f"found number {self._next + 1} of {window.shape[-1]} samples"
            )
        if self._sum is None:
            self._sum = torch.zeros(window.shape, dtype=torch.float64)
        self._sum += window.detach().to("cpu", torch.float64) * self._fade
        self._weight += self._fade
        start = plan.starts[self._next]
        self._next += 1
        last = self._next == plan.count
        step = plan.window if last else plan.starts[self._next] - start
        first, stop = max(start, 0) - start, min(start + step, plan.length) - start
        out = self._sum[..., first:stop] / self._weight[first:stop]
        self._sum = _shifted(self._sum, step)
        self._weight = _shifted(self._weight, step)
        return out.to(window.dtype)


def _shifted(x: Tensor, step: int) -> Tensor:
    return torch.cat([x[..., step:], torch.zeros_like(x[..., :step])], -1)
