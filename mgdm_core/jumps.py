r"""Jumps between modes: x_s drawn given x_t and y with x_0 marginalised.

The Gibbs step of the paper holds x_0 fixed while it draws x_s, so a run rarely leaves the mode
that x_0 fell into when nearly all was noise, and the modes' weights come out wrong. Here x_0 is
integrated out. The pair (x_s, x_t), s < t, has the law p(x_s) g_s(y | x_s) q(x_t | x_s), and two
moves leave it invariant:

- x_t | x_s: forward noising;
- x_s | x_t, y, proportional to p(x_s | x_t) g_s(y | x_s): Metropolis-Hastings with proposals
  from the prior's own backward chain from t to s, which makes the acceptance ratio
  g_s(y | x_s') / g_s(y | x_s).

The likelihood at level s is that of a Gaussian A(x_0) with the moments of Tweedie's formulas, mean
A(D_s(x_s)) and covariance J_A C J_A^T, C = sigma_s^2 / alpha_s J_D: exact for a Gaussian
observation where the prior is Gaussian near x_s, that is, once s is low enough for its modes to lie
apart; Laplace's approximation for other observations. t falls over the jumps, so that early
proposals come from anywhere and later ones from nearby.

It needs few observed numbers: the acceptance falls with what they tell.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.conditionals import Linearised
from mgdm_core.errors import CapabilityError
from mgdm_core.kernels import backward_step, noise_to
from mgdm_core.likelihoods import GaussianLikelihood, ImageLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.run import Run, check
from mgdm_core.schedule import NoiseSchedule

__all__ = ["MarginalJumps"]

NEWTON_STEPS = 8
CARRY_STEPS = 3


@dataclass(frozen=True)
class MarginalJumps:
    """Metropolis-Hastings jumps of x_s with x_0 marginalised.

    Parameters
    ----------
    count : int
        Jumps; the first is a plain draw from the prior.
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
        Largest number of observed values per item that it is offered for.
    """

    count: int = 160
    last: float = 0.6
    first_index: float = 0.5
    index: float = 0.2
    stages: int = 4
    steps: int = 10
    max_rows: int = 16

    def __post_init__(self) -> None:
        check(self.count >= 1 and self.steps >= 1, "count and steps are at least 1", self.count)
        check(self.stages >= 1, "stages is at least 1", self.stages)
        check(
            0 < self.index <= self.first_index < self.last <= 1,
            "shares of T with 0 < index <= first_index < last <= 1",
            (self.index, self.first_index, self.last),
        )

    def applies_to(self, likelihood: Likelihood) -> bool:
        """Whether the likelihood is Gaussian, or locally so, with few enough observed values."""
        rows = flat(likelihood.observation).shape[1]
        return isinstance(likelihood, ImageLikelihood) and rows <= self.max_rows

    def level(self, schedule: NoiseSchedule) -> int:
        """Level s at which the jumps leave x_s."""
        return self.level_of(self.count - 1, schedule)

    def level_of(self, jump: int, schedule: NoiseSchedule) -> int:
        """Level s of one jump."""
        stage = jump * self.stages // self.count
        share = stage / (self.stages - 1) if self.stages > 1 else 1.0
        return max(1, round((self.first_index * (1 - share) + self.index * share) * schedule.last))

    def __call__(
        self, run: Run, x_t: Float[Tensor, "batch *event"]
    ) -> tuple[Float[Tensor, "batch *event"], int]:
        """Run the jumps from x_T; return x_s and the level s."""
        if not self.applies_to(run.likelihood):
            raise CapabilityError(
                run.likelihood,
                f"local_gaussian, with at most {self.max_rows} values",
                "MarginalJumps",
            )
        schedule, top = run.schedule, run.schedule.last
        level = self.level_of(0, schedule)
        x_s, current = x_t, torch.full((run.batch,), -torch.inf, dtype=torch.float64)
        for k in range(self.count):
            above, level = level, self.level_of(k, schedule)
            s = torch.full((run.batch,), level)
            if level < above:
                x_s = self._backward(run, x_s, above, level, CARRY_STEPS)
                _, current = self.log_evidence(run, x_s, s)
            share = k / max(1, self.count - 1)
            t = max(level + 1, round(top + (self.last * top - top) * share))
            if k > 0:
                x_t = noise_to(schedule, x_s, level, t, run.streams)
            proposal = self._backward(run, x_t, t, level, self.steps)
            x_0, proposed = self.log_evidence(run, proposal, s)
            accept = run.streams.uniform() < (proposed - current).exp()
            keep = accept.to(x_t.device).reshape((-1,) + (1,) * (x_t.ndim - 1))
            x_s = torch.where(keep, proposal, x_s)
            current = torch.where(accept, proposed, current)
            run.trace.extra.setdefault("jump_acceptance", []).append(float(accept.double().mean()))
            run.step(t, x_s, x_0, index=s)
        return x_s, level

    @staticmethod
    def _backward(run: Run, x: Tensor, t: int, level: int, steps: int) -> Tensor:
        grid = torch.linspace(t, level, steps + 1, dtype=torch.float64).round().long()
        for upper, lower in itertools.pairwise(grid.tolist()):
            if upper > lower:
                x = backward_step(run.schedule, run.denoise, x, upper, lower, run.streams)
        return x

    @staticmethod
    def log_evidence(
        run: Run, x: Float[Tensor, "batch *event"], s: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """Return D_s(x) and log g_s(y | x), up to a constant, in float64 on the CPU.

        The image u = A(x_0) is N(m, S) with Tweedie's moments. Newton steps in u find the mode of
        g(y | u) N(u; m, S), and Laplace's formula gives the integral over u: exact, after one step,
        for a Gaussian g.
        """
        linearised = Linearised(passes=1)
        x_0, mean, jac, _ = linearised.linearise(run, x, s)
        likelihood: ImageLikelihood = run.likelihood  # type: ignore[assignment]
        cov = linearised.seen_covariance(run, x_0, jac, s)

        def newton(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            seen, variance = likelihood.local_gaussian(image)
            factor = torch.linalg.cholesky(cov + torch.diag_embed(variance))
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
        return x_0, value.to("cpu", torch.float64)
