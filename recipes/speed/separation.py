"""Cost of the network by itself, and of separating with the presets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.cost import count_evaluations
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_audio.separation.separator import Separator
from recipes.speed.timing import Measurement, measure

__all__ = ["PRESETS", "time_network", "time_presets"]

PRESETS = ("fast", "balanced")
BATCHES = (1, 4)


def time_network(prior: WaveformPrior, repeats: int) -> Iterator[Measurement]:
    """One evaluation of the denoiser on windows of the prior's length, by batch size."""
    device = str(prior.device)
    level = prior.schedule.level_of_sigma(0.1)
    window = StemSampler(prior, sampling_settings()).window
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        shape = (batch, len(prior.stems), window)
        x = (0.1 * torch.randn(shape, generator=generator)).to(prior.device)

        def forward(x: torch.Tensor = x) -> None:
            with torch.no_grad():
                prior.denoise(x, level)

        seconds = batch * window / prior.rate
        yield measure(
            "network",
            f"forward, batch of {batch}",
            seconds,
            forward,
            repeats=repeats,
            device=device,
            forwards=batch,
        )


def time_presets(prior: WaveformPrior, seconds: float) -> Iterator[Measurement]:
    """The whole separation of a recording at the prior's rate, in mono, once with each preset."""
    rng = np.random.default_rng(0)
    length = round(seconds * prior.rate)
    mix = (0.1 * rng.standard_normal(length)).astype(np.float32)
    for preset in PRESETS:
        sampling = sampling_settings(preset)
        separator = Separator(prior, sampling)
        sampler = StemSampler(prior, sampling)
        evaluations, vjps = count_evaluations(sampling, prior.schedule, len(prior.stems))
        padded = sampler.padded_length(length)
        windows = 1 + max(0, -(-(padded - sampler.window) // sampler.hop))
        yield measure(
            "separation",
            f"preset {preset}, {sampling.runs} x {evaluations:.0f} evaluations",
            seconds,
            lambda separator=separator: separator(mix, prior.rate),
            repeats=1,
            device=str(prior.device),
            forwards=sampling.runs * windows * (evaluations + 2 * vjps),
            warm=True,
        )
