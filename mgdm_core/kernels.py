"""Gaussian kernels of the forward process and the backward steps built from them.

All are written for levels s < t, one int for the batch or one per item; moments are float64 and
rounded to the array's dtype only when they meet it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.randomness import RandomStreams
from mgdm_core.schedule import NoiseSchedule

__all__ = [
    "backward_chain",
    "backward_step",
    "between_sample",
    "bridge_moments",
    "bridge_sample",
    "chain_levels",
    "noise_to",
    "noising_moments",
]

Level = int | Int[Tensor, " batch"]
Denoise = Callable[[Tensor, Tensor], Tensor]


def _wide(schedule: NoiseSchedule, t: Level, ndim: int) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t in float64, shaped (batch or 1, 1, ..., 1)."""
    index = torch.as_tensor(t, device="cpu").reshape(-1)
    shape = (-1,) + (1,) * (ndim - 1)
    return schedule.alpha[index].reshape(shape), schedule.sigma[index].reshape(shape)


def noising_moments(schedule: NoiseSchedule, s: Level, t: Level) -> tuple[Tensor, Tensor]:
    """Scale a and deviation of x_t | x_s ~ N(a x_s, dev^2 I), in float64.

    a = alpha_t / alpha_s and dev^2 = sigma_t^2 - a^2 sigma_s^2.
    """
    alpha_s, sigma_s = _wide(schedule, s, 1)
    alpha_t, sigma_t = _wide(schedule, t, 1)
    a = alpha_t / alpha_s
    return a, (sigma_t**2 - (a * sigma_s) ** 2).clamp_min(0).sqrt()


def noise_to(
    schedule: NoiseSchedule,
    x_s: Float[Tensor, "batch *event"],
    s: Level,
    t: Level,
    streams: RandomStreams,
) -> Float[Tensor, "batch *event"]:
    """Draw x_t | x_s from the forward process."""
    a, dev = noising_moments(schedule, s, t)
    shape = (-1,) + (1,) * (x_s.ndim - 1)
    a, dev = (v.reshape(shape).to(x_s.device, x_s.dtype) for v in (a, dev))
    return a * x_s + dev * streams.normal_like(x_s)


def bridge_moments(
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "batch *event"],
    x_t: Float[Tensor, "batch *event"],
    s: Level,
    t: Level,
    eta: float = 1.0,
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "..."]]:
    r"""Mean and deviation of the bridge q(x_s | x_0, x_t).

    eta = 1 is the Gaussian conditional of the forward process, eta = 0 the deterministic DDIM
    relative (Song et al. 2021, equation 12): mean alpha_s x_0 + sqrt(sigma_s^2 - dev^2)
    (x_t - alpha_t x_0) / sigma_t, dev^2 = eta^2 sigma_s^2 (sigma_t^2 - a^2 sigma_s^2) / sigma_t^2.

    Returns
    -------
    mean : Tensor, shape (batch, *event)
    deviation : Tensor, broadcastable to the mean
    """
    if not 0.0 <= eta <= 1.0:
        raise SettingsError(f"eta lies in [0, 1]; found {eta}")
    alpha_s, sigma_s = _wide(schedule, s, x_0.ndim)
    alpha_t, sigma_t = _wide(schedule, t, x_0.ndim)
    a = alpha_t / alpha_s
    var = sigma_s**2 * (sigma_t**2 - (a * sigma_s) ** 2).clamp_min(0) / sigma_t**2
    dev = eta * var.sqrt()
    along = (sigma_s**2 - dev**2).clamp_min(0).sqrt() / sigma_t
    alpha_s, alpha_t, along, dev = (
        v.to(x_0.device, x_0.dtype) for v in (alpha_s, alpha_t, along, dev)
    )
    return alpha_s * x_0 + along * (x_t - alpha_t * x_0), dev


def bridge_sample(
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "batch *event"],
    x_t: Float[Tensor, "batch *event"],
    s: Level,
    t: Level,
    streams: RandomStreams,
    eta: float = 1.0,
) -> Float[Tensor, "batch *event"]:
    """Draw x_s from the bridge; no random number is used when eta is 0."""
    mean, dev = bridge_moments(schedule, x_0, x_t, s, t, eta)
    return mean if eta == 0 else mean + dev * streams.normal_like(x_0)


def between_sample(
    schedule: NoiseSchedule,
    x_s: Float[Tensor, "batch *event"],
    x_u: Float[Tensor, "batch *event"],
    s: Level,
    t: int,
    u: int,
    streams: RandomStreams,
) -> Float[Tensor, "batch *event"]:
    """Draw x_t given x_s and x_u of the forward process, s < t < u (Gaussian conditioning).

    With x_t | x_s ~ N(a x_s, v) and x_u | x_t ~ N(b x_t, w) the precision is 1/v + b^2/w and the
    mean (a x_s / v + b x_u / w) over it.
    """
    a, v_dev = noising_moments(schedule, s, t)
    b, w_dev = noising_moments(schedule, t, u)
    v, w = v_dev**2, w_dev**2
    total = w + b**2 * v
    shape = (-1,) + (1,) * (x_s.ndim - 1)
    near, far, dev = (
        c.reshape(shape).to(x_s.device, x_s.dtype)
        for c in (a * w / total, b * v / total, (v * w / total).sqrt())
    )
    return near * x_s + far * x_u + dev * streams.normal_like(x_s)


