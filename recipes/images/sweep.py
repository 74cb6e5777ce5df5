"""Many restorations, one file per finished cell, and the table of them: stop and resume freely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgdm_audio.errors import one_line
from mgdm_audio.io.atomic import replacing, write_text
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError, SettingsError
from recipes.images.errors import TaskError, WeightsError
from recipes.images.metrics import LPIPS, psnr, ssim
from recipes.images.presets import apply_changes, describe, settings_for, with_gibbs
from recipes.images.priors import ImagePrior
from recipes.images.restore import SIGMA_Y, measure, observe, restore
from recipes.images.tables import write_tables
from recipes.images.tasks import Degradation, build_task
from recipes.images.tensor_files import checksum

__all__ = ["PSEUDO_INVERSE", "Sweep", "run_sweep"]

PSEUDO_INVERSE = "pseudo_inverse"


@dataclass(frozen=True)
class Sweep:
    """What to run.

    Parameters
    ----------
    tasks, samplers : sequence of str
        ``pseudo_inverse`` may stand among the samplers.
    gibbs : sequence of int
        MGDM's R; empty for the settings' own.
    samples : int
        Posterior samples per image.
    batch : int
        Images per run.
    changes : sequence of str
        ``NAME=VALUE`` for every sampler, or ``SAMPLER:NAME=VALUE`` for one.
    """

    tasks: Sequence[str]
    samplers: Sequence[str]
    gibbs: Sequence[int] = ()
    samples: int = 1
    sigma_y: float = SIGMA_Y
    seed: int = 0
    batch: int = 1
    changes: Sequence[str] = field(default_factory=tuple)
    kernel_weights: str | None = None


@dataclass(frozen=True)
class _Cell:
    task: str
    degradation: Degradation | str
    sampler: str
    gibbs: int | None
    settings: Any
    first: int
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.sampler if self.gibbs is None else f"{self.sampler} R={self.gibbs}"


def _changes_for(sampler: str, changes: Sequence[str]) -> list[str]:
    chosen = []
    for change in changes:
        head, colon, rest = change.partition(":")
        if colon and "=" not in head:
            if head == sampler:
                chosen.append(rest)
        else:
            chosen.append(change)
    return chosen


def _check(sweep: Sweep) -> None:
    """Refuse what no cell could do, and settings that no cell would take."""
    if sweep.batch < 1 or sweep.samples < 1:
        raise SettingsError(
            f"batch and samples are at least 1; found {sweep.batch} and {sweep.samples}"
        )
    if not sweep.samplers:
        raise SettingsError("a sweep has at least one sampler; found none")
    if sweep.gibbs and "mgdm" not in sweep.samplers:
        raise SettingsError(
            f"--gibbs varies MGDM's R; found the samplers {', '.join(sweep.samplers)}"
        )
    takers = [name for name in sweep.samplers if name != PSEUDO_INVERSE]
    for change in sweep.changes:
        if not any(_changes_for(name, [change]) for name in takers):
            raise SettingsError(
                f"--set {change}: no sampler of this sweep takes it; those with settings are "
                f"{', '.join(takers) or 'none'}"
            )


def _built(task: str, sweep: Sweep, prior: ImagePrior) -> Degradation | str:
    """The task, or why there is none."""
    try:
        return build_task(
            task, prior.image_shape, seed=sweep.seed, kernel_weights=sweep.kernel_weights
        )
    except (WeightsError, TaskError) as error:
        return str(error)


def _cells(sweep: Sweep, prior: ImagePrior, images: Sequence[str]) -> list[_Cell]:
    cells = []
    for task in sweep.tasks:
        degradation = _built(task, sweep, prior)
        for sampler in sweep.samplers:
            base = None
            if sampler != PSEUDO_INVERSE and not isinstance(degradation, str):
                base = settings_for(sampler, degradation, prior)
                base = apply_changes(base, _changes_for(sampler, sweep.changes))
            variants: list[tuple[int | None, Any]] = [(None, base)]
            if sampler == "mgdm" and sweep.gibbs:
                variants = [(r, base and with_gibbs(base, r)) for r in sweep.gibbs]
            for gibbs, settings in variants:
                for first in range(0, len(images), sweep.batch):
                    names = tuple(images[first : first + sweep.batch])
                    cells.append(_Cell(task, degradation, sampler, gibbs, settings, first, names))
    return cells


def _identity(
    cell: _Cell, sweep: Sweep, prior: ImagePrior, marks: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides a cell's result; its hash names the file.

    R stands in the settings: a run with ``gibbs`` finds what one without has done, and back. Files
    are told by what they hold.
    """
    weights = None
    if cell.task == "nonlinear_blur" and not isinstance(cell.degradation, str):
        weights = checksum(Path(str(sweep.kernel_weights)))
    return {
        "task": cell.task,
        "sampler": cell.sampler,
        "settings": None if cell.settings is None else describe(cell.settings),
        "prior": prior.name,
        "prior_identity": prior.identity,
        "image_shape": list(prior.image_shape),
        "samples": sweep.samples,
        "sigma_y": sweep.sigma_y,
        "seed": sweep.seed,
        "first": cell.first,
        "images": list(cell.names),
        "marks": [marks[name] for name in cell.names],
        "kernel_weights": weights,
    }


