"""Runs one row of the table on one problem and measures what comes out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mgdm_core
from mgdm_audio.errors import one_line
from mgdm_audio.io.atomic import replacing
from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.samplers import PRESETS, SAMPLERS
from mgdm_core.trace import Callback
from recipes.exact_posterior.memory import PeakMeter
from recipes.exact_posterior.metrics import coverage, sliced_wasserstein, total_variation
from recipes.exact_posterior.problems import Case, Problem, build
from recipes.exact_posterior.streams import BatchStreams
from recipes.exact_posterior.variants import VARIANTS, Variant

__all__ = [
    "Job",
    "append",
    "cost",
    "digest",
    "job_key",
    "key",
    "plan",
    "read_records",
    "refused",
    "run_job",
    "sample_path",
]

PROJECTIONS = 500


@dataclass(frozen=True)
class Job:
    """One row of the table on one problem."""

    name: str
    case: Case
    samples: int

    @property
    def variant(self) -> Variant:
        """What the row runs."""
        return VARIANTS[self.name]


def refused(variant: Variant, problem: mgdm_core.Problem) -> str:
    """Why the problem will not do for the row; empty where it does."""
    try:
        if variant is not None:
            variant.requires(problem)
    except (CapabilityError, SettingsError) as error:
        return one_line(error)
    return ""


def plan(names: Iterable[str], cases: Iterable[Case], samples: int) -> tuple[list[Job], list[str]]:
    """Jobs, and lines that say what cannot run and why."""
    jobs: list[Job] = []
    left_out: dict[str, None] = {}
    problems: dict[tuple, mgdm_core.Problem] = {}
    for case in cases:
        kind = (case.task, case.dim, case.observations)
        if kind not in problems:  # what can be asked of a problem is not its number's
            problems[kind] = build(case._replace(noise=case.noise and 0.5), 2).posed(1)
        for name in names:
            why = refused(VARIANTS[name], problems[kind])
            if why:
                left_out[f"{name} on {case.task}: {why}"] = None
            else:
                jobs.append(Job(name, case, samples))
    return jobs, list(left_out)


def cost(record: dict[str, Any]) -> float:
    """Denoiser evaluations per sample with a vector-Jacobian product counted as two more."""
    return record["evaluations"] + 2 * record["vjps"]


def digest(variant: Variant) -> str:
    """Short name of what runs; where the library chooses, of all that it may choose from."""
    told = repr(variant)
    if variant is None:
        told = repr(
            [
                sorted(PRESETS[name].items())
                for name in SAMPLERS
                if name.startswith(("mgdm", "ding"))
            ]
        )
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def key(record: dict[str, Any]) -> tuple:
    """What makes two records the same measurement."""
    names = ("sampler", "task", "dim", "observations", "noise", "problem", "samples", "settings")
    return tuple(record[name] for name in names)


def job_key(job: Job) -> tuple:
    """:func:`key` of the record that the job will make."""
    case = job.case
    return (
        job.name,
        case.task,
        case.dim,
        case.observations,
        case.noise,
        case.problem,
        job.samples,
        digest(job.variant),
    )


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a file with one object a line; a line cut off by an interruption is dropped."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


_LAST: dict[tuple, Problem] = {}


def _problem(case: Case, samples: int) -> Problem:
    """The problem, kept until another is asked for: rows come one after another on each."""
    if (case, samples) not in _LAST:
        _LAST.clear()
        _LAST[case, samples] = build(case, samples)
    return _LAST[case, samples]


def sample_path(job: Job, folder: Path) -> Path | None:
    """Where the samples go that the pictures of the plane show; None for all other jobs."""
    if job.case.dim != 2 or job.case.problem != 0:
        return None
    told = hashlib.sha256(repr(job_key(job)).encode()).hexdigest()[:12]
    return folder / f"{job.name}-{told}.npy"


def run_job(
    job: Job, callback: Callback | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Run and measure. What fails leaves its message under ``error``: other jobs go on.

    Samples of the first problem of every planar setting are kept in ``folder``. Particle methods
    run with one item whose particles are the samples; evaluations are counted per sample in either
    case.
    """
    named = {"sampler": job.name, **job.case._asdict(), "samples": job.samples}
    named["settings"] = digest(job.variant)
    try:
        return {**named, **_measured(job, callback, folder)}
    except Exception as error:
        return {**named, "error": one_line(error)}


def _measured(job: Job, callback: Callback | None, folder: Path | None) -> dict[str, Any]:
    problem = _problem(job.case, job.samples)
    sampler = job.variant or mgdm_core.default_sampler(problem.posed(1))
    items = 1 if sampler.interacting else job.samples
    if sampler.interacting:
        sampler = replace(sampler, particles=job.samples)  # type: ignore[type-var]
    # Far from every seed that a problem is drawn from.
    streams = BatchStreams(10**9 + job.case.problem, items)
    began = time.perf_counter()
    with PeakMeter() as meter:
        result = mgdm_core.sample(problem.posed(items), sampler, noise=streams, callback=callback)
    seconds = time.perf_counter() - began
    x = result.x if result.particles is None else result.particles[0]
    x = x.flatten(1)
    per_sample = items / len(x)
    path = None if folder is None else sample_path(job, folder)
    if path is not None:
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, x.numpy())
    return {
        "particles": sampler.interacting,
        "gibbs": getattr(sampler, "gibbs", None),
        "sliced_wasserstein": sliced_wasserstein(x, problem.exact, PROJECTIONS),
        "floor": sliced_wasserstein(problem.again, problem.exact, PROJECTIONS),
        "mode_error": total_variation(problem.label(x), problem.weights),
        "mode_floor": total_variation(problem.label(problem.again), problem.weights),
        "coverage": coverage(x, problem.exact),
        "residual_ratio": _residual_ratio(problem, x),
        "evaluations": result.trace.evaluations * per_sample,
        "vjps": result.trace.vjps * per_sample,
        "seconds": seconds,
        "peak_memory": meter.peak,
        "warnings": [line.split(":")[0] for line in result.trace.warnings],
    }


def _residual_ratio(problem: Problem, x: torch.Tensor) -> float | None:
    """Root mean square of y - A(x) over that of exact samples; None without a residual."""
    shape = problem.shape or (problem.case.dim,)
    sizes = []
    for points in (x, problem.exact):
        posed = problem.posed(len(points))
        residual = posed.residual(points.reshape(len(points), *shape).double())
        if residual is None:
            return None
        sizes.append(float(residual.square().mean().sqrt()))
    return sizes[0] / sizes[1]


def append(path: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that adds one object as a line and flushes it."""

    def write(record: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    return write
