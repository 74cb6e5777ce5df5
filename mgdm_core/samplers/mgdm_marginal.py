r"""MGDM with x_0 marginalised by matched moments and Metropolis-Hastings over whole paths.

For a linear, Gaussian observation y = A x_0 + sigma_y eps. By Tweedie's formulas x_0 | x_t has mean
D = D_t(x_t) and covariance C = (sigma_t^2 / alpha_t) J, J the Jacobian of D_t. Matching these two
moments marginalises x_0 out of the mixture's components: at every level t

    g_t(y | x_t) = N(y; A D, A C A^T + sigma_y^2 I),
    E[x_0 | x_t, y] = D + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A D).

The solve takes a few products with C by conjugate gradients (:mod:`mgdm_core.steps.krylov`), each
one evaluation of the denoiser; no vector-Jacobian product, whatever the number of values observed.
s is the level next below t, on levels that are even in log r, r = sigma / alpha.

*Above r = split*, where the modes are decided and C is far from a multiple of the identity, a path
x_T, ..., x_r of

    q(x_s | x_t, y) = N(bridge mean through E[x_0 | x_t, y] and x_t, dev^2 I),
    p(x_s | x_t)    = N(bridge mean through D and x_t, dev^2 I),

is one proposal of an independence Metropolis-Hastings chain with weight

    g_r(y | x_r) prod_t p(x_s | x_t) / q(x_s | x_t, y),

which leaves p(path) g_r(y | x_r) invariant: what the moments miss while the modes overlap is put
right, as far as the steps of a path draw from the prior and g_r is exact, which it is where the
prior is Gaussian around x_r. (A DDPM step leaves out the variance of x_0 | x_t, so that a path
draws from a prior that is a little too narrow; the error falls with the number of levels.)

*Below*, x_0 is drawn: z ~ N(D, c I) with one probe w for the scale,
c = (sigma_t^2 / alpha_t) w^T J w / w^T w, then

    x_0 = z + C A^T (A C A^T + sigma_y^2 I)^-1 (y + sigma_y e - A z)

and x_s from the bridge through x_0 and x_t.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import flat
from mgdm_core.problem import Problem
from mgdm_core.sampler import (
    Info,
    Sampler,
    Start,
    check,
    draw,
    first_level,
    first_state,
    gaussian,
    like_items,
)
from mgdm_core.steps.bridge import bridge_coefficients, bridge_sample
from mgdm_core.steps.grids import ratio_of
from mgdm_core.steps.krylov import covariance_at, log_evidence, pull

__all__ = ["PRESETS", "MGDMMarginal"]


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
    x: Float[Tensor, "batch *event"]
    log_weight: Float[Tensor, " batch"]
    origin: Float[Tensor, "batch *event"]


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
        Proposals, at most.
    products : int
        Products with C per solve, at most.
    tolerance : float
        Relative residual at which a solve rests.
    max_rows : int
        With more observed values than that there is one path and no Metropolis-Hastings: the
        acceptance falls with what y tells, and g_r takes a product per value. A network's C has a
        wide spectrum on many values, for which a few products are too few (``data-not-met``).
    reach : float
        Length of the differences that are the products with C, in units of sigma_t. A network that
        computes in half precision needs a longer one.
    """

    name: ClassVar[str] = "mgdm_marginal"
    paper: ClassVar[str] = "this library, after MGDM (arXiv 2502.03332)"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "linear"})

    levels: int = 80
    split: float = 0.5
    budget: int = 2800
    most_paths: int = 30
    products: int = 6
    tolerance: float = 1e-3
    max_rows: int = 64
    reach: float = 0.01

    def __post_init__(self) -> None:
        check(self.levels >= 2, "levels is at least 2", self.levels)
        check(self.split > 0, "split is positive", self.split)
        check(self.budget >= 0, "budget is not negative", self.budget)
        check(self.most_paths >= 1, "most_paths is at least 1", self.most_paths)
        check(self.products >= 1, "products is at least 1", self.products)
        check(0 < self.tolerance < 1, "tolerance lies in (0, 1)", self.tolerance)
        check(self.max_rows >= 0, "max_rows is not negative", self.max_rows)
        check(self.reach > 0, "reach is positive", self.reach)

    def plan(self, problem: Problem, start: Start | None = None) -> MarginalPlan:
        """Levels even in log r; as many paths as the budget allows."""
        schedule, top = problem.schedule, first_level(problem, start)
        ratio = schedule.ratio
        high, low = float(ratio[min(top, schedule.top)]), float(ratio[1])
        share = torch.linspace(0, 1, self.levels, dtype=torch.float64)
        ratios = high * (low / high) ** share
        levels = {min(schedule.level_of_sigma(float(r)), top) for r in ratios} | {top}
        pairs = tuple(itertools.pairwise([*sorted(levels, reverse=True), 0]))
        above = sum(float(ratio[s]) >= self.split for _, s in pairs)
        rows = problem.rows
        each = above * (1 + min(rows, self.products)) + 1 + rows
        paths = max(1, min(self.most_paths, self.budget // max(each, 1)))
        if rows > self.max_rows or above == 0 or paths == 1:
            return MarginalPlan(0, (), pairs, len(pairs), top)
        below = pairs[above:]
        return MarginalPlan(paths, pairs[:above], below, paths + len(below), top)

    def init(
        self, problem: Problem, plan: MarginalPlan, noise: RandomStreams, start: Start | None = None
    ) -> MarginalState:
        """x at the first level, where no path draws its own."""
        nothing = torch.full(
            (problem.items,), -torch.inf, dtype=torch.float64, device=problem.device
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
            x, x_0, _ = self._down(problem, state.x, t, s, noise)
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
        for t, s in plan.path:
            x, _, gain = self._down(problem, x, t, s, noise)
            log_weight = log_weight + gain
        s = plan.path[-1][1]
        x_0 = problem.denoise(x, s)
        product = covariance_at(problem, x, s, x_0, self.reach)
        log_weight = log_weight + log_evidence(problem, product, x_0)
        accept = noise.uniform((), x.device) < (log_weight - state.log_weight).exp()
        new = MarginalState(
            state.step + 1,
            torch.where(accept.reshape((-1,) + (1,) * (x.ndim - 1)), x, state.x),
            torch.where(accept, log_weight, state.log_weight),
            state.origin,
        )
        return new, Info(plan.top, x, x_0, s, extra={"jump_acceptance": accept})

    def _conditioned(
        self, problem: Problem, x: Tensor, t: int, x_0: Tensor, z: Tensor, misfit: Tensor
    ) -> Float[Tensor, "batch *event"]:
        """z + C A^T (A C A^T + sigma_y^2 I)^-1 misfit; z where nothing is left of the signal."""
        alpha, sigma = problem.schedule.moments(t)
        if alpha == 0:
            return z
        product = covariance_at(problem, x, t, x_0, self.reach)
        ratio = float(sigma / alpha)
        return z + pull(problem, product, misfit, ratio, self.products, self.tolerance)

    def _down(
        self, problem: Problem, x: Tensor, t: int, s: int, noise: RandomStreams
    ) -> tuple[Tensor, Tensor, Float[Tensor, " batch"]]:
        """x_s ~ q(x_s | x_t, y), E[x_0 | x_t, y] and log p / q."""
        x_0 = problem.denoise(x, t)
        seen = self._conditioned(problem, x, t, x_0, x_0, gaussian(problem).residual(x_0))
        if s == 0:
            return seen, seen, torch.zeros_like(flat(x)[:, 0], dtype=torch.float64)
        c_0, c_t, dev = (float(c) for c in bridge_coefficients(problem.schedule, s, t))
        step, z = c_0 * (seen - x_0), noise.normal_like(x)
        x = c_0 * x_0 + c_t * x + step + dev * z
        # |x - mean_q|^2 = dev^2 |z|^2 and |x - mean_p|^2 = |step + dev z|^2.
        gap = flat(step).double() / dev
        return x, seen, -(gap * (0.5 * gap + flat(z).double())).sum(-1)

    def _draw(
        self, problem: Problem, x: Tensor, t: int, noise: RandomStreams
    ) -> Float[Tensor, "batch *event"]:
        """x_0 given x_t and y."""
        likelihood = gaussian(problem)
        x_0, w = problem.denoise(x, t), noise.normal_like(x)
        product = covariance_at(problem, x, t, x_0, self.reach)(w)
        scale = (flat(w * product).sum(-1) / flat(w * w).sum(-1)).clamp_min(0)
        z = x_0 + like_items(scale, x).sqrt() * noise.normal_like(x)
        y_noise = likelihood.sigma_y * noise.normal_like(likelihood.observation)
        return self._conditioned(problem, x, t, x_0, z, likelihood.residual(z) + y_noise)


PRESETS: dict[str, MGDMMarginal] = {"default": MGDMMarginal()}
