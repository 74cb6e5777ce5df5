"""A prior on latent codes."""

from __future__ import annotations

from collections.abc import Callable

from mgdm_core.array_types import Events, Float, Int, Tensor
from mgdm_core.operators import FunctionOperator
from mgdm_core.priors.protocol import Prior


class LatentPrior:
    """A prior on latent codes z with a decoder to the data space.

    A problem y = A(x) becomes y = A(decode(z)): put the decoder under the operator by
    ``mgdm_core.compose(operator, prior.decoder_operator())`` and sample z.

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

    def denoise(self, x: Events, t: int | Int[Tensor, " batch"]) -> Events:
        """Denoise latents (the sampler's variable is the latent)."""
        return self.latent_prior.denoise(x, t)

    def encode(self, x: Float[Tensor, "batch *data"]) -> Float[Tensor, "batch *latent"]:
        """Latents of data."""
        return self.scale * self._encoder(x)

    def decode(self, z: Float[Tensor, "batch *latent"]) -> Float[Tensor, "batch *data"]:
        """Return the data of latents, differentiable where the decoder is."""
        return self._decoder(z / self.scale)

    def decoder_operator(self) -> FunctionOperator:
        """Return the decoder as a (nonlinear) operator, to compose a forward operator with."""
        return FunctionOperator(self.decode)
