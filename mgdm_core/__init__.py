"""Posterior sampling with diffusion priors, for any prior, operator and likelihood.

>>> import mgdm_core
>>> problem = mgdm_core.Problem(prior, likelihood, (48,))  # doctest: +SKIP
>>> result = mgdm_core.sample(problem, mgdm_core.MGDM(), n=20)  # doctest: +SKIP
"""

from mgdm_core import samplers
from mgdm_core.conditionals import Linearised, Tweedie, Variational
from mgdm_core.errors import (
    CancelledError,
    CapabilityError,
    DivergenceError,
    MGDMError,
    SettingsError,
    ShapeError,
)
from mgdm_core.likelihoods import (
    CallableLikelihood,
    GaussianLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from mgdm_core.noise import DeviceStreams, RandomStreams
from mgdm_core.operators import (
    FunctionOperator,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    SpectralOperator,
    SumOverChannels,
    compose,
    stack,
)
from mgdm_core.priors import (
    DenoiserPrior,
    EDMPrior,
    FlowPrior,
    GaussianMixture,
    GaussianMixturePrior,
    GuidedPrior,
    LatentPrior,
    NoisePredictionPrior,
    Prior,
    SamplePrior,
    ScorePrior,
    VelocityPrior,
)
from mgdm_core.problem import Problem
from mgdm_core.sample import SampleResult, SavedRun, sample
from mgdm_core.sampler import Info, Sampler, Start
from mgdm_core.samplers import *  # noqa: F403
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.trace import Progress, Trace

__all__ = [
    "CallableLikelihood",
    "CancelledError",
    "CapabilityError",
    "DenoiserPrior",
    "DeviceStreams",
    "DivergenceError",
    "EDMPrior",
    "FlowPrior",
    "SamplePrior",
    "FunctionOperator",
    "GaussianLikelihood",
    "GaussianMixture",
    "GaussianMixturePrior",
    "GuidedPrior",
    "Identity",
    "Info",
    "LatentPrior",
    "Likelihood",
    "LinearOperator",
    "Linearised",
    "MGDMError",
    "Mask",
    "Matrix",
    "NoisePredictionPrior",
    "NoiseSchedule",
    "Operator",
    "PoissonLikelihood",
    "Prior",
    "Problem",
    "Progress",
    "RandomStreams",
    "SampleResult",
    "Sampler",
    "SavedRun",
    "ScorePrior",
    "SettingsError",
    "ShapeError",
    "SpectralOperator",
    "Start",
    "SumOverChannels",
    "Trace",
    "Tweedie",
    "Variational",
    "VelocityPrior",
    "compose",
    "sample",
    "stack",
]
__all__ += samplers.__all__
