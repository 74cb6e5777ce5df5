"""``mgdm-separate --page``: the listening page of each track, beside its stems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mgdm_audio.separation.file_plan import FileJob

__all__ = ["PageType", "page_writer"]


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


def page_writer(given: Mapping[str, Any], prior: str) -> Callable[[FileJob], Path] | None:
    """Return what writes the page of a separated track, or None where none was asked for.

    Parameters
    ----------
    given : mapping
        The command's options.
    prior : str
        Name of the prior in file names.
    """
    if given["page"] is None:
        return None
    if "-" in given["inputs"]:
        raise click.UsageError("--page plays the input as well; give a file, not standard input")
    folder = given["page"] == "folder"

    def write(job: FileJob) -> Path:
        from mgdm_audio.reports.listening_page import PageOptions
        from mgdm_audio.reports.listening_page.track import write_track_page

        name = given["filename"].format(prior=prior, track=job.track, stem="listen", ext="html")
        path = Path(given["out"]) / (name.removesuffix(".html") if folder else name)
        options = PageOptions(folder=folder, overwrite=given["overwrite"] or given["resume"])
        return write_track_page(path, job.record, job.source, options)

    return write
