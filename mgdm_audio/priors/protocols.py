"""What the rest of the package asks of a prior, and a prior of its network: capabilities by type.

All are checked by ``isinstance``: a class has a capability by having its parts, whatever it is
derived from.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.priors import Denoised
from mgdm_core.schedule import NoiseSchedule


@runtime_checkable
class StemPrior(Protocol):
    """A prior over stacked stem waveforms, as samplers of stems use it."""

    stems: tuple[str, ...]
    rate: int
    window: int
    schedule: NoiseSchedule

    def denoise(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Estimate E[x_0 | x_t = x]."""
        ...


@runtime_checkable
class SpectralPrior(StemPrior, Protocol):
    """A stem prior that also knows time-frequency bins: spectrum, average power, variance."""

    @property
    def spectral(self) -> SpectralTransform:
        """Transform of the masks: noise of deviation sigma has variance sigma^2 in every bin."""
        ...

    @property
    def average_power(self) -> Float[Tensor, "stems bins"]:
        """Mean power spectrum of each stem in the training data."""
        ...

    def denoise_with_mask(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """Estimate E[x_0 | x_t = x] and give the gain of every bin on itself."""
        ...

    def denoise_with_variance(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Denoised:
        """Estimate the mean of x_0 given x_t = x, and its variance per bin."""
        ...


@runtime_checkable
class SpectralDenoiser(Protocol):
    """A network whose prior is a :class:`SpectralPrior`."""

    spectral: SpectralTransform
    average_power: Tensor

    def denoise_with_mask(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """Denoise, and give the gain of every bin on itself."""
        ...


@runtime_checkable
class CastsWeights(Protocol):
    """A network that keeps weights in the dtype it computes in."""

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Keep the weights of its large maps in ``dtype``, for use under autocast."""
        ...
