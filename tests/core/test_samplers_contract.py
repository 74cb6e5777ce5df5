"""What every sampler of the list keeps to, whatever its method."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mgdm_core.conditionals import Tweedie, Variational
from mgdm_core.errors import (
    CancelledError,
    CapabilityError,
    DivergenceError,
    SettingsError,
    ShapeError,
)
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.noise import DeviceStreams, RandomStreams
from mgdm_core.operators import (
    FunctionOperator,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    SumOverChannels,
    compose,
)
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.sampler import Start
from mgdm_core.samplers import PRESETS, SAMPLERS, get_sampler
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
    "dps": {"steps": 6},
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
ANY_LIKELIHOOD = sorted(
    n for n in SHORT if "gaussian" not in SAMPLERS[n].needs and n != "mgdm_marginal"
)
OURS = {"mgdm"}
NO_GRADIENT = sorted(n for n in SHORT if "vjp" not in SAMPLERS[n].needs and n not in OURS)
PARTICLES = sorted(name for name in SHORT if SAMPLERS[name].interacting)

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


def test_every_sampler_is_tested():
    assert set(SHORT) == set(SAMPLERS)


def test_an_unknown_name_lists_the_known_ones():
    assert get_sampler("ddrm").name == "ddrm"
    with pytest.raises(SettingsError, match=r"'magic'.*daps, ddnm.*twisted_smc"):
        get_sampler("magic")


@pytest.mark.parametrize("name", ALL)
def test_entries_say_what_they_are(name):
    info = SAMPLERS[name]
    assert info.name == name
    assert info.paper
    assert info.needs <= {"gaussian", "linear", "spectral", "vjp", "mixing"}
    assert all(isinstance(preset, info) for preset in PRESETS[name].values())
    assert PRESETS[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(short(name), dataclasses.fields(info)[0].name, 1)


@pytest.mark.parametrize("name", ALL)
def test_an_item_is_the_same_alone_and_in_any_batch(name):
    likelihood, i = mixture(4), 2
    together, alone = RandomStreams([7, 3, 9, 1]), RandomStreams([9])
    whole = run(name, likelihood, streams=together)
    one = run(name, likelihood.select([i]), streams=alone)
    assert torch.allclose(one.x[0], whole.x[i], rtol=1e-9, atol=1e-12)
    if whole.particles is not None:
        assert torch.allclose(one.particles[0], whole.particles[i], rtol=1e-9, atol=1e-12)
    # Both consumed the same numbers, to the bit: the generators stand at the same place.
    mine, theirs = alone._generators[0].get_state(), together._generators[i].get_state()
    assert torch.equal(mine, theirs)
    assert one.trace.evaluations == pytest.approx(whole.trace.evaluations)
    assert one.trace.vjps == pytest.approx(whole.trace.vjps)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(name):
    first, again = (run(name, streams=RandomStreams.from_seed(2, 3)) for _ in range(2))
    assert torch.equal(first.x, again.x)
    other = run(name, streams=RandomStreams.from_seed(40, 3))
    assert not torch.allclose(first.x, other.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_the_state_is_float32_or_wider_whatever_the_observation(name, dtype):
    result = run(name, mixture(2, dtype, sigma_y=0.2))
    assert result.x.dtype == torch.float32
    assert result.x.shape == (2, *SHAPE)
    assert bool(torch.isfinite(result.x).all())
    assert not result.x.requires_grad


@pytest.mark.parametrize("shape", [(4,), (2, 6), (3, 4, 4)], ids=["vector", "stems", "image"])
@pytest.mark.parametrize("name", [n for n in ALL if n not in MIXING])
def test_events_of_any_shape(name, shape):
    keep = torch.zeros(shape, dtype=torch.bool)
    keep.view(-1)[::2] = True
    y = normal((2, int(keep.sum())), 3)
    result = run(name, GaussianLikelihood(Mask(keep), y, 0.1), shape)
    assert result.x.shape == (2, *shape)
    if name in PARTICLES:
        assert result.particles is not None
        assert result.particles.shape == (2, 5, *shape)


@pytest.mark.parametrize("name", NO_GRADIENT)
def test_gradient_free_methods_build_no_graph(name):
    prior = CoordinatePrior(KARRAS, refuse_grad=True)
    result = run(name, prior=prior)
    assert result.trace.vjps == 0
    assert result.trace.evaluations > 0
    if name in ANY_LIKELIHOOD:  # gradients reach as far as the likelihood
        run(name, _bent(), (4,), prior=prior)


@pytest.mark.parametrize("name", sorted(set(ALL) - set(NO_GRADIENT) - OURS))
def test_methods_that_need_products_count_them(name):
    trace = run(name).trace
    per_step = SHORT[name].get("particles", 1)
    steps = SHORT[name]["steps"]
    assert trace.vjps == trace.evaluations == steps * per_step


def _bent(items=2):
    """A nonlinear Gaussian observation of a vector of four."""
    operator = FunctionOperator(lambda x: x[:, :2] ** 2 + x[:, 2:])
    return GaussianLikelihood(operator, normal((items, 2), 8), 0.3)


@pytest.mark.parametrize("kind", ["nonlinear", "poisson", "callable"])
@pytest.mark.parametrize("name", ANY_LIKELIHOOD)
def test_any_likelihood(name, kind):
    if kind == "nonlinear":
        likelihood = _bent()
    elif kind == "poisson":
        softplus = FunctionOperator(torch.nn.functional.softplus)
        counts = torch.tensor([[0.0, 1.0, 2.0, 5.0], [3.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
        likelihood = PoissonLikelihood(softplus, counts, gain=2.0)
    else:
        likelihood = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), normal((2, 4), 4))
    result = run(name, likelihood, (4,))
    assert result.x.shape == (2, 4)
    assert bool(torch.isfinite(result.x).all())


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
        run(name, _bent(), (4,), settings=short(name, draw="exact"))


def test_an_inflated_twist_asks_for_a_gaussian_likelihood():
    likelihood = CallableLikelihood(lambda x, y: -x.abs().sum(-1), normal((2, 4), 4))
    with pytest.raises(CapabilityError, match="'gaussian'"):
        run("twisted_smc", likelihood, (4,), settings=short("twisted_smc", twist="inflated"))


@pytest.mark.parametrize("name", ALL)
def test_nan_stops_the_run_at_its_level(name):
    """The prior breaks at level 30: the run stops at the first level that met it."""
    prior = CoordinatePrior(KARRAS, nan_from=30)
    with pytest.raises(DivergenceError, match=name) as caught:
        run(name, prior=prior)
    assert caught.value.items == [0, 1, 2]
    met = caught.value.level
    assert met > 0
    if name in (
        "mgdm",
        "mgdm_marginal",
        "tweedie_gibbs",
        "daps",
        "pnp_dm",
        "ding",
        "diffusion_gibbs",
    ):  # an inner chain goes below the level of its step
        assert min(prior.levels) <= 30
    else:
        # MSDM calls the prior somewhat above the level that it then reports.
        assert met <= 30
        assert met == min(prior.levels) or name in MIXING


@pytest.mark.parametrize("name", ALL)
def test_progress_is_reported_and_can_cancel(name):
    seen = []
    run(name, callback=seen.append)
    assert [p.step for p in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].step == seen[-1].steps
    assert {p.sampler for p in seen} == {name}
    assert all(p.estimate.shape == (3, *SHAPE) for p in seen)
    levels = [p.level for p in seen]
    assert levels == sorted(levels, reverse=True)

    def stop(progress):
        return progress.step < 2

    with pytest.raises(CancelledError, match=name):
        run(name, callback=stop)


@pytest.mark.parametrize("name", ALL)
def test_a_start_is_where_the_run_begins(name):
    """From low noise a run stays near its start, which the prior and the data also like."""
    x_0 = 0.2 + 0.1 * normal((3, *SHAPE), 6)
    likelihood = GaussianLikelihood(SumOverChannels(3), x_0.sum(1), 0.05)
    seen = []
    level = KARRAS.level_of_sigma(0.05)
    gentle = {"red_diff": {"learning_rate": 0.01}, "dps": {"gamma": 0.01}}
    settings = short(name, **gentle.get(name, {}))
    result = run(
        name,
        likelihood,
        prior=CoordinatePrior(KARRAS, 0.2, 0.5),
        settings=settings,
        start=Start(x_0, level),
        callback=seen.append,
    )
    assert max(p.level for p in seen) <= level
    distance = float((result.x - x_0).square().mean().sqrt())
    assert distance < 0.12, distance
    free = run(name, likelihood, settings=settings)
    assert distance < 0.6 * float((free.x - x_0).square().mean().sqrt())


@pytest.mark.parametrize("name", ALL)
def test_a_start_of_the_wrong_shape_is_refused(name):
    with pytest.raises(ShapeError, match="start has shape"):
        run(name, start=Start(torch.zeros(3, 2, 2, dtype=torch.float64)))


@pytest.mark.parametrize("name", ALL)
def test_one_stream_per_observation(name):
    with pytest.raises(ShapeError, match="found 2 streams"):
        run(name, streams=RandomStreams.from_seed(0, 2))


BAD = [
    ("dps", {"gamma": 0.0}, "gamma is positive"),
    ("dps", {"eta": 1.5}, "eta lies"),
    ("pgdm", {"weighting": "magic"}, "published.*magic"),
    ("pgdm", {"data_variance": -1.0}, "data_variance"),
    ("ddnm", {"eta": 1.2}, "eta lies"),
    ("ddnm", {"steps": 0}, "steps is at least 1"),
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
    ("guess_and_guide", {"every": 0}, "every is at least 1"),
    ("twisted_smc", {"particles": 0}, "particles is at least 1"),
    ("twisted_smc", {"twist": "magic"}, "auto, inflated, plain"),
    ("mcg_diff", {"threshold": 1.5}, "threshold lies"),
    ("smc_diff", {"particles": 0}, "particles is at least 1"),
    ("msdm_dirac", {"source": -1}, "source is at least 0"),
    ("msdm_dirac", {"sigma_min": 2.0}, "0 < sigma_min < sigma_max"),
    ("msdm_gaussian", {"weight": 0.0}, "weight is positive"),
    ("msdm_gaussian", {"resamples": 0}, "resamples is at least 1"),
]


@pytest.mark.parametrize(("name", "changes", "says"), BAD)
def test_settings_outside_their_domain_are_refused(name, changes, says):
    with pytest.raises(SettingsError, match=says):
        SAMPLERS[name](**changes)


def test_the_tied_stem_of_msdm_must_exist():
    with pytest.raises(SettingsError, match="one of 3 stems"):
        run("msdm_dirac", settings=short("msdm_dirac", source=3))


# -- what the one loop owes every sampler ----------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_saved_run_goes_on_to_the_same_bits(name):
    whole = run(name, streams=RandomStreams.from_seed(3, 3))
    saved = []
    run(name, streams=RandomStreams.from_seed(3, 3), callback=lambda p: saved.append(p.save()))
    for one in saved[:: max(1, len(saved) // 3)]:
        again = run(name, streams=RandomStreams.from_seed(77, 3), resume=one)
        assert torch.equal(again.x, whole.x)
        assert again.trace.records == whole.trace.records
        assert again.trace.evaluations == whole.trace.evaluations
        assert again.trace.vjps == whole.trace.vjps


@pytest.mark.parametrize("name", ALL)
def test_batches_change_nothing(name):
    likelihood = mixture(2)
    whole = run(name, likelihood, streams=RandomStreams.from_seed(0, 4), n=2)
    parts = run(name, likelihood, streams=RandomStreams.from_seed(0, 4), n=2, batch_size=3)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-9, atol=1e-11)
    assert parts.samples.shape == (2, 2, *SHAPE)
    assert parts.trace.evaluations == pytest.approx(whole.trace.evaluations)
    assert len(parts.trace.records) == len(whole.trace.records)


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_that_ends_in_pure_noise(name):
    """alpha_T = 0, as for flow matching: nothing divides by it."""
    flow = NoiseSchedule.flow(60)
    result = run(name, prior=CoordinatePrior(flow, 0.2, 0.5))
    assert bool(torch.isfinite(result.x).all())


def _to_meta(value):
    """A state or a problem's parts with every tensor on the meta device."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_to_meta(v) for v in value))
    return value


