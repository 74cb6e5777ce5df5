"""Shares as they should have been: what a prior claims too often, corrected by frequency.

A classifier's logits are calibrated after training by a scale and an offset per class (vector
scaling: Guo et al. 2017, "On calibration of modern neural networks"), and its classes are weighted
anew where they are more frequent than in training (Saerens, Latinne and Decaestecker 2002). The
shares of a bin are such probabilities. Their logarithms get a factor and an offset per stem, which
change with frequency, and a stem that is heard more than a little in the recording a further
offset: a prior that has seen strange instruments in half of its items doubts them too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.shares import shares_of, with_shares
from mgdm_core.array_types import Float, Tensor

PRESENT = 0.12
"""Part of all magnitudes at which half of the offset of a stem that is heard applies."""

_STEEPNESS = 8.0


@dataclass(frozen=True)
class ShareFit:
    """How the shares of the stems of a prior are corrected.

    Attributes
    ----------
    hz : list of float
        Frequencies at which the values are given; between them they change linearly.
    power, weight, present : dict of str to list of float
        Per stem: what the logarithm of its share is multiplied by, what is added to it, and what
        is added as far as the stem is heard in the recording.
    """

    hz: list[float]
    power: dict[str, list[float]]
    weight: dict[str, list[float]]
    present: dict[str, list[float]]

    def values(self, stems: Sequence[str]) -> Float[Tensor, "3 stems knots"]:
        """Power, weight and present of some stems; a stem without a fit stays as it is."""
        still = [0.0] * len(self.hz)
        tables = ((self.power, [1.0] * len(self.hz)), (self.weight, still), (self.present, still))
        return torch.tensor([[table.get(s, usual) for s in stems] for table, usual in tables])


def between_knots(
    hz: Sequence[float], spectral: SpectralTransform, rate: int
) -> Float[Tensor, "knots bins"]:
    """Weights of values at some frequencies in the bins of a spectrum, linear between them."""
    bins = np.arange(spectral.bins) * rate / spectral.n_fft
    return torch.tensor(np.stack([np.interp(bins, hz, row) for row in np.eye(len(hz))])).float()


def recalibrate_shares(
    stems: Float[Tensor, "stems samples"],
    spectral: SpectralTransform,
    values: Float[Tensor, "3 stems bins"],
) -> Float[Tensor, "stems samples"]:
    """Correct the shares of a separation.

    Parameters
    ----------
    stems : Tensor, shape (stems, samples)
        A separation of a mixture; what is returned has its sum.
    spectral : SpectralTransform
        Where the shares are.
    values : Tensor, shape (3, stems, bins)
        Power, weight and present (:class:`ShareFit`) of every bin.
    """
    spectrum = spectral.forward(stems)
    share = shares_of(spectrum)
    magnitude = spectrum.sum(0).abs()
    part = (share * magnitude).sum((1, 2)) / magnitude.sum().clamp_min(1e-12)
    heard = torch.sigmoid(_STEEPNESS * (part.clamp_min(1e-6) / PRESENT).log())
    power, weight, present = values.to(share)
    offset = weight + heard[:, None] * present
    other = (share.log() * power[..., None] + offset[..., None]).softmax(0)
    return spectral.inverse(with_shares(spectrum, share, other), stems.shape[-1])
