"""What the published protocol pays for silence, shown on generated songs.

``python -m recipes.slakh.silence --out FOLDER`` makes songs of four stems of which a growing share
is silent, scores three outputs of which two separate nothing, and writes a table (``silence.md``)
and a picture (``silence.svg``). No data and no prior are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mgdm_audio.cli.common import Command, wait_briefly

if __name__ == "__main__":
    wait_briefly()  # before torch

import numpy as np
import torch

from mgdm_audio.evaluation.nothing import MIXTURE, ORACLE, rows_of_nothing
from mgdm_audio.io.atomic import replacing, write_text
from mgdm_audio.metrics.si_sdr import WindowScores, score_windows
from mgdm_audio.metrics.silence import active_stems
from mgdm_audio.reports.tables import Table
from mgdm_core.array_types import Float, Tensor

__all__ = ["Point", "main", "measure", "song"]

RATE = 22_050
SECONDS = 12.0
STEMS = 4
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
LEAKY = "a separator that lets a tenth of the rest through"


@dataclass(frozen=True)
class Point:
    """Mean scores in dB of one output at one share of silent stems."""

    output: str
    share: float
    active: float
    published: float


def song(
    rng: np.random.Generator, silent: Sequence[bool], seconds: float = SECONDS
) -> Float[Tensor, "stems samples"]:
    """Four stems: three tones with overtones that change every half second, and a rattle."""
    t = np.arange(round(seconds * RATE)) / RATE
    stems = []
    for k in range(STEMS):
        beat = (t // 0.5).astype(int)
        if k == STEMS - 1:
            sound = 0.2 * rng.standard_normal(len(t)) * np.exp(-12 * (t % 0.5))
        else:
            pitch = (110.0, 220.0, 440.0)[k] * 2 ** (rng.integers(-5, 6, beat.max() + 1)[beat] / 12)
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            sound = 0.1 * sum(np.sin(h * phase) / h for h in (1, 2, 3))
        stems.append(sound * (not silent[k]))
    return torch.from_numpy(np.stack(stems))


def measure(songs: int = 20, seed: int = 0, seconds: float = SECONDS) -> list[Point]:
    """Score the outputs at every share of silent stems.

    Parameters
    ----------
    songs : int
        Songs per share.
    seed : int
        Of the songs.
    seconds : float
        Length of a song.
    """
    points = []
    for share in SHARES:
        rng = np.random.default_rng(seed)
        held: dict[str, list[WindowScores]] = {}
        # So many of all stems of all songs, spread evenly; never three in one song.
        silent = np.zeros((songs, STEMS), bool)
        count = round(share * songs * STEMS)
        order = [(s, (s + k) % STEMS) for k in range(2) for s in range(songs)]
        for place in order[:count]:
            silent[place] = True
        for row in silent:
            truth = song(rng, list(row), seconds)
            mixture = truth.sum(0)
            outputs = rows_of_nothing(truth, mixture, RATE)
            outputs[LEAKY] = score_windows(truth + 0.1 * (mixture - truth), truth, mixture, RATE)
            for name, scores in outputs.items():
                held.setdefault(name, []).append(scores)
        for name, scores in held.items():
            active = [s.improvement[active_stems(s)] for s in scores]
            published = [s.improvement[:, s.kept].flatten() for s in scores]
            points.append(
                Point(
                    name, share, float(torch.cat(active).mean()), float(torch.cat(published).mean())
                )
            )
    return points


def _table(points: Sequence[Point]) -> Table:
    shares = sorted({p.share for p in points})
    rows = [
        [f"{name}, {score}", *(f"{getattr(p, score):.1f}" for p in points if p.output == name)]
        for name in (LEAKY, MIXTURE, ORACLE)
        for score in ("active", "published")
    ]
    caption = (
        "SI-SDR improvement in dB, over active stems and by the published protocol, by the share "
        "of stems that are silent"
    )
    columns = ["", *(f"{100 * share:.0f} % silent" for share in shares)]
    return Table("What silence is worth", caption, columns, rows)


def _draw(points: Sequence[Point], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = {LEAKY: "#2f6f9f", MIXTURE: "#888888", ORACLE: "#c2662d"}
    titles = {"published": "by the published protocol", "active": "over active stems"}
    for axes, (score, title) in zip(panels, titles.items()):
        for name, colour in colours.items():
            own = [p for p in points if p.output == name]
            label = name.removeprefix("nothing: ")
            axes.plot([100 * p.share for p in own], [getattr(p, score) for p in own], "o-",
                      color=colour, label=label, markersize=4)  # fmt: skip
        axes.set(title=title, xlabel="silent stems (%)")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("SI-SDR improvement (dB)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", fontsize="small", frameon=False)
    with rc_context({"svg.hashsalt": "mgdm"}), replacing(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--songs", type=click.IntRange(2), default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, songs: int, seed: int) -> None:
    """Write OUT/silence.md and OUT/silence.svg."""
    points = measure(songs, seed)
    text = _table(points).to_markdown()
    write_text(out / "silence.md", text)
    _draw(points, out / "silence.svg")
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
