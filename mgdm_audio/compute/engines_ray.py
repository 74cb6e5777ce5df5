"""Workers on a Ray cluster, or on a Ray started here for the purpose.

Ray is the extra ``cluster`` and is imported only when this engine is asked for.
"""

from __future__ import annotations

import hashlib
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import torch

from mgdm_audio.compute.engines import EngineError, Outcome, Work, attempt


def import_ray() -> Any:
    """Import Ray."""
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "the Ray engine needs Ray, which is not installed; pip install 'mgdm[cluster]'"
        ) from error
    return ray


def check_address(address: str | None) -> None:
    """See that something answers at a cluster's address; Ray itself tries for minutes.

    Parameters
    ----------
    address : str or None
        ``host:port`` or ``ray://host:port``. Other words (None, ``"auto"``, ``"local"``) are
        Ray's to look up.
    """
    if address is None or ":" not in address:
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
        if not host or port is None:
            raise ValueError("it has no host or no port")
        socket.create_connection((host, port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> EngineError:
    return EngineError(
        f"no Ray cluster at address {address!r} ({error}); start one with "
        f"'ray start --head' or leave out --address"
    )


class RayPool:
    """Workers of a Ray cluster; each keeps the work that it has loaded.

    Every item is a Ray task. A worker that dies in the middle costs a retry of its item. The
    package must be installed on every node, and files that items name must be at the same path.

    Parameters
    ----------
    address : str or None
        Of the cluster, ``"auto"`` for the one this machine belongs to; None starts Ray here. A Ray
        that is connected already is used as it is.
    device : str
        ``"cuda"`` asks for one GPU per worker; else a worker takes ``threads`` CPUs.
    threads : int, optional
        Torch threads of each worker, by default as many as here.
    """

    def __init__(
        self,
        work: Work,
        address: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._ray = ray = import_ray()
        self._owner = not ray.is_initialized()
        if self._owner:
            check_address(address)
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    **({} if address else {"include_dashboard": False}),
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise _no_cluster(address, error) from error
        self._threads = torch.get_num_threads() if threads is None else threads
        self._device = device
        on_gpu = device.startswith("cuda")
        cpus = float(ray.cluster_resources().get("CPU", 1))
        if on_gpu and not ray.cluster_resources().get("GPU"):
            self.close()
            raise EngineError("the Ray cluster has no GPU; give --device cpu or join one with GPUs")
        self._task = ray.remote(
            num_cpus=1 if on_gpu else min(self._threads, cpus),
            num_gpus=1 if on_gpu else 0,
            max_retries=3,
        )(_remote)
        pickled = pickle.dumps(work)
        self._work = ray.put(pickled)
        self._id = hashlib.sha256(pickled).hexdigest()[:16]  # what a worker keeps it under
        # Enough in flight to keep every worker busy, few enough that results do not pile up.
        self._window = max(4, 2 * int(cpus))

    def run(self, items: Iterable[tuple[str, Any]]) -> Iterator[Outcome]:
        """See :class:`mgdm_audio.compute.engines.Pool`."""
        waiting = iter(items)
        running: dict[Any, str] = {}
        try:
            while True:
                while len(running) < self._window and (pair := next(waiting, None)):
                    running[self._start(*pair)] = pair[0]
                if not running:
                    return
                done, _ = self._ray.wait(list(running), num_returns=1)
                for reference in done:
                    key = running.pop(reference)
                    yield self._finish(key, lambda: self._ray.get(reference))  # noqa: B023 (now)
        finally:
            if self._ray.is_initialized():
                for reference in running:
                    self._ray.cancel(reference, force=True)

    def submit(self, key: str, item: Any) -> Future:
        """See :class:`mgdm_audio.compute.engines.Pool`."""
        reference = self._start(key, item)
        future: Future = Future()

        def finish(done: Future) -> None:
            try:
                future.set_result(self._finish(key, done.result))
            except Exception as error:  # a failed start reaches whoever asks for the result
                future.set_exception(error)

        reference.future().add_done_callback(finish)
        return future

    def close(self) -> None:
        """Leave Ray, if this pool started or joined it."""
        if self._owner and self._ray.is_initialized():
            self._ray.shutdown()

    def _start(self, key: str, item: Any) -> Any:
        return self._task.remote(self._id, self._work, self._device, self._threads, key, item)

    def _finish(self, key: str, get: Callable[[], tuple[str, Outcome]]) -> Outcome:
        try:
            kind, outcome = get()
        except self._ray.exceptions.RayError as error:
            line = " ".join(str(error).split())
            return Outcome(key, None, f"its Ray worker died: {line}", "WorkerDied")
        if kind == "start failed":
            raise EngineError(f"a worker cannot start: {outcome.error}")
        return outcome


_LOADED: dict[str, Any] = {}  # of a worker process: the one piece of work that it holds


def _remote(
    identity: str, pickled: bytes, device: str, threads: int, key: str, item: Any
) -> tuple[str, Outcome]:
    """Body of a Ray task."""
    held = f"{identity} {device}"
    if held not in _LOADED:
        torch.set_num_threads(threads)
        started = attempt(key, pickle.loads(pickled).start, device)  # noqa: S301 (our own)
        if started.error is not None:
            return "start failed", started
        _LOADED.clear()  # one prior at a time: another one may need the memory
        _LOADED[held] = started.value
    return "done", attempt(key, _LOADED[held], item)
