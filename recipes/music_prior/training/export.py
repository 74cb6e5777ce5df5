"""From a checkpoint of the training to the file that is shipped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.checkpoint.store import load_prior, save_prior
from mgdm_audio.priors.ensemble import Ensemble
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.networks import kind_of
from mgdm_audio.priors.spectral_network import SpectralNetwork, build_spectral
from mgdm_core.errors import MGDMError
from recipes.music_prior.songs.song import FIVE_STEMS
from recipes.music_prior.training.checkpoints import read_checkpoint
from recipes.music_prior.training.presets import TrainSettings

__all__ = ["LEVELS", "export", "network_from_checkpoint", "read_network"]

RATE = 22_050
WINDOW = 131_072
LEVELS = Levels(sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=1000)


def network_from_checkpoint(
    path: Path, average: bool = True
) -> tuple[SpectralNetwork, dict[str, Any]]:
    """Network of a checkpoint (its averaged weights unless told otherwise), and the checkpoint."""
    state = read_checkpoint(path)
    network = build_spectral(TrainSettings.from_dict(json.loads(state["settings"])).network)
    weights = dict(state["network"])
    if average:
        weights.update(state["average"])
    network.load_state_dict(weights)
    return network.eval(), state


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def export(
    checkpoint: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.float16,
    name: str = "music_stems",
    facts: dict[str, Any] | None = None,
) -> PriorHeader:
    """Write the averaged weights of a checkpoint as a prior that `mgdm_audio` loads.

    Parameters
    ----------
    checkpoint : Path
        As the training left it.
    out : Path
        File to write, ending in ``.safetensors``.
    dtype : torch.dtype
        float16 or bfloat16 of the weights; the average spectra stay float32, as their range is
        wider than float16 holds.
    name : str
        Name of the prior.
    facts : dict, optional
        More facts for the header, such as the figures that it reached.

    Returns
    -------
    PriorHeader
        The header as written.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise MGDMError(f"weights are shipped in float16 or bfloat16; found {dtype}")
    network, state = network_from_checkpoint(checkpoint)
    settings = json.loads(state["settings"])
    training = {
        "steps": state["step"],
        "seconds": round(state["seconds"]),
        "cpu_seconds": round(state["cpu_seconds"]),
        "audio_seconds": round(state["audio_seconds"]),
        "machine": state["machine"],
        "data": state["data"],
        "commit": _commit(),
        "settings": {k: v for k, v in settings.items() if k != "network"},
        # The loudness at which the prior knows songs.
        "mixture_rms": 0.1,
        **(facts or {}),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    return save_prior(
        out,
        network,
        kind=kind_of(network.config),
        config=network.config.to_dict(),
        stems=FIVE_STEMS[: network.config.stems],
        rate=RATE,
        window=WINDOW,
        sigma_data=network.config.sigma_data,
        levels=LEVELS,
        licence="MIT",
        training=training,
        name=name,
        dtype=dtype,
    )


def read_network(path: Path) -> SpectralNetwork:
    """Network of an exported file in float32, for a run that starts from it."""
    network = load_prior(path, device="cpu", precision="float32").network
    if isinstance(network, Ensemble):
        raise MGDMError(
            f"{path} is an ensemble of {len(network.members)}; take one out of it by "
            f"python -m recipes.music_prior part"
        )
    if not isinstance(network, SpectralNetwork):
        raise MGDMError(f"{path} holds no network on spectra; found {type(network).__name__}")
    return network
