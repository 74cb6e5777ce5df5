"""DInG, decoupled diffusion guidance (Moufad et al. 2025, arXiv 2512.18365)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Sampler, Start, check, draw, first_state
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.data import draw_given_data, require_exact, solves_linear
from mgdm_core.steps.grids import pairs_down

__all__ = ["PRESETS", "DInG"]


class DInGPlan(NamedTuple):
    """Steps (t, s), and whether the draw given the data is in closed form."""

    pairs: tuple[tuple[int, int], ...]
    steps: int
    top: int
    exact: bool


class DInGState(NamedTuple):
    """x at the level that the next step starts from."""

    step: int
    x: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class DInG(Sampler):
    """Backward steps conditioned on the data through the noise predicted at a proxy.

    The likelihood at s is g(y | (x_s - sigma_s eps) / alpha_s), where eps is the network's noise at
    a proxy z_s, drawn from the backward transition as x_s would be. Given eps, the transition times
    this likelihood is Gaussian for a Gaussian likelihood on a linear operator, and is drawn in
    closed form; for other likelihoods by Langevin steps. Two evaluations a step; no gradient of a
    network. The paper treats masks.

    Parameters
    ----------
    steps : int
        Noise levels; the paper's main setting is 25.
    eta : float or None
        The transition's deviation is eta sigma_s. None for the paper's sigma_s (1 - alpha_s) on a
        flow, which on any schedule is sigma_s^2 / (alpha_s + sigma_s).
    draw : {"auto", "exact", "langevin"}
        ``exact`` asks for a linear, Gaussian problem; ``auto`` is exact where it can be.
    langevin_steps : int
        Langevin steps of a draw that is not in closed form.
    """

    name: ClassVar[str] = "ding"
    paper: ClassVar[str] = "Moufad et al. 2025, arXiv 2512.18365"

    steps: int = 25
    eta: float | None = None
    draw: str = "auto"
    langevin_steps: int = 50

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(self.eta is None or 0 < self.eta <= 1, "eta lies in (0, 1] or is None", self.eta)
        kinds = ("auto", "exact", "langevin")
        check(self.draw in kinds, f"draw is one of {', '.join(kinds)}", self.draw)
        check(self.langevin_steps >= 1, "langevin_steps is at least 1", self.langevin_steps)

    def requires(self, problem: Problem) -> None:
        """An exact draw asks for a Gaussian likelihood on a linear operator."""
        if self.draw == "exact":
            require_exact(problem, self.name)

    def plan(self, problem: Problem, start: Start | None = None) -> DInGPlan:
        """Even levels down to the data."""
        exact = self.draw == "exact" or (self.draw == "auto" and solves_linear(problem))
        return DInGPlan(*pairs_down(problem, self.steps, start), exact)

    def init(
        self, problem: Problem, plan: DInGPlan, noise: RandomStreams, start: Start | None = None
    ) -> DInGState:
        """x at the first level."""
        return DInGState(0, first_state(problem, plan.top, noise, start))

    def step(
        self, problem: Problem, plan: DInGPlan, state: DInGState, noise: RandomStreams
    ) -> tuple[DInGState, Info]:
        """Draw the proxy, then x_s given the proxy's noise and the data."""
        schedule, (t, s), x = problem.schedule, plan.pairs[state.step], state.x
        (alpha_t, sigma_t), (alpha, sigma) = schedule.moments(t), schedule.moments(s)
        x_0 = problem.denoise(x, t)
        if s == 0:
            return DInGState(state.step + 1, x_0), Info(t, x_0, x_0)
        dev = deviation(schedule, s, self.eta)
        mean = alpha * x_0 + (sigma**2 - dev**2) ** 0.5 / sigma_t * (x - alpha_t * x_0)
        proxy = mean + dev * draw(problem, noise)
        eps = (proxy - alpha * problem.denoise(proxy, s)) / sigma
        clean = draw_given_data(
            problem,
            (mean - sigma * eps) / alpha,
            float((dev / alpha) ** 2),
            noise,
            exact=plan.exact,
            steps=self.langevin_steps,
        )
        return DInGState(state.step + 1, alpha * clean + sigma * eps), Info(t, x, clean)


def deviation(schedule: NoiseSchedule, s: int, eta: float | None) -> float:
    """Deviation of the backward transition to level s."""
    alpha, sigma = schedule.moments(s)
    return float(sigma * (sigma / (alpha + sigma) if eta is None else eta))


PRESETS: dict[str, DInG] = {
    "published": DInG(),
    "hundred-steps": DInG(steps=100),
    # Not published: at the floor of the exact-posterior benchmark from ten observed numbers on.
    "many-steps": DInG(steps=400, eta=0.5),
}
