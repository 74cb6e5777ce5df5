"""Run one piece of work on many items: here, in processes, or on a Ray cluster.

The work is loaded once per worker and every item is independent, so where it runs does not change
what comes out. ``mgdm-evaluate`` and ``mgdm-separate`` run their tracks through this.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from mgdm_audio.errors import AudioError
from mgdm_core.errors import CancelledError, SettingsError

_TRIES = 3  # of an item whose process dies


class EngineError(AudioError):
    """A worker could not load what it needs, so that no item can be worked on."""


@runtime_checkable
class Work(Protocol):
    """What to do with an item. Must be picklable."""

    def start(self, device: str) -> Callable[[Any], Any]:
        """Load what is needed, once per worker, and return the function of one item."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one item: its value, or the error with its class and where it was raised."""

    key: str
    value: Any = None
    error: str | None = None
    error_type: str = ""
    trace: str = ""


@runtime_checkable
class Pool(Protocol):
    """Workers that hold the same work."""

    def run(self, items: Iterable[tuple[str, Any]]) -> Iterator[Outcome]:
        """Work on every ``(key, item)``; outcomes come as they end, in any order."""
        ...

    def submit(self, key: str, item: Any) -> Future:
        """Work on one item in the background; the future holds an :class:`Outcome`."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


def attempt(key: str, function: Callable[[Any], Any], item: Any) -> Outcome:
    """Run a function on an item; an error becomes part of the outcome."""
    try:
        return Outcome(key, function(item))
    except CancelledError:
        raise
    except Exception as error:
        return Outcome(key, None, str(error), type(error).__name__, traceback.format_exc())


class InlinePool:
    """One worker in this very process, which holds one device."""

    def __init__(self, work: Work, device: str) -> None:
        self._work, self._device = work, device
        self._function: Callable[[Any], Any] | None = None

    def run(self, items: Iterable[tuple[str, Any]]) -> Iterator[Outcome]:
        """See :class:`Pool`; outcomes come in order."""
        for key, item in items:
            yield self._attempt(key, item)

    def submit(self, key: str, item: Any) -> Future:
        """See :class:`Pool`; done before it returns."""
        future: Future = Future()
        future.set_result(self._attempt(key, item))
        return future

    def close(self) -> None:
        """Let go of what was loaded."""
        self._function = None

    def _attempt(self, key: str, item: Any) -> Outcome:
        if self._function is None:
            self._function = self._work.start(self._device)
        return attempt(key, self._function, item)


class ProcessPool:
    """One process per entry of ``devices``. A process that dies is replaced and its item retried.

    Parameters
    ----------
    threads : int, optional
        Torch threads of each worker. Sums depend on it in their last bits; by default as many as
        in this process, so that the numbers are those of :class:`InlinePool`.
    """

    def __init__(self, work: Work, devices: Sequence[str], threads: int | None = None) -> None:
        if not devices:
            raise SettingsError("a pool needs at least one device, found none")
        self._workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        threads = torch.get_num_threads() if threads is None else threads
        self._all = [_Worker(work, device, threads) for device in devices]
        for worker in self._all:
            self._workers.put(worker)
        self._pool = ThreadPoolExecutor(len(devices))
        self._closed = False

    def run(self, items: Iterable[tuple[str, Any]]) -> Iterator[Outcome]:
        """See :class:`Pool`."""
        futures = [self.submit(key, item) for key, item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def submit(self, key: str, item: Any) -> Future:
        """See :class:`Pool`."""
        return self._pool.submit(self._call, key, item)

    def close(self) -> None:
        """Stop the processes, also in the middle of an item."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.stop()
        self._pool.shutdown(wait=True)

    def _call(self, key: str, item: Any) -> Outcome:
        worker = self._workers.get()
        try:
            for _ in range(_TRIES):
                try:
                    return worker.call(key, item)
                except (EOFError, OSError):
                    if self._closed:
                        break
            code = worker.exit_code
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return Outcome(
                key,
                None,
                f"its process died {_TRIES} times ({how}); most often memory ran out",
                "WorkerDied",
            )
        finally:
            self._workers.put(worker)


class _Worker:
    """A process and the pipe to it; started when first called, and again after it died."""

    def __init__(self, work: Work, device: str, threads: int) -> None:
        self._arguments = (pickle.dumps(work), device, threads)
        self._process: Any = None
        self._pipe: multiprocessing.connection.Connection | None = None
        self._stopped = False
        self.exit_code: int | None = None

    def call(self, key: str, item: Any) -> Outcome:
        pipe = self._pipe or self._start()
        try:
            pipe.send((key, item))
            kind, outcome = pipe.recv()
        except (EOFError, OSError):
            self._reap()
            raise
        if kind == "start failed":
            self._reap()
            raise EngineError(f"a worker cannot start: {outcome.error}")
        return outcome

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def _start(self) -> multiprocessing.connection.Connection:
        if self._stopped:
            raise EOFError
        # Spawned, not forked: a fork of a process with torch threads or CUDA in use may hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe

    def _reap(self) -> None:
        if self._process is not None:
            self._process.join(5)
            self.exit_code = self._process.exitcode
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = None


def _serve(
    pipe: multiprocessing.connection.Connection, pickled: bytes, device: str, threads: int
) -> None:
    """Loop of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    function = None
    while True:
        try:
            key, item = pipe.recv()
        except EOFError:
            return
        if function is None:
            started = attempt(key, pickle.loads(pickled).start, device)  # noqa: S301 (our own)
            if started.error is not None:
                pipe.send(("start failed", started))
                return
            function = started.value
        pipe.send(("done", attempt(key, function, item)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
