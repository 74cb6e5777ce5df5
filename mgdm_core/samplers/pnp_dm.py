"""PnP-DM, the split Gibbs sampler with a diffusion prior (Wu et al. 2024, arXiv 2405.18782)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Sampler, Start, check, first_state
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.backward import backward_chain
from mgdm_core.steps.data import draw_given_data, require_exact, solves_linear
from mgdm_core.steps.grids import posterior_variance

__all__ = ["PRESETS", "PnPDM"]


class PnPPlan(NamedTuple):
    """Level of each sweep, and whether the data's half is in closed form."""

    levels: tuple[int, ...]
    steps: int
    exact: bool


class PnPState(NamedTuple):
    """The two copies of x_0."""

    step: int
    x: Float[Tensor, "batch *event"]
    z: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class PnPDM(Sampler):
    """Draw z ~ g(y | z) N(z; x, rho^2 I), then x ~ p(x) N(z; x, rho^2 I), while rho falls.

    The second draw is the backward diffusion from the level whose noise is rho, started at z. Both
    halves use the sweep's own rho. Works with any likelihood; no gradient of a network. A start
    gives x, and skips the sweeps at levels above its own (one sweep at its own level is left at
    least).


    Parameters
    ----------
    iterations : int
        Gibbs sweeps.
    rho : float
        First deviation of the coupling between the two copies of x_0.
    decay : float
        Factor per sweep.
    floor : float
        Smallest coupling deviation; the bias that remains is that of a sigma_y^2 enlarged by
        floor^2 A A^T.
    prior_steps : int
        Backward steps of the prior's half of a sweep.
    langevin_steps : int
        Langevin steps of the data's half where it has no closed form.
    learning_rate : float or None
        Largest Langevin step; None for the largest that is stable, whatever the data's scale.
    draw : {"auto", "exact", "langevin"}
        Data's half: closed form (linear, Gaussian), Langevin, or the former where it can.
    """

    name: ClassVar[str] = "pnp_dm"
    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2405.18782"

    iterations: int = 100
    rho: float = 10.0
    decay: float = 0.9
    floor: float = 0.3
    prior_steps: int = 20
    langevin_steps: int = 100
    learning_rate: float | None = None
    draw: str = "auto"

    def __post_init__(self) -> None:
        check(self.iterations >= 1, "iterations is at least 1", self.iterations)
        check(0 < self.floor <= self.rho, "0 < floor <= rho", (self.floor, self.rho))
        check(0 < self.decay <= 1, "decay lies in (0, 1]", self.decay)
        check(self.prior_steps >= 1, "prior_steps is at least 1", self.prior_steps)
        check(self.langevin_steps >= 1, "langevin_steps is at least 1", self.langevin_steps)
        check(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate is positive or None",
            self.learning_rate,
        )
        check(
            self.draw in ("auto", "exact", "langevin"),
            "draw is one of auto, exact, langevin",
            self.draw,
        )

    def requires(self, problem: Problem) -> None:
        """An exact draw asks for a Gaussian likelihood on a linear operator."""
        if self.draw == "exact":
            require_exact(problem, self.name)

    def plan(self, problem: Problem, start: Start | None = None) -> PnPPlan:
        """Level of each sweep, none above the start's."""
        levels = coupling_levels(problem.schedule, self)
        if start is not None and start.level is not None:
            least = min(start.level, problem.schedule.top)
            levels = [level for level in levels if level <= least] or [least]
        exact = self.draw == "exact" or (self.draw == "auto" and solves_linear(problem))
        return PnPPlan(tuple(levels), len(levels), exact)

    def init(
        self, problem: Problem, plan: PnPPlan, noise: RandomStreams, start: Start | None = None
    ) -> PnPState:
        """Both copies at the first coupling's noise."""
        level = plan.levels[0]
        x = first_state(problem, level, noise, start) / problem.schedule.moments(level)[0]
        return PnPState(0, x, x)

    def step(
        self, problem: Problem, plan: PnPPlan, state: PnPState, noise: RandomStreams
    ) -> tuple[PnPState, Info]:
        """One sweep."""
        schedule, t = problem.schedule, plan.levels[state.step]
        z = draw_given_data(
            problem,
            state.x,
            posterior_variance(schedule, t, None),
            noise,
            exact=plan.exact,
            x_0=state.z,  # going on from the last z leaves its distribution invariant
            steps=self.langevin_steps,
            rate=self.learning_rate,
        )
        noisy = schedule.moments(t)[0] * z
        x = backward_chain(schedule, problem.denoise, noisy, t, self.prior_steps, noise)
        return PnPState(state.step + 1, x, z), Info(t, z, x)


def coupling_levels(schedule: NoiseSchedule, settings: PnPDM) -> list[int]:
    """Level of each sweep: nearest to rho decay^k, not below the floor.

    The coupling's deviation is then the level's own sigma_t / alpha_t.
    """
    count, first, decay = settings.iterations, settings.rho, settings.decay
    rhos = [max(first * decay**k, settings.floor) for k in range(count)]
    return [schedule.level_of_sigma(rho) for rho in rhos]


PRESETS: dict[str, PnPDM] = {
    "images": PnPDM(),
    "audio": PnPDM(floor=1e-3, draw="langevin"),
}
