"""Separating files as work for an engine: the prior is loaded once per worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdm_audio.compute.engines import InlinePool, Pool, ProcessPool
from mgdm_audio.errors import one_line
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.separation.file_plan import FileJob
from mgdm_audio.separation.files import run_job
from mgdm_audio.separation.record import identity, is_finished
from mgdm_audio.separation.request import SeparateRequest
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import CancelledError


@dataclass(frozen=True)
class FileResult:
    """What became of a file; there is no record where it failed or was finished before."""

    record: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class SeparationWork:
    """Separates :class:`~mgdm_audio.separation.file_plan.FileJob` items.

    Parameters
    ----------
    watch : callable, optional
        Called with a job before its work begins; returns what receives the fraction done. Only for
        work in this very process: with it the work cannot be sent elsewhere.
    """

    request: SeparateRequest
    watch: Callable[[FileJob], Callable[[float], object]] | None = None

    def start(self, device: str) -> Callable[[FileJob], FileResult]:
        """Load the prior; see :class:`mgdm_audio.compute.engines.Work`."""
        request = self.request
        prior = load_prior(
            request.prior, device=device, precision=request.precision, without=request.without
        )

        def separate(job: FileJob) -> FileResult:
            notes: list[str] = []
            try:
                if request.existing == "resume":
                    wanted = identity(request, prior.checksum, prior.precision, Path(job.source))
                    if is_finished(job.record, job.outputs.values(), wanted):
                        return FileResult(None)
                separator = Separator(
                    prior, request.sampling, batch_size=request.batch_size, on_note=notes.append
                )
                tell = None if self.watch is None else self.watch(job)
                record = run_job(separator, job, request, tell, notes.append)
            except CancelledError:
                raise
            except Exception as error:  # whatever it is, it is this file's and not the batch's
                return FileResult(None, tuple(notes), one_line(error))
            return FileResult(record, tuple(notes))

        return separate


def open_pool(
    request: SeparateRequest, watch: Callable[[FileJob], Callable[[float], object]]
) -> Pool:
    """Workers as the request asks for them: this process, several, or a Ray cluster."""
    if request.engine == "ray":
        from mgdm_audio.compute.engines_ray import RayPool

        return RayPool(SeparationWork(request), request.address, request.device)
    if request.jobs == 1:
        return InlinePool(SeparationWork(request, watch), request.device)
    import torch

    threads = max(1, torch.get_num_threads() // request.jobs)
    return ProcessPool(SeparationWork(request), [request.device] * request.jobs, threads)
