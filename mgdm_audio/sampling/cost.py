"""What a way of sampling costs, counted without a network."""

from __future__ import annotations

import torch

from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import SumOverChannels
from mgdm_core.priors import Denoised
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Start
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.conditioning import IdentityBasis


class _CountedOnly:
    """A prior that halves its input: it only has to be called as often as a real one."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def denoise(
        self, x: Float[Tensor, "batch ..."], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch ..."]:
        return 0.5 * x

    def denoise_with_variance(
        self, x: Float[Tensor, "batch ..."], t: int | Int[Tensor, " batch"]
    ) -> Denoised:
        return Denoised(0.5 * x, torch.full_like(x, 1e-4), IdentityBasis())


def count_evaluations(
    sampling: SamplingSettings, schedule: NoiseSchedule, stems: int
) -> tuple[float, float]:
    """Denoiser evaluations and vector-Jacobian products of one posterior sample of one window."""
    start = None
    if sampling.start == "wiener":
        start = Start(torch.zeros(1, stems, 8), schedule.level_of_sigma(sampling.start_sigma))
    y = torch.full((1, 8), 0.1)
    likelihood = GaussianLikelihood(SumOverChannels(stems), y, sampling.sigma_y)
    problem = Problem(_CountedOnly(schedule), likelihood, (stems, 8))
    result = sample(problem, sampling.chosen, start=start)
    return result.trace.evaluations, result.trace.vjps
