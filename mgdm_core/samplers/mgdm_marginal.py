r"""MGDM with x_0 marginalised by matched moments and Metropolis-Hastings over whole paths.

Take first a linear, Gaussian observation y = A x_0 + sigma_y eps. By Tweedie's formulas x_0 | x_t
has mean D = D_t(x_t) and covariance C = (sigma_t^2 / alpha_t) J, J the Jacobian of D_t. Matching
these two moments marginalises x_0 out of the mixture's components: at every level t

    g_t(y | x_t) = N(y; A D, A C A^T + sigma_y^2 I),
    E[x_0 | x_t, y] = D + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A D).

The solve takes a few products with C by conjugate gradients (:mod:`mgdm_core.steps.krylov`), each
one evaluation of the denoiser; no vector-Jacobian product, whatever the number of values observed.
s is the level next below t, on levels that are even in log r, r = sigma / alpha.

*Above r = split*, where the modes are decided and C is far from a multiple of the identity, a path
x_T, ..., x_r of

    q(x_s | x_t, y) = N(bridge mean through E[x_0 | x_t, y] + D' - D and x_t, dev^2 I),
    p(x_s | x_t)    = N(bridge mean through D' and x_t, dev^2 I),

is one proposal of an independence Metropolis-Hastings chain with weight

    g_r(y | x_r) prod_t p(x_s | x_t) / q(x_s | x_t, y),

which leaves p(path) g_r(y | x_r) invariant: what the moments miss while the modes overlap is put
right, as far as the steps of a path draw from the prior and g_r is exact, which it is where the
prior is Gaussian around x_r. D' is D extrapolated from the step before, of second order (Lu et al.
2022): a bridge through D leaves out the variance of x_0 | x_t, which the next step's D' then makes
up for, since D has moved with the noise of this one. Without it a path draws from a prior that is
too narrow, by more the fewer the levels.

*Below*, x_0 is drawn: z ~ N(D, c I) with one probe w for the scale,
c = (sigma_t^2 / alpha_t) w^T J w / w^T w, then

    x_0 = z + C A^T (A C A^T + sigma_y^2 I)^-1 (y + sigma_y e - A z)

and x_s from the bridge through x_0 and x_t.

*Any other observation* whose likelihood looks Gaussian near a point, counts or a bent A, is
linearised for that draw, anew at each estimate of E[x_0 | x_t, y]. At high noise the estimate is
no place to linearise at: a path is drawn from p alone, and g_r(y | x_r) is Laplace's approximation
of the integral over the image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import flat
from mgdm_core.precision import wide, widest
from mgdm_core.problem import Problem
from mgdm_core.sampler import (
    Info,
    Sampler,
    Start,
    draw,
    first_level,
    first_state,
    gaussian,
    locally_gaussian,
)
from mgdm_core.schedule import fit
from mgdm_core.settings import above_0, at_least, positive
from mgdm_core.steps.backward import extrapolated
from mgdm_core.steps.bridge import bridge_coefficients, bridge_sample
from mgdm_core.steps.data import solves_linear
from mgdm_core.steps.grids import levels_even_in_log, ratio_of
from mgdm_core.steps.krylov import covariance_at, log_evidence, pull, seen_near


class MarginalPlan(NamedTuple):
    """Number of paths and their steps (t, s), and the steps that follow one by one."""

    paths: int
    path: tuple[tuple[int, int], ...]
    below: tuple[tuple[int, int], ...]
    steps: int
    top: int


class MarginalState(NamedTuple):
    """x with its path's log-weight, and what the start adds to the noise of every path."""

    step: int
    x: Events
    log_weight: Float[Tensor, " batch"]
    origin: Events