@pytest.mark.parametrize("streams", [RandomStreams, DeviceStreams])
@pytest.mark.parametrize("name", ALL)
def test_a_step_reads_nothing_from_the_device(name, streams):
    """On meta tensors there is nothing to read: any question for a number is an error."""
    problem = Problem(CoordinatePrior(KARRAS, 0.2, 0.5), mixture(2), SHAPE)
    sampler, noise = short(name), streams([1, 2])
    sampler.requires(problem)
    plan = sampler.plan(problem)
    state = _to_meta(sampler.init(problem, plan, noise))
    problem = problem.observing(problem.likelihood.observation.to("meta"))
    with torch.no_grad():
        for _ in range(plan.steps):
            state, info = sampler.step(problem, plan, state, noise)
            assert info.x.device.type == info.x_0.device.type == "meta"
    assert state.step == plan.steps


class OnlyAdjoint(LinearOperator):
    """A user's operator: forward and adjoint, nothing else."""

    def __init__(self, matrix):
        self.matrix = matrix

    def forward(self, x):
        return x @ self.matrix.T

    def adjoint(self, y):
        return y @ self.matrix


@pytest.mark.parametrize("name", ["pgdm", "diffpir", "daps", "pnp_dm", "guess_and_guide"])
def test_an_adjoint_is_enough_for_what_a_proximal_map_solves(name):
    matrix, y = normal((2, 4), 21), normal((3, 2), 22)
    own, known = (
        run(name, GaussianLikelihood(operator, y, 0.3), (4,))
        for operator in (OnlyAdjoint(matrix), Matrix(matrix))
    )
    torch.testing.assert_close(own.x, known.x, rtol=1e-4, atol=1e-5)
