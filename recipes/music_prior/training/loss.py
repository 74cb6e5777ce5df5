"""The denoising loss under EDM's weights, and the average of the weights over a run."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_core.array_types import Complex, Float, Int, Tensor

__all__ = ["ChosenBins", "PowerAverage", "choose_bins", "decibel_loss", "denoising_loss"]

# Beyond these shares of the power that is explained or left, decibels count no further: about -10
# and +17 dB.
_LEAST_FOUND, _LEAST_LEFT = 0.1, 0.02


class ChosenBins(NamedTuple):
    """Bins of one step, rising, and the reciprocal of each one's chance to be among them."""

    bins: Int[Tensor, " chosen"]
    weights: Float[Tensor, " chosen"]


def choose_bins(bins: int, share: float, generator: torch.Generator) -> ChosenBins:
    """Some of the bins: half of them out of the lowest quarter, where most of the energy lies.

    Each half is drawn systematically, at even steps from a random start, so that every stretch of
    the spectrum is there in every step.
    """
    device = generator.device
    if share >= 1:
        return ChosenBins(torch.arange(bins, device=device), torch.ones(bins, device=device))
    low = bins // 4
    count = min(low, max(1, round(bins * share / 2)))
    starts = torch.rand(2, generator=generator, device=device)
    found, weights = [], []
    for start, first, size in zip(starts, (0, low), (low, bins - low)):
        place = (torch.arange(count, device=device) + start) * (size / count)
        found.append(first + place.long().clamp(max=size - 1))
        weights.append(torch.full((count,), size / count, device=device))
    return ChosenBins(torch.cat(found), torch.cat(weights))


def denoising_loss(
    clean_estimate: tuple[
        Float[Tensor, "batch stems frames chosen"], Float[Tensor, "batch stems frames chosen"]
    ],
    clean: Complex[Tensor, "batch stems frames bins"],
    sigma: Float[Tensor, " batch"],
    sigma_data: float,
    chosen: ChosenBins | None = None,
) -> Float[Tensor, "batch stems"]:
    """Weighted squared error of every stem of every item; about 1 for an untrained network.

    The weight is EDM's, (sigma^2 + d^2) / (sigma d)^2 (Karras et al. 2022, table 1), where d^2 is
    the power of that very stem, at least 0.4 sigma_data^2: with one d for all, loud stems would own
    the loss, while separation is judged stem by stem in decibels; with a tenth, stems that are
    silent own it, and the network learns to give up the stems it is not sure of.

    Where the estimate holds some of the bins only, the error is an unbiased estimate of that of
    all.
    """
    target = torch.view_as_real(clean)
    power = target.square().sum(-1).mean((2, 3))
    part = target if chosen is None else target.index_select(3, chosen.bins)
    error = (clean_estimate[0] - part[..., 0]).square() + (
        clean_estimate[1] - part[..., 1]
    ).square()
    if chosen is not None:
        error = error.mean(2) @ chosen.weights / clean.shape[3]
    else:
        error = error.mean((2, 3))
    d2 = power.clamp_min(0.4 * sigma_data**2)
    s2 = sigma.square()[:, None]
    return error * (s2 + d2) / (s2 * d2)


def decibel_loss(
    clean_estimate: tuple[
        Float[Tensor, "batch stems frames chosen"], Float[Tensor, "batch stems frames chosen"]
    ],
    clean: Complex[Tensor, "batch stems frames bins"],
    chosen: ChosenBins | None = None,
) -> Float[Tensor, "batch stems"]:
    """What separations are judged by: the logarithm of noise over signal once the scale is free.

    With a the share of a stem's power that its estimate explains at the best scale (the squared
    cosine between the two), the SI-SDR is 10 log10(a / (1 - a)) (Le Roux et al. 2019, "SDR -
    half-baked or well done?", equation 5); this is the natural logarithm of (1 - a) / a, bounded
    on both sides, and 0 for stems that are silent. A squared error hardly tells 12 dB from 15, and
    hardly cares for a stem far below the others; the mean of decibels does.
    """
    target = torch.view_as_real(clean)
    active = target.square().sum(-1).mean((2, 3)) >= ACTIVE_RMS**2
    if chosen is not None:
        target = target.index_select(3, chosen.bins)

    def power(product: Float[Tensor, "batch stems frames chosen"]) -> Float[Tensor, "batch stems"]:
        summed = product.float().sum(2)
        return summed.sum(2) if chosen is None else summed @ chosen.weights

    real, imaginary = clean_estimate
    along = power(real * target[..., 0] + imaginary * target[..., 1]).clamp_min(0)
    theirs = power(real.square() + imaginary.square())
    ours = power(target.square().sum(-1))
    found = (along.square() / (theirs * ours).clamp_min(1e-20)).clamp_max(1)
    loss = torch.log((1 - found + _LEAST_LEFT) / (found + _LEAST_FOUND))
    return torch.where(active, loss, 0)


class PowerAverage:
    """Average of the weights over a run, weighted by a power of the step.

    Parameters
    ----------
    parameters : dict of str to Tensor
        What to average; copied.
    length : float
        Deviation of the average's profile as a share of the run so far.
    """

    def __init__(self, parameters: dict[str, Tensor], length: float) -> None:
        self.values = {k: v.detach().clone() for k, v in parameters.items()}
        self.gamma = _power_of_length(length)

    @torch.no_grad()
    def update(self, parameters: dict[str, Tensor], step: int) -> None:
        """Take in the weights after update number ``step`` (from 1)."""
        keep = (1 - 1 / step) ** (self.gamma + 1)
        names = list(self.values)
        mine = [self.values[n] for n in names]
        theirs = [parameters[n].detach() for n in names]
        torch._foreach_lerp_(mine, theirs, 1 - keep)


def _power_of_length(length: float) -> float:
    """Exponent gamma whose profile t^gamma on [0, 1] has the given deviation (bisection)."""
    low, high = 0.0, 1e4
    for _ in range(200):
        gamma = (low + high) / 2
        deviation = ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5
        low, high = (gamma, high) if deviation > length else (low, gamma)
    return (low + high) / 2
