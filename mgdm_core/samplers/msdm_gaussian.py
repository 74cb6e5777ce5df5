"""MSDM's Gaussian separator (Mariani et al. 2024, arXiv 2302.02257, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgdm_core.array_types import Tensor
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._msdm import MSDMSettings, integrate, mixing
from mgdm_core.trace import Callback

__all__ = ["MSDMGaussianSettings", "PRESETS", "msdm_gaussian"]


@dataclass(frozen=True)
class MSDMGaussianSettings(MSDMSettings):
    """Settings of the Gaussian separator.

    Parameters
    ----------
    steps, sigma_max, sigma_min, rho, s_churn, resamples
        As in :class:`mgdm_core.samplers._msdm.MSDMSettings`.
    weight : float
        The mixture's residual enters the score ``weight`` / gamma^2 times, gamma = q; published
        1/2. At 1 it is the gradient of log N(y; sum_k u_k, gamma^2).
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.weight > 0, "weight is positive", self.weight)


def msdm_gaussian(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: MSDMGaussianSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Add the pull of the mixture's residual, with deviation gamma = q, to every stem's slope.

    du_k / dq = (u_k - D_k) / q - (weight / q) (y - sum_j u_j). The likelihood's deviation is not
    used. No gradient of a network. Parameters as in :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        Without a Gaussian likelihood on the mixing operator ``SumOverChannels``.
    """
    cfg = settings or MSDMGaussianSettings()
    lik = mixing(likelihood, "msdm_gaussian")
    run = Run("msdm_gaussian", prior, likelihood, shape, streams, callback, cfg.steps)

    def derivative(u: Tensor, x_0: Tensor, q: float) -> Tensor:
        return (u - x_0) / q - cfg.weight / q * lik.residual(u)[:, None]

    return run.finish(integrate(run, cfg, derivative, lambda u: u, start))


PRESETS: dict[str, MSDMGaussianSettings] = {"published": MSDMGaussianSettings()}
