"""Runs one row of the table on one problem and measures what comes out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_core.errors import MGDMError
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import SumOverChannels
from mgdm_core.samplers import get_sampler
from mgdm_core.trace import Callback
from recipes.exact_posterior.memory import PeakMeter
from recipes.exact_posterior.metrics import sliced_wasserstein, total_variation
from recipes.exact_posterior.problems import Case, Problem, build
from recipes.exact_posterior.streams import BatchStreams
from recipes.exact_posterior.variants import VARIANTS, Variant

__all__ = [
    "Job",
    "append",
    "applies",
    "cost",
    "job_key",
    "key",
    "plan",
    "read_records",
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


def applies(variant: Variant, likelihood: Likelihood) -> bool:
    """Whether the likelihood and its operator can do what the row needs."""
    gaussian = isinstance(likelihood, GaussianLikelihood)
    if "gaussian" in variant.needs and not gaussian:
        return False
    operator = getattr(likelihood, "operator")  # noqa: B009
    if "mixing" in variant.needs and not isinstance(operator, SumOverChannels):
        return False
    return variant.needs & {"adjoint", "svd", "proximal"} <= operator.capabilities


def plan(names: Iterable[str], cases: Iterable[Case], samples: int) -> tuple[list[Job], list[str]]:
    """Jobs, and lines that say what cannot run and why."""
    jobs, left_out = [], {}
    likelihoods: dict[str, Likelihood] = {}
    for case in cases:
        if case.task not in likelihoods:  # capabilities are the task's, not the problem's
            likelihoods[case.task] = build(case._replace(noise=case.noise and 0.5), 2).likelihood(1)
        for name in names:
            if applies(VARIANTS[name], likelihoods[case.task]):
                jobs.append(Job(name, case, samples))
            else:
                needs = ", ".join(sorted(VARIANTS[name].needs))
                left_out[f"{name} on {case.task}: needs {needs}"] = None
    return jobs, list(left_out)


def cost(record: dict[str, Any]) -> float:
    """Denoiser evaluations per sample with a vector-Jacobian product counted as two more."""
    return record["evaluations"] + 2 * record["vjps"]


def _digest(job: Job) -> str:
    """Short name of what runs; where the sampler chooses, of all that it may choose from."""
    # Not the needs: the order of a set's repr changes from one process to the next.
    told = repr((job.variant.sampler, job.variant.settings))
    if job.variant.settings is None:
        told += repr(get_sampler(job.variant.sampler).presets)
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
        _digest(job),
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
    """Run and measure. A sampler that fails leaves its message under ``error``.

    Samples of the first problem of every planar setting are kept in ``folder``. Particle methods
    run with one item whose particles are the samples; evaluations are counted per sample in either
    case.
    """
    problem, case = _problem(job.case, job.samples), job.case
    entry, settings = get_sampler(job.variant.sampler), job.variant.settings
    items = 1 if entry.particles else job.samples
    if entry.particles:
        settings = replace(settings, particles=job.samples)
    record: dict[str, Any] = {
        "sampler": job.name,
        "task": case.task,
        "dim": case.dim,
        "observations": case.observations,
        "noise": case.noise,
        "problem": case.problem,
        "samples": job.samples,
        "settings": _digest(job),
        "particles": entry.particles,
        "gibbs": _gibbs(settings),
    }
    began = time.perf_counter()
    # Far from every seed that a problem is drawn from.
    streams = BatchStreams(10**9 + case.problem, items)
    try:
        with PeakMeter() as meter:
            result = entry.run(
                problem.prior,
                problem.likelihood(items),
                problem.shape or (case.dim,),
                streams,
                settings,
                callback=callback,
            )
    except MGDMError as error:
        return {**record, "error": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - began
    x = result.x if result.particles is None else result.particles[0]
    x = x.flatten(1)
    per_sample = items / len(x)
    record.update(
        sliced_wasserstein=sliced_wasserstein(x, problem.exact, PROJECTIONS),
        floor=sliced_wasserstein(problem.again, problem.exact, PROJECTIONS),
        mode_error=total_variation(problem.label(x), problem.weights),
        mode_floor=total_variation(problem.label(problem.again), problem.weights),
        evaluations=result.trace.evaluations * per_sample,
        vjps=result.trace.vjps * per_sample,
        seconds=seconds,
        peak_memory=meter.peak,
        warnings=[line.split(":")[0] for line in result.trace.warnings],
    )
    path = None if folder is None else sample_path(job, folder)
    if path is not None:
        np.save(path, x.numpy())
    return record


def _gibbs(settings: Any) -> int | None:
    if settings is None or "gibbs" not in {f.name for f in fields(settings)}:
        return None
    return settings.gibbs


def append(path: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that adds one object as a line and flushes it."""

    def write(record: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    return write
