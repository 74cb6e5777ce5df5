"""The sampler that suits a problem."""

from __future__ import annotations

import torch

from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import Sampler, gaussian
from mgdm_core.samplers.ding import PRESETS as DING_PRESETS
from mgdm_core.samplers.mgdm import MGDM
from mgdm_core.samplers.mgdm import PRESETS as MGDM_PRESETS
from mgdm_core.samplers.mgdm_marginal import MGDMMarginal
from mgdm_core.steps.data import solves_linear

FEW = 48


def default_sampler(problem: Problem) -> Sampler:
    """Choose by what the problem says.

    Gaussian and through a linear operator: up to 48 observed values, x_0 marginalised by matched
    moments. With more, DInG in many steps where every entry of x_0 is seen, as through a blur;
    where some are not, as behind a mask, MGDM in few levels, whose gradients through the denoiser
    carry to them what is seen of the others, and which ends in closed form.

    Other likelihoods that look Gaussian near a point (counts, or a bent operator) up to 64 values:
    matched moments again. All else: MGDM.
    """
    marginal, linear = MGDMMarginal(), solves_linear(problem)
    most = FEW if linear else marginal.max_rows
    if isinstance(problem.likelihood, ImageLikelihood) and problem.rows <= most:
        return marginal
    if not linear:
        return MGDM()
    return DING_PRESETS["many-values"] if _sees_all(problem) else MGDM_PRESETS["unseen-entries"]


def _sees_all(problem: Problem) -> bool:
    """Whether no column of A is zero: nowhere do the adjoints of two random observations vanish."""
    operator: LinearOperator = gaussian(problem).operator  # type: ignore[assignment]
    y, generator = problem.likelihood.observation, torch.Generator().manual_seed(0)
    size = torch.zeros(())
    for _ in range(2):
        probe = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        size = operator.adjoint(probe.to(y)).abs().maximum(size.to(y))
    return bool((size > 1e-6 * size.max()).all())
