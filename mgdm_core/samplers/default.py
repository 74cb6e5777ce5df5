"""The sampler that suits a problem."""

from __future__ import annotations

from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.problem import Problem
from mgdm_core.sampler import Sampler
from mgdm_core.samplers.ding import PRESETS as DING_PRESETS
from mgdm_core.samplers.mgdm import MGDM
from mgdm_core.samplers.mgdm import PRESETS as MGDM_PRESETS
from mgdm_core.samplers.mgdm_jumps import MGDMJumps
from mgdm_core.samplers.mgdm_marginal import MGDMMarginal
from mgdm_core.steps.data import solves_linear

__all__ = ["default_sampler"]

# With as many numbers, the jumps take no more vector-Jacobian products than the published setting.
JUMP_ROWS = 4
FEW_ROWS = 16


def default_sampler(problem: Problem) -> Sampler:
    """Choose by what the problem says.

    A Gaussian observation through a linear operator: x_0 marginalised by matched moments for up to
    64 values, DInG with many steps for more. Another likelihood that looks Gaussian nearby: jumps
    for very few observed values, the linearised conditional for few. All else: MGDM.
    """
    if solves_linear(problem):
        marginal = MGDMMarginal()
        return marginal if problem.rows <= marginal.max_rows else DING_PRESETS["many-steps"]
    if isinstance(problem.likelihood, ImageLikelihood):
        if problem.rows <= JUMP_ROWS:
            return MGDMJumps(max_rows=JUMP_ROWS)
        if problem.rows <= FEW_ROWS:
            return MGDM_PRESETS["best"]
    return MGDM()
