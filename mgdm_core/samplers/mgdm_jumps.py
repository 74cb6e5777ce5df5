r"""MGDM after jumps between modes: x_s drawn given x_t and y with x_0 marginalised.

The Gibbs step of the paper holds x_0 fixed while it draws x_s, so a run rarely leaves the mode
that x_0 fell into when nearly all was noise, and the modes' weights come out wrong. Here x_0 is
integrated out first. The pair (x_s, x_t), s < t, has the law p(x_s) g_s(y | x_s) q(x_t | x_s), and
two moves leave it invariant:

- x_t | x_s: forward noising;
- x_s | x_t, y, proportional to p(x_s | x_t) g_s(y | x_s): Metropolis-Hastings with proposals
  from the prior's own backward chain from t to s, which makes the acceptance ratio
  g_s(y | x_s') / g_s(y | x_s).

Both are exact only as far as the proposal chain, a few backward steps, draws from p(x_s | x_t), and
as far as g_s is. The likelihood at level s is that of a Gaussian A(x_0) with the moments of
Tweedie's formulas, mean A(D_s(x_s)) and covariance J_A C J_A^T, C = sigma_s^2 / alpha_s J_D: exact
for a Gaussian observation where the prior is Gaussian near x_s, that is, once s is low enough for
its modes to lie apart; Laplace's approximation for other observations. t falls over the jumps, so
that early proposals come from anywhere and later ones from nearby.

It needs few observed numbers: the acceptance falls with what they tell, and each jump costs one
vector-Jacobian product per number.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.conditionals.linearised import linearise, locally_gaussian, seen_covariance
from mgdm_core.errors import SettingsError
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, check, first_state
from mgdm_core.samplers.mgdm import MGDM, MGDMPlan, MGDMState
from mgdm_core.samplers.mgdm import PRESETS as MGDM_PRESETS
from mgdm_core.steps.backward import backward_step
from mgdm_core.steps.bridge import noise_to

__all__ = ["PRESETS", "MGDMJumps", "log_evidence"]

NEWTON_STEPS = 8
CARRY_STEPS = 3


class JumpPlan(NamedTuple):
    """Levels (s above, s, t) of every jump, and MGDM's own plan from the last s on."""

    jumps: tuple[tuple[int, int, int], ...]
    then: MGDMPlan
    steps: int


class JumpState(NamedTuple):
    """x_s with log g_s(y | x_s), the x_t that the next proposal starts from, MGDM's state after."""

    step: int
    x_s: Float[Tensor, "batch *event"]
    evidence: Float[Tensor, " batch"]
    then: MGDMState | None


