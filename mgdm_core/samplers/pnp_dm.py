"""PnP-DM, the split Gibbs sampler with a diffusion prior (Wu et al. 2024, arXiv 2405.18782)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Start, first_level, first_state
from mgdm_core.samplers.descent import DrawsGivenData
from mgdm_core.settings import above_0, at_least, check, positive
from mgdm_core.steps.backward import backward_chain
from mgdm_core.steps.grids import coupling_levels, posterior_variance


class PnPPlan(NamedTuple):
    """Level of each sweep."""

    levels: tuple[int, ...]
    steps: int


class PnPState(NamedTuple):
    """The two copies of x_0."""

    step: int
    x: Events
    z: Events


@dataclass(frozen=True)
class PnPDM(DrawsGivenData):
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
    draw, langevin_steps, learning_rate
        The data's half, as in :class:`mgdm_core.samplers.descent.DrawsGivenData`.
    """

    name: ClassVar[str] = "pnp_dm"
    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2405.18782"

    iterations: int = at_least(1, 100)
    rho: float = positive(10.0)
    decay: float = above_0(0.9)
    floor: float = positive(0.3)
    prior_steps: int = at_least(1, 20)
    langevin_steps: int = at_least(1, 100, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.floor <= self.rho, "0 < floor <= rho", (self.floor, self.rho))

    def plan(self, problem: Problem, start: Start | None = None) -> PnPPlan:
        """Level of each sweep, none above the start's."""
        ends, top = (self.rho, self.floor), first_level(problem, start)
        levels = coupling_levels(problem.schedule, self.iterations, ends, self.decay, top)
        return PnPPlan(tuple(levels), len(levels))

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
        # Going on from the last z leaves its distribution invariant.
        variance = posterior_variance(schedule, t, None)
        z = self.given_data(problem, state.x, variance, noise, x_0=state.z)
        noisy = schedule.moments(t)[0] * z
        x = backward_chain(schedule, problem.denoise, noisy, t, self.prior_steps, noise)
        return PnPState(state.step + 1, x, z), Info(t, z, x)


PRESETS: dict[str, PnPDM] = {"images": PnPDM(), "audio": PnPDM(floor=1e-3, draw="langevin")}
