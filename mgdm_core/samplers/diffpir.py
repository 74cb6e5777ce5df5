"""DiffPIR, plug-and-play restoration with a diffusion prior (Zhu et al. 2023, arXiv 2305.08995)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import draw, gaussian
from mgdm_core.samplers.descent import Descent
from mgdm_core.settings import positive, share
from mgdm_core.steps.grids import posterior_variance


@dataclass(frozen=True)
class DiffPIR(Descent):
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

    lam: float = positive(1.0)
    zeta: float = share(0.1)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, solve, noise again."""
        lik = gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        alpha_t, sigma_t = problem.schedule.moments(t)
        alpha_s, sigma_s = problem.schedule.moments(s)
        weight = posterior_variance(problem.schedule, t, None) / (self.lam * lik.sigma_y**2)
        x_0 = operator.proximal(problem.denoise(x, t), lik.observation, weight)
        # Of the old noise (x - alpha_t x_0) / sigma_t and the fresh, by their shares.
        old, fresh = (1 - self.zeta) ** 0.5 * sigma_s / sigma_t, self.zeta**0.5 * sigma_s
        kept = (alpha_s - old * alpha_t) * x_0 + old * x
        return kept + fresh * draw(problem, noise), x_0


PRESETS: dict[str, DiffPIR] = {"masks": DiffPIR(zeta=1.0), "other": DiffPIR(zeta=0.1)}
