"""Diffusion priors: every network, whatever it predicts, becomes ``denoise(x, t)``."""

from mgdm_core.priors.diffusers import autoencoded, from_diffusers, text_conditions
from mgdm_core.priors.guided import GuidedPrior
from mgdm_core.priors.latent import LatentPrior
from mgdm_core.priors.mixture import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.priors.network import (
    DenoiserPrior,
    EDMPrior,
    FlowPrior,
    NoisePredictionPrior,
    SamplePrior,
    ScorePrior,
    VelocityPrior,
)
from mgdm_core.priors.protocol import Denoised, Prior, VariancePrior, level_vector

__all__ = [
    "Denoised",
    "DenoiserPrior",
    "EDMPrior",
    "FlowPrior",
    "GaussianMixture",
    "GaussianMixturePrior",
    "GuidedPrior",
    "LatentPrior",
    "NoisePredictionPrior",
    "Prior",
    "SamplePrior",
    "ScorePrior",
    "VariancePrior",
    "VelocityPrior",
    "autoencoded",
    "from_diffusers",
    "isotropic_mixture",
    "level_vector",
    "text_conditions",
]
