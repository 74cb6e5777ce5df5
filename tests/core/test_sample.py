"""What the one loop does with its own arguments, and what it says of wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mgdm_core.errors import CancelledError, CapabilityError, SettingsError, ShapeError
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.operators import FunctionOperator, Mask
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import MGDMMarginal, TweedieGibbs
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal
from .samplers_support import CoordinatePrior
from .short_samplers import KARRAS, SHAPE, mixture, run, short


def problem(likelihood, shape=(4,), prior=None):
    return Problem(prior or CoordinatePrior(KARRAS, 0.2, 0.5), likelihood, shape)


def test_a_batch_bounds_all_that_runs_together():
    """The last look at the data too, which behind a decoder is what takes the memory."""
    rows = []

    def decode(x):
        rows.append(len(x))
        return x[:, :2] ** 2

    likelihood = GaussianLikelihood(FunctionOperator(decode), normal((1, 2), 8), 0.3)
    parts = sample(problem(likelihood), short("dps"), n=5, batch_size=2)
    assert max(rows) == 2
    whole = sample(problem(likelihood), short("dps"), n=5)
    assert parts.trace.warnings == whole.trace.warnings
    assert [w.split(":")[0] for w in whole.trace.warnings] == ["data-not-met"]


def test_a_numpy_integer_is_a_seed():
    one, other = (
        sample(problem(mixture(2), SHAPE), short("ddrm"), seed=s).x for s in (3, np.int64(3))
    )
    assert torch.equal(one, other)


def test_looks_are_a_step_apart_at_least():
    with pytest.raises(SettingsError, match="every is a whole number, at least 1; found 0"):
        run("dps", every=0)


def test_an_observation_is_of_real_numbers(unchecked_shapes):
    fourier = FunctionOperator(torch.fft.fft)
    likelihood = GaussianLikelihood(fourier, torch.fft.fft(normal((1, 4), 1)), 0.1)
    with pytest.raises(ShapeError, match=r"real numbers; found torch.complex128.*view_as_real"):
        sample(problem(likelihood), short("dps"))


@pytest.mark.parametrize("name", ["dps", "daps", "mgdm", "twisted_smc"])
def test_labels_stay_whole(name):
    def log_prob(x, y):
        return x.log_softmax(1).gather(1, y)[:, 0]

    likelihood = CallableLikelihood(log_prob, torch.tensor([[1], [3]]))
    result = sample(problem(likelihood), short(name), n=2)
    assert result.x.dtype == torch.float32


@pytest.mark.parametrize("name", ["dps", "pgdm", "mgdm"])
def test_a_denoiser_without_a_gradient_is_named(name):
    class Frozen(CoordinatePrior):
        def denoise(self, x, t):
            return super().denoise(x, t).detach()

    with pytest.raises(CapabilityError, match="'vjp', which Frozen does not have"):
        run(name, prior=Frozen(KARRAS))


@pytest.mark.parametrize("name", ["dps", "daps", "mgdm"])
def test_a_likelihood_without_a_gradient_is_named(name):
    likelihood = CallableLikelihood(
        lambda x, y: -(x.detach() - y).square().sum(1), normal((1, 4), 2)
    )
    with pytest.raises(CapabilityError, match="'gradient', which CallableLikelihood does not"):
        sample(problem(likelihood), short(name))


@pytest.mark.parametrize(
    ("name", "change"), [("ddrm", {"batch_size": 2}), ("ddrm", {"n": 2}), ("ddnm", {})]
)
def test_a_saved_run_goes_on_as_it_was_only(name, change):
    saved = []
    run("ddrm", callback=lambda p: saved.append(p.save()))
    with pytest.raises(SettingsError, match=r"goes on as it was, ddrm in batches of \(3,\)"):
        sample(problem(mixture(), SHAPE), short(name), resume=saved[1], **change)


def test_pure_noise_says_nothing_of_a_variance():
    """A network's slope where alpha is 0 is an error of its own, which nothing may divide by 0."""
    flow = NoiseSchedule.flow(60)

    class Sloped(CoordinatePrior):
        def denoise(self, x, t):
            return super().denoise(x, t) + 0.01 * x

    keep = torch.tensor([True, False, False, False])
    likelihood = GaussianLikelihood(Mask(keep), torch.ones(2, 1, dtype=torch.float64), 0.1)
    result = sample(problem(likelihood, prior=Sloped(flow, 0.2, 0.5)), TweedieGibbs(levels=6))
    assert max(r.magnitude for r in result.trace.records) < 10


