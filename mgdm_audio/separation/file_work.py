"""Separating files as work for an engine: the prior is loaded once per worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_audio.separation.file_plan import FileJob, OutputChoice
from mgdm_audio.separation.files import FileOptions, is_done, run_job, run_key
from mgdm_audio.separation.separator import Separator

__all__ = ["FileResult", "SeparationWork"]


@dataclass(frozen=True)
class FileResult:
    """What became of a file: its record, None where it was finished before, and what was noted."""

    record: dict[str, Any] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeparationWork:
    """Separates :class:`~mgdm_audio.separation.file_plan.FileJob` items; picklable.

    Parameters
    ----------
    path : Path
        File of the prior, the same on every machine.
    precision : str
    sampling : SamplingSettings
    choice : OutputChoice
    options : FileOptions
    batch_size : int
    resume : bool
        Leave files alone that a run with the same key has finished.
    """

    path: Path
    precision: str
    sampling: SamplingSettings
    choice: OutputChoice
    options: FileOptions
    batch_size: int
    resume: bool

    def start(self, device: str) -> Callable[[FileJob], FileResult]:
        """Load the prior; see :class:`mgdm_audio.compute.engines.Work`."""
        prior = load_prior(self.path, device=device, precision=self.precision)

        def separate(job: FileJob) -> FileResult:
            notes: list[str] = []
            separator = Separator(
                prior, self.sampling, batch_size=self.batch_size, on_note=notes.append
            )
            key = run_key(separator, job, self.choice, self.options)
            if self.resume and is_done(job, key):
                return FileResult(None)
            record = run_job(separator, job, self.choice, self.options, None, notes.append)
            return FileResult(record, tuple(notes))

        return separate
