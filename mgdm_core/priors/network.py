"""What networks predict, turned into ``denoise(x, t)``.

The arithmetic stays in the state's dtype; a network may run in a narrower one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from mgdm_core.array_types import Events, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.priors.protocol import level_vector
from mgdm_core.schedule import NoiseSchedule

Network = Callable[[Tensor, Tensor], Tensor]


class _NetworkPrior:
    """Shared handling of levels, of level 0 and of the network's dtype.

    Parameters
    ----------
    network : callable
        Takes (x, time), returns an array like x. The arithmetic around it stays in x's dtype.
    schedule : NoiseSchedule
        The levels.
    network_dtype : torch.dtype or None
        Precision in which the network is called; None leaves x's own.

    Raises
    ------
    SettingsError
        If what the network predicts is divided by alpha, which is 0 at the schedule's last level.
    """

    divides_by_alpha: ClassVar[bool] = True

    def __init__(
        self, network: Network, schedule: NoiseSchedule, network_dtype: torch.dtype | None = None
    ) -> None:
        if self.divides_by_alpha and schedule.top < schedule.last:
            raise SettingsError(
                f"{type(self).__name__} divides by alpha, which is 0 at this schedule's last "
                f"level; leave that level out, or use a network that predicts x_0, v or a flow"
            )
        self.network = network
        self.schedule = schedule
        self.network_dtype = network_dtype

    def _call(self, x: Tensor, time: Tensor) -> Tensor:
        dtype = self.network_dtype or x.dtype
        out = self.network(x.to(dtype), time)
        if out.ndim > 1 and out.shape[1] == 2 * x.shape[1] and out.shape[2:] == x.shape[2:]:
            out = out[:, : x.shape[1]]  # learned-variance networks append a variance: not used
        if out.shape != x.shape:
            raise ShapeError(
                f"a network returns an array of its input's shape {tuple(x.shape)}; "
                f"found {tuple(out.shape)}"
            )
        return out.to(x.dtype)

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def denoise(self, x: Events, t: int | Int[Tensor, " batch"]) -> Events:
        """Estimate E[x_0 | x_t = x]; items at level 0 are returned as they are."""
        if isinstance(t, int) and t == 0:
            return x
        index = level_vector(t, x.shape[0], x.device)
        # Level 0 has no network time; those items ride along at level 1 and are put back.
        level = index.clamp_min(1)
        alpha, sigma = self.schedule.at(level, x)
        out = self._estimate(x, level, alpha, sigma)
        if isinstance(t, int):
            return out
        return torch.where((index == 0).reshape((-1,) + (1,) * (x.ndim - 1)), x, out)


class NoisePredictionPrior(_NetworkPrior):
    """Network that predicts eps: D = (x - sigma eps) / alpha (Ho et al. 2020, equation 9).

    The network's time is the level minus one, as in DDPM checkpoints; pass ``network_times`` for
    another mapping from level (index 0 is level 1) to network time.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        network_dtype: torch.dtype | None = None,
        network_times: Tensor | None = None,
    ) -> None:
        super().__init__(network, schedule, network_dtype)
        if network_times is not None and len(network_times) != schedule.last:
            raise SettingsError(
                f"network_times has one entry per level 1..{schedule.last}; "
                f"found {len(network_times)}"
            )
        self.network_times = network_times

    def _time(self, t: Tensor) -> Tensor:
        if self.network_times is None:
            return t - 1
        return self.network_times.to(t.device)[t - 1]

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x - sigma * self._call(x, self._time(t))) / alpha


class VelocityPrior(NoisePredictionPrior):
    """Network that predicts v = alpha eps - sigma x_0 (Salimans and Ho 2022, section 4).

    alpha may be 0 at the last level (zero terminal signal).
    """

    divides_by_alpha = False

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        v = self._call(x, self._time(t))
        return (alpha * x - sigma * v) / (alpha**2 + sigma**2)


class SamplePrior(VelocityPrior):
    """Network that predicts x_0 itself; alpha may be 0 at the last level."""

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._call(x, self._time(t))


class FlowPrior(_NetworkPrior):
    """Network that predicts the flow's velocity eps - x_0 (rectified flow, Liu et al. 2023).

    D = (x - sigma velocity) / (alpha + sigma), on any schedule; alpha may be 0 at the last level.
    The network's time is ``time_scale`` sigma / (alpha + sigma); Stable Diffusion 3 takes 1000.
    """

    divides_by_alpha = False

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        network_dtype: torch.dtype | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__(network, schedule, network_dtype)
        self.time_scale = time_scale

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        time = (self.time_scale * sigma / (alpha + sigma)).reshape(-1)
        return (x - sigma * self._call(x, time)) / (alpha + sigma)


class ScorePrior(_NetworkPrior):
    """Network that predicts the score: D = (x + sigma^2 score) / alpha (Tweedie's formula).

    The network is called with sigma_t / alpha_t as its time.
    """

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        ratio = (sigma / alpha).reshape(-1)
        return (x + sigma**2 * self._call(x, ratio)) / alpha


class DenoiserPrior(_NetworkPrior):
    """Network that is a denoiser D(x; sigma) on variance-exploding inputs already."""

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self._call(x / alpha, (sigma / alpha).reshape(-1))


class EDMPrior(_NetworkPrior):
    """Raw network F under EDM preconditioning (Karras et al. 2022, equation 7 and table 1).

    Parameters
    ----------
    sigma_data : float
        Deviation of the data that the preconditioning assumes.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        sigma_data: float = 0.5,
        network_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(network, schedule, network_dtype)
        if sigma_data <= 0:
            raise SettingsError(f"sigma_data is positive; found {sigma_data}")
        self.sigma_data = sigma_data

    def _estimate(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        ratio = sigma / alpha
        total = ratio**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = ratio * self.sigma_data / total.sqrt()
        clean_scale = x / alpha
        inner = self._call(clean_scale / total.sqrt(), ratio.reshape(-1).log() / 4)
        return c_skip * clean_scale + c_out * inner
