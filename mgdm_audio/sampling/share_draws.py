"""Draws of whose a sound is, around a separation: what is uncertain once it has been made.

A prior that has seen cross-talk rather than noise has barely any posterior spread of its own: its
samples differ by the noise that they began with, not by how far they may be wrong. What it does
say is a share of every bin for every stem. Here the shares are drawn: their logarithms get a
smooth random field each and are normalised again. So every draw sums to the mixture, a bin that is
wholly one stem's stays so, and one that is divided moves the most.
"""

from __future__ import annotations

import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK
from mgdm_audio.sampling.shares import shares_of, with_shares
from mgdm_core.array_types import Float, Tensor

# Cells of the field: what is mistaken is a note of a band, and an instrument for seconds.
FIELDS = ((2048, 64), (NOISE_BLOCK, 8))
"""Samples by bands of a cell, fine and coarse; each field has half the variance."""


def draw_shares(
    stems: Float[Tensor, "stems samples"],
    white: Float[Tensor, "draws stems samples"],
    spread: Float[Tensor, " stems"],
    spectral: SpectralTransform,
) -> Float[Tensor, "draws stems samples"]:
    """Draw what the stems may have been instead.

    Parameters
    ----------
    stems : Tensor, shape (stems, samples)
        A separation; every draw has its sum.
    white : Tensor, shape (draws, stems, samples)
        White noise of deviation one, bound to positions where neighbouring chunks are to agree.
    spread : Tensor, shape (stems,)
        Deviation of the logarithm of each stem's share; 0 gives the stem's own share.
    spectral : SpectralTransform
        Where the shares are.
    """
    spectrum = spectral.forward(stems)
    share = shares_of(spectrum)
    drawn = []
    for noise in white:
        moved = torch.softmax(share.log() + spread[:, None, None] * _field(noise, spectral), 0)
        drawn.append(spectral.inverse(with_shares(spectrum, share, moved), stems.shape[-1]))
    return torch.stack(drawn)


def _field(
    noise: Float[Tensor, "stems samples"], spectral: SpectralTransform
) -> Float[Tensor, "stems bins frames"]:
    """Smooth field of unit variance out of white noise, whose samples are its cells' values."""
    length = noise.shape[-1]
    frames = torch.arange(spectral.frames(length)) * float(spectral.hop)
    bins = torch.linspace(0, 1, spectral.bins, dtype=torch.float64)
    # Bands are about as wide as ears': equal steps of log(f + 1/16) of half the rate.
    place = torch.log1p(16 * bins) / torch.log1p(torch.tensor(16.0, dtype=torch.float64))
    total = torch.zeros(noise.shape[0], spectral.bins, spectral.frames(length)).to(noise)
    first = 0
    for cell, bands in FIELDS:
        cells = -(-length // cell)
        padded = torch.nn.functional.pad(noise, (0, cells * cell - length))
        values = padded.reshape(len(noise), cells, cell)[..., first : first + bands]
        first += bands
        across = _weights(place * bands - 0.5, bands).to(noise)
        along = _weights(frames.double() / cell - 0.5, cells).to(noise)
        total = total + across @ (along @ values).mT
    return total / len(FIELDS) ** 0.5


def _weights(position: Float[Tensor, " places"], nodes: int) -> Float[Tensor, "places nodes"]:
    """Linear interpolation between nodes at 0, 1, 2..., rows scaled to a norm of one."""
    grid = torch.arange(nodes, dtype=torch.float64)
    distance = (position.clamp(0, nodes - 1)[:, None] - grid).abs()
    weight = (1 - distance).clamp_min(0)
    return weight / weight.norm(dim=1, keepdim=True)
