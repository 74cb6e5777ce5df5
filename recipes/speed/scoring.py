"""Cost of scoring: SI-SDR improvement as published, and museval."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mgdm_audio.metrics.bss_eval import bss_eval
from mgdm_audio.metrics.si_sdr import SLAKH_RATE, score_windows
from recipes.speed.timing import Measurement, measure

__all__ = ["time_scoring"]

STEMS = ("bass", "drums", "guitar", "piano")


def _signals(seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = round(seconds * SLAKH_RATE)
    references = 0.1 * torch.randn(len(STEMS), n, generator=generator)
    return references + 0.03 * torch.randn(references.shape, generator=generator), references


def time_scoring(
    si_sdr_seconds: float, museval_seconds: float, repeats: int, device: str = "cpu"
) -> Iterator[Measurement]:
    """SI-SDR improvement on the device, and museval on the CPU."""
    estimates, references = (x.to(device) for x in _signals(si_sdr_seconds))
    mixture = references.sum(dim=0)
    yield measure(
        "scoring",
        f"SI-SDR improvement, {si_sdr_seconds:g} s of {len(STEMS)} stems",
        si_sdr_seconds,
        lambda: score_windows(estimates, references, mixture),
        repeats=repeats,
        device=device,
    )
    guess, truth = (
        {name: np.asarray(row) for name, row in zip(STEMS, signals, strict=True)}
        for signals in _signals(museval_seconds)
    )
    yield measure(
        "scoring",
        f"museval, {museval_seconds:g} s of {len(STEMS)} stems",
        museval_seconds,
        lambda: bss_eval(guess, truth, SLAKH_RATE),
        repeats=1,
    )
