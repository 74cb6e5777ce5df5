"""The five time scales of a separation: ``python -m recipes.pictures.time_scales``.

Draws docs/pictures/time_scales.png from the numbers that the code runs with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from mgdm_audio.cli.common import Command, wait_briefly

if __name__ == "__main__":
    wait_briefly()  # before torch

from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.catalogue import resolve
from mgdm_audio.priors.checkpoint.store import read_header
from mgdm_audio.sampling.chunk_stream import PADDING
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_audio.separation.files import BLOCK
from mgdm_audio.separation.full_band import FADE_SECONDS, SEGMENT_SECONDS

__all__ = ["Scale", "draw", "main", "time_scales"]

_RATE = 44_100  # of the recording in the picture


@dataclass(frozen=True)
class Scale:
    """One row of the picture, in seconds.

    Attributes
    ----------
    name : str
    length, hop, start : float
    what : str
        What is done once for each.
    """

    name: str
    length: float
    hop: float
    start: float
    what: str

    def pieces(self, end: float) -> Iterator[tuple[float, float]]:
        """Start and length of every piece up to an end."""
        at = self.start
        while at < end:
            yield at, self.length
            at += self.hop


def time_scales() -> list[Scale]:
    """Lengths and steps with the bundled prior and the default preset."""
    header = read_header(resolve())
    # Its lengths need the prior's rate and window only, which the header says too.
    sampler = StemSampler(header, sampling_settings())  # type: ignore[arg-type]
    rate = header.rate
    first = -PADDING / rate
    window, hop, chunk = sampler.window / rate, sampler.hop / rate, sampler.chunk_length() / rate
    noise, block = NOISE_BLOCK / rate, BLOCK / _RATE
    step = chunk - (window - hop)
    return [
        Scale("block", block, block, 0.0, "read and written; changes nothing"),
        Scale("noise block", noise, noise, first, "one random generator"),
        Scale("window", window, hop, first, "one evaluation of the network"),
        Scale("chunk", chunk, step, first, "sampled jointly"),
        Scale(
            "segment", SEGMENT_SECONDS, SEGMENT_SECONDS - FADE_SECONDS, 0.0, "channels and highs"
        ),
    ]


def draw(path: Path, end: float = 60.0) -> None:
    """Draw the scales of a recording of ``end`` seconds."""
    from matplotlib.figure import Figure

    scales = time_scales()
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    for row, scale in enumerate(reversed(scales)):
        # Neighbours that overlap lie on two lines, so that what they share is seen.
        overlap = scale.length > scale.hop
        for k, piece in enumerate(scale.pieces(end)):
            low = row + (0.36 * (k % 2) if overlap else 0.18)
            axis.broken_barh([piece], (low, 0.32), facecolors=f"C{row}", edgecolor="white")
    axis.set_yticks(
        [row + 0.34 for row in range(len(scales))],
        [f"{s.name}, {s.length:.2f} s\n{s.what}" for s in reversed(scales)],
    )
    axis.set(xlim=(-2, end), xlabel="seconds of the recording")
    axis.spines[["top", "right", "left"]].set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png", dpi=110)


@click.command(cls=Command)
@click.option("-o", "--out", type=click.Path(path_type=Path),
              default=Path("docs/pictures/time_scales.png"), show_default=True)  # fmt: skip
def main(out: Path) -> None:
    """Draw the five time scales of a separation."""
    draw(out)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main(prog_name="python -m recipes.pictures.time_scales")
