"""``mgdm-web``: the local web page."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgdm_audio.cli.common import CONTEXT, Command, precision_option, prior_option
from mgdm_audio.errors import display_name, os_reason

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn
    from starlette.applications import Starlette

    from mgdm_audio.web.settings import WebSettings


@click.command(cls=Command, context_settings=CONTEXT)
@prior_option
@precision_option
@click.option("-d", "--device", default="auto", metavar="A,B",
              help="Devices, one worker each; auto takes all CUDA devices.")  # fmt: skip
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860)
@click.option("--max-megabytes", type=click.FloatRange(1, 1e6), default=500)
@click.option("--max-minutes", type=click.FloatRange(0.1, 1e6), default=30)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False),
              help="Keep uploads and stems  [default: a temporary folder]")  # fmt: skip
@click.version_option(package_name="mgdm", prog_name="mgdm-web")
def main(
    prior: str,
    precision: str,
    device: str,
    host: str,
    port: int,
    max_megabytes: float,
    max_minutes: float,
    folder: Path | None,
) -> int:
    """Separate recordings on a local web page: drop a file, listen, take the stems.

    Everything stays on this machine; nobody is asked and nothing is reported.
    """
    try:
        import uvicorn
    except ImportError:
        raise click.ClickException("mgdm-web needs: pip install 'mgdm[web]'") from None
    from mgdm_audio.web.settings import WebSettings

    for option, value in (("--max-megabytes", max_megabytes), ("--max-minutes", max_minutes)):
        if math.isnan(value):
            raise click.UsageError(f"{option} is a number; found nan")
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgdm-web-")))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise click.UsageError(
                f"cannot write into {display_name(folder)} ({os_reason(error)}); "
                f"choose another --folder"
            ) from error
        settings = WebSettings(
            folder=folder.resolve(),
            prior=prior,
            devices=_devices(device),
            precision=precision,
            max_bytes=int(max_megabytes * 1e6),
            max_seconds=60 * max_minutes,
        )
        app = application(settings)
        listening = stack.enter_context(_listening(host, port))
        if not _is_loopback(host):
            click.echo(
                f"warning: {host} can be reached from other machines; whoever reaches it can "
                f"upload and separate here, without a password",
                err=True,
            )
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C stops)")
        config = uvicorn.Config(app, log_level="warning", server_header=False)
        _serve(uvicorn.Server(config), listening)
    return 0


def _listening(host: str, port: int) -> socket.socket:
    if not host:
        raise click.UsageError("--host is an address or a name; found nothing")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise click.UsageError(
            f"cannot listen on port {port} of {host} ({os_reason(error)}); "
            f"choose others with --port and --host"
        ) from error


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until a signal, a hangup too, and only then let it end the command."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        server.run([listening])
        return
    hung_up = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal hung_up
        hung_up = server.should_exit = True

    before = signal.signal(hangup, stop)
    try:
        server.run([listening])
    finally:
        signal.signal(hangup, before)
    if hung_up:
        signal.raise_signal(hangup)


def application(settings: WebSettings) -> Starlette:
    """The web application for a prior, ready to be served."""
    from mgdm_audio.priors.catalogue import resolve
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.web.server import create_app

    prior = resolve(settings.prior)
    stems = read_header(prior).stems

    @functools.cache
    def estimate(preset: str) -> Mapping[str, float]:
        from mgdm_audio.io.decoders import AudioInfo
        from mgdm_audio.sampling.presets import sampling_settings
        from mgdm_audio.separation.estimate import estimate as measured
        from mgdm_audio.separation.request import OutputChoice, SeparateRequest

        request = SeparateRequest(
            inputs=(),
            out=settings.folder,
            prior=prior,
            prior_name="stems",
            sampling=sampling_settings(preset),
            choice=OutputChoice.of(stems),
            device=settings.devices[0],
            precision=settings.precision,
        )
        usual = AudioInfo("", 44_100, 2, 180 * 44_100, "", "")
        cost = measured(request, [usual])
        factor = cost.seconds / cost.seconds_of_audio
        return {"real_time_factor": factor, "memory": cost.memory}

    return create_app(settings, stems, estimate)


def _devices(text: str) -> tuple[str, ...]:
    from mgdm_audio.compute.device import resolve_device

    if text != "auto":
        return tuple(str(resolve_device(part.strip())) for part in text.split(","))
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{i}" for i in range(found)) or (str(resolve_device("auto")),)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
