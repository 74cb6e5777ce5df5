"""Picture of where the draws disagree, and of what each stem has probably gained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mgdm_audio.priors.closed import OTHER
from mgdm_audio.separation.confidence import RELIABLE_DB, Confidence
from mgdm_audio.separation.request import SeparateRequest
from mgdm_core.array_types import Array, Float


def draw_uncertainty(
    path: str | Path,
    title: str,
    rows: Mapping[str, Float[Array, " frames"]],
    seconds_per_frame: float,
    confidence: Confidence | None = None,
) -> None:
    """Draw the deviation between the samples per stem over time, in dB of full scale.

    Of root mean squares per frame. ``confidence`` adds the expected improvement with its interval;
    what is not reliable is shaded and says what it is confused with.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 1.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (name, row) in zip(axes, rows.items()):
        time = np.arange(len(row)) * seconds_per_frame
        level = 20 * np.log10(np.maximum(row, 1e-5))
        axis.fill_between(time, -100, level, color="#c8d4e3", linewidth=0)
        axis.set_ylabel(name)
        axis.set_ylim(-90, 0)
        axis.spines[["top", "right"]].set_visible(False)
        if confidence is not None:
            _expected(axis.twinx(), confidence, name)
    axes[-1].set_xlabel("seconds")
    heading = f"Deviation between draws, dBFS: {title}"
    if confidence is not None:
        heading += (
            "\nline and band, right: expected SI-SDR improvement in dB and its 80 % interval; "
            f"shaded: not reliable, an expected SI-SDR below {RELIABLE_DB:g} dB"
        )
    figure.suptitle(heading, fontsize=10)
    figure.savefig(path, format="png", dpi=110)


def _expected(axis, confidence: Confidence, name: str) -> None:
    k = confidence.stems.index(name)
    time = (np.arange(confidence.expected.shape[1]) + 0.5) * confidence.seconds
    axis.plot(time, confidence.expected[k], color="#a34713", linewidth=1.2)
    axis.fill_between(
        time, confidence.low[k], confidence.high[k], color="#d9752f", alpha=0.35, linewidth=0
    )
    for stretch in confidence.unreliable(shortest=0.0):
        if stretch.stem == name:
            axis.axvspan(stretch.start, stretch.end, color="#555555", alpha=0.25, linewidth=0)
            if stretch.end - stretch.start >= time[-1] / 12:  # room for the words
                words = f"confused with {stretch.confused_with}"
                axis.text(stretch.start, 29, f" {words}", fontsize=7, va="top", clip_on=True)
    axis.set_ylim(-10, 30)
    axis.spines[["top"]].set_visible(False)


def uncertainty_note(request: SeparateRequest, fitted: bool) -> str | None:
    """What is to be said of error bars before anyone trusts them; None where none are asked for."""
    if not request.uncertainty:
        return None
    if request.sampling.draws == "chain":
        return (
            "the samples of this preset differ by the noise they begin with, not by how wrong they "
            "may be; leave out --preset for error bars"
        )
    if not fitted:
        return (
            "nothing was fitted for this prior: its error bars are uncalibrated; "
            "python -m recipes.calibration fit"
        )
    note = (
        "the draws are of a model of the errors, fitted on rendered songs, and no samples of the "
        "posterior; on a real recording intervals may hold more or less than they say"
    )
    if set(request.without) - {OTHER}:
        note += (
            f"; nothing was fitted for recordings that are known to be without "
            f"{', '.join(request.without)}: expect less than is said"
        )
    return note
