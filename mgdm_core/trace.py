"""What a run records, and the failure signatures that it names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import DivergenceError
from mgdm_core.operators import flat
from mgdm_core.sampler import Info


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
    save : callable
        Returns a :class:`~mgdm_core.SavedRun`, from which ``sample(..., resume=saved)`` goes on.
        The callback has to call it itself: once it has returned, the run has gone on.
    """

    sampler: str
    step: int
    steps: int
    level: int
    estimate: Tensor
    save: Callable[[], Any]


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
    extra : dict of str to list
        What a method tells besides, one mean over the items per step.
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
        """Plain containers and numbers, ready for JSON."""
        return asdict(self)


class Recorder:
    """Turns the tensors that steps tell into records, fetched from the device all at once.

    Parameters
    ----------
    sampler : str
        For the error on NaN.
    """

    def __init__(self, sampler: str) -> None:
        self.sampler = sampler
        self.records: list[StepRecord] = []
        self.extra: dict[str, list[float]] = {}
        self._finite: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._told: list[tuple[dict[str, Any], list[str]]] = []

    def add(self, info: Info, residual: Float[Tensor, " batch"] | None) -> None:
        """Take note of a step; nothing is read."""
        # Neither a largest magnitude nor a sum is finite where a number is not.
        peak = info.x.reshape(len(info.x_0), -1).abs().amax(-1)
        finite = torch.isfinite(peak + flat(info.x_0).sum(-1))
        self._finite.append(finite if info.valid is None else finite & info.valid)
        told: dict[str, Any] = {"level": info.level, **dict.fromkeys(_RECORDED)}
        asked = {
            "index": info.index,
            "loss_before": info.loss_before,
            "loss_after": info.loss_after,
            "residual": residual,
            **(info.extra or {}),
        }
        if isinstance(info.index, int):
            told["index"] = float(asked.pop("index"))
        # In the state's precision: Apple's devices have no float64.
        means = {k: v.to(peak.dtype).mean() for k, v in asked.items() if v is not None}
        means["magnitude"] = peak.amax()
        self._numbers += means.values()
        self._told.append((told, list(means)))

    def flush(self) -> None:
        """Fetch what was told since the last time.

        Raises
        ------
        DivergenceError
            Naming the first level and the items where NaN or infinity arose.
        """
        if not self._told:
            return
        # One transfer for the flags, one for the numbers.
        finite, numbers = torch.stack(self._finite), iter(torch.stack(self._numbers).tolist())
        if not bool(finite.all()):
            first = (~finite).nonzero()[:, 0].min()
            items = (~finite[first]).nonzero()[:, 0].tolist()
            raise DivergenceError(self.sampler, self._told[int(first)][0]["level"], items)
        for record, names in self._told:
            for name in names:
                if name in _RECORDED:
                    record[name] = next(numbers)
                else:
                    self.extra.setdefault(name, []).append(next(numbers))
            self.records.append(StepRecord(**record))
        self._finite, self._numbers, self._told = [], [], []


_RECORDED = ("index", "loss_before", "loss_after", "residual", "magnitude")


def mean_records(parts: list[list[StepRecord]], weights: list[int]) -> list[StepRecord]:
    """Records of several batches that took the same steps, as one: means by their sizes."""
    if len(parts) == 1:
        return parts[0]
    total = sum(weights)
    merged = []
    for row in zip(*parts):
        record: dict[str, Any] = {"level": row[0].level}
        for name in _RECORDED:
            values = [getattr(r, name) for r in row]
            known = None not in values
            record[name] = sum(v * w for v, w in zip(values, weights)) / total if known else None
        record["magnitude"] = max(r.magnitude for r in row)
        merged.append(StepRecord(**record))
    return merged


def failure_signatures(
    records: list[StepRecord],
    last_level: int,
    sigma_y: float | None = None,
    observed: float | None = None,
    residual: float | None = None,
    acceptance: list[float] | None = None,
) -> list[str]:
    """Name the known ways in which a run goes wrong.

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
    residual : float or None
        Root mean square of y - A(x) of the samples themselves.
    acceptance : list of float or None
        Share of the items that accepted, per path, of methods that propose and accept.

    Returns
    -------
    list of str
        Each begins with its name: ``conditional-not-converged``, ``index-stuck-near-zero``,
        ``divergence``, ``data-not-met``, ``paths-stuck``.
    """
    found: list[str] = []
    if residual is not None and sigma_y is not None and residual > 1.5 * sigma_y:
        found.append(
            f"data-not-met: the samples are {residual:.3g} off the observation, whose deviation "
            f"is {sigma_y:.3g}; meet it nearer to level 1 (an index law that goes there at the "
            f"end), or take more steps"
        )
    # The first is a plain draw of the prior, which is always taken.
    later = (acceptance or [])[1:]
    if len(later) >= 10 and sum(later) < 0.02 * len(later):
        found.append(
            f"paths-stuck: {100 * sum(later) / len(later):.1f} % of the paths were accepted; the "
            f"modes' weights are those of the first draw; give a larger budget, or leave the paths "
            f"out (budget=0)"
        )
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
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