@pytest.mark.parametrize("name", ["tweedie_gibbs", "msdm_dirac", "msdm_gaussian", "ddrm"])
def test_the_loop_asks_for_no_float64_of_its_own(name, monkeypatch):
    """Apple's devices have none: there every run would end at its first record."""

    def refuse(self):
        raise TypeError("no float64 here")

    likelihood = mixture(2, torch.float32)
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    result = run(name, likelihood)
    assert result.x.dtype == torch.float32
    assert result.trace.records[-1].residual is not None


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"n": 2.0}, "n is a whole number, at least 1; found 2.0"),
        ({"n": None}, "n is a whole number, at least 1; found None"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"seed": 1.5}, "seeds are whole numbers, one per sample; found 1.5"),
        ({"seed": [0.2, 0.7]}, "seeds are whole numbers"),
        ({"sampler": "ddrm"}, "the sampler is one of mgdm_core's"),
        ({"sampler": TweedieGibbs}, "the sampler is one of mgdm_core's"),
    ],
)
def test_wrong_arguments_end_by_their_rule(wrong, rule, unchecked_shapes):
    given = {"sampler": short("ddrm"), **wrong}
    with pytest.raises(SettingsError, match=rule):
        sample(problem(mixture(2), SHAPE), **given)


@pytest.mark.parametrize("name", ["ddrm", "dps", "mgdm", "diffpir"])
def test_an_observation_of_another_shape_is_refused_at_once(name):
    keep = torch.tensor([True, True, False, False])
    likelihood = GaussianLikelihood(Mask(keep), normal((1, 3), 1), 0.1)
    with pytest.raises(ShapeError, match=r"that A\(x_0\) has, here \(1, 2\); found \(1, 3\)"):
        sample(problem(likelihood), short(name))


@pytest.mark.parametrize("observation", [torch.zeros(0, 2), np.zeros((1, 2)), torch.tensor(1.0)])
def test_an_observation_is_a_tensor_of_rows(observation, unchecked_shapes):
    keep = torch.tensor([True, True, False, False])
    with pytest.raises(ShapeError, match="a tensor of one row per item, one at least; found"):
        sample(problem(GaussianLikelihood(Mask(keep), observation, 0.1)), short("ddrm"))


@pytest.mark.parametrize("no", [False, np.False_, torch.tensor(False)])
def test_a_callback_says_no_with_any_false(no):
    with pytest.raises(CancelledError):
        sample(problem(mixture(2), SHAPE), short("dps"), callback=lambda progress: no)


@pytest.mark.parametrize("answer", [None, 0, [], "", True])
def test_what_is_not_a_boolean_does_not_cancel(answer):
    sample(problem(mixture(2), SHAPE), short("ddrm"), callback=lambda progress: answer)


def test_a_run_is_saved_while_the_callback_looks_at_it():
    kept = []
    sample(problem(mixture(2), SHAPE), short("dps"), callback=kept.append)
    with pytest.raises(SettingsError, match=r"progress\.save\(\) is called by the callback itself"):
        kept[0].save()


def test_a_saved_run_is_resumed_as_often_as_one_likes():
    saved = []

    def keep(progress):
        if progress.step == 1:
            saved.append(progress.save())

    few = MGDMMarginal(levels=4, budget=200)
    keep_two = Mask(torch.tensor([True, False, False, False]))
    asked = problem(GaussianLikelihood(keep_two, normal((1, 1), 3), 0.3))
    whole = sample(asked, few, callback=keep)
    runs = [sample(asked, few, resume=saved[0]) for _ in range(2)]
    assert whole.trace.extra["path_acceptance"]
    for run_again in runs:
        assert run_again.trace.extra == whole.trace.extra
