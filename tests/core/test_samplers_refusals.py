"""What the samplers of the list refuse, and in what words."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.errors import CapabilityError, SettingsError, ShapeError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import FunctionOperator, Identity, SumOverChannels, compose
from mgdm_core.sampler import Start
from mgdm_core.samplers import SAMPLERS, get_sampler

from .closed_forms import normal
from .short_samplers import ALL, MIXING, SHAPE, bent, run, short


def test_an_unknown_name_lists_the_known_ones():
    assert get_sampler("ddrm").name == "ddrm"
    with pytest.raises(SettingsError, match=r"'magic'.*daps, ddnm.*twisted_smc"):
        get_sampler("magic")


LACKING = [
    *((n, "gaussian") for n in ALL if "gaussian" in SAMPLERS[n].needs),
    *((n, "spectral") for n in ALL if "spectral" in SAMPLERS[n].needs),
    *((n, "linear") for n in ALL if "linear" in SAMPLERS[n].needs),
    *((n, "mixing") for n in MIXING),
]


@pytest.mark.parametrize(("name", "capability"), LACKING)
def test_what_is_missing_is_named(name, capability):
    y = normal((2, 5), 1)
    likelihood = {
        "gaussian": CallableLikelihood(lambda x, y: -x.square().sum((-1, -2)), y),
        "spectral": GaussianLikelihood(compose(SumOverChannels(3), Identity()), y, 0.1),
        "linear": GaussianLikelihood(FunctionOperator(lambda x: x.sum(1)), y, 0.1),
        "mixing": GaussianLikelihood(Identity(), normal((2, *SHAPE), 1), 0.1),
    }[capability]
    with pytest.raises(CapabilityError, match=rf"{name}.*'{capability}'") as caught:
        run(name, likelihood)
    assert caught.value.capability == capability


@pytest.mark.parametrize("name", ["daps", "pnp_dm"])
def test_an_exact_draw_asks_for_what_it_needs(name):
    with pytest.raises(CapabilityError, match="'linear'"):
        run(name, bent(), (4,), settings=short(name, draw="exact"))


def test_an_inflated_twist_asks_for_a_gaussian_likelihood():
    likelihood = CallableLikelihood(lambda x, y: -x.abs().sum(-1), normal((2, 4), 4))
    with pytest.raises(CapabilityError, match="'gaussian'"):
        run("twisted_smc", likelihood, (4,), settings=short("twisted_smc", twist="inflated"))


@pytest.mark.parametrize("name", ALL)
def test_a_start_of_the_wrong_shape_is_refused(name):
    with pytest.raises(ShapeError, match="start has shape"):
        run(name, start=Start(torch.zeros(3, 2, 2, dtype=torch.float64)))
    with pytest.raises(ShapeError, match="start has shape"):  # not one row after another
        run(name, start=Start(torch.zeros(6, *SHAPE, dtype=torch.float64)), batch_size=2)


@pytest.mark.parametrize("level", [-1, 0, 61])
@pytest.mark.parametrize("name", ALL)
def test_a_start_off_the_schedule_is_refused(name, level):
    with pytest.raises(SettingsError, match=rf"level lies in 1\.\.60; found {level}"):
        run(name, start=Start(torch.zeros(3, *SHAPE, dtype=torch.float64), level))


@pytest.mark.parametrize("name", ALL)
def test_one_stream_per_observation(name):
    with pytest.raises(ShapeError, match="found 2 streams"):
        run(name, streams=RandomStreams.from_seed(0, 2))


BAD = [
    ("dps", {"gamma": 0.0}, "gamma is positive"),
    ("dps", {"eta": 1.5}, "eta lies"),
    ("psld", {"eta": -0.1}, "eta is not negative"),
    ("resample", {"gamma": 0.0}, "gamma is positive"),
    ("calibrated_guidance", {"draws": 0}, "draws is a whole number, at least 1"),
    ("pgdm", {"weighting": "magic"}, "published.*magic"),
    ("pgdm", {"data_variance": -1.0}, "data_variance"),
    ("ddnm", {"eta": 1.2}, "eta lies"),
    ("ddnm", {"steps": 0}, "steps is a whole number, at least 1"),
    ("ddrm", {"eta_b": 2.0}, "eta_b lies"),
    ("diffpir", {"lam": 0.0}, "lam is positive"),
    ("diffpir", {"zeta": -0.1}, "zeta lies"),
    ("daps", {"draw": "magic"}, "auto, exact, langevin"),
    ("daps", {"sigma_max": 1.0}, "sigma_max and sigma_min"),
    ("daps", {"sigma_max": 1.0, "sigma_min": 2.0}, "sigma_max and sigma_min"),
    ("daps", {"tau": 0.0}, "tau is positive"),
    ("pnp_dm", {"floor": 20.0}, "0 < floor <= rho"),
    ("pnp_dm", {"decay": 0.0}, "decay lies"),
    ("red_diff", {"learning_rate": 0.0}, "learning_rate is positive"),
    ("red_diff", {"lam": -1.0}, "lam is not negative"),
    ("guess_and_guide", {"warm_share": 0.0}, "warm_share lies"),
    ("guess_and_guide", {"every": 0}, "every is a whole number, at least 1"),
    ("twisted_smc", {"particles": 0}, "particles is a whole number, at least 1"),
    ("twisted_smc", {"twist": "magic"}, "auto, inflated, plain"),
    ("mcg_diff", {"threshold": 1.5}, "threshold lies"),
    ("smc_diff", {"particles": 0}, "particles is a whole number, at least 1"),
    ("msdm_dirac", {"source": -1}, "source is a whole number, at least 0"),
    ("msdm_dirac", {"sigma_min": 2.0}, "0 < sigma_min < sigma_max"),
    ("msdm_gaussian", {"weight": 0.0}, "weight is positive"),
    ("msdm_gaussian", {"resamples": 0}, "resamples is a whole number, at least 1"),
]


@pytest.mark.parametrize(("name", "changes", "says"), BAD)
def test_settings_outside_their_domain_are_refused(name, changes, says):
    with pytest.raises(SettingsError, match=says):
        SAMPLERS[name](**changes)


def test_the_tied_stem_of_msdm_must_exist():
    with pytest.raises(SettingsError, match="one of 3 stems"):
        run("msdm_dirac", settings=short("msdm_dirac", source=3))
