"""Gradients through the denoiser, and through the likelihood alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.likelihoods import Likelihood
from mgdm_core.problem import Problem
from mgdm_core.schedule import Level


def loss_and_gradient(
    problem: Problem, x: Float[Tensor, "items *event"], t: Level, loss: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "items *event"], Float[Tensor, " items"], Float[Tensor, "items *event"]]:
    """Return D_t(x), loss(D_t(x)) per item and the gradient of the loss in ``x``: one VJP."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x_0 = problem.denoise_differentiably(x, t)
        value = loss(x_0)
        grad = slope(problem.likelihood, value, x)
    return x_0.detach(), value.detach(), grad


def data_gradient(
    likelihood: Likelihood, x_0: Float[Tensor, "items *event"]
) -> tuple[Float[Tensor, " items"], Float[Tensor, "items *event"]]:
    """log g(y | x_0) per item and its gradient in x_0; the graph covers the likelihood only."""
    with torch.enable_grad():
        x = x_0.detach().requires_grad_(True)
        value = likelihood.log_prob(x)
        grad = slope(likelihood, value, x)
    return value.detach(), grad


def slope(
    likelihood: Likelihood, value: Float[Tensor, " items"], x: Float[Tensor, "items *event"]
) -> Float[Tensor, "items *event"]:
    """Gradient in x of what a likelihood says of each item."""
    if not value.requires_grad:
        raise CapabilityError(likelihood, "gradient")
    return torch.autograd.grad(value.sum(), x)[0]
