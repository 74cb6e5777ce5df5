"""What the commands share: one line per error, exit codes, and options that mean the same.

Exit codes, for all commands and recipes (docs/reliability.md): 0 done, 1 something failed, 2 wrong
usage, 128 + n ended by signal n (129 hangup, 130 Ctrl-C, 143 termination).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "MGDM_DEBUG"
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}

F = TypeVar("F", bound=Callable[..., Any])


def report_error(message: str) -> None:
    """Print ``error: message`` on stderr."""
    _last_words(f"error: {message}")


def _last_words(text: str) -> None:
    # Whoever read standard error may have gone; that must not hide what happened from others.
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True)


def _exit_code(error: BaseException) -> int:
    """Report an exception and return the exit code that goes with it."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, _Stopped):
        _last_words(error.word)
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt | click.Abort) or _is_ours(error, "CancelledError"):
        _last_words("interrupted")
        return EXIT_INTERRUPTED
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, click.UsageError):
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
            click.echo(error.format_message(), err=True)
            return EXIT_USAGE
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx is not None else ""
        report_error(" ".join(error.format_message().split()) + hint)
        return EXIT_USAGE
    if isinstance(error, click.ClickException):
        report_error(" ".join(error.format_message().split()))
        return EXIT_FAILED
    if isinstance(error, _ReaderGone | BrokenPipeError):
        _silence_stdout()
        report_error("standard output was closed by its reader")
        return EXIT_FAILED
    # Imported only now: it comes with torch, seconds that `--help` and a mistyped option should
    # not take.
    from mgdm_audio.errors import is_out_of_memory, one_line

    line = one_line(error)
    if _is_ours(error, "SettingsError"):
        report_error(line)
        return EXIT_USAGE
    if not (isinstance(error, OSError) or is_out_of_memory(error) or _is_ours(error, "MGDMError")):
        line = f"internal error: {line} (please report it; {DEBUG_VARIABLE}=1 shows where)"
    report_error(line)
    return EXIT_FAILED


def _is_ours(error: BaseException, name: str) -> bool:
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ == "mgdm_core.errors"]
    return name in [kind.__name__ for kind in kinds]


def _silence_stdout() -> None:
    """Keep the interpreter from complaining at its end about output that nobody takes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Where the caller closed 0, 1 or 2, open nothing there: else the first file would be it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def wait_briefly() -> None:
    """Let GNU's OpenMP, which torch is built with, look 2000 times for work before it sleeps.

    By default it looks 300 000 times; beside other work on the machine its threads then hold the
    cores that the others need: six times the seconds. Read when torch is loaded, so set before: a
    program whose own modules load it calls this ahead of them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


class _ReaderGone(Exception):
    """A broken pipe under another name: click would end the process without a word."""


class _Stopped(BaseException):  # click would take a KeyboardInterrupt for Ctrl-C
    """SIGTERM or SIGHUP: as Ctrl-C, so that nothing is left behind that is half written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.word = "terminated" if number == signal.SIGTERM else "hung up"


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    # Only the main thread may set handlers; elsewhere the signal ends the process as ever.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if _imports(frame):
            # Numpy and torch do not survive being stopped while they are loaded.
            later = threading.Timer(0.1, _to_main_thread, [number])
            later.daemon = True
            later.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise _Stopped(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no hangup
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # What the caller ignores stays ignored: nohup works.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _to_main_thread(number: int) -> None:
    """Send the process a signal that wakes its main thread, whatever that waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        signal.raise_signal(number)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being loaded at this moment."""
    while frame is not None and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


class Command(click.Command):
    """A command whose failures are one line on stderr and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command; an integer that it returns is the exit code."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            _open_standard_streams()
            wait_briefly()
            with _signals_raise():
                result = super().main(*args, standalone_mode=False, **extra)
                sys.stdout.flush()
            code = result if isinstance(result, int) and not isinstance(result, bool) else 0
        except SystemExit:
            raise
        except BaseException as error:
            code = _exit_code(error)
            try:
                sys.stdout.flush()
            except (OSError, ValueError):  # a full disk or a closed pipe, once more
                _silence_stdout()
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's function."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGone from error


class Group(Command, click.Group):
    """A group of which the same is true; its members may be plain commands."""


# -- options --------------------------------------------------------------------------------------


class DeviceType(click.ParamType):
    """``auto``, ``cpu``, ``cuda``, ``cuda:i`` or ``mps``, as a torch.device that is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the device, or fail with what is available."""
        from mgdm_audio.compute.device import resolve_device
        from mgdm_core.errors import SettingsError

        try:
            return resolve_device(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


device_option = click.option(
    "-d",
    "--device",
    type=DeviceType(),
    default="auto",
    metavar="auto|cpu|cuda[:i]|mps",
    help="Where the network runs.",
)
"""The command gets a torch.device as ``device``."""

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    help="Arithmetic inside the network; auto takes bfloat16 where it is faster.",
)

prior_option = click.option(
    "-n",
    "--prior",
    "--name",
    "prior",
    default="music-stems",
    metavar="NAME|PATH|hf://OWNER/NAME",
    help="The prior: a name that mgdm-models lists, a checkpoint's path, or one on the hub.",
)
"""The command gets the text as ``prior``, see ``catalogue.resolve``."""


def stderr_console() -> Any:
    """A rich Console on standard error that shows names as they are: ``:drum:`` is no picture."""
    from rich.console import Console

    return Console(stderr=True, emoji=False, highlight=False)


def echo_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    from mgdm_audio.io.json_text import json_text

    click.echo(json_text(value))
