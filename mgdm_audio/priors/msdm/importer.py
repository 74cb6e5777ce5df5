"""Write MSDM checkpoints (PyTorch Lightning) as prior checkpoints; see `lightning` for reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.checkpoint.store import save_prior
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.msdm.lightning import MSDMNetwork, read_msdm
from mgdm_audio.priors.networks import build_network
from mgdm_audio.priors.unet1d.stack import StackedNetwork

MSDM_STEMS = ("bass", "drums", "guitar", "piano")
MSDM_RATE = 22_050
MSDM_WINDOW = 262_144
_UNKNOWN_LICENCE = "unknown (imported by the user)"


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote, and lines for the user: which copy was taken, what was assumed."""

    path: Path
    header: PriorHeader
    notes: list[str] = field(default_factory=list)


def _stems(given: Sequence[str] | None, count: int, where: str) -> tuple[str, ...]:
    if given is None:
        if count != len(MSDM_STEMS):
            raise CheckpointError(
                f"{where}: the network has {count} channel(s); name its stems with --stems"
            )
        return MSDM_STEMS
    if len(given) != count:
        raise CheckpointError(
            f"{where}: the network has {count} channel(s), {len(given)} stem name(s) were given"
        )
    return tuple(given)


def _notes(network: MSDMNetwork, label: str = "") -> list[str]:
    start = f"{label}: " if label else ""
    notes = [f"{start}took the weights under {network.prefix or 'the top level'}*"]
    if network.assumed:
        settings = ", ".join(f"{key} = {value}" for key, value in sorted(network.assumed.items()))
        notes.append(f"{start}the file does not say, so it was assumed: {settings}")
    return notes


def import_msdm(
    path: str | Path,
    out: str | Path,
    *,
    name: str = "",
    stems: Sequence[str] | None = None,
    rate: int = MSDM_RATE,
    window: int = MSDM_WINDOW,
    licence: str = _UNKNOWN_LICENCE,
    dtype: torch.dtype = torch.float32,
) -> ImportReport:
    """Turn a Lightning checkpoint of MSDM into a prior checkpoint at the published noise levels.

    Parameters
    ----------
    out : str or Path
        The ``.safetensors`` file to write.
    name : str
        Name in the header.
    stems : sequence of str, optional
        Names of the channels; bass, drums, guitar, piano for four of them.
    rate, window : int
        Sampling rate in hertz and training segment in samples; MSDM's by default.
    licence : str
        Licence of the weights, which the file does not say.
    dtype : torch.dtype
        How the weights are stored.

    Raises
    ------
    CheckpointError
        One line that says what is wrong with the file.
    """
    network = read_msdm(path)
    module = build_network("unet1d", network.config.to_dict(), meta=True)
    module.load_state_dict(network.state, assign=True)
    header = save_prior(
        out,
        module,
        kind="unet1d",
        config=network.config.to_dict(),
        stems=_stems(stems, network.config.in_channels, str(path)),
        rate=rate,
        window=window,
        sigma_data=network.config.sigma_data,
        levels=Levels(),
        licence=licence,
        training=network.facts | {"assumed": network.assumed},
        name=name,
        dtype=dtype,
    )
    return ImportReport(Path(out), header, _notes(network))


def import_weakly_msdm(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    name: str = "",
    stems: Sequence[str] = MSDM_STEMS,
    rate: int = MSDM_RATE,
    window: int = MSDM_WINDOW,
    licence: str = _UNKNOWN_LICENCE,
    dtype: torch.dtype = torch.float32,
    on_file: Callable[[str], None] | None = None,
) -> ImportReport:
    """Turn single-source checkpoints, one per stem, into one prior checkpoint.

    Parameters
    ----------
    paths : sequence of str or Path
        One ``.ckpt`` file per stem, in the order of ``stems``.
    out, name, stems, rate, window, licence, dtype
        As for :func:`import_msdm`.
    on_file : callable, optional
        Told each stem's name before its file is read.

    Raises
    ------
    CheckpointError
        One line that says what is wrong with a file, or that they do not fit each other.
    """
    if len(paths) != len(stems):
        raise CheckpointError(f"one file per stem: {len(stems)} stems, {len(paths)} files given")
    modules: list[nn.Module] = []
    configs: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    notes: list[str] = []
    for stem, path in zip(stems, paths, strict=True):
        if on_file is not None:
            on_file(stem)
        network = read_msdm(path)
        config = network.config.to_dict()
        if network.config.in_channels != 1:
            raise CheckpointError(
                f"{path}: a single-source network has 1 channel; found "
                f"{network.config.in_channels} (a joint network is imported with: import msdm)"
            )
        if configs and config["sigma_data"] != configs[0]["sigma_data"]:
            raise CheckpointError(
                f"{path}: its sigma_data is {config['sigma_data']}, that of {paths[0]} is "
                f"{configs[0]['sigma_data']}; the networks must share one"
            )
        module = build_network("unet1d", config, meta=True)
        module.load_state_dict(network.state, assign=True)
        modules.append(module)
        configs.append(config)
        facts[stem] = network.facts | {"assumed": network.assumed}
        notes += _notes(network, stem)
    header = save_prior(
        out,
        StackedNetwork(modules),
        kind="unet1d_stack",
        config={"networks": configs},
        stems=stems,
        rate=rate,
        window=window,
        sigma_data=configs[0]["sigma_data"],
        levels=Levels(),
        licence=licence,
        training=facts,
        name=name,
        dtype=dtype,
    )
    return ImportReport(Path(out), header, notes)
