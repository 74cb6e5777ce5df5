"""A training of seconds: a tiny network on tones, and what its tests share."""

from dataclasses import replace

import numpy as np
import torch

from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from recipes.music_prior.training.corruption import Levels
from recipes.music_prior.training.data import DataSettings
from recipes.music_prior.training.presets import TrainSettings

TINY = STFTUNetConfig(
    n_fft=64, hop=32, bands=8, min_band=2, widths=(8, 8), blocks=(1, 1), heads=2, embedding=8
)


class Tones:
    """Songs of four stems in registers of their own; number i is always the same."""

    name = "tones"
    segment = 4096

    def __init__(self, rows=(0.02, 0.07, 0.17, 0.35)):
        self.rows = rows
        self.made = []

    def item(self, number):
        rng = np.random.default_rng([7, number])
        t = np.arange(self.segment)
        stems = [
            0.07 * np.cos(2 * np.pi * (f * rng.uniform(0.8, 1.25) * t + rng.random()))
            for f in self.rows
        ]
        return np.stack(stems).astype(np.float32)

    def stream(self, start):
        number = start
        while True:
            self.made.append(number)
            yield self.item(number)
            number += 1


def settings_of(**changes):
    base = TrainSettings(
        network=TINY,
        data=DataSettings(batch=2, crop=1024, window=12, initial=6, items_per_step=1.5),
        steps=4,
        warmup_steps=1,
        decay_steps=2,
        compile=False,
    )
    return replace(base, **changes)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stream_of(seed=0):
    return torch.Generator().manual_seed(seed)


def near(sigma):
    """Levels of states near the mixture only."""
    return Levels(sigma, torch.zeros(len(sigma), dtype=torch.bool))
