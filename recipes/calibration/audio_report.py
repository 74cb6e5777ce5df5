"""Tables and pictures of tiers 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from mgdm_audio.io.atomic import replacing
from mgdm_audio.reports.tables import Table
from recipes.calibration.audio import figures
from recipes.calibration.scores import NOMINAL
from recipes.calibration.takes import TAKES

__all__ = ["audio_table", "draw_audio", "takes_table"]


def audio_table(
    by_variant: Mapping[str, Sequence[dict[str, Any]]], stems: Sequence[str], draws: int
) -> Table:
    """One row per variant and stem."""
    rows = []
    for variant, records in by_variant.items():
        spent = sum(r["processor_seconds"] for r in records) / sum(r["audio"] for r in records)
        for stem in stems:
            f = figures(records, stem)
            rows.append(
                [
                    f"{variant}, {stem}",
                    *(f"{100 * share:.0f}" for share in f["coverage"]),
                    *(f"{f[name]:.2f}" for name in ("deviation", "error", "crps")),
                    f"{f['rank_correlation']:.2f}",
                    f"{f['brier']:.3f} ({f['brier_base']:.3f})",
                    f"{f['improvement']:.1f}",
                    f"{spent:.2f}",
                ]
            )
    columns = ["", *(f"{100 * share:.0f} %" for share in NOMINAL), "deviation", "error", "CRPS"]
    columns += ["rank corr.", "Brier (base)", "SI-SDRi", "s/s"]
    caption = (
        f"{draws} draws. Per cent of cells (64 bands x 0.1 s) whose true level is in the central "
        "interval of that share; mean deviation of the draws, error of their mean and CRPS of the "
        "level in dB; rank correlation of deviation and error over cells; Brier score of `this "
        "stem is silent in this second`, and of its frequency; SI-SDR improvement, "
        "active stems; processor seconds per second of audio"
    )
    return Table("Levels of stems in bands", caption, columns, rows)


def takes_table(by_variant: Mapping[str, Sequence[dict[str, Any]]], stems: Sequence[str]) -> Table:
    """One row per variant and take."""
    rows = []
    for variant, records in by_variant.items():
        for name in TAKES:
            own = [np.concatenate([np.array(r["takes"][name][k]) for r in records])
                   for k in range(len(stems))]  # fmt: skip
            means = [row.mean() if len(row) else np.nan for row in own]
            cells = [f"{value:.2f}" for value in (*means, np.nanmean(means))]
            rows.append([f"{variant}, {name}", *cells])
    caption = "SI-SDR improvement in dB, active stems, of what can be made of the draws"
    return Table("What draws are good for", caption, ["", *stems, "mean"], rows)


def draw_audio(
    by_variant: Mapping[str, Sequence[dict[str, Any]]], stems: Sequence[str], title: str, path: Path
) -> None:
    """Reliability above, histograms of ranks below, one column per variant."""
    from matplotlib.figure import Figure

    across = len(by_variant)
    figure = Figure(figsize=(2.6 * across + 0.6, 5.0), layout="constrained")
    panels = figure.subplots(2, across, squeeze=False, height_ratios=(3, 2))
    for (above, below), (variant, records) in zip(panels.T, by_variant.items()):
        above.plot([0, 1], [0, 1], color="#999999", linewidth=0.7)
        for stem in stems:
            f = figures(records, stem)
            above.plot(f["levels"], f["curve"], label=stem, linewidth=1.2)
            below.step(range(len(f["rank_shares"])), f["rank_shares"], where="mid", linewidth=1)
        count = len(f["rank_shares"])
        below.axhline(1 / count, color="#999999", linewidth=0.7)
        above.set_title(variant, fontsize=9)
        above.set(xlim=(0, 1), ylim=(0, 1), aspect=1, xlabel="nominal")
        below.set(xlabel="rank of the truth", ylim=(0, None))
        for axes in (above, below):
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("covered")
    panels[1, 0].set_ylabel("share of cells")
    panels[0, 0].legend(fontsize=7, frameon=False)
    figure.suptitle("\n".join(wrap(title, 16 + 28 * across)), fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
