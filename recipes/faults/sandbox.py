"""One command in a process of its own that can be disturbed.

It is forked, so that nothing is imported twice, has a session of its own, and its words in files.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Disturbance", "Ended", "call", "run", "warm"]

Work = Callable[[], object]


def _itself(process: int) -> int | None:
    return process


@dataclass(frozen=True)
class Disturbance:
    """A signal, so many seconds after the start.

    Attributes
    ----------
    number : int
    after : float
    victim : callable
        From the number of the command's process to that of the process which is to get it; None
        while there is none.
    """

    number: int
    after: float
    victim: Callable[[int], int | None] = _itself


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    code : int
        Exit code, or minus the signal that ended it.
    out, err : str
        What it said.
    seconds : float
    disturbed : bool
        Whether the signal reached it before its end.
    timed_out : bool
    """

    code: int
    out: str
    err: str
    seconds: float
    disturbed: bool = False
    timed_out: bool = False

    @property
    def traceback(self) -> str | None:
        """What a user should never see, if there is any of it."""
        if self.timed_out:
            return f"did not end within {self.seconds:.0f} s"
        if self.code < 0 and not (self.disturbed and -self.code == signal.SIGKILL):
            return f"ended by signal {-self.code}"
        for line in (*self.err.splitlines(), *self.out.splitlines()):
            if line.startswith("Traceback"):
                return " ".join(self.err.split())[-200:]
            if line.startswith("error: internal error"):
                return line
        return None

    @property
    def errors(self) -> list[str]:
        """Lines that name an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def call(main: Callable[..., object], arguments: Sequence[object]) -> Work:
    """A click command with its arguments, as work for :func:`run`."""
    return lambda: main([str(argument) for argument in arguments])


def warm(work: Work, folder: Path) -> Ended:
    """As :func:`run`, and import here what was imported there, so that the next ones need not."""
    names = folder / "modules"

    def told() -> object:
        try:
            return work()
        finally:
            names.write_text("\n".join(sys.modules), encoding="utf-8")

    ended = run(told, folder)
    for name in names.read_text(encoding="utf-8").splitlines() if names.exists() else []:
        if name.split(".")[0] not in sys.builtin_module_names and "__" not in name:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return ended


def run(
    work: Work,
    folder: Path,
    disturbance: Disturbance | None = None,
    limit: float = 300.0,
    prepare: Work | None = None,
) -> Ended:
    """Fork, do the work there, and wait for its end.

    Parameters
    ----------
    work : callable
        Usually a command's ``main``; ``SystemExit`` gives the exit code.
    folder : Path
        Where its words go.
    disturbance : Disturbance, optional
    limit : float
        Seconds after which it counts as hanging and is killed.
    prepare : callable, optional
        Called first in the new process: patches, limits, closed streams.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = folder / "stdout", folder / "stderr"
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _live(work, logs, prepare)
    sent = False
    status: int | None = None
    while status is None:
        now = time.monotonic() - began
        if disturbance is not None and not sent and now >= disturbance.after:
            victim = disturbance.victim(child)
            if victim is not None:
                os.kill(victim, disturbance.number)
                sent = True
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = found
        elif now > limit:
            with contextlib.suppress(ProcessLookupError):  # it has no group before its first step
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return replace(_ended(status, logs, began), timed_out=True)
        else:
            time.sleep(0.002)
    return replace(_ended(status, logs, began), disturbed=sent)


def _ended(status: int, logs: tuple[Path, Path], began: float) -> Ended:
    out, err = (
        log.read_text(encoding="utf-8", errors="replace") if log.exists() else "" for log in logs
    )
    return Ended(os.waitstatus_to_exitcode(status), out, err, time.monotonic() - began)


def _live(work: Work, logs: tuple[Path, Path], prepare: Work | None) -> None:
    code = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in enumerate((Path(os.devnull), *logs)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            handle = os.open(path, flags, 0o644)
            os.dup2(handle, number)
            if handle != number:
                os.close(handle)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (until its end)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(  # noqa: SIM115
            2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
        )
        if prepare is not None:
            prepare()
        result = work()
        code = result if isinstance(result, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # As the interpreter does at its end: words on stderr that found no room change no code.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            code = code or 120
        os._exit(code & 0xFF)
