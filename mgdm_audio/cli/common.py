"""What the commands share: one line per error, exit codes, and options that mean the same.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, 143 ended by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from mgdm_core.errors import CancelledError, MGDMError, SettingsError

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_TERMINATED",
    "EXIT_USAGE",
    "Command",
    "DeviceType",
    "Group",
    "as_usage",
    "device_option",
    "echo_json",
    "human_size",
    "one_line",
    "precision_option",
    "prior_option",
    "report_error",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
DEBUG_VARIABLE = "MGDM_DEBUG"

F = TypeVar("F", bound=Callable[..., Any])


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line, with its kind where the message says too little.

    Parameters
    ----------
    error : BaseException
        Any exception.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MGDMError | click.ClickException):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def report_error(message: str) -> None:
    """Print ``error: message`` on stderr."""
    click.echo(f"error: {message}", err=True)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError by name: commands that need no torch should not load it.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _exit_code(error: BaseException) -> int:
    """Report an exception and return the exit code that goes with it."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, _Terminated):
        click.echo("terminated", err=True)
        return EXIT_TERMINATED
    if isinstance(error, KeyboardInterrupt | click.Abort | CancelledError):
        click.echo("interrupted", err=True)
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
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone; keep the interpreter from complaining at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    if isinstance(error, MGDMError | OSError):
        report_error(one_line(error))
    elif _is_out_of_memory(error):
        report_error("out of memory; use a smaller batch, a shorter window or another device")
    else:
        report_error(
            f"internal error: {one_line(error)} (please report it; {DEBUG_VARIABLE}=1 shows where)"
        )
    return EXIT_FAILED


class _Terminated(BaseException):  # click would take a KeyboardInterrupt for Ctrl-C
    """SIGTERM: as Ctrl-C, so that nothing is left behind that is half written."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    # Only the main thread may set handlers; elsewhere the signal ends the process as ever.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _OneLineErrors(click.Command):
    """A command whose failures are one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command; an integer that it returns is the exit code."""
        arguments = None if args is None else list(args)
        if not standalone_mode:
            return super().main(arguments, prog_name, complete_var, False, **extra)
        try:
            with _sigterm_raises():
                result = super().main(arguments, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) and not isinstance(result, bool) else 0
        except SystemExit:
            raise
        except BaseException as error:
            code = _exit_code(error)
        sys.exit(code)


class Command(_OneLineErrors):
    """Use as ``@click.command(cls=Command)``."""


class Group(_OneLineErrors, click.Group):
    """Use as ``@click.group(cls=Group)``; members may be plain commands."""


@contextlib.contextmanager
def as_usage(context: click.Context | None = None) -> Iterator[None]:
    """Turn a `SettingsError` that an option caused into wrong usage (exit code 2)."""
    try:
        yield
    except SettingsError as error:
        raise click.UsageError(str(error), ctx=context) from error


# -- options --------------------------------------------------------------------------------------


class DeviceType(click.ParamType):
    """``auto``, ``cpu``, ``cuda``, ``cuda:i`` or ``mps``, as a torch.device that is there."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the device, or fail with what is available."""
        from mgdm_audio.compute.device import resolve_device

        try:
            return resolve_device(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


def device_option(function: F) -> F:
    """Add ``-d/--device``; the command gets a torch.device as ``device``."""
    return click.option(
        "-d",
        "--device",
        type=DeviceType(),
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:i]|mps",
        help="Where the network runs.",
    )(function)


def precision_option(function: F) -> F:
    """Add ``--precision``; the command gets the text as ``precision``."""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Arithmetic inside the network; auto takes bfloat16 where it is faster.",
    )(function)


def prior_option(function: F) -> F:
    """Add ``-n/--prior``; the command gets the text as ``prior``, see ``registry.resolve``."""
    return click.option(
        "-n",
        "--prior",
        default="music-stems",
        show_default=True,
        metavar="NAME|PATH|hf://OWNER/NAME/FILE",
        help="The prior: a name that mgdm-models lists, a checkpoint's path, or one on the hub.",
    )(function)


def echo_json(value: Any) -> None:
    """Print a JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def human_size(count: int) -> str:
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> human_size(1620000000)
    '1.6 GB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
