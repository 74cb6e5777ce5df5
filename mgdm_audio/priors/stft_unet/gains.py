"""What is decided of every bin, and what that makes of it."""

from __future__ import annotations

from typing import NamedTuple

from mgdm_audio.priors.spectral_network import DenoisedBins
from mgdm_core.array_types import Float, Tensor


class Gains(NamedTuple):
    """What is decided of every bin.

    The clean bin is ``D_k = (1 - gate) mask_k X_k + gate share_k sum_j mask_j X_j``.

    Parameters
    ----------
    mask : Tensor, shape (batch, stems, frames, bins)
        What each stem keeps of itself.
    share : Tensor of the same shape or None
        Each stem's part of what is shared out; None where stems exchange nothing.
    gate : Tensor, shape (batch, 1, frames, bins), or None
        How much of the sum is shared out.
    """

    mask: Float[Tensor, "batch stems frames bins"]
    share: Float[Tensor, "batch stems frames bins"] | None
    gate: Float[Tensor, "batch 1 frames bins"] | None

    def applied_to(
        self,
        real: Float[Tensor, "batch stems frames bins"],
        imaginary: Float[Tensor, "batch stems frames bins"],
    ) -> DenoisedBins:
        """Clean bins, and the gain of each on itself."""
        clean_re, clean_im = self.mask * real, self.mask * imaginary
        if self.share is None or self.gate is None:
            return DenoisedBins(clean_re, clean_im, self.mask)
        moved = self.gate * self.share
        stay = 1 - self.gate
        sum_re, sum_im = clean_re.sum(1, keepdim=True), clean_im.sum(1, keepdim=True)
        clean_re, clean_im = stay * clean_re + moved * sum_re, stay * clean_im + moved * sum_im
        return DenoisedBins(clean_re, clean_im, (stay + moved) * self.mask)
