"""Picture of where the posterior samples disagree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mgdm_core.array_types import Array, Float

__all__ = ["draw_uncertainty"]


def draw_uncertainty(
    path: str | Path,
    title: str,
    rows: Mapping[str, Float[Array, " frames"]],
    seconds_per_frame: float,
) -> None:
    """Draw the deviation between the samples per stem over time, in dB of full scale.

    Parameters
    ----------
    path : path
        PNG file.
    title : str
        The track.
    rows : mapping of str to array
        Root mean square deviation per frame.
    seconds_per_frame : float
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 1.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, row) in zip(axes, rows.items()):
        time = np.arange(len(row)) * seconds_per_frame
        axis.fill_between(time, -100, 20 * np.log10(np.maximum(row, 1e-5)), linewidth=0)
        axis.set_ylabel(name)
        axis.set_ylim(-90, 0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds")
    figure.suptitle(f"Deviation between posterior samples, dBFS: {title}", fontsize=10)
    figure.savefig(path, format="png", dpi=110)