def backward_step(
    schedule: NoiseSchedule,
    denoise: Denoise,
    x_t: Float[Tensor, "batch *event"],
    t: Level,
    s: Level,
    streams: RandomStreams | None = None,
    method: str = "ddpm",
) -> Float[Tensor, "batch *event"]:
    """One backward transition p(x_s | x_t) from level t to s < t.

    Parameters
    ----------
    method : {"ddpm", "ddim", "heun"}
        ``ddpm``: bridge through D(x_t) with eta 1. ``ddim``: eta 0. ``heun``: second order step of
        the probability-flow ODE (Karras et al. 2022, algorithm 1) in x / alpha against
        sigma / alpha; two evaluations, one where s is level 0.
    """
    batch = x_t.shape[0]
    t_items = torch.as_tensor(t, device="cpu").reshape(-1).expand(batch)
    s_items = torch.as_tensor(s, device="cpu").reshape(-1).expand(batch)
    x_0 = denoise(x_t, t_items)
    if method == "ddpm":
        if streams is None:
            raise SettingsError("a ddpm step draws noise and needs random streams; found none")
        return bridge_sample(schedule, x_0, x_t, s_items, t_items, streams)
    if method == "ddim":
        return bridge_moments(schedule, x_0, x_t, s_items, t_items, 0.0)[0]
    if method != "heun":
        raise SettingsError(f"backward method is one of ddpm, ddim, heun; found {method!r}")
    euler = bridge_moments(schedule, x_0, x_t, s_items, t_items, 0.0)[0]
    if bool((s_items == 0).all()):
        return euler
    corrected = denoise(euler, s_items)
    # In u = x / alpha against r = sigma / alpha the slope is (u - D) / r.
    alpha_t, sigma_t = schedule.at(t_items, x_t)
    alpha_s, sigma_s = schedule.at(s_items, x_t)
    u, r, r_next = x_t / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    slope = (u - x_0) / r
    safe = torch.where(r_next > 0, r_next, torch.ones_like(r_next))
    slope_next = (euler / alpha_s - corrected) / safe
    heun = alpha_s * (u + (r_next - r) * 0.5 * (slope + slope_next))
    return torch.where(r_next > 0, heun, euler)


def chain_levels(s: Int[Tensor, " batch"], steps: int) -> Int[Tensor, "steps_plus_one batch"]:
    """Levels from s_i down to 0 in ``steps`` evenly spaced steps, per item (repeats near 0)."""
    if steps < 1:
        raise SettingsError(f"a backward chain has at least one step; found {steps}")
    # Integer arithmetic: a rounded fraction would repeat levels where s is a multiple of steps.
    left = torch.arange(steps, -1, -1)[:, None] * s.cpu().long()[None]
    return (left + steps - 1).div(steps, rounding_mode="floor")


def backward_chain(
    schedule: NoiseSchedule,
    denoise: Denoise,
    x_s: Float[Tensor, "batch *event"],
    s: Level,
    steps: int,
    streams: RandomStreams | None = None,
    method: str = "ddpm",
) -> Float[Tensor, "batch *event"]:
    """Go from level s (one per item) to level 0 in ``steps`` backward steps.

    ``method`` is one of :func:`backward_step`'s or ``dpmpp_2m``, the second-order multistep solver
    (Lu et al. 2022, DPM-Solver++(2M)), which spends one evaluation a step.
    The last step goes to level 0, where every method returns D exactly. Items whose levels repeat
    stay where they are for that step.
    """
    batch = x_s.shape[0]
    start = torch.as_tensor(s, device="cpu").reshape(-1).expand(batch)
    levels = chain_levels(start, steps)
    x = x_s
    previous: tuple[Tensor, Tensor] | None = None
    for k in range(steps):
        t, r = levels[k], levels[k + 1]
        moving = t > r
        keep = moving.to(x.device).reshape((-1,) + (1,) * (x.ndim - 1))
        if not bool(moving.any()):
            if method == "ddpm" and streams is not None:
                streams.normal_like(x)  # as it would in a batch where another item moves
            continue
        if method == "dpmpp_2m":
            x_0 = denoise(x, t)
            new = _dpmpp_2m(schedule, x, x_0, previous, t, r)
            lam = _log_snr(schedule, t)
            if previous is not None:  # a resting item keeps the step that it last made
                x_0 = torch.where(keep, x_0, previous[0])
                lam = torch.where(moving, lam, previous[1])
            previous = (x_0, lam)
        else:
            # A resting item rides along from its own level to 0 and is put back below.
            new = backward_step(
                schedule, denoise, x, t.clamp_min(1), torch.where(moving, r, 0), streams, method
            )
        x = torch.where(keep, new, x)
    return x


def _log_snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Half log signal-to-noise ratio lambda = log(alpha / sigma), infinite at level 0."""
    return (schedule.alpha[t] / schedule.sigma[t].clamp_min(1e-300)).log()


def _dpmpp_2m(
    schedule: NoiseSchedule,
    x: Tensor,
    x_0: Tensor,
    previous: tuple[Tensor, Tensor] | None,
    t: Tensor,
    s: Tensor,
) -> Tensor:
    shape = (-1,) + (1,) * (x.ndim - 1)
    lam, lam_next = _log_snr(schedule, t), _log_snr(schedule, s)
    h = lam_next - lam
    data = x_0
    if previous is not None:
        older, lam_older = previous
        ratio = (lam - lam_older) / h
        # An item that rested has ratio 0, and the step to level 0 has h infinite: first order.
        usable = (ratio > 1e-6) & (s > 0)
        gain = torch.where(usable, 0.5 / ratio.clamp_min(1e-6), torch.zeros_like(ratio))
        data = x_0 + gain.reshape(shape).to(x.device, x.dtype) * (x_0 - older)
    return bridge_moments(schedule, data, x, s, t.clamp_min(1), 0.0)[0]
