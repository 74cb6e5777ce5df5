"""Backward transitions p(x_s | x_t) and chains of them down to level 0."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from mgdm_core.array_types import Events, Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams
from mgdm_core.schedule import Level, NoiseSchedule, fit
from mgdm_core.steps.bridge import bridge_moments, bridge_sample

Denoise = Callable[[Tensor, Level], Tensor]
METHODS = ("ddpm", "ddim", "heun", "dpmpp_2m")


def backward_step(
    schedule: NoiseSchedule,
    denoise: Denoise,
    x_t: Events,
    t: Level,
    s: Level,
    noise: RandomStreams | None = None,
    method: str = "ddpm",
) -> Events:
    """One backward transition p(x_s | x_t) from level t to s < t.

    Parameters
    ----------
    method : {"ddpm", "ddim", "heun"}
        ``ddpm``: bridge through D(x_t) with eta 1. ``ddim``: eta 0. ``heun``: second order step of
        the probability-flow ODE (Karras et al. 2022, algorithm 1) in x / alpha against
        sigma / alpha; two evaluations, one where s is level 0, first order where alpha_t is 0.
    """
    x_0 = denoise(x_t, t)
    if method == "ddpm":
        if noise is None:
            raise SettingsError("a ddpm step draws noise and needs random streams; found none")
        return bridge_sample(schedule, x_0, x_t, s, t, noise)
    if method not in ("ddim", "heun"):
        raise SettingsError(f"backward method is one of ddpm, ddim, heun; found {method!r}")
    euler = bridge_moments(schedule, x_0, x_t, s, t, 0.0)[0]
    if method == "ddim" or (isinstance(s, int) and s == 0):
        return euler
    corrected = denoise(euler, s)
    # In u = x / alpha against r = sigma / alpha the slope is (u - D) / r.
    alpha_t, sigma_t = schedule.at(t, x_t)
    alpha_s, sigma_s = schedule.at(s, x_t)
    u, r, r_next = x_t / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    slope = (u - x_0) / r
    safe = torch.where(r_next > 0, r_next, torch.ones_like(r_next))
    slope_next = (euler / alpha_s - corrected) / safe
    heun = alpha_s * (u + (r_next - r) * 0.5 * (slope + slope_next))
    return torch.where((r_next > 0) & (alpha_t > 0), heun, euler)


def even_levels(t: int, steps: int) -> list[int]:
    """Levels from t down to 0 in ``steps`` evenly spaced steps, in t where that is less."""
    steps = min(steps, t)
    return [-(-t * (steps - k) // steps) for k in range(steps + 1)]


def chain_levels(s: Int[Tensor, " batch"], steps: int) -> Int[Tensor, "steps_plus_one batch"]:
    """Levels from s_i down to 0 in ``steps`` evenly spaced steps, per item (repeats near 0)."""
    if steps < 1:
        raise SettingsError(f"a backward chain has at least one step; found {steps}")
    # Integer arithmetic: a rounded fraction would repeat levels where s is a multiple of steps.
    left = torch.arange(steps, -1, -1, device=s.device)[:, None] * s.long()[None]
    return (left + steps - 1).div(steps, rounding_mode="floor")


def backward_chain(
    schedule: NoiseSchedule,
    denoise: Denoise,
    x_s: Events,
    s: Level,
    steps: int,
    noise: RandomStreams | None = None,
    method: str = "ddpm",
    highest: int | None = None,
) -> Events:
    """Go from level s (one for all, or one per item) to level 0 in ``steps`` backward steps.

    ``method`` is one of :func:`backward_step`'s or ``dpmpp_2m``, the second-order multistep solver
    (Lu et al. 2022, DPM-Solver++(2M)), which spends one evaluation a step.
    The last step goes to level 0, where every method returns D exactly. There are no more steps
    than levels: with one level per item, whose values no host reads, ``highest`` says which level
    none of them exceeds. Items whose levels repeat stay where they are for that step.
    """
    if isinstance(s, int):
        grid: list[Level] = [*even_levels(s, steps)]
    else:
        grid = [*chain_levels(s, min(steps, highest or steps)).unbind(0)[:-1], 0]
    x = x_s
    previous: tuple[Tensor, Level] | None = None
    for k, (t, r) in enumerate(pairwise(grid)):
        keep = moving = None
        if not isinstance(t, int):
            # A resting item rides along from its own level to 0 and is put back below.
            moving = t > r
            keep = moving.reshape((-1,) + (1,) * (x.ndim - 1))
            r = torch.where(moving, r, 0) if isinstance(r, torch.Tensor) else r
            t = t.clamp_min(1)
        if method == "dpmpp_2m":
            x_0 = denoise(x, t)
            new = _dpmpp_2m(schedule, x, x_0, previous, t, r, k + 2 == len(grid))
            if keep is not None and previous is not None:  # it keeps the step that it last made
                x_0 = torch.where(keep, x_0, previous[0])
                t = torch.where(moving, t, previous[1])  # type: ignore[arg-type]
            previous = (x_0, t)
        else:
            new = backward_step(schedule, denoise, x, t, r, noise, method)
        x = new if keep is None else torch.where(keep, new, x)
    return x


def _dpmpp_2m(
    schedule: NoiseSchedule,
    x: Tensor,
    x_0: Tensor,
    previous: tuple[Tensor, Level] | None,
    t: Level,
    s: Level,
    last: bool,
) -> Tensor:
    """First order at the start and on the way to level 0, an infinite step in log SNR."""
    if previous is not None and not last:
        x_0 = extrapolated(schedule, x_0, previous, t, s)
    return bridge_moments(schedule, x_0, x, s, t, 0.0)[0]


def extrapolated(
    schedule: NoiseSchedule,
    x_0: Events,
    previous: tuple[Events, Level],
    t: Level,
    s: Level,
) -> Events:
    """D half-way from t to s in log SNR, on the line through it at t and at the level before.

    A step with it in place of D is of second order (Lu et al. 2022, DPM-Solver++(2M)). Where the
    next or the last step is none or infinitely long it is D.

    Parameters
    ----------
    x_0 : Tensor
        D(x_t), at level t.
    previous : (Tensor, level)
        D and the level of the step before, above t.
    t, s : int or Tensor, shape (batch,)
        The step to be made, s < t.
    """
    older, t_older = previous
    lam_older, lam, lam_next = (_log_snr(schedule, level, x_0) for level in (t_older, t, s))
    ratio = (lam - lam_older) / (lam_next - lam)
    # An item that rested has ratio 0, and one that rests now a step to level 0: first order.
    usable = (ratio > 1e-6) & torch.isfinite(ratio)
    gain = torch.where(usable, 0.5 / ratio.clamp_min(1e-6), torch.zeros_like(ratio))
    return x_0 + fit(gain.reshape(-1), x_0) * (x_0 - older)


def _log_snr(schedule: NoiseSchedule, t: Level, x: Tensor) -> Float[Tensor, " batch"]:
    """Half log signal-to-noise ratio log(alpha / sigma) in float64; infinite at level 0."""
    level = torch.full((1,), t, device=x.device) if isinstance(t, int) else t
    alpha, sigma = schedule.moments(level)
    return (alpha / sigma).log()  # type: ignore[union-attr]