def _mark(image: Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()[:12]


def _file(folder: Path, identity: dict[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"{identity['task']}-{identity['sampler']}-{identity['first']:04d}-{mark}.json"
    return folder / "cells" / name


def _measure_late(
    path: Path, record: dict[str, Any], first: Path, truth: Tensor, lpips: LPIPS
) -> None:
    """LPIPS of a cell that ended where its network was not at hand."""
    for row, value in zip(record["rows"], lpips(torch.from_numpy(np.load(first)), truth)):
        row["lpips_sample"] = float(value)
    write_text(path, json.dumps(record, indent=1))
    first.unlink()


def _pseudo_inverse_rows(
    degradation, y: Tensor, truth: Tensor, sigma_y: float
) -> list[dict[str, float]]:
    estimate = degradation.pseudo_inverse(y, sigma_y).clamp(-1, 1).cpu()
    values, similar = psnr(estimate, truth), ssim(estimate, truth)
    return [
        {"psnr_mean": float(p), "ssim_mean": float(s), "seconds": 0.0, "evaluations": 0.0}
        for p, s in zip(values, similar)
    ]


def _run_cell(
    cell: _Cell,
    sweep: Sweep,
    prior: ImagePrior,
    truth: Float[Tensor, "images channels height width"],
    device: torch.device | str,
    lpips: LPIPS,
    first: Path,
) -> dict[str, Any]:
    """Rows of metrics, or the reason why there are none; ``first``: what LPIPS may be of later."""
    degradation = cell.degradation
    if isinstance(degradation, str):
        return {"skipped": degradation}
    y = observe(degradation, truth.to(device), sweep.sigma_y, sweep.seed, cell.first)
    if cell.sampler == PSEUDO_INVERSE:
        if not degradation.linear:
            return {"skipped": "the task is not linear: it has no pseudo-inverse"}
        return {"rows": _pseudo_inverse_rows(degradation, y, truth, sweep.sigma_y)}
    try:
        result = restore(
            prior,
            degradation,
            y,
            cell.settings,
            samples=sweep.samples,
            sigma_y=sweep.sigma_y,
            seed=sweep.seed,
            first=cell.first,
        )
    except CapabilityError as error:
        return {"skipped": f"not applicable: {error}"}
    rows = measure(truth, result, lpips)
    for row in rows:
        row["seconds"] = result.seconds / len(truth)
        row["evaluations"] = result.trace.evaluations * sweep.samples
        row["vjps"] = result.trace.vjps * sweep.samples
    if lpips.reason is not None:
        with replacing(first) as partial, partial.open("wb") as file:
            np.save(file, result.samples[:, 0].numpy())
    return {"rows": rows, "warnings": result.trace.warnings}


def run_sweep(
    folder: Path,
    sweep: Sweep,
    prior: ImagePrior,
    images: Sequence[str],
    load: Callable[[str], Float[Tensor, "channels height width"]],
    *,
    device: torch.device | str = "cpu",
    lpips: LPIPS | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Run what is not done yet, write every cell as it ends, then the tables.

    Parameters
    ----------
    images : sequence of str
        What ``load`` turns into images; all are tried before anything is computed.
    report : callable, optional
        Receives (cell, done, all).

    Returns
    -------
    list of dict
        One per cell: what was run and its rows, or why it was ``skipped``; ``failed`` says the
        same of those that raised.
    """
    _check(sweep)
    lpips = LPIPS() if lpips is None else lpips
    marks = {name: _mark(load(name)) for name in images}
    cells = _cells(sweep, prior, images)
    done: list[dict[str, Any]] = []

    def truth_of(cell: _Cell) -> Float[Tensor, "images channels height width"]:
        return torch.stack([load(name) for name in cell.names])

    for number, cell in enumerate(cells):
        identity = _identity(cell, sweep, prior, marks)
        path = _file(folder, identity)
        shown = {"label": cell.label, "gibbs": cell.gibbs}
        if report is not None:
            report(f"{cell.task} · {cell.label}", number, len(cells))
        first = path.with_suffix(".npy")
        if path.is_file():
            record = json.loads(path.read_text())
            if lpips.reason is None and first.is_file():
                _measure_late(path, record, first, truth_of(cell), lpips)
            done.append({**record, **shown})
            continue
        try:
            outcome = _run_cell(cell, sweep, prior, truth_of(cell), device, lpips, first)
        except Exception as error:  # whatever it is, it is this cell's
            outcome = {"failed": one_line(error), "skipped": f"failed: {one_line(error)}"}
        record = {**identity, **shown, **outcome}
        # A cell that could not run may run next time, once weights are there.
        if "rows" in outcome:
            write_text(path, json.dumps(record, indent=1))
        done.append(record)
    if report is not None:
        report("tables", len(cells), len(cells))
    write_tables(folder, done, lpips.reason)
    return done
