"""What several samplers share: level grids, capability checks, steps that see only the data."""

from __future__ import annotations

import itertools

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.conditioning import condition_gaussian
from mgdm_core.errors import CapabilityError
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.run import Run
from mgdm_core.schedule import NoiseSchedule

__all__ = [
    "data_gradient",
    "draw_given_data",
    "gaussian",
    "karras_levels",
    "langevin",
    "like_items",
    "pairs_down",
    "pull_to_data",
    "solves_linear",
    "spread",
]


def gaussian(likelihood: Likelihood, who: str, *capabilities: str) -> GaussianLikelihood:
    """Return the likelihood as a Gaussian one whose operator has the capabilities.

    Raises
    ------
    CapabilityError
        Naming what is missing: ``gaussian``, or a capability of the operator.
    """
    if not isinstance(likelihood, GaussianLikelihood):
        raise CapabilityError(likelihood, "gaussian", who)
    for capability in capabilities:
        likelihood.operator.require(capability, who)
    return likelihood


def solves_linear(likelihood: Likelihood) -> bool:
    """Whether a Gaussian centred anywhere can be conditioned on the data in closed form."""
    return (
        isinstance(likelihood, GaussianLikelihood)
        and "proximal" in likelihood.operator.capabilities
    )


def pairs_down(run: Run, count: int, top: int) -> list[tuple[int, int]]:
    """Steps (t, s) from ``top`` to the data: ``count`` evenly spaced levels, then level 0.

    Their number, which is less than ``count`` where levels would repeat, becomes the run's.
    """
    pairs = list(itertools.pairwise([*run.schedule.spaced(count, top), 0]))
    run.steps = len(pairs)
    return pairs


def karras_levels(
    schedule: NoiseSchedule, count: int, sigma_max: float, sigma_min: float, rho: float = 7.0
) -> list[int]:
    """Levels nearest to the noise-to-signal ratios of Karras et al. 2022, equation 5, descending.

    A prior knows its own levels only, so each ratio becomes the nearest level (whose own ratio is
    then used), and levels met twice are kept once.
    """
    ramp = torch.linspace(0, 1, count, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return sorted({schedule.level_of_sigma(float(v)) for v in sigmas}, reverse=True)


def spread(
    schedule: NoiseSchedule, t: int | Int[Tensor, "..."], data_variance: float | None
) -> Float[Tensor, " levels"]:
    """Variance of x_0 given x_t, float64: q^2 v / (q^2 + v) with q = sigma_t / alpha_t.

    It is exact for data of independent Gaussian coordinates of variance v = ``data_variance``;
    None stands for a flat prior: q^2.
    """
    index = torch.as_tensor(t, device="cpu").reshape(-1)
    square = (schedule.sigma[index] / schedule.alpha[index]) ** 2
    return square if data_variance is None else square * data_variance / (square + data_variance)


def like_items(
    value: Float[Tensor, " batch"], x: Float[Tensor, "batch *event"]
) -> Float[Tensor, "batch ..."]:
    """One value per item, shaped to multiply ``x``, in its dtype and device."""
    return value.to(x.device, x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))


# -- steps on x_0 that see the data and no network ---------------------------------------------


def data_gradient(
    likelihood: Likelihood, x_0: Float[Tensor, "batch *event"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch *event"]]:
    """log g(y | x_0) per item and its gradient in x_0; the graph covers the likelihood only."""
    with torch.enable_grad():
        x = x_0.detach().requires_grad_(True)
        value = likelihood.log_prob(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


def _secant(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Float[Tensor, " batch"]:
    """Curvature between two points per item, ||grad difference|| / ||difference||, float64."""
    rise = flat(grad_a - grad_b).double().norm(dim=-1)
    run = flat(a - b).double().norm(dim=-1)
    return torch.where(run > 0, rise / run.clamp_min(1e-300), torch.zeros_like(rise))


def langevin(
    run: Run,
    x_0: Float[Tensor, "batch *event"],
    centre: Float[Tensor, "batch *event"],
    variance: float,
    steps: int,
    rate: float | None,
) -> Float[Tensor, "batch *event"]:
    """Unadjusted Langevin steps on log g(y | x) + log N(x; centre, variance I), from ``x_0``.

    The step h of x + h grad + sqrt(2 h) noise is a tenth of ``variance``, or a quarter of the
    inverse of the largest curvature of log g that the item has met so far (by secants) if that is
    less, or ``rate`` if that is less still. Longer steps would inflate the spread, and blow up
    from 2 / curvature on.
    """
    likelihood = run.likelihood
    x = x_0
    _, grad = data_gradient(likelihood, x)
    probe = x + 1e-2 * variance**0.5 * run.streams.normal_like(x)
    curvature = _secant(x, probe, grad, data_gradient(likelihood, probe)[1])
    longest = 0.1 * variance if rate is None else min(rate, 0.1 * variance)
    for _ in range(steps):
        h = (0.25 / curvature.clamp_min(1e-300)).clamp_max(longest)
        h = like_items(h, x)
        new = x + h * (grad + (centre - x) / variance)
        new = new + (2 * h).sqrt() * run.streams.normal_like(x)
        _, new_grad = data_gradient(likelihood, new)
        curvature = torch.maximum(curvature, _secant(x, new, grad, new_grad))
        x, grad = new, new_grad
    return x


def draw_given_data(
    run: Run,
    centre: Float[Tensor, "batch *event"],
    variance: float,
    *,
    exact: bool,
    x_0: Float[Tensor, "batch *event"] | None = None,
    steps: int = 100,
    rate: float | None = None,
) -> Float[Tensor, "batch *event"]:
    """Draw x from N(x; centre, variance I) g(y | x).

    ``exact``: perturb and solve by the operator's proximal map (linear, Gaussian). Otherwise
    Langevin steps from ``x_0`` (``centre`` by default).
    """
    if not exact:
        start = centre if x_0 is None else x_0
        return langevin(run, start, centre, variance, steps, rate)
    likelihood = gaussian(run.likelihood, run.trace.sampler, "proximal")
    v = torch.full((len(centre),), variance, dtype=centre.dtype, device=centre.device)
    return condition_gaussian(
        centre,
        v,
        likelihood.operator,
        likelihood.observation,
        likelihood.sigma_y,
        streams=run.streams,
    )


def pull_to_data(
    run: Run, centre: Float[Tensor, "batch *event"], variance: float, steps: int
) -> Float[Tensor, "batch *event"]:
    """Minimise -log g(y | x) + ||x - centre||^2 / (2 variance) over x.

    In closed form by the proximal map where the problem is linear and Gaussian, else by ``steps``
    gradient steps of length 1 / (1 / variance + curvature), curvature by secants per item.
    """
    likelihood = run.likelihood
    if solves_linear(likelihood):
        lik = gaussian(likelihood, run.trace.sampler)
        return lik.operator.proximal(centre, lik.observation, variance / lik.sigma_y**2)
    x = centre
    _, grad = data_gradient(likelihood, x)
    length = flat(grad).double().norm(dim=-1).clamp_min(1e-300)
    probe = x + like_items(1e-2 * variance**0.5 / length, x) * grad
    curvature = _secant(x, probe, grad, data_gradient(likelihood, probe)[1])
    for _ in range(steps):
        h = like_items(1 / (1 / variance + curvature), x)
        new = x + h * (grad + (centre - x) / variance)
        _, new_grad = data_gradient(likelihood, new)
        curvature = torch.maximum(curvature, _secant(x, new, grad, new_grad))
        x, grad = new, new_grad
    return x
