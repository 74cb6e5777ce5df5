"""What a campaign works on: a prior that costs nothing, a recording, a data set, shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from mgdm_audio.priors import Levels, save_prior
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet

__all__ = ["STEMS", "TINY", "Material", "make_material", "small_preset", "write_prior"]

STEMS = ("bass", "drums", "guitar", "piano")
RATE = 16_000
TINY = STFTUNetConfig(
    n_fft=128, hop=64, bands=8, min_band=2, widths=(8, 8), blocks=(1, 1), heads=2, embedding=8,
    hidden=8,
)  # fmt: skip
TINY_PRESET = "faults"


@dataclass(frozen=True)
class Material:
    """Paths of what is worked on.

    Attributes
    ----------
    prior : Path
        A checkpoint of the bundled kind, never trained.
    mix : Path
        A recording of 6 s: several windows.
    dataset : Path
        Folders TRACK/STEM.wav.
    shards : Path
        Segments for training; None where training cannot be done here.
    """

    prior: Path
    mix: Path
    dataset: Path
    shards: Path | None


def _song(seconds: float, rate: int, channels: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate))[:, None] / rate
    tones = sum(
        rng.uniform(0.02, 0.1, channels) * np.sin(2 * np.pi * f * t + rng.uniform(0, 6, channels))
        for f in rng.uniform(50, 3000, 5)
    )
    return (tones + 0.01 * rng.standard_normal((len(t), channels))).astype(np.float32)


def write_prior(path: Path) -> None:
    """Write the tiny prior."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        network = STFTUNet(TINY)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn(parameter.shape)
            network.average_power.fill_(1e-3)
    save_prior(
        path, network, kind="stft_unet", config=TINY.to_dict(), stems=STEMS, rate=RATE,
        window=32_768, sigma_data=TINY.sigma_data, licence="MIT", name="tiny",
        levels=Levels(kind="karras", sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=50),
    )  # fmt: skip


class _Songs:
    """Segments of four stems; number i is always the same."""

    name = "songs of noise"
    segment = 4096

    def stream(self, start: int):
        """Segments from number ``start`` on, without end."""
        number = start
        while True:
            stems = [_song(self.segment / RATE, RATE, 1, 100 * number + k)[:, 0] for k in range(4)]
            yield np.stack(stems)
            number += 1


def make_material(folder: Path, tracks: int = 3) -> Material:
    """Write everything below a folder; what is there is written again."""
    folder.mkdir(parents=True, exist_ok=True)
    prior, mix, dataset = folder / "tiny.safetensors", folder / "mix.wav", folder / "songs"
    write_prior(prior)
    soundfile.write(mix, _song(6.0, RATE, 1, 5), RATE, subtype="PCM_16")
    for number in range(tracks):
        where = dataset / f"Track{number:05d}"
        where.mkdir(parents=True, exist_ok=True)
        for k, stem in enumerate(STEMS):
            sound = _song(2.5, RATE, 1, 10 * number + k)
            soundfile.write(where / f"{stem}.wav", sound, RATE, subtype="PCM_16")
    shards: Path | None = folder / "shards"
    try:
        from recipes.music_prior.training.sources import pack
    except ImportError:  # the extra for training is not installed
        shards = None
    else:
        pack(_Songs(), folder / "shards", 8, per_shard=4)
    return Material(prior, mix, dataset, shards)


def small_preset() -> str:
    """Put a preset of a few tiny steps beside the others, in this process; returns its name."""
    from recipes.music_prior.training.presets import PRESETS, TrainSettings

    plain = TrainSettings()
    data = replace(plain.data, batch=2, crop=2048, window=8, initial=4, items_per_step=0.5)
    PRESETS[TINY_PRESET] = replace(
        plain, network=TINY, data=data, steps=12, warmup_steps=2, decay_steps=4, compile=False,
        checkpoint_minutes=1e-4,
    )  # fmt: skip
    return TINY_PRESET
