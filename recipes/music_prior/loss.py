"""The denoising loss under EDM's weights, and the average of the weights over a run."""

from __future__ import annotations

import torch

from mgdm_core.array_types import Complex, Float, Tensor

__all__ = ["PowerAverage", "denoising_loss"]


def denoising_loss(
    clean_estimate: tuple[
        Float[Tensor, "batch stems bins frames"], Float[Tensor, "batch stems bins frames"]
    ],
    clean: Complex[Tensor, "batch stems bins frames"],
    sigma: Float[Tensor, " batch"],
    sigma_data: float,
) -> Float[Tensor, "batch stems"]:
    """Weighted squared error of every stem of every item; about 1 for an untrained network.

    The weight is EDM's, (sigma^2 + d^2) / (sigma d)^2 (Karras et al. 2022, table 1), where d^2 is
    the power of that very stem, at least a tenth of sigma_data^2: with one d for all, loud stems
    would own the loss, while separation is judged stem by stem in decibels.
    """
    target = torch.view_as_real(clean)
    error = (clean_estimate[0] - target[..., 0]).square() + (
        clean_estimate[1] - target[..., 1]
    ).square()
    power = target.square().sum(-1).mean((2, 3))
    d2 = power.clamp_min(0.1 * sigma_data**2)
    s2 = sigma.square()[:, None]
    return error.mean((2, 3)) * (s2 + d2) / (s2 * d2)


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
