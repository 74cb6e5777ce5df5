"""RED-diff, a variational view with a denoising regulariser (Mardani et al. 2023, 2305.04391)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from mgdm_core.array_types import Events
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, draw, first_level
from mgdm_core.schedule import fit
from mgdm_core.settings import above_0, at_least, not_negative, positive
from mgdm_core.steps.gradients import data_gradient


class REDPlan(NamedTuple):
    """One level per Adam step."""

    levels: tuple[int, ...]
    steps: int


class REDState(NamedTuple):
    """The point and Adam's moments."""

    step: int
    mu: Events
    first: Events
    second: Events


BETA_1, BETA_2, EPS = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class REDDiff(Sampler):
    """Minimise data misfit plus denoising regulariser over a point mu by Adam.

    With the published weight sigma_t / alpha_t the regulariser's gradient
    lam (sigma_t / alpha_t) (eps_hat - eps) is lam (mu - D(x_t)), x_t = alpha_t mu + sigma_t eps.
    A mode seeker: its results spread less than the posterior. Works with any likelihood; no
    gradient of a network. mu begins at the start's estimate, else at the pseudo-inverse of y where
    the operator is linear, else at a standard normal draw.

    Parameters
    ----------
    steps : int
        Adam steps, one per noise level from T down to 1.
    learning_rate : float
        Adam's rate.
    lam : float
        Weight of the regulariser against the data term, which is ||y - A mu||^2 / 2 for a Gaussian
        likelihood and -log g otherwise. Both are means over their entries, as published.
    rate_decay : float
        Adam's rate at the last step as a share of the first's (1 as published).
    """

    name: ClassVar[str] = "red_diff"
    paper: ClassVar[str] = "Mardani et al. 2023, arXiv 2305.04391"

    steps: int = at_least(1, 1000)
    learning_rate: float = positive(0.1)
    lam: float = not_negative(0.25)
    rate_decay: float = above_0(1.0)

    def plan(self, problem: Problem, start: Start | None = None) -> REDPlan:
        """Even levels from the first down to 1."""
        levels = problem.schedule.spaced(self.steps, first_level(problem, start))
        return REDPlan(tuple(levels), len(levels))

    def init(
        self, problem: Problem, plan: REDPlan, noise: RandomStreams, start: Start | None = None
    ) -> REDState:
        """The start's estimate, what explains y best, or noise."""
        likelihood = problem.likelihood
        if start is not None:
            mu = start.x_0
        elif isinstance(likelihood, GaussianLikelihood) and isinstance(
            likelihood.operator, LinearOperator
        ):
            mu = likelihood.operator.pseudo_inverse(likelihood.observation, problem.shape)
        else:
            mu = draw(problem, noise)
        return REDState(0, mu, torch.zeros_like(mu), torch.zeros_like(mu))

    def step(
        self, problem: Problem, plan: REDPlan, state: REDState, noise: RandomStreams
    ) -> tuple[REDState, Info]:
        """One step of Adam."""
        mu, likelihood = state.mu, problem.likelihood
        k, t = state.step + 1, plan.levels[state.step]
        alpha, sigma = problem.schedule.moments(t)
        x_0 = problem.denoise(alpha * mu + sigma * draw(problem, noise), t)
        _, up = data_gradient(likelihood, mu)
        # A mean over the observation's entries beside one over the event's, times the latter.
        scale = mu[0].numel() / problem.rows
        if isinstance(likelihood, GaussianLikelihood):
            scale = scale * fit(likelihood.deviation**2, mu)
        grad = self.lam * (mu - x_0) - scale * up
        first = BETA_1 * state.first + (1 - BETA_1) * grad
        second = BETA_2 * state.second + (1 - BETA_2) * grad**2
        rate = self.learning_rate * (1 - (1 - self.rate_decay) * (k - 1) / max(1, plan.steps - 1))
        size = (second / (1 - BETA_2**k)).sqrt() + EPS
        mu = mu - rate * (first / (1 - BETA_1**k)) / size
        return REDState(k, mu, first, second), Info(t, mu, x_0)

    def finish(
        self, problem: Problem, plan: REDPlan, state: REDState, noise: RandomStreams
    ) -> Result:
        """mu."""
        return Result(state.mu)


PRESETS: dict[str, REDDiff] = {"published": REDDiff()}
