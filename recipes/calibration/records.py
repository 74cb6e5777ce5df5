"""One JSON line per finished cell, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.errors import one_line
from mgdm_audio.io.atomic import write_text
from recipes.exact_posterior.runner import read_records

__all__ = ["run_missing"]


def _plain(value: Any) -> Any:
    """Numbers and lists in place of NumPy's."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def run_missing(
    path: Path,
    cells: Iterable[Any],
    run: Callable[[Any], dict[str, Any]],
    tell: Callable[[Any, int, int], object],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the cells that the file does not hold.

    Parameters
    ----------
    path : Path
        One record a line; made where it is missing. Records of other cells stay.
    cells : iterable
        Objects with a ``name``, a ``key``, and ``told``: what a record says of its cell, the key
        among it.
    run : callable
        From a cell to the rest of its record. One with ``error`` is stored, and tried again next
        time, as is what raises.
    tell : callable
        Receives a cell before it runs, its number and how many there are.

    Returns
    -------
    records : list of dict
        Of all cells, in order.
    failures : list of str
        A line for every cell that raised.
    """
    wanted, failures = list(cells), []
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = {}
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):  # a line cut off by an interruption
        write_text(path, text[: text.rfind("\n") + 1])
    if text:
        known = {r["key"]: r for r in read_records(path) if "error" not in r}
    for number, cell in enumerate(wanted, 1):
        if cell.key in known:
            continue
        tell(cell, number, len(wanted))
        try:
            found = _plain(run(cell))
        except Exception as error:  # whatever it is, it is this cell's
            found = {"error": one_line(error)}
            failures.append(f"{cell.name}: {found['error']}")
        known[cell.key] = {**cell.told, **found}
        with path.open("a") as file:
            file.write(json.dumps(known[cell.key]) + "\n")
    return [known[cell.key] for cell in wanted], failures
