"""What the recipes ask of a prior on images, whether it works on pixels or on latent codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.operators import Operator, compose
from mgdm_core.priors import LatentPrior, Prior

__all__ = ["ImagePrior"]


@dataclass(frozen=True)
class ImagePrior:
    """A prior, the images that it knows, and the variable that a sampler moves.

    Attributes
    ----------
    name : str
    prior : Prior
        On pixels, or a :class:`~mgdm_core.priors.LatentPrior`.
    image_shape : tuple of int
        (channels, height, width) of its images.
    event_shape : tuple of int
        Shape of what the sampler moves: the images, or the latent codes.
    preset : str
        Name of MGDM's settings for it.
    identity : str
        All that decides what it puts out: results under another one are not its own.
    """

    name: str
    prior: Prior
    image_shape: tuple[int, int, int]
    event_shape: tuple[int, ...]
    preset: str
    identity: str

    @property
    def latent(self) -> bool:
        """Whether the sampler moves latent codes."""
        return isinstance(self.prior, LatentPrior)

    def operator(self, operator: Operator) -> Operator:
        """Operator on the sampler's variable: the decoder first, where there is one."""
        if isinstance(self.prior, LatentPrior):
            return compose(operator, self.prior.decoder_operator())
        return operator

    def images(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch channels height width"]:
        """Images of what a sampler returned, in [-1, 1]."""
        if isinstance(self.prior, LatentPrior):
            with torch.no_grad():
                x = self.prior.decode(x)
        return x.clamp(-1, 1)
