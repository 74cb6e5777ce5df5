"""A checkpoint of the bundled kind of network, small enough to separate in a test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mgdm_audio.priors import Levels, save_prior
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet

STEMS = ("bass", "drums", "guitar", "piano")
CONFIG = STFTUNetConfig(
    n_fft=512,
    hop=256,
    bands=16,
    min_band=2,
    widths=(8, 16),
    blocks=(1, 1),
    heads=2,
    embedding=16,
    hidden=12,
)


def save_tiny_stems(
    path: Path, seed: int = 0, name: str = "tiny", stems: tuple[str, ...] = STEMS
) -> Path:
    config = replace(CONFIG, stems=len(stems))
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        network = STFTUNet(config)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.02 * torch.randn(p.shape, generator=g)
        bins = torch.arange(CONFIG.n_fft // 2 + 1)
        for k in range(
            len(stems)
        ):  # stems that differ in colour, so that the Wiener start does too
            network.average_power[k] = 1e-3 * torch.exp(-(((bins - 60 * k) / 30.0) ** 2)) + 1e-6
    save_prior(
        path,
        network,
        kind="stft_unet",
        config=config.to_dict(),
        stems=stems,
        rate=22_050,
        window=65_536,
        sigma_data=CONFIG.sigma_data,
        levels=Levels(kind="karras", sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=200),
        licence="MIT",
        name=name,
    )
    return path


def song(seconds: float, rate: int, channels: int, seed: int = 0) -> np.ndarray:
    """Something like music: tones, noise bursts, different in each channel; shape (channels, n)."""
    rng = np.random.default_rng(seed)
    n = max(1, round(seconds * rate))
    t = np.arange(n) / rate
    out = np.zeros((channels, n))
    for frequency in (55, 220, 1760, 9000):
        pan = rng.uniform(0.2, 1, size=(channels, 1))
        out += 0.05 * pan * np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6))
    out += 0.05 * rng.standard_normal((channels, n)) * (np.sin(2 * np.pi * 2 * t) > 0.9)
    return out.astype(np.float32)
