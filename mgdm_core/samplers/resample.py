"""ReSample, hard data consistency on latents (Song et al. 2023, arXiv 2307.08123)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, draw
from mgdm_core.samplers._latent import on_data
from mgdm_core.samplers.descent import Descent, Position
from mgdm_core.settings import at_least, positive, share
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.data import pull_to_data
from mgdm_core.steps.grids import Pairs, posterior_variance, ratio_of


@dataclass(frozen=True)
class ReSample(Descent):
    """DDIM steps; every few of them the estimate is made to meet the data and noised again.

    In the first third of the steps nothing is done; in the second the image meets the data and is
    encoded; in the last the latent itself does. From the estimate z_y that does, and x' of the
    plain step, x_s is drawn from the product of N(alpha_s z_y, sigma_s^2 I) and N(x', v I):

        x_s = k alpha_s z_y + (1 - k) x' + sqrt(k) sigma_s z,  k = g / (1 + g),
        g = gamma (r_t^2 - r_s^2),  r = sigma / alpha.

    On variance-preserving levels this v is the paper's gamma (1 - a_s) / a_t (1 - a_t / a_s) with
    a = alpha^2. The paper minimises ||y - A D(z)|| from the estimate and stops early; here
    ||z - z_0||^2 / (2 r_t^2) holds it, in closed form where A is linear and not behind a decoder.
    Works with any likelihood; no gradient of a network but the decoder's.

    Parameters
    ----------
    steps : int
        Noise levels.
    every : int
        Steps from one meeting with the data to the next; the last step is always one.
    gamma : float
        How little the plain step counts against the estimate that meets the data.
    quiet, on_images : float
        Share of the steps before the first meeting, and before those on latents begin.
    data_steps : int
        Gradient steps of a meeting, where there is no closed form.
    eta : float
        Noise of the plain step; the paper's 0 is DDIM.
    """

    name: ClassVar[str] = "resample"
    paper: ClassVar[str] = "Song et al. 2023, arXiv 2307.08123"

    steps: int = at_least(1, 500)
    every: int = at_least(1, 10)
    gamma: float = positive(40.0)
    quiet: float = share(1 / 3)
    on_images: float = share(2 / 3)
    data_steps: int = at_least(1, 50)
    eta: float = share(0.0)

    def requires(self, problem: Problem) -> None:
        """Behind a decoder the likelihood says which, so that images can meet the data."""
        super().requires(problem)
        if self.on_images > 0:
            on_data(problem)

    def step(
        self, problem: Problem, plan: Pairs, state: Position, noise: RandomStreams
    ) -> tuple[Position, Info]:
        """Go down one level; meet the data where it is due."""
        schedule, k, x = problem.schedule, state.step, state.x
        t, s = plan.pairs[k]
        x_0 = problem.denoise(x, t)
        x = bridge_sample(schedule, x_0, x, s, t, noise, self.eta)
        left, done = plan.steps - 1 - k, k / plan.steps
        if left == 0 or (left % self.every == 0 and done >= self.quiet):
            x_0 = self._met(problem, x_0, t, done < self.on_images)
            alpha, sigma = (float(v) for v in schedule.moments(s))
            weight = self.gamma * (ratio_of(schedule, t) ** 2 - ratio_of(schedule, s) ** 2)
            part = 1 / (1 + 1 / weight)
            x = part * alpha * x_0 + (1 - part) * x + part**0.5 * sigma * draw(problem, noise)
        return Position(k + 1, x), Info(t, x, x_0)

    def _met(self, problem: Problem, x_0: Events, t: int, on_images: bool) -> Events:
        """The estimate pulled to the data, as an image or as what it is."""
        variance = posterior_variance(problem.schedule, t, None)
        if not on_images:
            return pull_to_data(problem, x_0, variance, self.data_steps)
        encode, decode, inner = on_data(problem)
        return encode(pull_to_data(inner, decode(x_0), variance, self.data_steps))


PRESETS: dict[str, ReSample] = {"published": ReSample()}
