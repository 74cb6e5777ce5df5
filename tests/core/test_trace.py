"""What a run records, and that each failure signature is named when, and only when, it shows."""

import json
from dataclasses import replace

import pytest
import torch

from mgdm_core.conditionals import Linearised, Variational
from mgdm_core.index_laws import Fraction, NearZero
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import Matrix
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import MGDM, MGDMMarginal
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.trace import StepRecord, failure_signatures, peak_memory_bytes

from .closed_forms import normal

SCHEDULE = NoiseSchedule.vp_linear()
DIM = 6
HEALTHY = MGDM(levels=14, denoising_steps=3, index_law=Fraction(0.5), conditional=Linearised(1))


def run(settings, sigma_y=0.1, items=3):
    prior = GaussianMixturePrior(
        GaussianMixture(
            torch.ones(1), torch.zeros(1, DIM), torch.eye(DIM, dtype=torch.float64)[None]
        ),
        SCHEDULE,
    )
    matrix = normal((2, DIM), 1)
    y = (normal((1, DIM), 2) @ matrix.T + sigma_y * normal((1, 2), 3)).expand(items, 2)
    likelihood = GaussianLikelihood(Matrix(matrix), y, sigma_y)
    return sample(Problem(prior, likelihood, (DIM,)), settings).trace


def names(trace) -> list[str]:
    return [w.split(":")[0] for w in trace.warnings]


def test_a_healthy_run_names_nothing():
    assert run(MGDMMarginal(20, budget=300)).warnings == []
    published = replace(
        HEALTHY, levels=20, conditional=Variational(5, 20, learning_rate=0.03), denoising_steps=8
    )
    # Twenty levels with the paper's conditional leave the data at twice their deviation: true.
    assert set(names(run(published))) <= {"data-not-met"}


def test_too_few_conditional_steps_at_the_end():
    starved = replace(HEALTHY, conditional=Variational(1, 1, learning_rate=1e-6))
    trace = run(starved, sigma_y=0.02)
    assert names(trace) == ["data-not-met", "conditional-not-converged"]
    assert "take more conditional steps at the end" in trace.warnings[1]
    assert trace.records[-1].residual > 3 * 0.02


def test_an_index_stuck_near_zero():
    trace = run(replace(HEALTHY, index_law=NearZero(2)))
    assert "index-stuck-near-zero" in names(trace)
    assert any("reaches higher levels" in w for w in trace.warnings)


class Wild:
    """Leaves the conditional alone in the first half of a run and blows it up in the second."""

    def requires(self, problem):
        pass

    def __call__(self, problem, x_0, x_t, s, place, noise):
        draw = Linearised(1)(problem, x_0, x_t, s, place, noise)
        factor = 1.0 if place.before(0.5) else 1e4
        return draw._replace(x_s=factor * draw.x_s)


@pytest.mark.parametrize("conditional", [Variational(1, 1, learning_rate=200.0), Wild()])
def test_divergence_in_the_first_step_or_later(conditional):
    trace = run(replace(HEALTHY, conditional=conditional))
    assert "divergence" in names(trace)
    assert any("lower the learning rate" in w for w in trace.warnings)


def record(level, index=None, before=None, after=None, residual=None):
    return StepRecord(level, index, before, after, residual, 1.0)


def test_short_runs_and_missing_numbers_are_not_judged():
    assert failure_signatures([record(900, 1.0)] * 3, 1000) == []
    assert failure_signatures([record(900)] * 20, 1000, 0.1) == []
    converged = [record(5, 2.0, 10.0, 9.9, 0.1)] * 20  # residual at sigma_y: fits
    assert failure_signatures(converged, 1000, 0.1) == []
    falling = [record(5, 2.0, 100.0, 1.0, 0.9)] * 20  # the conditional still gains a lot
    assert failure_signatures(falling, 1000, 0.1) == []


def test_a_residual_that_begins_at_zero_may_grow_to_the_noise():
    projected = [record(900 - k, residual=1e-14) for k in range(20)] + [record(1, residual=0.1)]
    assert failure_signatures(projected, 1000, 0.1) == []
    assert failure_signatures(projected, 1000, 0.005)[0].startswith("divergence")


def test_low_indices_at_low_levels_are_right():
    low = [record(20, 1.0)] * 20
    assert failure_signatures(low, 1000) == []
    mixed = [record(900, 1.0)] * 8 + [record(900, 450.0)] * 8
    assert failure_signatures(mixed, 1000) == []


def test_every_step_is_recorded():
    trace = run(HEALTHY)
    grid = SCHEDULE.spaced(14, stop=2)[1:]
    assert [r.level for r in trace.records] == grid
    assert [r.index for r in trace.records] == [round(0.5 * t) for t in grid]
    assert all(r.loss_before is not None and r.loss_after is not None for r in trace.records)
    assert all(r.residual > 0 and r.magnitude > 0 for r in trace.records)
    assert trace.seconds > 0
    assert trace.sampler == "mgdm"


def test_a_trace_is_plain_numbers():
    trace = run(HEALTHY)
    again = json.loads(json.dumps(trace.to_dict()))
    assert again["evaluations"] == trace.evaluations
    assert again["records"][0]["level"] == trace.records[0].level
    assert set(again) == {
        "sampler",
        "records",
        "evaluations",
        "vjps",
        "seconds",
        "peak_memory",
        "warnings",
        "extra",
    }


def test_peak_memory_is_that_of_the_process():
    before = peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(before // 8 + 2**23, dtype=torch.float64)  # more than ever was in use
    after = peak_memory_bytes(torch.device("cpu"))
    assert after >= block.numel() * 8 > before
    assert run(HEALTHY).peak_memory >= after


def test_a_likelihood_without_residual_leaves_it_out():
    settings = replace(HEALTHY, conditional=Variational(2, 2))
    prior = GaussianMixturePrior(
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]), SCHEDULE
    )
    own = CallableLikelihood(lambda x, y: -(x - y).square().sum(1), normal((2, 2), 1))
    trace = sample(Problem(prior, own, (2,)), settings, noise=RandomStreams([0, 1])).trace
    assert all(r.residual is None for r in trace.records)
    assert all(r.loss_after == pytest.approx(r.loss_after) for r in trace.records)
    assert trace.warnings == []
