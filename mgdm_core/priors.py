"""Diffusion priors: every network, whatever it predicts, becomes ``denoise(x, t)``.

``denoise(x_t, t)`` estimates E[x_0 | x_t] on the levels of the prior's own schedule. It must be
differentiable in ``x`` for samplers that use vector-Jacobian products, and must run under
``torch.no_grad`` for those that do not. The level is one int for all items or one per item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.schedule import NoiseSchedule

__all__ = [
    "Denoised",
    "DenoiserPrior",
    "EDMPrior",
    "LatentPrior",
    "NoisePredictionPrior",
    "Prior",
    "ScorePrior",
    "VelocityPrior",
    "VariancePrior",
    "level_vector",
]

Network = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Prior(Protocol):
    """What a sampler asks of a prior."""

    schedule: NoiseSchedule

    def denoise(
        self, x: Float[Tensor, "batch *event"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """Estimate E[x_0 | x_t = x] at level(s) ``t``; at level 0 this is ``x`` itself."""
        ...


class Denoised(NamedTuple):
    """A posterior mean with a posterior variance that is diagonal in some basis.

    ``variance`` has the shape that ``basis.forward(mean)`` has.
    """

    mean: Tensor
    variance: Tensor
    basis: object


@runtime_checkable
class VariancePrior(Prior, Protocol):
    """A prior that also knows Var[x_0 | x_t] as a diagonal in a basis of its choice."""

    def denoise_with_variance(
        self, x: Float[Tensor, "batch *event"], t: int | Int[Tensor, " batch"]
    ) -> Denoised:
        """Return the posterior mean and the diagonal posterior variance."""
        ...


def level_vector(t: int | Tensor, batch: int, device: torch.device) -> Int[Tensor, " batch"]:
    """Return one level per item on ``device``, from one int or one level per item."""
    index = torch.as_tensor(t, device=device).reshape(-1)
    return index.expand(batch) if len(index) == 1 else index


class _NetworkPrior:
    """Shared handling of levels, of level 0 and of the network's dtype.

    Parameters
    ----------
    network : callable
        Takes (x, time), returns an array like x. The arithmetic around it stays in x's dtype.
    schedule : NoiseSchedule
        The levels.
    network_dtype : torch.dtype or None
        Precision in which the network is called; None leaves x's own.
    """

    def __init__(
        self, network: Network, schedule: NoiseSchedule, network_dtype: torch.dtype | None = None
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.network_dtype = network_dtype

    def _call(self, x: Tensor, time: Tensor) -> Tensor:
        dtype = self.network_dtype or x.dtype
        out = self.network(x.to(dtype), time)
        if out.ndim > 1 and out.shape[1] == 2 * x.shape[1] and out.shape[2:] == x.shape[2:]:
            out = out[:, : x.shape[1]]  # learned-variance networks append a variance: not used
        return out.to(x.dtype)

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def denoise(
        self, x: Float[Tensor, "batch *event"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """Estimate E[x_0 | x_t = x]; items at level 0 are returned as they are."""
        index = level_vector(t, x.shape[0], x.device)
        clean = index == 0
        if bool(clean.all()):
            return x
        # Level 0 has no network time; those items ride along at level 1 and are put back.
        level = index.clamp_min(1)
        alpha, sigma = self.schedule.at(level, x)
        out = self._estimate(x, level, alpha, sigma)
        if bool(clean.any()):
            out = torch.where(clean.reshape((-1,) + (1,) * (x.ndim - 1)), x, out)
        return out


class NoisePredictionPrior(_NetworkPrior):
    """Network that predicts eps: D = (x - sigma eps) / alpha (Ho et al. 2020, equation 9).

    The network's time is the level minus one, as in DDPM checkpoints; pass ``network_times`` for
    another mapping from level (index 0 is level 1) to network time.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        network_dtype: torch.dtype | None = None,
        network_times: Tensor | None = None,
    ) -> None:
        super().__init__(network, schedule, network_dtype)
        if network_times is not None and len(network_times) != schedule.last:
            raise SettingsError(
                f"network_times has one entry per level 1..{schedule.last}; "
                f"found {len(network_times)}"
            )
        self.network_times = network_times

    def _time(self, t: Tensor) -> Tensor:
        if self.network_times is None:
            return t - 1
        return self.network_times.to(t.device)[t - 1]

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x - sigma * self._call(x, self._time(t))) / alpha


class VelocityPrior(NoisePredictionPrior):
    """Network that predicts v = alpha eps - sigma x_0 (Salimans and Ho 2022, section 4)."""

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v = self._call(x, self._time(t))
        return (alpha * x - sigma * v) / (alpha**2 + sigma**2)


class ScorePrior(_NetworkPrior):
    """Network that predicts the score: D = (x + sigma^2 score) / alpha (Tweedie's formula).

    The network is called with sigma_t / alpha_t as its time.
    """

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        ratio = (sigma / alpha).reshape(-1)
        return (x + sigma**2 * self._call(x, ratio)) / alpha


class DenoiserPrior(_NetworkPrior):
    """Network that is a denoiser D(x; sigma) on variance-exploding inputs already."""

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._call(x / alpha, (sigma / alpha).reshape(-1))


class EDMPrior(_NetworkPrior):
    """Raw network F under EDM preconditioning (Karras et al. 2022, equation 7 and table 1).

    Parameters
    ----------
    sigma_data : float
        Deviation of the data that the preconditioning assumes.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        sigma_data: float = 0.5,
        network_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(network, schedule, network_dtype)
        if sigma_data <= 0:
            raise SettingsError(f"sigma_data is positive; found {sigma_data}")
        self.sigma_data = sigma_data

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        ratio = sigma / alpha
        total = ratio**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = ratio * self.sigma_data / total.sqrt()
        clean_scale = x / alpha
        inner = self._call(clean_scale / total.sqrt(), ratio.reshape(-1).log() / 4)
        return c_skip * clean_scale + c_out * inner


class LatentPrior:
    """A prior on latent codes z with a decoder to the data space.

    A problem y = A(x) becomes y = A(decode(z)): compose the operator with :attr:`decoder` by
    ``mgdm_core.operators.Composition(operator, prior.decoder_operator())`` and sample z.

    Parameters
    ----------
    latent_prior : Prior
        Prior over z.
    encoder, decoder : callable
        Maps between data and latents; the decoder must be differentiable for samplers that use
        gradients.
    scale : float
        Latents are ``scale * encoder(x)`` (diffusers' scaling factor).
    """

    def __init__(
        self,
        latent_prior: Prior,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        scale: float = 1.0,
    ) -> None:
        self.latent_prior = latent_prior
        self.schedule = latent_prior.schedule
        self._encoder, self._decoder, self.scale = encoder, decoder, scale

    def denoise(
        self, x: Float[Tensor, "batch *event"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch *event"]:
        """Denoise latents (the sampler's variable is the latent)."""
        return self.latent_prior.denoise(x, t)

    def encode(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *latent"]:
        """Latents of data."""
        return self.scale * self._encoder(x)

    def decode(self, z: Float[Tensor, "batch *latent"]) -> Float[Tensor, "batch *data"]:
        """Return the data of latents, differentiable where the decoder is."""
        return self._decoder(z / self.scale)

    def decoder_operator(self):
        """Return the decoder as a (nonlinear) operator, to compose a forward operator with."""
        from mgdm_core.operators import FunctionOperator

        return FunctionOperator(self.decode)
