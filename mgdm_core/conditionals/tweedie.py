"""No vector-Jacobian product: x_0 is conditioned given x_s by its Tweedie variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Events, Tensor
from mgdm_core.conditionals.protocol import ConditionalDraw, Place
from mgdm_core.errors import CapabilityError
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, flat
from mgdm_core.priors import VariancePrior
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian, require
from mgdm_core.schedule import Level, fit
from mgdm_core.settings import Settings, not_negative, one_of, positive
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.conditioning import condition_gaussian


@dataclass(frozen=True)
class Tweedie(Settings):
    """Condition x_0 given x_s in closed form, with no vector-Jacobian product.

    x_s is drawn from the bridge without y; D_s(x_s) and Var[x_0 | x_s] = sigma_s^2 / alpha_s J
    (Tweedie's second-order formula) give a Gaussian on x_0, which is conditioned on y exactly;
    x_s is then drawn from the bridge again through the new x_0. One evaluation.

    Parameters
    ----------
    variance : {"auto", "prior", "probe", "isotropic"}
        ``prior``: the prior's own diagonal (a :class:`~mgdm_core.priors.VariancePrior`);
        ``probe``: one value per item, mean of J's diagonal by one finite difference (one more
        evaluation); ``isotropic``: sigma^2 / (sigma^2 + alpha^2 data_variance) data_variance;
        ``auto``: ``prior`` where it can, else ``probe``.
    draw : bool
        Draw x_0 | x_s, y; otherwise take its mean.
    data_variance : float
        Variance of the data for ``isotropic``.
    floor : float
        Share of sigma_s^2 below which no variance falls, so that no coefficient is ever certain.
    """

    variance: str = one_of(("auto", "prior", "probe", "isotropic"), "auto")
    draw: bool = True
    data_variance: float = positive(1.0)
    floor: float = not_negative(0.0)

    def requires(self, problem: Problem) -> None:
        """A Gaussian likelihood on a linear operator; ``prior``: a prior that has variances."""
        require(problem, "the Tweedie conditional", "gaussian", "linear")
        if self.variance == "prior" and not isinstance(problem.prior, VariancePrior):
            raise CapabilityError(problem.prior, "denoise_with_variance", "variance='prior'")

    def condition(self, problem: Problem, x_s: Events, s: Level, noise: RandomStreams) -> Events:
        """Draw (or the mean of) x_0 given x_s and y, at one evaluation; alpha_s is positive."""
        likelihood = gaussian(problem)
        kind = self.variance
        if kind == "auto":
            kind = "prior" if isinstance(problem.prior, VariancePrior) else "probe"
        alpha, sigma = problem.schedule.moments(s)
        basis = None
        if kind == "prior":
            mean, variance, basis = problem.denoise_with_variance(x_s, s)
        else:
            mean = problem.denoise(x_s, s)
            if kind == "isotropic":
                d = self.data_variance
                variance = fit(sigma**2 * d / (sigma**2 + alpha**2 * d), mean)
            else:
                z = noise.normal_like(x_s)
                step = fit(1e-2 * sigma, x_s)
                slope = (problem.denoise(x_s + step * z, s) - mean) / step
                # Over z's own energy: exact where J is a multiple of the identity.
                gain = (flat(z * slope).sum(-1) / flat(z * z).sum(-1)).clamp_min(0)
                variance = (fit(sigma**2 / alpha, gain) * gain).clamp_max(1e6)
            variance = variance if isinstance(variance, Tensor) else mean.new_full((1,), variance)
            variance = variance.reshape(-1).expand(len(mean))
        low = fit(self.floor * sigma**2, variance)
        variance = torch.clamp_min(variance, low)
        operator: LinearOperator = likelihood.operator  # type: ignore[assignment]
        return condition_gaussian(
            mean,
            variance,
            operator,
            likelihood.observation,
            likelihood.sigma_y,
            basis=basis,  # type: ignore[arg-type]
            noise=noise if self.draw else None,
        )

    def __call__(
        self,
        problem: Problem,
        x_0: Events,
        x_t: Events,
        s: Level,
        place: Place,
        noise: RandomStreams,
    ) -> ConditionalDraw:
        """Bridge, condition, bridge."""
        schedule = problem.schedule
        x_s = bridge_sample(schedule, x_0, x_t, s, place.t, noise)
        x_0 = self.condition(problem, x_s, s, noise)
        return ConditionalDraw(bridge_sample(schedule, x_0, x_t, s, place.t, noise))
