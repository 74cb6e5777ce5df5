r"""How mono estimates lie in a channel: panned parts, and diffuse parts of a known spread.

A channel is X_c = g_c M + D_c, with M the mono mixture that the prior heard and g the upmix. In a
band, every source z_k of the mono mixture (the stems' estimates, and what they leave over) has in
the deviation D_c a coherent part and a diffuse one,

    D_c = sum_k (p_k z_k + n_k),    n_k ~ N(0, q_k |z_k|^2),

p_k is its pan (0 in the middle, +1 and -1 for a stem in one of two channels only), q_k its spread.
Given p and q the posterior mean of n_k is the generalised Wiener share
q_k |z_k|^2 / sum_j q_j |z_j|^2 of what the pans leave (Duong, Vincent and Gribonval 2010,
"Under-determined reverberant audio source separation using a full-rank spatial covariance model",
with the covariance of a channel pair in mid and side: the mid is known here, the side is not).
The pans are found by least squares weighted by the variances, the spreads by the multiplicative
updates that minimise the Itakura-Saito divergence (Fevotte, Bertin and Durrieu 2009).

So a mono recording keeps the estimates as they are (D = 0), a panned source is put back exactly,
and only the diffuse rest is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Complex, Float, Int, Tensor

_LOWEST = 100.0  # Hz
_OCTAVES = 2.0
_SHRINK = 0.1  # weight of all bands' evidence in each band's
_RIDGE = 1e-2
_ROUNDS = 2
_UPDATES = 8
_TINY = 1e-6  # of the mean power, which is 1
# Bins and frames that are averaged first: for speed, and because variances of single bins are noisy
# (cells of 4 by 8 are 0.2 dB better than single bins on rendered songs).
_CELL = (4, 8)


@dataclass(frozen=True)
class ChannelImage:
    """Pans and spreads in one channel.

    Parameters
    ----------
    pan : Tensor, shape (sources, bands)
        Real factor of each source in the channel's deviation from the mono mixture.
    spread : Tensor, shape (sources, bands)
        Power of its diffuse part over its own.
    """

    pan: Float[Tensor, "sources bands"]
    spread: Float[Tensor, "sources bands"]

    def mirrored(self) -> ChannelImage:
        """Image in the other channel of a pair."""
        return ChannelImage(-self.pan, self.spread)


def bands(bins: int, rate: int) -> Int[Tensor, " bins"]:
    """Band of each frequency bin, two octaves wide from 100 Hz on; the first starts at 0 Hz."""
    frequency = torch.arange(bins) * (rate / 2 / max(bins - 1, 1))
    octave = (frequency / _LOWEST).clamp_min(1).log2()
    return (octave / _OCTAVES).long()


def fit_image(
    sources: Complex[Tensor, "sources bins frames"],
    deviation: Complex[Tensor, "bins frames"],
    band: Int[Tensor, " bins"],
) -> ChannelImage:
    """Find pans and spreads.

    Parameters
    ----------
    sources : Tensor, shape (sources, bins, frames)
        Spectra of the mono sources, scaled so that powers are about 1.
    deviation : Tensor, shape (bins, frames)
        Spectrum of the channel minus its share of the mono mixture.
    band : Tensor of int, shape (bins,)
        From `bands`.
    """
    count = int(band.max()) + 1
    first = band[:: _CELL[0]]  # a cell across an edge counts in the lower band

    def pool(x: Tensor) -> Tensor:
        total = torch.zeros(*x.shape[:-2], count, dtype=x.dtype, device=x.device)
        total.index_add_(-1, first, x.sum(-1))
        return total + _SHRINK * total.sum(-1, keepdim=True)

    # Only these means enter below, so the fit costs next to nothing beside the transforms.
    own = torch.stack([torch.stack([_cells(_dot(a, b)) for b in sources]) for a in sources])
    cross = torch.stack([_cells(_dot(z, deviation)) for z in sources])
    power = _cells(_dot(deviation, deviation))
    variance = own.diagonal().movedim(-1, 0)
    spread = torch.ones(len(sources), count, dtype=power.dtype, device=power.device)
    pan = torch.zeros_like(spread)
    for _ in range(_ROUNDS):
        total = (spread[:, first, None] * variance).sum(0) + _TINY
        left = pool(own / total).movedim(-1, 0)
        right = pool(cross / total).movedim(-1, 0)
        diagonal = left.diagonal(dim1=-2, dim2=-1)
        ridge = _RIDGE * diagonal + _TINY * (1 + diagonal.amax(-1, keepdim=True))
        pan = torch.linalg.solve(left + torch.diag_embed(ridge), right).T
        at = pan[:, first]
        rest = power - 2 * torch.einsum("kb,kbt->bt", at, cross)
        rest = rest + torch.einsum("kb,jb,kjbt->bt", at, at, own)
        rest = rest.clamp_min(0)
        for _ in range(_UPDATES):
            total = (spread[:, first, None] * variance).sum(0) + _TINY
            up, down = pool(variance * (rest / total**2)), pool(variance / total)
            spread = spread * (up / down.clamp_min(1e-30)).sqrt()
    return ChannelImage(pan, spread)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.real * b.real + a.imag * b.imag


def _cells(x: Tensor) -> Tensor:
    """Mean over cells of bins and frames; those at the ends may be smaller."""
    return torch.nn.functional.avg_pool2d(
        x[None, None], _CELL, _CELL, ceil_mode=True, count_include_pad=False
    )[0, 0]
