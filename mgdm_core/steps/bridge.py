"""Gaussian kernels of the forward process: noising, the bridge between two ends.

All are written for levels s < t, one int for the batch or one level per item. Their coefficients
are computed in float64 and rounded only when they meet the array; none reads from the device.
"""

from __future__ import annotations

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams
from mgdm_core.schedule import Level, Moment, NoiseSchedule, fit, root


def noising_moments(schedule: NoiseSchedule, s: Level, t: Level) -> tuple[Moment, Moment]:
    """Scale a and deviation of x_t | x_s ~ N(a x_s, dev^2 I).

    a = alpha_t / alpha_s and dev^2 = sigma_t^2 - a^2 sigma_s^2.
    """
    alpha_s, sigma_s = schedule.moments(s)
    alpha_t, sigma_t = schedule.moments(t)
    a = alpha_t / alpha_s
    return a, root(sigma_t**2 - (a * sigma_s) ** 2)


def noise_to(
    schedule: NoiseSchedule, x_s: Events, s: Level, t: Level, noise: RandomStreams
) -> Events:
    """Draw x_t | x_s from the forward process; s may be 0."""
    a, dev = noising_moments(schedule, s, t)
    return fit(a, x_s) * x_s + fit(dev, x_s) * noise.normal_like(x_s)


def bridge_coefficients(
    schedule: NoiseSchedule, s: Level, t: Level, eta: float = 1.0
) -> tuple[Moment, Moment, Moment]:
    r"""Return c_0, c_t and dev of the bridge: x_s | x_0, x_t ~ N(c_0 x_0 + c_t x_t, dev^2 I).

    eta = 1 is the Gaussian conditional of the forward process, eta = 0 the deterministic DDIM
    relative (Song et al. 2021, equation 12): mean alpha_s x_0 + sqrt(sigma_s^2 - dev^2)
    (x_t - alpha_t x_0) / sigma_t, dev^2 = eta^2 sigma_s^2 (sigma_t^2 - a^2 sigma_s^2) / sigma_t^2.
    """
    if not 0.0 <= eta <= 1.0:
        raise SettingsError(f"eta lies in [0, 1]; found {eta}")
    alpha_s, sigma_s = schedule.moments(s)
    alpha_t, sigma_t = schedule.moments(t)
    _, step = noising_moments(schedule, s, t)
    dev = eta * sigma_s * step / sigma_t
    along = root(sigma_s**2 - dev**2) / sigma_t
    return alpha_s - along * alpha_t, along, dev


def bridge_moments(
    schedule: NoiseSchedule, x_0: Events, x_t: Events, s: Level, t: Level, eta: float = 1.0
) -> tuple[Events, Float[Tensor, "..."]]:
    """Mean of the bridge and its deviation, which broadcasts to the mean."""
    c_0, c_t, dev = (fit(c, x_0) for c in bridge_coefficients(schedule, s, t, eta))
    wide = dev if isinstance(dev, Tensor) else x_0.new_full((1,) * x_0.ndim, dev)
    return c_0 * x_0 + c_t * x_t, wide


def bridge_sample(
    schedule: NoiseSchedule,
    x_0: Events,
    x_t: Events,
    s: Level,
    t: Level,
    noise: RandomStreams,
    eta: float = 1.0,
) -> Events:
    """Draw x_s from the bridge; no random number is used when eta is 0."""
    c_0, c_t, dev = (fit(c, x_0) for c in bridge_coefficients(schedule, s, t, eta))
    mean = c_0 * x_0 + c_t * x_t
    return mean if eta == 0 else mean + dev * noise.normal_like(x_0)


def between_sample(
    schedule: NoiseSchedule,
    x_s: Events,
    x_u: Events,
    s: Level,
    t: Level,
    u: Level,
    noise: RandomStreams,
) -> Events:
    """Draw x_t given x_s and x_u of the forward process, s < t < u (Gaussian conditioning).

    With x_t | x_s ~ N(a x_s, v) and x_u | x_t ~ N(b x_t, w) the precision is 1/v + b^2/w and the
    mean (a x_s / v + b x_u / w) over it.
    """
    a, v_dev = noising_moments(schedule, s, t)
    b, w_dev = noising_moments(schedule, t, u)
    v, w = v_dev**2, w_dev**2
    total = w + b**2 * v
    near, far, dev = (fit(c, x_s) for c in (a * w / total, b * v / total, root(v * w / total)))
    return near * x_s + far * x_u + dev * noise.normal_like(x_s)
