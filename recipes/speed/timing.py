"""One measurement: the least of several repetitions, by the clock and by the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True)
class Measurement:
    """What something cost.

    Attributes
    ----------
    part, name : str
        What belongs together, and what was measured.
    audio : float
        Seconds of audio that were worked on; 0 where it was none.
    wall, processor : float
        Least seconds of any repetition, by the clock and of all threads together.
    forwards : float
        Forwards of the network on one window each that were part of it.
    """

    part: str
    name: str
    audio: float
    wall: float
    processor: float
    forwards: float = 0.0


def measure(
    part: str,
    name: str,
    audio: float,
    work: Callable[[], Any],
    *,
    repeats: int,
    device: str = "cpu",
    forwards: float = 0.0,
    warm: bool = False,
) -> Measurement:
    """Call ``work`` ``repeats`` times, and once before to warm up.

    Parameters
    ----------
    part, name, audio, forwards
        See :class:`Measurement`.
    work : callable
        What is measured.
    repeats : int
        The least of so many counts: whatever else runs on the machine only adds.
    device : str
        Waited for before the clock is read.
    warm : bool
        Whether what it needs is loaded already, so that no call is spent on it.
    """

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    if not warm:
        work()
    walls, processors = [], []
    for _ in range(repeats):
        wait()
        wall, processor = time.perf_counter(), time.process_time()
        work()
        wait()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return Measurement(part, name, audio, min(walls), min(processors), forwards)
