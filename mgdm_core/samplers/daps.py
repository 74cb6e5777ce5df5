"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mgdm_core.kernels import backward_chain
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import (
    draw_given_data,
    gaussian,
    karras_levels,
    solves_linear,
    spread,
)
from mgdm_core.trace import Callback

__all__ = ["DAPSSettings", "PRESETS", "daps"]


@dataclass(frozen=True)
class DAPSSettings:
    """Settings of DAPS.

    Parameters
    ----------
    levels : int
        Annealing levels.
    ode_steps : int
        Steps of the probability-flow ODE from x_t to an estimate of x_0; one step is D(x_t).
    langevin_steps : int
        Langevin steps on x_0 given x_t and y.
    learning_rate : float or None
        Largest Langevin step; it falls linearly with the level to ``rate_floor`` times itself.
        None for the largest that is stable, whatever the data's scale.
    rate_floor : float
    draw : {"auto", "exact", "langevin"}
        ``exact`` draws x_0 given x_t and y in closed form (linear, Gaussian); ``auto`` does where
        it can.
    tau : float or None
        Deviation of the observation in the Langevin steps; None for the likelihood's own.
    data_variance : float or None
        The variance of x_0 given x_t is q^2 v / (q^2 + v) with v = ``data_variance``; None for the
        published q^2, q = sigma_t / alpha_t.
    sigma_max, sigma_min : float or None
        Ends of a Karras grid of levels (rho 7); None for evenly spaced levels from T.
    """

    levels: int = 200
    ode_steps: int = 5
    langevin_steps: int = 50
    learning_rate: float | None = None
    rate_floor: float = 0.01
    draw: str = "auto"
    tau: float | None = None
    data_variance: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        check(self.levels >= 1, "levels is at least 1", self.levels)
        check(self.ode_steps >= 1, "ode_steps is at least 1", self.ode_steps)
        check(self.langevin_steps >= 1, "langevin_steps is at least 1", self.langevin_steps)
        check(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate is positive or None",
            self.learning_rate,
        )
        check(0 < self.rate_floor <= 1, "rate_floor lies in (0, 1]", self.rate_floor)
        check(
            self.draw in ("auto", "exact", "langevin"),
            "draw is one of auto, exact, langevin",
            self.draw,
        )
        check(self.tau is None or self.tau > 0, "tau is positive or None", self.tau)
        check(
            self.data_variance is None or self.data_variance > 0,
            "data_variance is positive or None",
            self.data_variance,
        )
        ends = (self.sigma_max, self.sigma_min)
        given = self.sigma_max is not None and self.sigma_min is not None
        check(
            ends == (None, None) or (given and 0 < ends[1] < ends[0]),  # type: ignore[operator]
            "sigma_max and sigma_min are both None, or 0 < sigma_min < sigma_max",
            ends,
        )


def daps(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: DAPSSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """At each level: estimate x_0, draw x_0 given x_t and y, noise it to the next level.

    x_0 given x_t is taken as a Gaussian around the estimate; with ``ode_steps=1`` and
    ``data_variance`` this is exact for data of independent Gaussian coordinates of that variance.
    Works with any likelihood; no gradient of a network. Parameters as in
    :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        If ``draw="exact"`` meets a likelihood that is not Gaussian on a linear operator, or ``tau``
        one that is not Gaussian.
    """
    cfg = settings or DAPSSettings()
    if cfg.tau is not None:
        likelihood = _with_deviation(likelihood, cfg.tau)
    run = Run("daps", prior, likelihood, shape, streams, callback, cfg.levels)
    schedule = run.schedule
    exact = cfg.draw == "exact" or (cfg.draw == "auto" and solves_linear(likelihood))
    if cfg.sigma_max is not None and cfg.sigma_min is not None:
        levels = karras_levels(schedule, cfg.levels, cfg.sigma_max, cfg.sigma_min)
    else:
        levels = schedule.spaced(cfg.levels)
    x, top = run.first_state(levels[0], start)
    levels = [top, *(level for level in levels if level < top), 0]
    run.steps = len(levels) - 1

    for t, s in itertools.pairwise(levels):
        x_0 = backward_chain(schedule, run.denoise, x, t, cfg.ode_steps, method="ddim")
        share = cfg.rate_floor + t / schedule.last * (1 - cfg.rate_floor)
        x_0 = draw_given_data(
            run,
            x_0,
            float(spread(schedule, t, cfg.data_variance)),
            exact=exact,
            steps=cfg.langevin_steps,
            rate=None if cfg.learning_rate is None else share * cfg.learning_rate,
        )
        x = x_0
        if s > 0:
            x = float(schedule.alpha[s]) * x_0 + float(schedule.sigma[s]) * run.noise()
        run.step(t, x, x_0)
    return run.finish(x)


def _with_deviation(likelihood: Likelihood, tau: float) -> Likelihood:
    lik = gaussian(likelihood, "daps with tau")
    return GaussianLikelihood(lik.operator, lik.observation, tau)


_IMAGES = DAPSSettings()
PRESETS: dict[str, DAPSSettings] = {
    "images": replace(_IMAGES, draw="langevin", learning_rate=1e-4),
    "audio": replace(
        _IMAGES,
        draw="langevin",
        learning_rate=1e-5,
        tau=0.005,
        sigma_max=20.0,
        sigma_min=0.001,
    ),
}
