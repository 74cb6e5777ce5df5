"""Classifier-free guidance: one prior told what is wanted, one not."""

from __future__ import annotations

from mgdm_core.array_types import Events, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.priors.protocol import Prior


class GuidedPrior:
    """D = D_0 + scale (D_1 - D_0): Ho and Salimans 2022, arXiv 2207.12598, equation 6.

    Their formula is of the noises, which on one level is the same of the denoisers. For two
    Gaussian priors of one covariance scale moves the mean along the line through theirs. At 1 this
    is the prior with the condition; beyond, it is more typical of it than its data are, and no
    longer the denoiser of any distribution: a posterior under it is one only by name. An evaluation
    calls both.

    Parameters
    ----------
    conditional, unconditional : Prior
        On the same levels: the same network called with a class or the embedding of a text, and
        with what it was trained to take for none.
    scale : float
        Guidance; 0 is the prior without the condition.
    """

    def __init__(self, conditional: Prior, unconditional: Prior, scale: float) -> None:
        levels = [(p.schedule.alpha, p.schedule.sigma) for p in (conditional, unconditional)]
        if any(a.shape != b.shape or bool((a != b).any()) for a, b in zip(*levels)):
            raise SettingsError(
                f"guidance combines two priors on the same levels; found the schedules "
                f"{conditional.schedule.name!r} and {unconditional.schedule.name!r}, which differ"
            )
        self.conditional, self.unconditional, self.scale = conditional, unconditional, scale
        self.schedule = conditional.schedule

    def denoise(self, x: Events, t: int | Int[Tensor, " batch"]) -> Events:
        """Combine both estimates of x_0."""
        without = self.unconditional.denoise(x, t)
        # Linear interpolation is exact at both ends: at 1 and 0 one of the two to the bit.
        return without.lerp(self.conditional.denoise(x, t), self.scale)
