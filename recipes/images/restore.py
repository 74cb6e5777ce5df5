"""One restoration: degrade, sample the posterior, measure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Sampler
from mgdm_core.trace import Callback, Trace
from recipes.images.errors import PriorError
from recipes.images.metrics import LPIPS, psnr, ssim
from recipes.images.priors import ImagePrior
from recipes.images.tasks import Degradation

__all__ = ["Restoration", "measure", "observe", "posed", "restore"]

# The paper's deviation of the observation noise, images in [-1, 1].
SIGMA_Y = 0.05
SEEDS = 2**20


@dataclass(frozen=True)
class Restoration:
    """Posterior samples of a batch of images.

    Attributes
    ----------
    samples : Tensor, shape (images, samples, channels, height, width)
    trace : Trace
        Evaluations are per sample.
    seconds : float
        Wall time of the batch.
    """

    samples: Float[Tensor, "images samples channels height width"]
    trace: Trace
    seconds: float

    @property
    def mean(self) -> Float[Tensor, "images channels height width"]:
        """Posterior mean, estimated from the samples."""
        return self.samples.mean(1)

    @property
    def deviation(self) -> Float[Tensor, "images height width"]:
        """Deviation per pixel over the samples, root mean square over channels."""
        if self.samples.shape[1] < 2:
            return torch.zeros(self.samples.shape[0], *self.samples.shape[-2:])
        return self.samples.var(1).mean(1).sqrt()


def posed(
    image_prior: ImagePrior,
    degradation: Degradation,
    y: Float[Tensor, "images ..."],
    sigma_y: float = SIGMA_Y,
) -> Problem:
    """The library's problem of these observations."""
    likelihood = GaussianLikelihood(image_prior.operator(degradation.operator), y, sigma_y)
    return Problem(image_prior.prior, likelihood, image_prior.event_shape)


def observe(
    degradation: Degradation,
    truth: Float[Tensor, "images channels height width"],
    sigma_y: float,
    seed: int,
    first: int = 0,
) -> Float[Tensor, "images ..."]:
    """Observations; image ``first + i`` has its own noise stream, the same in any batch."""
    streams = [torch.Generator().manual_seed((seed << 20) + first + i) for i in range(len(truth))]
    parts = [degradation.degrade(x[None], sigma_y, g) for x, g in zip(truth, streams)]
    return torch.cat(parts)


def restore(
    image_prior: ImagePrior,
    degradation: Degradation,
    y: Float[Tensor, "images ..."],
    sampler: Sampler,
    *,
    samples: int = 1,
    sigma_y: float = SIGMA_Y,
    seed: int = 0,
    first: int = 0,
    callback: Callback | None = None,
) -> Restoration:
    """Draw ``samples`` posterior samples for every observation.

    Parameters
    ----------
    image_prior, degradation
        What is known of the images, and how they were degraded.
    y : Tensor, shape (images, *observation)
    sampler : Sampler
        With its settings.
    seed, first : int
        Sample s of image i has the random stream of (seed, first + i, s), whatever the batch.

    Raises
    ------
    PriorError
        If the degradation is for images that the prior does not know.
    SettingsError
        If ``samples``, ``seed`` or ``sigma_y`` is outside its domain.
    """
    if tuple(degradation.event_shape) != tuple(image_prior.image_shape):
        raise PriorError(
            f"{image_prior.name} knows images of (channels, height, width) = "
            f"{image_prior.image_shape}; the task was built for {degradation.event_shape}"
        )
    if samples < 1:
        raise SettingsError(f"samples is at least 1; found {samples}")
    if not 0 <= seed < SEEDS:
        raise SettingsError(f"seed lies in [0, 2**20); found {seed}")
    seeds = [(seed << 42) | ((first + i) << 20) | s for i in range(len(y)) for s in range(samples)]
    problem = posed(image_prior, degradation, y, sigma_y)
    began = time.perf_counter()
    result = sample(problem, sampler, n=samples, seed=seeds, callback=callback)
    images = image_prior.images(result.x)
    shaped = images.reshape(len(y), samples, *images.shape[1:]).cpu()
    return Restoration(shaped, result.trace, time.perf_counter() - began)


def measure(
    truth: Float[Tensor, "images channels height width"],
    restoration: Restoration,
    lpips: LPIPS,
) -> list[dict[str, float]]:
    """PSNR and SSIM of the mean and of the samples, LPIPS of the first sample, per image.

    LPIPS rewards sharpness, which a mean does not have: it is taken of a sample.
    """
    mean = restoration.mean
    count = restoration.samples.shape[1]
    flat = restoration.samples.flatten(0, 1)
    wide = truth.repeat_interleave(count, 0)
    rows: Sequence[tuple[str, Tensor]] = (
        ("psnr_mean", psnr(mean, truth)),
        ("ssim_mean", ssim(mean, truth)),
        ("psnr_sample", psnr(flat, wide).reshape(-1, count).mean(1)),
        ("ssim_sample", ssim(flat, wide).reshape(-1, count).mean(1)),
        ("lpips_sample", lpips(restoration.samples[:, 0], truth)),
    )
    return [{name: float(value[i]) for name, value in rows} for i in range(len(truth))]
