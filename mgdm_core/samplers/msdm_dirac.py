"""MSDM's Dirac separator (Mariani et al. 2024, arXiv 2302.02257, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Tensor
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._msdm import MSDMSettings, integrate, mixing
from mgdm_core.trace import Callback

__all__ = ["MSDMDiracSettings", "PRESETS", "msdm_dirac"]


@dataclass(frozen=True)
class MSDMDiracSettings(MSDMSettings):
    """Settings of the Dirac separator.

    Parameters
    ----------
    steps, sigma_max, sigma_min, rho, s_churn, resamples
        As in :class:`mgdm_core.samplers._msdm.MSDMSettings`.
    source : int
        Stem that is always the mixture minus the others.
    """

    source: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.source >= 0, "source is the index of a stem", self.source)


def msdm_dirac(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: MSDMDiracSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """One stem is the mixture minus the others; their slopes are taken relative to its own.

    du_k / dq = (u_k - D_k) / q - (u_j - D_j) / q for k other than the tied stem j. The result sums
    to the mixture exactly; the likelihood's deviation is not used. No gradient of a network.
    Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on the mixing operator ``SumOverChannels``.
    """
    cfg = settings or MSDMDiracSettings()
    lik = mixing(likelihood, "msdm_dirac")
    run = Run("msdm_dirac", prior, likelihood, shape, streams, callback, cfg.steps)
    j = cfg.source
    check(j < run.shape[0], f"source is the index of one of {run.shape[0]} stems", j)

    def constrain(u: Tensor) -> Tensor:
        tied = u[:, j] + lik.residual(u)
        return torch.cat([u[:, :j], tied[:, None], u[:, j + 1 :]], dim=1)

    def derivative(u: Tensor, x_0: Tensor, q: float) -> Tensor:
        slope = (u - x_0) / q
        return slope - slope[:, j : j + 1]

    return run.finish(integrate(run, cfg, derivative, constrain, start))


PRESETS: dict[str, MSDMDiracSettings] = {"published": MSDMDiracSettings()}
