"""One JSON line per finished cell, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

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
) -> list[dict[str, Any]]:
    """Run the cells that the file does not hold, and return the records of all, in order.

    Parameters
    ----------
    path : Path
        One record a line; made where it is missing. Records of other cells stay.
    cells : iterable
        Objects with a ``key``, which :attr:`run`'s record holds too.
    run : callable
        From a cell to its record. One with ``error`` is stored, and tried again next time.
    tell : callable
        Receives a cell before it runs, its number and how many there are.
    """
    wanted = list(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = {}
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):  # a line cut off by an interruption
        path.write_text(text[: text.rfind("\n") + 1])
    if text:
        known = {r["key"]: r for r in read_records(path) if "error" not in r}
    for number, cell in enumerate(wanted, 1):
        if cell.key in known:
            continue
        tell(cell, number, len(wanted))
        record = _plain(run(cell))
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        known[cell.key] = record
    return [known[cell.key] for cell in wanted]
