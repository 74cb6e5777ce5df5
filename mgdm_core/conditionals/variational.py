"""The paper's draw: a diagonal Gaussian fitted by Adam."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.conditionals.protocol import ConditionalDraw, Place
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian, require
from mgdm_core.schedule import Level, fit
from mgdm_core.settings import Settings, at_least, one_of, positive, share
from mgdm_core.steps.bridge import bridge_moments
from mgdm_core.steps.conditioning import condition_gaussian
from mgdm_core.steps.data import decouple
from mgdm_core.steps.gradients import loss_and_gradient

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Variational(Settings):
    """A diagonal Gaussian fitted by Adam (Janati et al. 2025, Gauss_VI).

    Starts at the bridge's mean and deviation; each Adam step takes one reparameterised sample of
    -log g(y | D_s(x_s)) plus the KL divergence to the bridge. The published code samples that
    divergence; its closed form, taken here, has the same mean and no variance.

    Parameters
    ----------
    steps : int
        Adam steps.
    late_steps : int
        Adam steps once ``late_from`` of the run is done, and at every ``every``-th outer step if
        that is positive.
    late_from : float
        Share of the run after which ``late_steps`` are taken.
    every : int
        Period of extra ``late_steps``; 0 for none.
    learning_rate : float
        Adam's rate for the mean, which moves a coordinate by about as much, in the units of the
        state that ``stated_for`` names. (The log-deviation has no unit.)
    early_learning_rate : float or None
        Used for the first ``early`` share of the run.
    early : float
    stated_for : {"vp", "ve", "bridge"}
        ``bridge``: the rate is a share of the bridge's own deviation, whatever the schedule. Else
        schedules whose states the rates are stated for: variance-preserving, where
        alpha^2 + sigma^2 = 1, or variance-exploding, where alpha = 1. At a level of the same
        noise-to-signal ratio a state of another schedule is as many times larger, and so is the
        rate.
    begin : {"bridge", "data"}
        Where Adam's mean begins: at the bridge's, as published, or where it meets the data in
        closed form while the noise that the network predicts at a draw of the bridge is held (the
        decoupled likelihood of DInG), at one evaluation. ``data`` asks for a Gaussian likelihood on
        a linear operator.
    """

    steps: int = at_least(1, 5)
    late_steps: int = at_least(1, 20)
    late_from: float = share(0.7)
    every: int = at_least(0, 0)
    learning_rate: float = positive(0.03)
    early_learning_rate: float | None = positive(None)
    early: float = share(0.11)
    stated_for: str = one_of(("vp", "ve", "bridge"), "vp")
    begin: str = one_of(("bridge", "data"), "bridge")

    def requires(self, problem: Problem) -> None:
        """Any problem will do where Adam begins at the bridge."""
        if self.begin == "data":
            require(problem, "the variational conditional with begin='data'", "gaussian", "linear")

    def at(self, place: Place) -> tuple[int, float]:
        """Number of Adam steps and learning rate at this place of the run."""
        extra = self.every > 0 and place.step % self.every == 0
        early = self.early_learning_rate is not None and place.before(self.early)
        rate = self.early_learning_rate if early else self.learning_rate
        late = not place.before(self.late_from)
        return (self.late_steps if late or extra else self.steps), float(rate)  # type: ignore

    def fit(
        self,
        problem: Problem,
        mean: Events,
        dev: Float[Tensor, "..."],
        s: Level,
        steps: int,
        rate: float,
        noise: RandomStreams,
        begin: Events | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fit N(m, exp(2 rho)) to g_s times N(mean, dev^2); return m, rho, first and last loss.

        m begins at ``begin``, by default at the mean.
        """
        alpha, sigma = problem.schedule.moments(s)
        scale = alpha if self.stated_for == "ve" else (alpha**2 + sigma**2) ** 0.5
        dev = dev.expand_as(mean)
        rates = (rate * dev if self.stated_for == "bridge" else fit(rate * scale, mean), rate)
        m, rho = mean if begin is None else begin, dev.log()
        prior_precision = dev.square().reciprocal()
        first = [torch.zeros_like(mean) for _ in rates]
        second = [torch.zeros_like(mean) for _ in rates]
        losses: list[Tensor] = []
        for k in range(1, steps + 1):
            z = noise.normal_like(mean)
            spread = rho.exp()
            _, loss, grad = loss_and_gradient(
                problem, m + spread * z, s, lambda x_0: -problem.likelihood.log_prob(x_0)
            )
            losses.append(loss)
            gradients = (
                grad + (m - mean) * prior_precision,
                grad * z * spread + spread**2 * prior_precision - 1,
            )
            updates = []
            for j, g in enumerate(gradients):
                first[j] = BETA_1 * first[j] + (1 - BETA_1) * g
                second[j] = BETA_2 * second[j] + (1 - BETA_2) * g**2
                size = (second[j] / (1 - BETA_2**k)).sqrt() + EPS
                updates.append(rates[j] / (1 - BETA_1**k) * first[j] / size)
            m, rho = m - updates[0], rho - updates[1]
        return m, rho, losses[0], losses[-1]

    def __call__(
        self,
        problem: Problem,
        x_0: Events,
        x_t: Events,
        s: Level,
        place: Place,
        noise: RandomStreams,
    ) -> ConditionalDraw:
        """Fit and draw once."""
        mean, dev = bridge_moments(problem.schedule, x_0, x_t, s, place.t)
        steps, rate = self.at(place)
        begin = _at_data(problem, mean, dev, s, noise) if self.begin == "data" else None
        m, rho, before, after = self.fit(problem, mean, dev, s, steps, rate, noise, begin)
        return ConditionalDraw(m + rho.exp() * noise.normal_like(m), before, after)


def _at_data(
    problem: Problem, mean: Events, dev: Float[Tensor, "..."], s: Level, noise: RandomStreams
) -> Events:
    """Mean of x_s given y under the decoupled likelihood."""
    alpha, sigma = (fit(moment, mean) for moment in problem.schedule.moments(s))
    eps, centre = decouple(problem, mean, dev, s, noise)
    variance = ((dev / alpha) ** 2).reshape(-1).expand(len(mean))
    likelihood = gaussian(problem)
    operator: LinearOperator = likelihood.operator  # type: ignore[assignment]
    clean = condition_gaussian(
        centre, variance, operator, likelihood.observation, likelihood.sigma_y
    )
    return alpha * clean + sigma * eps
