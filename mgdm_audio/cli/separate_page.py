"""``mgdm-separate --page``: the listening page of each track, beside its stems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mgdm_audio.separation.file_plan import FileJob
    from mgdm_audio.separation.request import SeparateRequest


class PageType(click.ParamType):
    """``file`` or ``folder``, for an option that may stand without a value."""

    name = "page"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or say that the option has taken an input for it."""
        if value not in ("file", "folder"):
            self.fail(
                f"takes file or folder; found {value!r}; write --page after INPUTS", param, ctx
            )
        return value


def page_writer(request: SeparateRequest, page: str | None) -> Callable[[FileJob], Path] | None:
    """Return what writes the page of a separated track, or None where none was asked for."""
    if page is None:
        return None
    if "-" in request.inputs:
        raise click.UsageError("--page plays the input as well; give a file, not standard input")
    folder = page == "folder"

    def write(job: FileJob) -> Path:
        from mgdm_audio.listening_page import PageOptions
        from mgdm_audio.separation.file_plan import output_path
        from mgdm_audio.separation.track_page import write_track_page

        path = output_path(request, job.source, "listen", "" if folder else "html")
        options = PageOptions(folder=folder, overwrite=request.overwrite)
        return write_track_page(path, job.record, job.source, options)

    return write
