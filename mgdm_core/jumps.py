r"""Jumps between modes: x_s drawn given x_t and y with x_0 marginalised.

The Gibbs step of the paper holds x_0 fixed while it draws x_s, so a run rarely leaves the mode
that x_0 fell into when nearly all was noise, and the modes' weights come out wrong. Here x_0 is
integrated out. The pair (x_s, x_t), s < t, has the law p(x_s) g_s(y | x_s) q(x_t | x_s), and two
moves leave it invariant:

- x_t | x_s: forward noising;
- x_s | x_t, y, proportional to p(x_s | x_t) g_s(y | x_s): Metropolis-Hastings with proposals
  from the prior's own backward chain from t to s, which makes the acceptance ratio
  g_s(y | x_s') / g_s(y | x_s).

The likelihood at level s is Gaussian with the moments of Tweedie's formulas, mean A(D_s(x_s)) and
covariance J_A C J_A^T + sigma_y^2 I, C = sigma_s^2 / alpha_s J_D: exact where the prior is Gaussian
near x_s, that is, once s is low enough for its modes to lie apart. t falls over the jumps, so that
early proposals come from anywhere and later ones from nearby.

It needs few observed numbers: the acceptance falls with what they tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.conditionals import Linearised
from mgdm_core.errors import CapabilityError
from mgdm_core.kernels import backward_step, noise_to
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.run import Run, check
from mgdm_core.schedule import NoiseSchedule

__all__ = ["MarginalJumps"]


@dataclass(frozen=True)
class MarginalJumps:
    """Metropolis-Hastings jumps of x_s with x_0 marginalised.

    Parameters
    ----------
    count : int
        Jumps; the first is a plain draw from the prior.
    last : float
        t falls from T to ``last`` times T.
    index : float
        s as a share of T, below ``last``.
    steps : int
        Backward steps from t to s for one proposal.
    max_rows : int
        Largest number of observed values per item that it is offered for.
    """

    count: int = 60
    last: float = 0.6
    index: float = 0.35
    steps: int = 15
    max_rows: int = 16

    def __post_init__(self) -> None:
        check(self.count >= 1 and self.steps >= 1, "count and steps are at least 1", self.count)
        check(
            0 < self.index < self.last <= 1,
            "index and last are shares of T with 0 < index < last <= 1",
            (self.index, self.last),
        )

    def applies_to(self, likelihood: Likelihood) -> bool:
        """Whether the likelihood is Gaussian with few enough observed values."""
        rows = flat(likelihood.observation).shape[1]
        return isinstance(likelihood, GaussianLikelihood) and rows <= self.max_rows

    def level(self, schedule: NoiseSchedule) -> int:
        """Level s at which the jumps leave x_s."""
        return max(1, round(self.index * schedule.last))

    def __call__(
        self, run: Run, x_t: Float[Tensor, "batch *event"]
    ) -> tuple[Float[Tensor, "batch *event"], int]:
        """Run the jumps from x_T; return x_s and the level s."""
        if not self.applies_to(run.likelihood):
            raise CapabilityError(
                run.likelihood,
                f"Gaussian observation of at most {self.max_rows} values",
                "MarginalJumps",
            )
        top = run.schedule.last
        level = self.level(run.schedule)
        s = torch.full((run.batch,), level)
        x_s, current = x_t, torch.full((run.batch,), -torch.inf, dtype=torch.float64)
        for k in range(self.count):
            share = k / max(1, self.count - 1)
            t = max(level + 1, round(top + (self.last * top - top) * share))
            if k > 0:
                x_t = noise_to(run.schedule, x_s, level, t, run.streams)
            proposal = self._propose(run, x_t, t, level)
            x_0, proposed = self.log_evidence(run, proposal, s)
            accept = run.streams.uniform() < (proposed - current).exp()
            keep = accept.to(x_t.device).reshape((-1,) + (1,) * (x_t.ndim - 1))
            x_s = torch.where(keep, proposal, x_s)
            current = torch.where(accept, proposed, current)
            run.trace.extra.setdefault("jump_acceptance", []).append(float(accept.double().mean()))
            run.step(t, x_s, x_0, index=s)
        return x_s, level

    def _propose(self, run: Run, x: Tensor, t: int, level: int) -> Tensor:
        grid = torch.linspace(t, level, self.steps + 1, dtype=torch.float64).round().long()
        for upper, lower in zip(grid[:-1].tolist(), grid[1:].tolist()):
            if upper > lower:
                x = backward_step(run.schedule, run.denoise, x, upper, lower, run.streams)
        return x

    @staticmethod
    def log_evidence(
        run: Run, x: Float[Tensor, "batch *event"], s: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """Return D_s(x) and log g_s(y | x) with the Tweedie covariance, float64 on the CPU."""
        linearised = Linearised(passes=1)
        x_0, image, jac, _ = linearised.linearise(run, x, s)
        likelihood: GaussianLikelihood = run.likelihood  # type: ignore[assignment]
        cov = linearised.seen_covariance(run, x_0, jac, s)
        cov = cov + likelihood.sigma_y**2 * torch.eye(cov.shape[-1]).to(cov)
        factor = torch.linalg.cholesky(cov)
        misfit = (flat(likelihood.observation) - image)[:, :, None]
        white = torch.linalg.solve_triangular(factor, misfit, upper=False)[:, :, 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return x_0, (-0.5 * white.square().sum(-1) - log_det).to("cpu", torch.float64)
