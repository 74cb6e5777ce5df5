"""What every sampler of the list keeps to, whatever its method."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mgdm_core import precision
from mgdm_core.errors import CancelledError, DivergenceError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.noise import DeviceStreams, RandomStreams
from mgdm_core.operators import FunctionOperator, LinearOperator, Mask, Matrix, SumOverChannels
from mgdm_core.problem import Problem
from mgdm_core.sampler import Start
from mgdm_core.samplers import PRESETS, SAMPLERS
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal
from .samplers_support import CoordinatePrior
from .short_samplers import ALL, KARRAS, MIXING, SHAPE, SHORT, bent, mixture, run, short

ANY_LIKELIHOOD = sorted(
    n for n in SHORT if "gaussian" not in SAMPLERS[n].needs and n != "mgdm_marginal"
)
OURS = {"mgdm"}
NO_GRADIENT = sorted(n for n in SHORT if "vjp" not in SAMPLERS[n].needs and n not in OURS)
PARTICLES = sorted(name for name in SHORT if SAMPLERS[name].interacting)


def test_every_sampler_is_tested():
    assert set(SHORT) == set(SAMPLERS)


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
        run(name, bent(), (4,), prior=prior)


@pytest.mark.parametrize("name", sorted(set(ALL) - set(NO_GRADIENT) - OURS))
def test_methods_that_need_products_count_them(name):
    trace = run(name).trace
    per_step = SHORT[name].get("particles", 1)
    steps = SHORT[name]["steps"]
    assert trace.vjps == trace.evaluations == steps * per_step


@pytest.mark.parametrize("kind", ["nonlinear", "poisson", "callable"])
@pytest.mark.parametrize("name", ANY_LIKELIHOOD)
def test_any_likelihood(name, kind):
    if kind == "nonlinear":
        likelihood = bent()
    elif kind == "poisson":
        softplus = FunctionOperator(torch.nn.functional.softplus)
        counts = torch.tensor([[0.0, 1.0, 2.0, 5.0], [3.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
        likelihood = PoissonLikelihood(softplus, counts, gain=2.0)
    else:
        likelihood = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), normal((2, 4), 4))
    result = run(name, likelihood, (4,))
    assert result.x.shape == (2, 4)
    assert bool(torch.isfinite(result.x).all())


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
        "calibrated_guidance",
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
    gentle = {
        "red_diff": {"learning_rate": 0.01},
        "dps": {"gamma": 0.01},
        "psld": {"eta": 0.01, "gamma": 0.01},
    }
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


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for found in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(found, torch.Tensor) and found.device.type == "meta":
                assert found.dtype != torch.float64, str(func)
        return result


@pytest.mark.parametrize("streams", [RandomStreams, DeviceStreams])
@pytest.mark.parametrize("name", ALL)
def test_no_step_needs_float64(name, streams, monkeypatch):
    """As above, from the first state on, and nothing on the device is wider than float32."""
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", frozenset({"meta"}))
    # Schedules keep their tables per device: one that no other test has asked.
    prior = CoordinatePrior(NoiseSchedule(KARRAS.alpha, KARRAS.sigma), 0.2, 0.5)
    problem = Problem(prior, mixture(2, torch.float32), SHAPE)
    sampler, noise = short(name), streams([1, 2])
    plan = sampler.plan(problem)
    observed = problem.likelihood.observation.to("meta")
    with torch.no_grad(), NoFloat64():
        problem = problem.observing(observed)
        state = sampler.init(problem, plan, noise)
        for _ in range(plan.steps):
            state, _ = sampler.step(problem, plan, state, noise)
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