@dataclass(frozen=True)
class MGDMJumps(Sampler):
    """Metropolis-Hastings jumps of x_s with x_0 marginalised over the high levels, then MGDM.

    After a ``start`` there are no jumps.

    Parameters
    ----------
    jumps : int
        Their number; the first is a plain draw from the prior.
    last : float
        t falls from T to ``last`` times T.
    first_index, index : float
        s falls from the one to the other share of T, below ``last``: the data tell less of a high
        x_s, so that more jumps are accepted; at a low one g_s is exact.
    stages : int
        Values of s on the way. The prior's own backward steps carry x_s from one to the next.
    steps : int
        Backward steps from t to s for one proposal.
    max_rows : int
        Largest number of observed values per item that it accepts: every jump takes as many
        vector-Jacobian products.
    then : MGDM
        What follows below the last s.
    """

    name: ClassVar[str] = "mgdm_jumps"
    paper: ClassVar[str] = "this library, before MGDM (arXiv 2502.03332)"

    jumps: int = 160
    last: float = 0.6
    first_index: float = 0.5
    index: float = 0.2
    stages: int = 4
    steps: int = 10
    max_rows: int = 16
    then: MGDM = field(default_factory=lambda: MGDM_PRESETS["best"])

    def __post_init__(self) -> None:
        check(self.jumps >= 1 and self.steps >= 1, "jumps and steps are at least 1", self.jumps)
        check(self.stages >= 1, "stages is at least 1", self.stages)
        check(
            0 < self.index <= self.first_index < self.last <= 1,
            "shares of T with 0 < index <= first_index < last <= 1",
            (self.index, self.first_index, self.last),
        )

    def requires(self, problem: Problem) -> None:
        """Few observed values, a likelihood that is locally Gaussian, and what MGDM requires."""
        locally_gaussian(problem, self.name)
        if problem.rows > self.max_rows:
            raise SettingsError(
                f"{self.name} takes one Jacobian product per jump and observed value, for at most "
                f"max_rows = {self.max_rows} values; found {problem.rows}; use mgdm"
            )
        self.then.requires(problem)

    def _level(self, jump: int, top: int) -> int:
        stage = jump * self.stages // self.jumps
        share = stage / (self.stages - 1) if self.stages > 1 else 1.0
        return max(1, round((self.first_index * (1 - share) + self.index * share) * top))

    def plan(self, problem: Problem, start: Start | None = None) -> JumpPlan:
        """Settle the levels of every jump."""
        if start is not None:
            then = self.then.plan(problem, start)
            return JumpPlan((), then, then.steps)
        top, places = problem.schedule.last, []
        level = self._level(0, top)
        for k in range(self.jumps):
            above, level = level, self._level(k, top)
            share = k / max(1, self.jumps - 1)
            places.append(
                (above, level, max(level + 1, round(top * (1 + (self.last - 1) * share))))
            )
        then = self.then.plan_from(problem, level)
        return JumpPlan(tuple(places), then, self.jumps + then.steps)

    def init(
        self, problem: Problem, plan: JumpPlan, noise: RandomStreams, start: Start | None = None
    ) -> JumpState:
        """x_T."""
        nothing = torch.full(
            (problem.items,), -torch.inf, dtype=torch.float64, device=problem.device
        )
        if not plan.jumps:
            then = self.then.init(problem, plan.then, noise, start)
            return JumpState(0, then.x_t, nothing, then)
        x = first_state(problem, problem.schedule.last, noise, None)
        return JumpState(0, x, nothing, None)

    def step(
        self, problem: Problem, plan: JumpPlan, state: JumpState, noise: RandomStreams
    ) -> tuple[JumpState, Info]:
        """One jump, or one step of MGDM after the last."""
        if state.step >= len(plan.jumps):
            then, info = self.then.step(problem, plan.then, state.then, noise)  # type: ignore
            return state._replace(step=state.step + 1, then=then), info
        k, x_s, evidence, _ = state
        above, s, t = plan.jumps[k]
        if s < above:
            x_s = _down(problem, x_s, above, s, CARRY_STEPS, noise)
            _, evidence = log_evidence(problem, x_s, s)
        x_t = noise_to(problem.schedule, x_s, s, t, noise) if k > 0 else x_s
        proposal = _down(problem, x_t, t, s, self.steps, noise)
        x_0, proposed = log_evidence(problem, proposal, s)
        accept = noise.uniform((), x_t.device) < (proposed - evidence).exp()
        x_s = torch.where(accept.reshape((-1,) + (1,) * (x_t.ndim - 1)), proposal, x_s)
        evidence = torch.where(accept, proposed, evidence)
        then = None
        if k + 1 == len(plan.jumps):
            then = MGDMState(0, problem.denoise(x_s, s), x_s, x_s)
        info = Info(t, x_s, x_0, s, extra={"jump_acceptance": accept})
        return JumpState(k + 1, x_s, evidence, then), info

    def finish(
        self, problem: Problem, plan: JumpPlan, state: JumpState, noise: RandomStreams
    ) -> Result:
        """x_0 of MGDM."""
        return self.then.finish(problem, plan.then, state.then, noise)  # type: ignore[arg-type]


def _down(
    problem: Problem, x: Tensor, t: int, s: int, steps: int, noise: RandomStreams
) -> Float[Tensor, "batch *event"]:
    grid = torch.linspace(t, s, steps + 1, dtype=torch.float64).round().long().tolist()
    for upper, lower in itertools.pairwise(grid):
        if upper > lower:
            x = backward_step(problem.schedule, problem.denoise, x, upper, lower, noise)
    return x


def log_evidence(
    problem: Problem, x: Float[Tensor, "batch *event"], s: int
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
    """Return D_s(x) and log g_s(y | x), up to a constant, in float64.

    The image u = A(x_0) is N(m, S) with Tweedie's moments. Newton steps in u find the mode of
    g(y | u) N(u; m, S), and Laplace's formula gives the integral over u: exact, after one step,
    for a Gaussian g.
    """
    likelihood = locally_gaussian(problem, "the evidence at level s")
    x_0, mean, jacobian, _ = linearise(problem, x, s)
    cov = seen_covariance(problem, x_0, jacobian, s)

    def newton(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen, variance = likelihood.local_gaussian(image)
        factor = torch.linalg.cholesky_ex(cov + torch.diag_embed(variance))[0]
        pull = torch.cholesky_solve((seen - mean)[:, :, None], factor)[:, :, 0]
        return pull, (cov @ pull[:, :, None])[:, :, 0], factor, variance

    pull, move, factor, variance = newton(mean)
    if not isinstance(likelihood, GaussianLikelihood):
        for _ in range(NEWTON_STEPS):
            pull, move, factor, variance = newton(mean + move)
    # log N(image; m, S) = -pull^T S pull / 2, as image - m = S pull; no inverse of S is needed.
    square = (pull * move).sum(-1)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * variance.log().sum(-1)
    value = likelihood.image_log_prob(mean + move) - 0.5 * square - log_det
    return x_0, value.double()


PRESETS: dict[str, MGDMJumps] = {"default": MGDMJumps()}
