"""One set of weights out of several: means of checkpoints, and part of the way back to a start.

Checkpoints of one run at a constant learning rate lie around what they would fall to: their mean is
nearer to it than any of them (as averages of weights are: Izmailov et al. 2018, arXiv 1803.05407).
Weights between those that a training started from and those it came to keep more of what the
start could do on other sounds (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.training.checkpoints import read_checkpoint, write_checkpoint
from recipes.music_prior.training.export import network_from_checkpoint, read_network
from recipes.music_prior.training.presets import TrainSettings
from recipes.music_prior.training.train import adopted

__all__ = ["average", "average_checkpoints"]


def average_checkpoints(
    checkpoints: Sequence[Path], out: Path, init: Path | None = None, share: float = 1.0
) -> None:
    """Write the last checkpoint with the mean of all averaged weights in place of its own.

    Parameters
    ----------
    checkpoints
        Of one network.
    out
        Checkpoint to write: for export and validation; not to be resumed.
    init
        Exported weights that the run started from (``train --init``).
    share
        How far to go from them to the mean, 0 to 1. Parts that the start has not got are taken
        whole: where they begin they say nothing.

    Raises
    ------
    SettingsError
        Where the share is no share.
    MGDMError
        Where the checkpoints are of several networks.
    """
    if not 0 <= share <= 1:
        raise SettingsError(f"the share must be in [0, 1]; found {share}")
    states = [read_checkpoint(path) for path in checkpoints]
    settings = [TrainSettings.from_dict(json.loads(state["settings"])) for state in states]
    if any(s.network != settings[-1].network for s in settings):
        raise MGDMError("the checkpoints are of several networks")
    mean = {
        name: torch.stack([state["average"][name] for state in states]).mean(0)
        for name in states[-1]["average"]
    }
    if init is not None:
        origin = read_network(init)
        network, _ = network_from_checkpoint(checkpoints[-1])
        start = adopted(origin, network, settings[-1], network.average_power)
        known = dict(origin.named_parameters())
        mean = {
            name: torch.lerp(start[name], value, share) if name in known else value
            for name, value in mean.items()
        }
    write_checkpoint(out, {**states[-1], "average": mean})


@click.command()
@click.argument(
    "checkpoints", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path)
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Exported weights that the run started from.",
)
@click.option("--share", default=1.0, show_default=True, help="How far from them to the mean.")
def average(checkpoints: tuple[Path, ...], out: Path, init: Path | None, share: float) -> None:
    """Write the mean of the averaged weights of CHECKPOINTS, for export and validate."""
    average_checkpoints(checkpoints, out, init, share)
    click.echo(f"{out}: mean of {len(checkpoints)}")
