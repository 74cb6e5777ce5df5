"""What a run records, and the failure signatures that it names."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mgdm_core.array_types import Tensor

__all__ = ["Progress", "StepRecord", "Trace", "failure_signatures"]


@dataclass(frozen=True)
class StepRecord:
    """One conditional step of a sampler, means over the batch.

    Attributes
    ----------
    level : int
        Outer noise level t.
    index : float or None
        Level s at which the observation was met.
    loss_before, loss_after : float or None
        -log g per item before and after the conditional draw.
    residual : float or None
        Root mean square of y - A(x_0), where the likelihood has a residual.
    magnitude : float
        Largest absolute value of the state.
    """

    level: int
    index: float | None
    loss_before: float | None
    loss_after: float | None
    residual: float | None
    magnitude: float


@dataclass(frozen=True)
class Progress:
    """What a callback receives; raise or return False from it to cancel the run.

    Attributes
    ----------
    sampler : str
    step, steps : int
        Outer steps done and in all.
    level : int
        Current noise level.
    estimate : Tensor, shape (batch, *event)
        Current estimate of x_0; do not write to it.
    """

    sampler: str
    step: int
    steps: int
    level: int
    estimate: Tensor


Callback = Callable[[Progress], Any]


@dataclass
class Trace:
    """Record of one run.

    Attributes
    ----------
    evaluations, vjps : float
        Denoiser evaluations and vector-Jacobian products per item of the result (particles of an
        item count for that item).
    seconds : float
        Wall time.
    peak_memory : int
        Bytes: of the device's allocator on CUDA, of the process elsewhere.
    warnings : list of str
        Named failure signatures, see :func:`failure_signatures`.
    """

    sampler: str
    records: list[StepRecord] = field(default_factory=list)
    evaluations: float = 0.0
    vjps: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    warnings: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers and numbers, ready for JSON (``extra`` is left out)."""
        out = asdict(self)
        del out["extra"]
        return out


def failure_signatures(
    records: list[StepRecord],
    last_level: int,
    sigma_y: float | None = None,
    observed: float | None = None,
) -> list[str]:
    """Name the known ways in which a run goes wrong (DESIGN: trace).

    Parameters
    ----------
    records : list of StepRecord
    last_level : int
        Noisiest level T of the schedule: scale for "near zero".
    sigma_y : float or None
        Observation deviation that the residual is compared with, if there is one.
    observed : float or None
        Root mean square of the observation: tells a run that diverged in its first step, before
        there was a residual to compare with.

    Returns
    -------
    list of str
        Each begins with its name: ``conditional-not-converged``, ``index-stuck-near-zero``,
        ``divergence``.
    """
    found: list[str] = []
    if len(records) < 4:
        return found
    tail = records[-max(2, len(records) // 10) :]
    unfinished = [
        r
        for r in tail
        if r.loss_before is not None
        and r.loss_after is not None
        and r.residual is not None
        and sigma_y is not None
        and r.residual > 3 * sigma_y
        and r.loss_after > 0.2 * r.loss_before
    ]
    if len(unfinished) > len(tail) // 2:
        found.append(
            f"conditional-not-converged: in {len(unfinished)} of the last {len(tail)} steps the "
            f"observation was still {tail[-1].residual:.3g} off (sigma_y {sigma_y:.3g}); "
            f"expect blurry or incoherent results; take more conditional steps at the end"
        )
    indexed = [r for r in records if r.index is not None and r.level > 0.1 * last_level]
    near_zero = [r for r in indexed if r.index is not None and r.index < 0.02 * r.level]
    if len(indexed) >= 4 and len(near_zero) > 0.9 * len(indexed):
        found.append(
            f"index-stuck-near-zero: {len(near_zero)} of {len(indexed)} high-noise steps met the "
            f"observation near level 0; observed parts lock and the rest freezes at its start; "
            f"use an index law that reaches higher levels"
        )
    residuals = [r.residual for r in records if r.residual is not None]
    # A method that projects on the data begins with a residual of zero: the noise is the least.
    least = 1e-12 if sigma_y is None else sigma_y
    scales = [max(v, least) for v in (*residuals[:1], observed) if v is not None]
    if residuals and residuals[-1] > 10 * min(scales):
        found.append(
            f"divergence: the data residual grew from {min(scales):.3g} to {residuals[-1]:.3g}; "
            f"lower the learning rate or step size of the first levels"
        )
    return found


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: the allocator's on CUDA, the process's resident size elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
