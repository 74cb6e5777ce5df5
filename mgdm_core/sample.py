"""The one loop that runs every sampler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CancelledError, DivergenceError, ShapeError
from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.noise import DeviceStreams, RandomStreams
from mgdm_core.problem import Meter, Problem
from mgdm_core.sampler import Info, Result, Sampler, Start
from mgdm_core.samplers.default import default_sampler
from mgdm_core.settings import check
from mgdm_core.trace import (
    Callback,
    Progress,
    Recorder,
    StepRecord,
    Trace,
    failure_signatures,
    mean_records,
    peak_memory_bytes,
)


@dataclass(frozen=True)
class SampleResult:
    """What :func:`sample` returns.

    Attributes
    ----------
    x : Tensor, shape (observations * n, *event)
        Posterior samples; those of one observation lie next to each other.
    trace : Trace
    particles : Tensor or None, shape (observations * n, particles, *event)
        All particles, equally weighted, of methods that keep several per sample.
    n : int
        Samples per observation.
    """

    x: Float[Tensor, "items *event"]
    trace: Trace
    particles: Float[Tensor, "items particles *event"] | None = None
    n: int = 1

    @property
    def samples(self) -> Float[Tensor, "observations n *event"]:
        """``x`` with an axis for the samples of an observation."""
        return self.x.reshape(-1, self.n, *self.x.shape[1:])


class Batch(NamedTuple):
    """What is kept of a batch of samples that is done."""

    items: int
    result: Result
    records: list[StepRecord]
    extra: dict[str, list[float]]
    evaluations: float
    vjps: float
    square: float | None  # mean of (y - A(x))^2


class SavedRun(NamedTuple):
    """Where a run stands, for ``sample(..., resume=saved)`` with the same other arguments.

    Tensors, numbers and plain containers: ``torch.save`` writes it.
    """

    sampler: str
    sizes: tuple[int, ...]
    done: tuple[Batch, ...]
    state: Any
    noise: Any
    records: list[StepRecord]
    extra: dict[str, list[float]]
    evaluations: float
    vjps: float
    seconds: float


def sample(
    problem: Problem,
    sampler: Sampler | None = None,
    *,
    n: int = 1,
    seed: int | np.integer | Sequence[int] = 0,
    noise: RandomStreams | str = "cpu",
    start: Start | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    every: int | None = None,
    callback: Callback | None = None,
    resume: SavedRun | None = None,
) -> SampleResult:
    """Draw posterior samples.

    Parameters
    ----------
    problem : Problem
    sampler : Sampler, optional
        Its fields are its settings; by default what suits the problem
        (:func:`mgdm_core.samplers.default_sampler`).
    n : int
        Samples per observation.
    seed : int or sequence of int
        Sample j of observation i has the random stream of seed + i n + j, whatever the batch; or
        one seed per sample.
    noise : {"cpu", "device"} or RandomStreams
        ``cpu``: the same numbers on every device, drawn by the CPU's generators; ``device``: drawn
        where the state lives; or streams of your own, one per sample.
    start : Start, optional
        First estimate, one per observation or per sample, and level; pure noise by default.
    batch_size : int, optional
        Samples that run together; all of them by default.
    device : torch.device or str, optional
        Where the run takes place; the observation's by default. The prior has to be there.
    every : int, optional
        Steps between two looks at the device, which check for NaN, record and call back: 1 on the
        CPU, 10 elsewhere. NaN is still reported at the level where it arose.
    callback : callable, optional
        Receives a :class:`~mgdm_core.Progress`, at least once; return False to cancel.
    resume : SavedRun, optional
        What a callback's ``progress.save()`` or a :class:`~mgdm_core.CancelledError` gave. The
        result equals that of the uninterrupted run to the bit.

    Raises
    ------
    CapabilityError
        If the problem lacks what the sampler needs.
    DivergenceError
        On NaN or infinity, with the level and the samples in which it arose.
    CancelledError
        If the callback returned False.
    """
    for name, value in (("n", n), ("batch_size", batch_size), ("every", every)):
        fits = isinstance(value, Integral) and int(value) >= 1
        check(
            fits or (value is None and name != "n"), f"{name} is a whole number, at least 1", value
        )
    problem = _placed(problem, device)
    rule = "the sampler is one of mgdm_core's or your own, such as DDRM()"
    check(sampler is None or isinstance(sampler, Sampler), rule, sampler)
    sampler = default_sampler(problem) if sampler is None else sampler
    sampler.requires(problem)
    if n > 1:
        problem = problem.select([i for i in range(problem.items) for _ in range(n)])
    items = problem.items
    streams = _streams(seed, noise, items, n)
    if len(streams) != items:
        raise ShapeError(
            f"one random stream per sample: {items} samples of {items // n} observation(s), "
            f"found {len(streams)} streams"
        )
    if start is not None:
        start = _per_sample(start, problem, n)
    run = _Run(sampler, problem, every, callback, batch_size or items, resume)
    with torch.no_grad():
        return run.all(streams, start, n)


def _placed(problem: Problem, device: torch.device | str | None) -> Problem:
    """The problem with its observation on the device, in the state's precision."""
    observation = problem.likelihood.observation
    if not isinstance(observation, Tensor) or observation.ndim == 0 or len(observation) == 0:
        found = tuple(observation.shape) if isinstance(observation, Tensor) else type(observation)
        raise ShapeError(
            f"an observation is a tensor of one row per item, one at least; found {found}"
        )
    if observation.is_complex():
        raise ShapeError(
            f"an observation is of real numbers; found {observation.dtype}; give real and "
            f"imaginary parts, as torch.view_as_real does, and have the operator return them so"
        )
    whole = not observation.is_floating_point()
    # Labels stay whole: a likelihood of the user's own may count or gather by them.
    labels = whole and not isinstance(problem.likelihood, ImageLikelihood)
    dtype = observation.dtype if labels else problem.dtype
    problem = problem.observing(observation.to(device or observation.device, dtype))
    if isinstance(problem.likelihood, ImageLikelihood):
        # One event through the operator: a row of another shape ends here, by its rule.
        one = problem.likelihood.select([0])
        one.image(torch.zeros((1, *problem.shape), dtype=problem.dtype, device=problem.device))  # type: ignore[attr-defined]
    return problem


