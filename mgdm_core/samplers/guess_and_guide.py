"""Guess and Guide, guidance without network gradients (Shtanchaev et al. 2026, arXiv 2603.07860).

Built from the method's outline (a warm start at one fixed level by denoise, optimise, renoise; then
guided denoising on a sparse schedule). The paper's own numbers were not at hand: the defaults here
are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgdm_core.kernels import bridge_sample
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import pairs_down, pull_to_data, spread
from mgdm_core.trace import Callback

__all__ = ["PRESETS", "GuessAndGuideSettings", "guess_and_guide"]


@dataclass(frozen=True)
class GuessAndGuideSettings:
    """Settings of Guess and Guide.

    Parameters
    ----------
    warm_share : float
        The warm start's fixed level as a share of T.
    warm_iterations : int
        Rounds of denoise, move, renoise at that level.
    steps : int
        Levels from there to the data.
    every : int
        Every ``every``-th of these is guided; the others are plain backward steps.
    eta : float
        Noise of the plain backward steps.
    data_steps : int
        Gradient steps of a move towards the data where it has no closed form.
    data_variance : float or None
        A move minimises -log g(y | x) + ||x - D(x_t)||^2 / (2 r^2) with r^2 = q^2 v / (q^2 + v),
        v = ``data_variance`` and q = sigma_t / alpha_t; None for r^2 = q^2.
    """

    warm_share: float = 0.6
    warm_iterations: int = 40
    steps: int = 60
    every: int = 3
    eta: float = 1.0
    data_steps: int = 20
    data_variance: float | None = None

    def __post_init__(self) -> None:
        check(0 < self.warm_share <= 1, "warm_share lies in (0, 1]", self.warm_share)
        check(self.warm_iterations >= 0, "warm_iterations is not negative", self.warm_iterations)
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(self.every >= 1, "every is at least 1", self.every)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)
        check(self.data_steps >= 1, "data_steps is at least 1", self.data_steps)
        check(
            self.data_variance is None or self.data_variance > 0,
            "data_variance is positive or None",
            self.data_variance,
        )


def guess_and_guide(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: GuessAndGuideSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Guess at one level, then guide on a sparse schedule; x_0 alone is moved towards the data.

    Works with any likelihood; gradients reach no further than the likelihood. The warm start's
    level is the start's own if it has one. Parameters as in
    :func:`mgdm_core.samplers.mgdm.mgdm`.
    """
    cfg = settings or GuessAndGuideSettings()
    run = Run("guess_and_guide", prior, likelihood, shape, streams, callback, cfg.steps)
    schedule = run.schedule
    x, top = run.first_state(max(1, round(cfg.warm_share * schedule.last)), start)
    pairs = pairs_down(run, cfg.steps, top)
    run.steps += cfg.warm_iterations

    for _ in range(cfg.warm_iterations):
        variance = float(spread(schedule, top, cfg.data_variance))
        x_0 = pull_to_data(run, run.denoise(x, top), variance, cfg.data_steps)
        x = float(schedule.alpha[top]) * x_0 + float(schedule.sigma[top]) * run.noise()
        run.step(top, x, x_0)

    for k, (t, s) in enumerate(pairs):
        x_0 = run.denoise(x, t)
        if k % cfg.every == 0:
            variance = float(spread(schedule, t, cfg.data_variance))
            x_0 = pull_to_data(run, x_0, variance, cfg.data_steps)
            x = x_0
            if s > 0:
                x = float(schedule.alpha[s]) * x_0 + float(schedule.sigma[s]) * run.noise()
        else:
            x = bridge_sample(schedule, x_0, x, s, t, streams, cfg.eta)
        run.step(t, x, x_0)
    return run.finish(x)


PRESETS: dict[str, GuessAndGuideSettings] = {"default": GuessAndGuideSettings()}
