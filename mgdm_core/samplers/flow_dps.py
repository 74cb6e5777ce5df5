"""FlowDPS, posterior sampling along a flow (Kim et al. 2025, arXiv 2503.08136)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import draw
from mgdm_core.samplers.descent import Descent
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.settings import at_least, positive, share
from mgdm_core.steps.data import pull_to_data
from mgdm_core.steps.grids import posterior_variance


@dataclass(frozen=True)
class FlowDPS(Descent):
    """Split x_t into data and noise; move the data towards y, mix fresh noise into the noise.

    With u the flow's time, data become (1 - u_t) D + u_t D_y, where D_y minimises
    -log g(y | x) + ||x - D||^2 / (2 r^2), and noise sqrt(1 - w) eps + sqrt(w) z with w = 1 - u_s. A
    few gradient steps stand for the minimiser in the paper; here it is exact for a linear, Gaussian
    problem. Works with any likelihood and, with u = sigma / (alpha + sigma), on any schedule; no
    gradient of a network. It seeks what explains y well: its results spread less than the
    posterior.

    Parameters
    ----------
    steps : int
        Noise levels; the paper's 28.
    fresh : float or None
        w, share of fresh noise; 0 follows the flow's ODE. None for 1 - u_s.
    data_steps : int
        Gradient steps towards the data where there is no closed form.
    data_variance : float or None
        r^2 = q^2 v / (q^2 + v) with v = ``data_variance`` and q = sigma_t / alpha_t; None for q^2.
    """

    name: ClassVar[str] = "flow_dps"
    paper: ClassVar[str] = "Kim et al. 2025, arXiv 2503.08136"

    steps: int = at_least(1, 28)
    fresh: float | None = share(None)
    data_steps: int = at_least(1, 20)
    data_variance: float | None = positive(None)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, move both parts, go down."""
        schedule = problem.schedule
        alpha, sigma = schedule.moments(t)
        x_0 = problem.denoise(x, t)
        eps = (x - alpha * x_0) / sigma
        variance = posterior_variance(schedule, t, self.data_variance)
        pulled = pull_to_data(problem, x_0, variance, self.data_steps)
        x_0 = x_0 + flow_time(schedule, t) * (pulled - x_0)
        fresh = 1 - flow_time(schedule, s) if self.fresh is None else self.fresh
        eps = (1 - fresh) ** 0.5 * eps + fresh**0.5 * draw(problem, noise)
        alpha, sigma = schedule.moments(s)
        return alpha * x_0 + sigma * eps, x_0


def flow_time(schedule: NoiseSchedule, t: int) -> float:
    """Time u of the flow (1 - u) x_0 + u eps that x_t is a multiple of."""
    alpha, sigma = schedule.moments(t)
    return float(sigma / (alpha + sigma))


PRESETS: dict[str, FlowDPS] = {"published": FlowDPS(), "ode": FlowDPS(fresh=0.0)}
