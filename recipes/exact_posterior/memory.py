"""Peak memory of a run, and how it grows with the number of particles.

The resident size of a process has one peak, so the mark is reset before each run, where the system
can (Linux); elsewhere nothing is reported.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from mgdm_core.sample import sample
from mgdm_core.samplers import PRESETS, get_sampler
from mgdm_core.settings_text import settings_from
from recipes.exact_posterior.problems import Case, Problem, build
from recipes.exact_posterior.streams import BatchStreams

__all__ = ["GROWING", "PeakMeter", "growth", "growth_curve"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes, None where there is no such file."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class PeakMeter:
    """Bytes that a block of code added to the process's resident size at its peak.

    ``peak`` is None where the system cannot reset the mark.
    """

    def __init__(self) -> None:
        self.peak: int | None = None
        self._base: int | None = None

    def __enter__(self) -> PeakMeter:
        # Memory freed by earlier runs goes back first, else this one would grow into it unseen.
        name = ctypes.util.find_library("c")
        libc = ctypes.CDLL(name) if name and sys.platform.startswith("linux") else None
        if libc is not None and hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        try:
            _CLEAR.write_text("5")  # resets the peak resident size, proc(5)
            self._base = _status("VmRSS:")
        except OSError:
            self._base = None
        return self

    def __exit__(self, *error: object) -> None:
        peak = _status("VmHWM:")
        if self._base is not None and peak is not None:
            self.peak = max(0, peak - self._base)


# What the picture of the growth shows: steps are few, as memory does not depend on them.
GROWING = ("mgdm", "twisted_smc", "mcg_diff", "smc_diff")


@lru_cache(1)
def _problem(dim: int) -> Problem:
    return build(Case("linear", dim, 1, 0.05, 0), 10)


def growth(sampler: str, particles: int, dim: int) -> int | None:
    """Peak bytes of one posterior sample: one item, with ``particles`` where there are any.

    For MGDM ``particles`` is R, its Gibbs repetitions: its way to spend more on one sample.
    """
    problem = _problem(dim).posed(1)
    if sampler == "mgdm":
        settings = replace(
            PRESETS["mgdm"]["imagenet-pixel"],
            levels=4,
            gibbs=particles,
            denoising_steps=3,
        )
    else:
        settings = settings_from(get_sampler(sampler)(), {"particles": particles, "steps": 4})
    with PeakMeter() as meter:
        sample(problem, settings, noise=BatchStreams(0, 1))
    return meter.peak


def growth_curve(particles: list[int], dim: int = 200) -> list[dict[str, object]]:
    """:func:`growth` of every sampler of :data:`GROWING` at every number of particles."""
    growth("mgdm", 1, dim)  # what loads or fills once counts for none of them
    # Repetitions come one after another: a hundred show it, thousands would take as many times.
    most = {"mgdm": 100}
    return [
        {
            "sampler": sampler,
            "particles": count,
            "dim": dim,
            "peak_memory": growth(sampler, count, dim),
        }
        for sampler in GROWING
        for count in particles
        if count <= most.get(sampler, count)
    ]
