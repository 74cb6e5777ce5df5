"""The sampler that suits a problem."""

from __future__ import annotations

from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.problem import Problem
from mgdm_core.sampler import Sampler
from mgdm_core.samplers.ding import PRESETS as DING_PRESETS
from mgdm_core.samplers.mgdm import MGDM
from mgdm_core.samplers.mgdm_marginal import MGDMMarginal
from mgdm_core.steps.data import solves_linear

__all__ = ["default_sampler"]


def default_sampler(problem: Problem) -> Sampler:
    """Choose by what the problem says.

    Up to 64 observed values that look Gaussian near a point (a Gaussian or counts, through any
    operator): x_0 marginalised by matched moments. More, Gaussian and through a linear operator:
    DInG with many steps. All else: MGDM.
    """
    marginal = MGDMMarginal()
    if isinstance(problem.likelihood, ImageLikelihood) and problem.rows <= marginal.max_rows:
        return marginal
    return DING_PRESETS["many-steps"] if solves_linear(problem) else MGDM()