def _per_sample(start: Start, problem: Problem, n: int) -> Start:
    """The start with one estimate per sample, where the samples live."""
    found, samples = tuple(start.x_0.shape), problem.items
    fitting = [(samples // n, *problem.shape), *([(samples, *problem.shape)] if n > 1 else [])]
    if found not in fitting:
        raise ShapeError(
            f"the start has shape (batch, *shape) = {' or '.join(map(str, fitting))}; found {found}"
        )
    repeats = samples // len(start.x_0)
    x_0 = start.x_0.to(problem.device, problem.dtype).repeat_interleave(repeats, 0)
    return replace(start, x_0=x_0)


def _streams(
    seed: int | np.integer | Sequence[int], noise: RandomStreams | str, items: int, n: int
) -> RandomStreams:
    if isinstance(noise, RandomStreams):
        return noise
    check(noise in ("cpu", "device"), "noise is 'cpu', 'device' or random streams", noise)
    one = isinstance(seed, int | np.integer)
    seeds: Sequence[int] = range(int(seed), int(seed) + items) if one else seed  # type: ignore
    return (RandomStreams if noise == "cpu" else DeviceStreams)(seeds)


def _weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights))


class _Run:
    """One call of :func:`sample`: its batches, one after another."""

    def __init__(
        self,
        sampler: Sampler,
        problem: Problem,
        every: int | None,
        callback: Callback | None,
        batch_size: int,
        resume: SavedRun | None,
    ) -> None:
        self.sampler, self.problem, self.device = sampler, problem, problem.device
        self.every = every or (1 if self.device.type == "cpu" else 10)
        self.callback, self.resume = callback, resume
        rows = range(problem.items)
        self.parts = [rows[at : at + batch_size] for at in rows[::batch_size]]
        self.sizes = tuple(len(part) for part in self.parts)
        if resume is not None:
            check(
                (resume.sampler, resume.sizes) == (sampler.name, self.sizes),
                f"a saved run goes on as it was, {resume.sampler} in batches of {resume.sizes}",
                (sampler.name, self.sizes),
            )
        self.done: list[Batch] = [] if resume is None else list(resume.done)
        self.seconds = 0.0 if resume is None else resume.seconds
        self.began = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def all(self, streams: RandomStreams, start: Start | None, n: int) -> SampleResult:
        """Run every batch and put the results together."""
        for rows in self.parts[len(self.done) :]:
            whole = len(self.parts) == 1
            part = self.problem if whole else self.problem.select(list(rows))
            some = (
                start
                if start is None or whole
                else replace(start, x_0=start.x_0[rows.start : rows.stop])
            )
            # Past batches have consumed their own streams only.
            mine = streams if whole else streams.select(rows)
            self.done.append(self.batch(part, mine, some, rows.start))
        results = [batch.result for batch in self.done]
        x = torch.cat([result.x for result in results])
        particles = None
        if results[0].particles is not None:
            particles = torch.cat([r.particles for r in results])  # type: ignore[misc]
        return SampleResult(x, self.trace(), particles, n)

    def batch(
        self, problem: Problem, noise: RandomStreams, start: Start | None, first: int
    ) -> Batch:
        """Run the sampler on one batch."""
        sampler, meter = self.sampler, Meter(problem.items)
        problem = replace(problem, meter=meter)
        recorder = Recorder(sampler.name)
        plan = sampler.plan(problem, start)
        saved, self.resume = self.resume, None
        if saved is None:
            state = sampler.init(problem, plan, noise, start)
        else:
            state = saved.state
            noise.restore(saved.noise)
            recorder.records = list(saved.records)
            recorder.extra = {name: list(values) for name, values in saved.extra.items()}
            meter.evaluations, meter.vjps = saved.evaluations, saved.vjps

        info: Info | None = None
        try:
            while state.step < plan.steps:
                state, info = sampler.step(problem, plan, state, noise)
                recorder.add(info, problem.residual(info.x_0))
                if state.step % self.every == 0 or state.step == plan.steps:
                    recorder.flush()
                    save = partial(self.saved, state, noise, recorder, meter)
                    self.report(plan.steps, state.step, info.level, info.x_0, save)
            result = sampler.finish(problem, plan, state, noise)
        except DivergenceError as error:
            raise DivergenceError(
                sampler.name, error.level, [first + i for i in error.items]
            ) from None
        bad = ~torch.isfinite(result.x.flatten(1)).all(-1)
        level = 0 if info is None else info.level
        if bool(bad.any()):
            at = [first + i for i in bad.nonzero()[:, 0].tolist()]
            raise DivergenceError(sampler.name, level, at)
        if info is None and saved is None:
            save = partial(self.saved, state, noise, recorder, meter)
            self.report(1, 1, level, result.x, save)
        residual = problem.residual(result.x)
        return Batch(
            problem.items,
            result,
            recorder.records,
            recorder.extra,
            meter.evaluations,
            meter.vjps,
            None if residual is None else float(residual.square().mean()),
        )

    def saved(self, state: Any, noise: RandomStreams, recorder: Recorder, meter: Meter) -> SavedRun:
        """Everything that the run needs to go on from this step of this batch."""
        return SavedRun(
            self.sampler.name,
            self.sizes,
            tuple(self.done),
            state,
            noise.state(),
            list(recorder.records),
            {name: list(values) for name, values in recorder.extra.items()},
            meter.evaluations,
            meter.vjps,
            self.seconds + time.perf_counter() - self.began,
        )

    def report(self, steps: int, step: int, level: int, estimate: Tensor, save: Any) -> None:
        """Tell the callback, and stop where it says so."""
        if self.callback is None:
            return
        before = len(self.done) * steps
        total = len(self.parts) * steps
        name, now = self.sampler.name, [True]

        def saved() -> SavedRun:
            check(bool(now), "progress.save() is called by the callback itself", "a later call")
            return save()

        answer = self.callback(Progress(name, before + step, total, level, estimate, saved))
        now.clear()
        # A comparison of numpy's or torch's is not the object False.
        if isinstance(answer, bool | np.bool_ | Tensor) and not bool(answer):
            raise CancelledError(f"{name} was cancelled at level {level}", save())

    def trace(self) -> Trace:
        """Put the batches' records together and name the failure signatures."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        sizes = [batch.items for batch in self.done]
        weights = [size / sum(sizes) for size in sizes]
        records = mean_records([batch.records for batch in self.done], sizes)
        mean = partial(_weighted, weights)
        extra = {
            name: [mean(row) for row in zip(*(batch.extra[name] for batch in self.done))]
            for name in self.done[0].extra
        }
        problem = self.problem
        squares = [batch.square for batch in self.done if batch.square is not None]
        observed = problem.likelihood.observation.to(problem.dtype).square().mean().sqrt()
        return Trace(
            self.sampler.name,
            records,
            mean([batch.evaluations for batch in self.done]),
            mean([batch.vjps for batch in self.done]),
            self.seconds + time.perf_counter() - self.began,
            peak_memory_bytes(self.device),
            failure_signatures(
                records,
                problem.schedule.last,
                getattr(problem.likelihood, "sigma_y", None),
                float(observed),
                mean(squares) ** 0.5 if squares else None,
                extra.get("path_acceptance"),
            ),
            extra,
        )
