"""What scoring costs: SI-SDR improvement of ten minutes of four stems, and museval.

``python -m recipes.speed.scoring [--museval SECONDS]`` prints wall and processor seconds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from mgdm_audio.bss_eval import bss_eval
from mgdm_audio.machine import describe_machine
from mgdm_audio.metrics import SLAKH_RATE, slakh_si_sdr_improvement

STEMS = ("bass", "drums", "guitar", "piano")


def signals(seconds: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = round(seconds * SLAKH_RATE)
    references = 0.1 * torch.randn(4, n, generator=generator)
    estimates = references + 0.03 * torch.randn(4, n, generator=generator)
    return estimates, references, references.sum(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="length scored with SI-SDR")
    parser.add_argument("--museval", type=float, default=36.0, help="seconds scored with museval")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print({**describe_machine([arguments.device])})
    estimates, references, mixture = (
        x.to(arguments.device) for x in signals(60 * arguments.minutes)
    )
    for run in ("first", "second", "third"):
        wall, processor = time.perf_counter(), time.process_time()
        scores = slakh_si_sdr_improvement(estimates, references, mixture)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"SI-SDR improvement, {arguments.minutes:g} min x 4 stems, {len(scores.windows)} "
            f"windows, {run} call: {wall:.2f} s, processor {processor:.2f} s"
        )
    if arguments.museval:
        estimates, references, _ = signals(arguments.museval)
        guess: dict[str, np.ndarray] = dict(zip(STEMS, estimates.numpy(), strict=True))
        truth: dict[str, np.ndarray] = dict(zip(STEMS, references.numpy(), strict=True))
        wall, processor = time.perf_counter(), time.process_time()
        bss_eval(guess, truth, SLAKH_RATE)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"museval, {arguments.museval:g} s x 4 stems: {wall:.1f} s, processor {processor:.1f} s"
        )


if __name__ == "__main__":
    main()