@dataclass(frozen=True)
class MGDMMarginal(Sampler):
    """Whole paths as proposals at high noise, draws of x_0 in closed form below.

    Parameters
    ----------
    levels : int
        Levels from T to 1, even in log(sigma / alpha).
    split : float
        Noise-to-signal ratio r, in units of the data, down to which paths are proposed: low enough
        for the data's modes to lie apart.
    budget : int
        Evaluations that the proposals may take at most, all together.
    most_paths : int
        Proposals that are drawn towards y, at most.
    plain_steps : int
        Backward steps of a proposal that is drawn from the prior, since y is not linear and
        Gaussian; as many of these are made as the budget allows.
    products : int
        Products with C per solve, at most.
    passes : int
        Times that an observation that is not linear and Gaussian is linearised for a draw of x_0.
    tolerance : float
        Relative residual at which a solve rests.
    max_rows : int
        With more observed values than that there is one path and no Metropolis-Hastings: the
        acceptance falls with what y tells, and g_r takes a product per value. A network's C has a
        wide spectrum on many values, for which a few products are too few (``data-not-met``).
    reach : float
        Length of the differences that are the products with C, in units of sigma_t, at least; where
        the state's rounding is not small beside them they are longer. A network that computes in
        half precision needs a longer one.
    """

    name: ClassVar[str] = "mgdm_marginal"
    paper: ClassVar[str] = "this library, after MGDM (arXiv 2502.03332)"

    levels: int = at_least(2, 80)
    split: float = positive(0.5)
    budget: int = at_least(0, 2800)
    most_paths: int = at_least(1, 30)
    plain_steps: int = at_least(1, 24)
    products: int = at_least(1, 6)
    passes: int = at_least(1, 3)
    tolerance: float = above_0(1e-3)
    max_rows: int = at_least(0, 64)
    reach: float = positive(0.01)

    def requires(self, problem: Problem) -> None:
        """A likelihood that looks Gaussian near a point."""
        locally_gaussian(problem, self.name)

    def plan(self, problem: Problem, start: Start | None = None) -> MarginalPlan:
        """Levels even in log r; as many paths as the budget allows."""
        schedule, top = problem.schedule, first_level(problem, start)
        ratio, rows, guided = schedule.ratio, problem.rows, solves_linear(problem)
        high = float(ratio[min(top, schedule.top)])
        levels = {min(t, top) for t in levels_even_in_log(schedule, high, self.levels)} | {top}
        pairs = tuple(itertools.pairwise([*sorted(levels, reverse=True), 0]))
        above = sum(float(ratio[s]) >= self.split for _, s in pairs)
        path, most = pairs[:above], self.most_paths
        each = above * (1 + min(rows, self.products)) + 1 + rows
        if not guided and above > 0:
            # Evenly thinned: the last step ends where the path does.
            ends = [t for t, _ in path] + [path[-1][1]]
            kept = torch.linspace(0, above, min(self.plain_steps, above) + 1).round().long()
            path = tuple(itertools.pairwise([ends[k] for k in kept.tolist()]))
            each, most = len(path) + 1 + rows, self.budget
        paths = max(1, min(most, self.budget // max(each, 1)))
        if rows > self.max_rows or above == 0 or paths == 1:
            return MarginalPlan(0, (), pairs, len(pairs), top)
        below = pairs[above:]
        return MarginalPlan(paths, path, below, paths + len(below), top)

    def init(
        self, problem: Problem, plan: MarginalPlan, noise: RandomStreams, start: Start | None = None
    ) -> MarginalState:
        """x at the first level, where no path draws its own."""
        nothing = torch.full(
            (problem.items,), -torch.inf, dtype=widest(problem.device), device=problem.device
        )
        x = first_state(problem, plan.top, noise, start)
        origin = torch.zeros_like(x)
        if start is not None:
            origin += float(problem.schedule.moments(plan.top)[0]) * start.x_0.to(x)
        return MarginalState(0, x, nothing, origin)

    def step(
        self, problem: Problem, plan: MarginalPlan, state: MarginalState, noise: RandomStreams
    ) -> tuple[MarginalState, Info]:
        """Propose one path, or go down one level."""
        k = state.step
        if k < plan.paths:
            return self._propose(problem, plan, state, noise)
        t, s = plan.below[k - plan.paths]
        if ratio_of(problem.schedule, t) > self.split:
            x, _, x_0, _ = self._down(problem, state.x, t, s, noise, True)
        else:
            x_0 = self._draw(problem, state.x, t, noise)
            x = x_0 if s == 0 else bridge_sample(problem.schedule, x_0, state.x, s, t, noise)
        return state._replace(step=k + 1, x=x), Info(t, x, x_0, s)

    def _propose(
        self, problem: Problem, plan: MarginalPlan, state: MarginalState, noise: RandomStreams
    ) -> tuple[MarginalState, Info]:
        x = state.x
        if state.step > 0:
            x = state.origin + float(problem.schedule.moments(plan.top)[1]) * draw(problem, noise)
        log_weight = torch.zeros_like(state.log_weight)
        guided = solves_linear(problem)
        before: tuple[Events, int] | None = None
        for t, s in plan.path:
            x, x_0, _, gain = self._down(problem, x, t, s, noise, guided, before)
            log_weight, before = log_weight + gain, (x_0, t)
        s = plan.path[-1][1]
        x_0 = problem.denoise(x, s)
        product = covariance_at(problem, x, s, x_0, self.reach)
        log_weight = log_weight + log_evidence(problem, product, x_0)
        # Comparisons with what is not a number are false: such a path is not taken. Only an item
        # that has none by the last shows that the run has diverged.
        accept = noise.uniform((), x.device) < (log_weight - state.log_weight).exp()
        lost = ~torch.isfinite(log_weight)
        if state.step + 1 == plan.paths:
            lost = lost & torch.isfinite(state.log_weight)
        per_item = (-1,) + (1,) * (x.ndim - 1)
        lost = lost.reshape(per_item)
        x_0, shown = torch.where(lost, state.x, x_0), torch.where(lost, state.x, x)
        new = MarginalState(
            state.step + 1,
            torch.where(accept.reshape(per_item), x, state.x),
            torch.where(accept, log_weight, state.log_weight),
            state.origin,
        )
        return new, Info(plan.top, shown, x_0, s, extra={"path_acceptance": accept})

    def _conditioned(
        self, near: Problem, x: Events, t: int, x_0: Events, z: Events, misfit: Tensor
    ) -> Events:
        """z + C A^T (A C A^T + sigma_y^2 I)^-1 misfit; z where nothing is left of the signal."""
        alpha, sigma = near.schedule.moments(t)
        if alpha == 0:
            return z
        product = covariance_at(near, x, t, x_0, self.reach)
        ratio = float(sigma / alpha)
        return z + pull(near, product, misfit, ratio, self.products, self.tolerance)

    def _mean(self, problem: Problem, x: Events, t: int, x_0: Events, passes: int) -> Events:
        """E[x_0 | x_t, y]; an observation that is not linear is linearised ``passes`` times."""
        seen = x_0
        for _ in range(passes):
            near = seen_near(problem, seen)
            seen = self._conditioned(near, x, t, x_0, x_0, gaussian(near).residual(x_0))
        return seen

    def _down(
        self,
        problem: Problem,
        x: Events,
        t: int,
        s: int,
        noise: RandomStreams,
        guided: bool,
        before: tuple[Events, int] | None = None,
    ) -> tuple[Events, Events, Events, Float[Tensor, " batch"]]:
        """x_s ~ q(x_s | x_t, y), or p where not ``guided``; D, E[x_0 | x_t, y] and log p / q."""
        x_0 = problem.denoise(x, t)
        seen = self._mean(problem, x, t, x_0, 1) if guided else x_0
        if s == 0:
            return seen, x_0, seen, torch.zeros_like(wide(flat(x)[:, 0]))
        c_0, c_t, dev = (float(c) for c in bridge_coefficients(problem.schedule, s, t))
        step, z = c_0 * (seen - x_0), noise.normal_like(x)
        ahead = x_0 if before is None else extrapolated(problem.schedule, x_0, before, t, s)
        x = c_0 * ahead + c_t * x + step + dev * z
        # |x - mean_q|^2 = dev^2 |z|^2 and |x - mean_p|^2 = |step + dev z|^2.
        gap = wide(flat(step)) / dev
        return x, x_0, seen, -(gap * (0.5 * gap + wide(flat(z)))).sum(-1)

    def _draw(self, problem: Problem, x: Events, t: int, noise: RandomStreams) -> Events:
        """x_0 given x_t and y."""
        x_0, w = problem.denoise(x, t), noise.normal_like(x)
        product = covariance_at(problem, x, t, x_0, self.reach)(w)
        scale = (flat(w * product).sum(-1) / flat(w * w).sum(-1)).clamp_min(0)
        z = x_0 + fit(scale.sqrt(), x) * noise.normal_like(x)
        passes = 0 if solves_linear(problem) else self.passes - 1
        near = seen_near(problem, self._mean(problem, x, t, x_0, passes))
        likelihood = gaussian(near)
        y_noise = likelihood.sigma_y * noise.normal_like(likelihood.observation)
        return self._conditioned(near, x, t, x_0, z, likelihood.residual(z) + y_noise)


PRESETS: dict[str, MGDMMarginal] = {"default": MGDMMarginal()}
