"""DDNM and DDNM+, range-null-space decomposition (Wang et al. 2023, arXiv 2212.00490)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CapabilityError
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import (
    Info,
    Sampler,
    Start,
    check,
    draw,
    first_state,
    gaussian,
    lacks,
    owner_of,
)
from mgdm_core.samplers.ddrm import meet_components
from mgdm_core.steps.grids import Pairs, pairs_down

__all__ = ["PRESETS", "DDNM"]


class DDNMState(NamedTuple):
    """x at the level that the next step starts from."""

    step: int
    x: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class DDNM(Sampler):
    """Replace the part of D(x_t) that the data determine, then take the backward step.

    No gradient of a network. ``noise_aware=False`` asks for a linear operator only.


    Parameters
    ----------
    steps : int
        Noise levels.
    eta : float
        The backward step draws noise of deviation eta sigma_s, as the published code does, and
        keeps sqrt(1 - eta^2) of the old noise; at 1 nothing is kept.
    noise_aware : bool
        DDNM+ (equations 17 and 51): a component whose observation has less noise than x_s takes it
        and the noise that is left over; one with more is corrected in part, the data in the place
        of the noise kept. That is the step of :class:`DDRM` with ``eta_b`` = 1; it needs singular
        values. The more steps, the nearer its results gather around y. Otherwise plain DDNM, which
        ends with A x = y.
    """

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang et al. 2023, arXiv 2212.00490"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "spectral"})

    steps: int = 1000
    eta: float = 0.85
    noise_aware: bool = True

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(0 <= self.eta <= 1, "eta lies in [0, 1]", self.eta)

    def requires(self, problem: Problem) -> None:
        """A Gaussian likelihood; singular values to be noise-aware, else an adjoint."""
        for need in ("gaussian", "spectral" if self.noise_aware else "linear"):
            if lacks(problem, need):
                raise CapabilityError(owner_of(problem, need), need, self.name)

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data."""
        return pairs_down(problem, self.steps, start)

    def init(
        self, problem: Problem, plan: Pairs, noise: RandomStreams, start: Start | None = None
    ) -> DDNMState:
        """x at the first level."""
        return DDNMState(0, first_state(problem, plan.top, noise, start))

    def step(
        self, problem: Problem, plan: Pairs, state: DDNMState, noise: RandomStreams
    ) -> tuple[DDNMState, Info]:
        """Denoise, correct, go down."""
        schedule, (t, s), x = problem.schedule, plan.pairs[state.step], state.x
        alpha_t, sigma_t = schedule.moments(t)
        x_0, z = problem.denoise(x, t), draw(problem, noise)
        if self.noise_aware:
            x = meet_components(problem, x, x_0, t, s, z, self.eta, 1.0)
            return DDNMState(state.step + 1, x), Info(t, x, x_0)
        # The old noise is the network's own, before x_0 is corrected.
        eps = (x - alpha_t * x_0) / sigma_t
        lik = gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        x_0 = x_0 + operator.pseudo_inverse(lik.residual(x_0), problem.shape)
        alpha_s, sigma_s = schedule.moments(s)
        x = alpha_s * x_0 + sigma_s * ((1 - self.eta**2) ** 0.5 * eps + self.eta * z)
        return DDNMState(state.step + 1, x), Info(t, x, x_0)


PRESETS: dict[str, DDNM] = {"published": DDNM(), "noiseless": DDNM(noise_aware=False)}
