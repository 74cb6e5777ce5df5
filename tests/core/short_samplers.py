"""Every sampler of the list with settings of few steps."""

from __future__ import annotations

import dataclasses

import torch

from mgdm_core.conditionals import Tweedie, Variational
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import FunctionOperator, SumOverChannels
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import SAMPLERS
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal
from .samplers_support import CoordinatePrior

# Settings with few steps; every sampler of the list has an entry, which a test makes sure of.
SHORT = {
    "mgdm": {
        "levels": 6,
        "denoising_steps": 3,
        "conditional": Variational(steps=2, late_steps=2),
    },
    "mgdm_marginal": {"levels": 8, "budget": 60},
    "tweedie_gibbs": {"levels": 4, "conditional": Tweedie("isotropic", data_variance=0.5)},
    "calibrated_guidance": {"steps": 6, "draws": 5, "prior_steps": 2},
    "dps": {"steps": 6},
    "psld": {"steps": 6},
    "resample": {"steps": 6, "every": 2, "data_steps": 3},
    "pgdm": {"steps": 6},
    "ddnm": {"steps": 6},
    "ddrm": {"steps": 6},
    "diffpir": {"steps": 6},
    "diffusion_gibbs": {"iterations": 4, "prior_steps": 2, "rho": 1.0},
    "ding": {"steps": 6, "langevin_steps": 3},
    "flow_dps": {"steps": 6, "data_steps": 3},
    "daps": {"levels": 5, "ode_steps": 2, "langevin_steps": 3},
    "pnp_dm": {"iterations": 5, "prior_steps": 3, "langevin_steps": 3, "rho": 1.0},
    "red_diff": {"steps": 8},
    "guess_and_guide": {"warm_iterations": 3, "steps": 6, "data_steps": 3},
    "twisted_smc": {"steps": 6, "particles": 5},
    "mcg_diff": {"steps": 6, "particles": 5},
    "smc_diff": {"steps": 6, "particles": 5},
    "msdm_dirac": {"steps": 8},
    "msdm_gaussian": {"steps": 8},
}


ALL = sorted(SHORT)


MIXING = sorted(name for name in SHORT if "mixing" in SAMPLERS[name].needs)


SHAPE = (3, 5)


KARRAS = NoiseSchedule.karras(steps=60, sigma_min=2e-3, sigma_max=10.0)


def short(name, **changes):
    """The sampler's default settings with few steps."""
    kind = SAMPLERS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: v for k, v in {**SHORT[name], **changes}.items() if k in known})


def mixture(items=3, dtype=torch.float64, sigma_y=0.05):
    """Mixtures of three stems, five samples each."""
    y = normal((items, 5), 11).to(dtype)
    return GaussianLikelihood(SumOverChannels(3), y, sigma_y)


def run(name, likelihood=None, shape=SHAPE, streams=None, prior=None, **keywords):
    likelihood = mixture() if likelihood is None else likelihood
    streams = streams or RandomStreams.from_seed(5, len(likelihood.observation))
    prior = prior or CoordinatePrior(KARRAS, mean=0.2, variance=0.5)
    settings = keywords.pop("settings", None) or short(name)
    return sample(Problem(prior, likelihood, shape), settings, noise=streams, **keywords)


def bent(items=2):
    """A nonlinear Gaussian observation of a vector of four."""
    operator = FunctionOperator(lambda x: x[:, :2] ** 2 + x[:, 2:])
    return GaussianLikelihood(operator, normal((items, 2), 8), 0.3)
