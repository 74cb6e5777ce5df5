"""Several separations on one prior at once, their windows evaluated in common batches.

Each separation runs in a thread of its own and knows nothing of the others. Where it would call the
network it waits until all others have arrived at such a call too (or have ended); the one that
comes last evaluates all their windows as one batch. A GPU is then as busy with short chunks of
four songs as with one long one.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CancelledError

__all__ = ["run_together"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Request:
    method: str
    x: Tensor
    sigma: Tensor
    outputs: tuple[Tensor, ...] | None = None
    error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.outputs is not None or self.error is not None


class _Meeting:
    """Collects the network calls of its members until all of them wait, then evaluates."""

    def __init__(self, network: nn.Module, members: int) -> None:
        self._network = network
        self._members = members
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []

    def leave(self) -> None:
        """One member will call no more."""
        with self._changed:
            self._members -= 1
            self._changed.notify_all()

    def call(self, method: str, x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        request = _Request(method, x, sigma)
        with self._changed:
            self._waiting.append(request)
            while not request.settled:
                # A batch that is under way holds everybody's request, so nobody else gets here.
                if len(self._waiting) < self._members or request not in self._waiting:
                    self._changed.wait()
                    continue
                batch, self._waiting = self._waiting, []
                self._changed.release()
                try:
                    self._evaluate(batch)
                finally:
                    self._changed.acquire()
                    self._changed.notify_all()
        if request.error is not None:
            raise request.error
        assert request.outputs is not None
        return request.outputs

    def _evaluate(self, batch: list[_Request]) -> None:
        groups: dict[tuple[Any, ...], list[_Request]] = {}
        for request in batch:  # only windows of one shape make a tensor
            groups.setdefault((request.method, *request.x.shape[1:]), []).append(request)
        for group in groups.values():
            try:
                function = getattr(self._network, group[0].method)
                with torch.no_grad():
                    found = function(
                        torch.cat([r.x for r in group]), torch.cat([r.sigma for r in group])
                    )
                found = found if isinstance(found, tuple) else (found,)
                sizes = [len(r.x) for r in group]
                parts = zip(*(torch.split(out, sizes) for out in found), strict=True)
                for request, outputs in zip(group, parts, strict=True):
                    request.outputs = outputs
            except BaseException as error:  # every member hears of it and deals with it itself
                for request in group:
                    request.error = error


class _MeetingNetwork(nn.Module):
    """Stands for a network whose calls are evaluated at a meeting."""

    def __init__(self, network: nn.Module, meeting: _Meeting) -> None:
        super().__init__()
        self.network = network
        self.meeting = meeting

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return self.network(x, sigma)  # a graph must not span several separations
        return self.meeting.call("forward", x, sigma)[0]

    def denoise_with_mask(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and x.requires_grad:
            return self.network.denoise_with_mask(x, sigma)  # type: ignore[operator]
        return self.meeting.call("denoise_with_mask", x, sigma)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # the transform, the average spectra and so on
            return getattr(super().__getattr__("network"), name)


def run_together(
    prior: WaveformPrior,
    items: Sequence[Item],
    separate: Callable[[WaveformPrior, Item, Callable[[float], bool]], Result],
) -> list[Result]:
    """Separate several items at once with their windows batched together.

    Parameters
    ----------
    prior : WaveformPrior
        The loaded prior; it is not changed.
    items : sequence
        What to separate; each gets a thread.
    separate : callable
        Called with a prior that batches, the item, and an ``on_progress`` to pass on, by which the
        others are stopped when one fails.

    Returns
    -------
    list
        Results in the items' order. They differ from those of one item at a time only by the
        rounding of the network in larger batches.

    Raises
    ------
    Exception
        The first error that any item met; the others are then cancelled.
    """
    meeting = _Meeting(prior.network, len(items))
    shared = copy.copy(prior)
    shared.network = _MeetingNetwork(prior.network, meeting)
    stop = threading.Event()

    def one(item: Item) -> Result:
        try:
            return separate(shared, item, lambda fraction: not stop.is_set())
        except BaseException:
            stop.set()
            raise
        finally:
            meeting.leave()

    with ThreadPoolExecutor(max(1, len(items))) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            for future in futures:
                future.exception()  # wait: the first to fail is not always the first in order
        except BaseException:  # Ctrl-C
            stop.set()
            raise
    errors = [e for f in futures if (e := f.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, CancelledError)):
        raise error
    return [future.result() for future in futures]
