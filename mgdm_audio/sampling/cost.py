"""What a way of sampling costs, counted without a network."""

from __future__ import annotations

import torch

from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.conditioning import IdentityBasis
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import SumOverChannels
from mgdm_core.priors import Denoised
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Start
from mgdm_core.samplers import get_sampler
from mgdm_core.schedule import NoiseSchedule

__all__ = ["count_evaluations"]


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
    """Denoiser evaluations and vector-Jacobian products of one posterior sample of one window.

    Parameters
    ----------
    sampling : SamplingSettings
    schedule : NoiseSchedule
        The prior's levels.
    stems : int
    """
    info = get_sampler(sampling.sampler)
    start = None
    if sampling.start == "wiener":
        start = Start(torch.zeros(1, stems, 8), schedule.level_of_sigma(sampling.start_sigma))
    result = info.run(
        _CountedOnly(schedule),
        GaussianLikelihood(SumOverChannels(stems), torch.full((1, 8), 0.1), sampling.sigma_y),
        (stems, 8),
        RandomStreams([0]),
        sampling.settings if sampling.settings is not None else info.settings(),
        start=start,
    )
    return result.trace.evaluations, result.trace.vjps
