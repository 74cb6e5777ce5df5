"""MSDM's Dirac separator (Mariani et al. 2024, arXiv 2302.02257, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mgdm_core.array_types import Tensor
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian
from mgdm_core.samplers._msdm import MSDM
from mgdm_core.settings import at_least, check


@dataclass(frozen=True)
class MSDMDirac(MSDM):
    """One stem is the mixture minus the others; their slopes are taken relative to its own.

    du_k / dq = (u_k - D_k) / q - (u_j - D_j) / q for k other than the tied stem j. The result sums
    to the mixture exactly; the likelihood's deviation is not used.

    Parameters
    ----------
    steps, sigma_max, sigma_min, rho, s_churn, resamples
        As in :class:`mgdm_core.samplers._msdm.MSDM`.
    source : int
        Stem that is always the mixture minus the others.
    """

    name: ClassVar[str] = "msdm_dirac"

    source: int = at_least(0, 0)

    def requires(self, problem: Problem) -> None:
        """The mixing operator, and that the tied stem exists."""
        super().requires(problem)
        stems = problem.shape[0]
        check(self.source < stems, f"source is the index of one of {stems} stems", self.source)

    def constrain(self, problem: Problem, u: Tensor) -> Tensor:
        """Tie the stem to the mixture."""
        j = self.source
        tied = u[:, j] + gaussian(problem).residual(u)
        return torch.cat([u[:, :j], tied[:, None], u[:, j + 1 :]], dim=1)

    def derivative(self, problem: Problem, u: Tensor, x_0: Tensor, q: float) -> Tensor:
        """Slope relative to the tied stem's."""
        slope = (u - x_0) / q
        return slope - slope[:, self.source : self.source + 1]


PRESETS: dict[str, MSDMDirac] = {"published": MSDMDirac()}
