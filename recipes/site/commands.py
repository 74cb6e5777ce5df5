"""The command reference, written from the commands themselves."""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterator
from typing import Any

import click

__all__ = ["COMMANDS", "command_pages"]

COMMANDS = {
    "mgdm-separate": "mgdm_audio.cli.separate",
    "mgdm-web": "mgdm_audio.cli.web",
    "mgdm-evaluate": "mgdm_audio.cli.evaluate",
    "mgdm-models": "mgdm_audio.cli.models",
}


def command_pages() -> dict[str, str]:
    """Markdown of a page per command, by the path of the page."""
    pages = {}
    for name, module in COMMANDS.items():
        command = importlib.import_module(module).main
        pages[f"commands/{name}.md"] = "\n".join(_page(command, name))
    return pages


def _page(command: click.Command, path: str, depth: int = 1) -> Iterator[str]:
    # With its own settings: click keeps the help option that it first makes for a command.
    context = click.Context(command, info_name=path, **command.context_settings)
    yield f"{'#' * depth} {path}\n"
    yield f"{_prose(command.help)}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{path} {usage}\n```\n"
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [row for option in options if (row := _row(option, context))]
    if rows:
        yield "| option | what it does |"
        yield "|---|---|"
        yield from rows
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _page(below, f"{path} {name}", min(depth + 1, 4))


def _row(option: click.Option, context: click.Context) -> str | None:
    record = option.get_help_record(context)
    if record is None or option.hidden:
        return None
    names, text = (" ".join(part.split()) for part in record)
    return f"| {_code(names)} | {_cell(text)} |"


def _code(text: str) -> str:
    # Not in backticks: a pipe there ends the cell, and an escaped one shows its backslash.
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    said, default, value = text.partition("[default: ")
    said = html.escape(said, quote=False).replace("|", "&#124;")
    return said + (f"(default: {_code(value.rstrip(']'))})" if default else "")


def _prose(text: Any) -> str:
    """A command's help: paragraphs, in which words in capitals are its arguments."""
    paragraphs = (" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n"))
    return "\n\n".join(part.replace("<", "&lt;") for part in paragraphs)
