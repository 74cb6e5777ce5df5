"""Recordings on their way: checked, waiting, running, done; one worker thread per device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mgdm_audio.errors import AudioError
from mgdm_core.errors import CancelledError, MGDMError

ACTIVE = ("waiting", "running")


@dataclass
class Job:
    """One recording of a session.

    Attributes
    ----------
    state : str
        ``ready`` (checked, not started), ``waiting``, ``running``, ``done``, ``failed`` or
        ``cancelled``.
    files : dict of str to Path
        What may be fetched, by the name in its address.
    """

    id: str
    name: str
    folder: Path
    source: Path
    seconds: float
    rate: int
    channels: int
    state: str = "ready"
    preset: str = ""
    closed: bool = False
    stems: tuple[str, ...] = ()
    share: float = 0.0
    began: float = 0.0
    took: float = 0.0
    error: str = ""
    notes: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def seconds_left(self) -> float | None:
        """From the pace so far; None until there is one."""
        if self.state != "running" or self.share < 0.02:
            return None
        return (time.monotonic() - self.began) * (1 - self.share) / self.share

    def progressed(self, share: float) -> bool:
        """Note the fraction done; False cancels."""
        self.share = share
        return not self.cancelled


class JobQueue:
    """Runs jobs in the order in which they were started.

    Parameters
    ----------
    work : callable
        Makes, on its worker's own thread, what separates a job on a device. That is called with
        the job and with a function that takes the fraction done and returns False to cancel.
    devices : tuple of str
        One worker each.
    """

    def __init__(
        self,
        work: Callable[[str], Callable[[Job, Callable[[float], bool]], None]],
        devices: tuple[str, ...],
    ) -> None:
        self._work = work
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._order: list[str] = []
        self._active: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, args=(device,), daemon=True) for device in devices
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises
        ------
        AudioError
            If it was started before.
        """
        with self._lock:
            if job.state not in ("ready", "cancelled", "failed"):
                raise AudioError(f"{job.name} is {job.state} already")
            job.state, job.cancelled, job.error, job.share = "waiting", False, "", 0.0
            self._order.append(job.id)
            self._active[job.id] = job
        self._waiting.put(job)

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one, those that are running included."""
        with self._lock:
            running = len(self._active) - len(self._order)
            return running + self._order.index(job.id) if job.id in self._order else 0

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it at its next step."""
        with self._lock:
            job.cancelled = True
            if job.state == "waiting":
                job.state = "cancelled"
                self._order.remove(job.id)
                del self._active[job.id]

    def close(self, patience: float = 60.0) -> None:
        """Cancel everything and wait for the workers: a step of `paper` takes many seconds.

        Parameters
        ----------
        patience : float
            Seconds that each is waited for.
        """
        with self._lock:
            active = list(self._active.values())
        for job in active:
            self.cancel(job)
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(patience)

    def _serve(self, device: str) -> None:
        separate = None
        while (job := self._waiting.get()) is not None:
            with self._lock:
                if job.state != "waiting":
                    continue
                job.state, job.began = "running", time.monotonic()
                self._order.remove(job.id)
            try:
                separate = separate or self._work(device)
                separate(job, job.progressed)
                state, error = "done", ""
            except CancelledError:
                state, error = "cancelled", ""
            except MGDMError as failure:
                state, error = "failed", str(failure)
            except Exception as failure:  # a worker must outlive whatever one recording does
                state, error = "failed", f"{type(failure).__name__}: {failure}"
            with self._lock:
                job.took = time.monotonic() - job.began
                del self._active[job.id]
                job.state, job.error = state, " ".join(error.split())
