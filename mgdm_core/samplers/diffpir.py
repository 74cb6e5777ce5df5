"""DiffPIR, plug-and-play restoration with a diffusion prior (Zhu et al. 2023, arXiv 2305.08995)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Sampler, Start, check, draw, first_state, gaussian
from mgdm_core.steps.grids import Pairs, pairs_down, posterior_variance

__all__ = ["PRESETS", "DiffPIR"]


class DiffPIRState(NamedTuple):
    """x at the level that the next step starts from."""

    step: int
    x: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class DiffPIR(Sampler):
    """Denoise, solve min ||y - A x||^2 + (lam sigma_y^2 / q^2) ||x - D(x_t)||^2, noise again.

    The result is that minimiser at the last level, q = sigma_t / alpha_t. No gradient of a network.


    Parameters
    ----------
    steps : int
        Noise levels.
    lam : float
        lambda, the weight of the denoiser's estimate against the data.
    zeta : float
        Share of fresh noise when going to the next level; published: 1 for masks, 0.1 otherwise.
    """

    name: ClassVar[str] = "diffpir"
    paper: ClassVar[str] = "Zhu et al. 2023, arXiv 2305.08995"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "linear"})

    steps: int = 1000
    lam: float = 1.0
    zeta: float = 0.1

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps is at least 1", self.steps)
        check(self.lam > 0, "lam is positive", self.lam)
        check(0 <= self.zeta <= 1, "zeta lies in [0, 1]", self.zeta)

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data."""
        return pairs_down(problem, self.steps, start)

    def init(
        self, problem: Problem, plan: Pairs, noise: RandomStreams, start: Start | None = None
    ) -> DiffPIRState:
        """x at the first level."""
        return DiffPIRState(0, first_state(problem, plan.top, noise, start))

    def step(
        self, problem: Problem, plan: Pairs, state: DiffPIRState, noise: RandomStreams
    ) -> tuple[DiffPIRState, Info]:
        """Denoise, solve, noise again."""
        (t, s), x, lik = plan.pairs[state.step], state.x, gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        alpha_t, sigma_t = problem.schedule.moments(t)
        alpha_s, sigma_s = problem.schedule.moments(s)
        weight = posterior_variance(problem.schedule, t, None) / (self.lam * lik.sigma_y**2)
        x_0 = operator.proximal(problem.denoise(x, t), lik.observation, weight)
        eps = (x - alpha_t * x_0) / sigma_t
        mixed = (1 - self.zeta) ** 0.5 * eps + self.zeta**0.5 * draw(problem, noise)
        x = alpha_s * x_0 + sigma_s * mixed
        return DiffPIRState(state.step + 1, x), Info(t, x, x_0)


PRESETS: dict[str, DiffPIR] = {"masks": DiffPIR(zeta=1.0), "other": DiffPIR(zeta=0.1)}
