"""MSDM's Gaussian separator (Mariani et al. 2024, arXiv 2302.02257, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mgdm_core.array_types import Tensor
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian
from mgdm_core.samplers._msdm import MSDM
from mgdm_core.settings import positive


@dataclass(frozen=True)
class MSDMGaussian(MSDM):
    """Add the pull of the mixture's residual, with deviation gamma = q, to every stem's slope.

    du_k / dq = (u_k - D_k) / q - (weight / q) (y - sum_j u_j). The likelihood's deviation is not
    used.

    Parameters
    ----------
    steps, sigma_max, sigma_min, rho, s_churn, resamples
        As in :class:`mgdm_core.samplers._msdm.MSDM`.
    weight : float
        The mixture's residual enters the score ``weight`` / gamma^2 times, gamma = q; published
        1/2. At 1 it is the gradient of log N(y; sum_k u_k, gamma^2).
    """

    name: ClassVar[str] = "msdm_gaussian"

    weight: float = positive(0.5)

    def derivative(self, problem: Problem, u: Tensor, x_0: Tensor, q: float) -> Tensor:
        """Slope of the prior and of the mixture."""
        pull = gaussian(problem).residual(u)[:, None]
        return (u - x_0) / q - self.weight / q * pull


PRESETS: dict[str, MSDMGaussian] = {"published": MSDMGaussian()}
