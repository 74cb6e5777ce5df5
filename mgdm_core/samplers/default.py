"""The sampler that suits a problem."""

from __future__ import annotations

from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.problem import Problem
from mgdm_core.sampler import Sampler
from mgdm_core.samplers.mgdm import MGDM
from mgdm_core.samplers.mgdm import PRESETS as MGDM_PRESETS
from mgdm_core.samplers.mgdm_jumps import MGDMJumps

__all__ = ["default_sampler"]

# With as many numbers, the jumps take no more vector-Jacobian products than the published setting.
JUMP_ROWS = 4
FEW_ROWS = 16


def default_sampler(problem: Problem) -> Sampler:
    """MGDM with what suits the problem; jumps before it where very few numbers are observed."""
    if isinstance(problem.likelihood, ImageLikelihood):
        if problem.rows <= JUMP_ROWS:
            return MGDMJumps(max_rows=JUMP_ROWS)
        if problem.rows <= FEW_ROWS:
            return MGDM_PRESETS["best"]
    return MGDM()
