"""What the sampler library spends around each call of a network, with a network that is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

import mgdm_core
from recipes.speed.timing import Measurement, measure

__all__ = ["time_overhead"]

SAMPLERS: dict[str, mgdm_core.Sampler] = {
    "dps": mgdm_core.DPS(steps=100),
    "ddrm": mgdm_core.DDRM(steps=100),
    "diffpir": mgdm_core.DiffPIR(steps=100),
    "mgdm": mgdm_core.MGDM(levels=20, conditional="variational", index_law="published"),
    "mgdm, s half of t": mgdm_core.MGDM(20, conditional="variational", index_law="fraction"),
}


class _Free:
    """A prior that only multiplies: what is left is what the library does around it."""

    schedule = mgdm_core.NoiseSchedule.vp_linear()

    def denoise(self, x: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        return 0.5 * x


def time_overhead(repeats: int, device: str = "cpu") -> Iterator[Measurement]:
    """Milliseconds per evaluation of samplers on sixteen numbers, half of them observed.

    A vector-Jacobian product counts as one more call.
    """
    keep = torch.arange(16) % 2 == 0
    likelihood = mgdm_core.GaussianLikelihood(
        mgdm_core.Mask(keep), torch.zeros(1, 8, device=device), 0.1
    )
    problem = mgdm_core.Problem(_Free(), likelihood, (16,))
    for name, sampler in SAMPLERS.items():
        trace = mgdm_core.sample(problem, sampler).trace
        calls = trace.evaluations + trace.vjps
        found = measure(
            "overhead",
            name,
            0.0,
            lambda sampler=sampler: mgdm_core.sample(problem, sampler),
            repeats=repeats,
            device=device,
        )
        spent = 1e3 * (found.processor if device == "cpu" else found.wall) / calls
        yield replace(found, name=f"overhead of {name}: {spent:.2f} ms a call ({calls:.0f} calls)")
