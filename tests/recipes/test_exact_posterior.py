"""The exact-posterior benchmark: its distances, its posteriors by quadrature, its rows."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mgdm_core.priors import isotropic_mixture
from mgdm_core.samplers import PRESETS, SAMPLERS
from recipes.exact_posterior import runner, variants
from recipes.exact_posterior.memory import PeakMeter
from recipes.exact_posterior.metrics import coverage, sliced_wasserstein, total_variation
from recipes.exact_posterior.problems import Case, build
from recipes.exact_posterior.quadrature import GridPosterior
from recipes.exact_posterior.runner import Job, cost, plan, refused, run_job
from recipes.exact_posterior.streams import BatchStreams

CASE = Case("linear", 4, 1, 0.5, 0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- distances -------------------------------------------------------------------------------------


def points(count: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)


def test_the_distance_of_a_shift_is_its_mean_projection():
    x, shift = points(300, 2, 1), torch.tensor([3.0, 4.0], dtype=torch.float64)
    # E |<shift, theta>| over the circle is 2 |shift| / pi.
    got = sliced_wasserstein(x, x + shift, projections=4000)
    assert got == pytest.approx(2 * 5 / math.pi, rel=0.02)
    assert sliced_wasserstein(x, x) == 0
    assert sliced_wasserstein(x, x + shift) == sliced_wasserstein(x + shift, x)


def test_sets_of_unequal_size_compare_by_quantiles():
    x, y = points(60, 3, 1), points(90, 3, 2)
    # Repeating every point changes no law.
    want = sliced_wasserstein(x.repeat(3, 1), y.repeat(2, 1))
    assert sliced_wasserstein(x, y) == pytest.approx(want, rel=1e-9)


def test_coverage_is_the_share_inside_the_central_interval():
    x, y = points(4000, 3, 1), points(4000, 3, 2)
    assert coverage(x, y) == pytest.approx(0.9, abs=0.01)
    # Of a normal law 0.589 lie within half of its 90 % interval, and 1 within twice it.
    assert coverage(0.5 * x, y) == pytest.approx(math.erf(0.5 * 1.6449 / 2**0.5), abs=0.02)
    assert coverage(2 * x, y) > 0.99


def test_total_variation_of_the_modes():
    which = torch.tensor([0, 0, 1, 3])
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    assert total_variation(which, weights) == pytest.approx(0.25)
    assert total_variation(torch.tensor([0, 1, 0, 2]), weights) == 0


# -- posteriors ------------------------------------------------------------------------------------


def test_quadrature_is_the_closed_form_where_there_is_one():
    pairs = torch.tensor([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], dtype=torch.float64)
    mixture = isotropic_mixture(
        torch.rand(9, generator=torch.Generator().manual_seed(1)), 8 * pairs
    )
    row, y, noise = torch.tensor([[1.0, -0.6]], dtype=torch.float64), torch.tensor([4.0]), 0.3
    exact = mixture.posterior(row, y.double(), noise)
    grid = GridPosterior(
        mixture, lambda x: -0.5 * ((y - x @ row.T)[:, 0] / noise) ** 2, step=0.05, extent=14.0
    )
    mean = exact.weights @ exact.means
    torch.testing.assert_close(grid.masses @ grid.points, mean, rtol=1e-6, atol=1e-6)
    second = torch.einsum(
        "c,cij->ij",
        exact.weights,
        exact.covariances + exact.means[:, :, None] * exact.means[:, None],
    )
    got = torch.einsum("n,ni,nj->ij", grid.masses, grid.points, grid.points)
    torch.testing.assert_close(got, second, rtol=1e-4, atol=1e-4)
    # Modes lie 8 deviations apart: the cells of the largest responsibility hold their weights.
    torch.testing.assert_close(grid.weights, exact.weights, rtol=0, atol=2e-3)
    draws = grid.sample(4000, torch.Generator().manual_seed(2))
    own, _ = exact.sample(4000, torch.Generator().manual_seed(3))
    assert sliced_wasserstein(draws, own) < 0.35
    assert total_variation(grid.label(draws), grid.weights) < 0.04


def test_a_problem_is_fixed_by_its_number():
    a, b = build(Case("linear", 20, 1, 0.05, 0), 20), build(Case("linear", 20, 1, 0.05, 0), 20)
    assert torch.equal(a.exact, b.exact)
    assert torch.equal(a.again, b.again)
    # Pinned: another draw order would make other problems under the same numbers.
    assert float(a.likelihood(3).observation[2, 0]) == pytest.approx(-19.5714, abs=1e-4)
    other = build(Case("linear", 20, 1, 0.05, 1), 20)
    assert not torch.allclose(a.weights, other.weights)


def test_the_prior_is_the_benchmarks_mixture():
    mixture = build(Case("linear", 4, 1, 0.05, 0), 2).prior.mixture
    assert mixture.means.shape == (25, 4)
    assert mixture.means[0].tolist() == [-16, -16, -16, -16]
    assert mixture.means[7].tolist() == [-8, 0, -8, 0]
    assert torch.equal(mixture.covariances[3], torch.eye(4, dtype=torch.float64))
    assert float(mixture.weights.std()) > 0.01


@pytest.mark.parametrize(
    "case",
    [
        Case("linear", 4, 3, 0.05, 0),
        Case("masked", 4, 3, 0.05, 0),
        Case("mixing", 20, 5, 0.05, 0),
        Case("nonlinear", 2, 1, 0.5, 0),
        Case("nonlinear", 2, 3, 0.5, 1),
        Case("poisson", 2, 3, None, 0),
    ],
)
def test_exact_samples_explain_the_observation_and_weigh_the_modes(case):
    problem = build(case, 400)
    likelihood = problem.likelihood(400)
    if case.task != "poisson":
        shaped = problem.exact.reshape(400, *(problem.shape or (case.dim,)))
        off = likelihood.residual(shaped) / case.noise
        assert float(off.square().mean()) < 4
    mixture = build(Case("linear", case.dim, 1, 0.05, 0), 2).prior.mixture
    prior, _ = mixture.sample(400, torch.Generator().manual_seed(0))
    shape = (400, *(problem.shape or (case.dim,)))
    seen, blind = (likelihood.log_prob(x.reshape(shape)) for x in (problem.exact, prior))
    better = seen.mean() - blind.mean()
    assert float(better) > 1
    assert total_variation(problem.label(problem.exact), problem.weights) < 0.1
    assert float(problem.weights.sum()) == pytest.approx(1)


def test_only_linear_problems_leave_the_plane():
    with pytest.raises(ValueError, match="dim 2; found 4"):
        build(Case("poisson", 4, 1, None, 0), 2)
    with pytest.raises(ValueError, match="even; found 3"):
        build(Case("linear", 3, 1, 0.1, 0), 2)
    with pytest.raises(ValueError, match="4 stems of 5 numbers have 5 sums; found 1"):
        build(Case("mixing", 20, 1, 0.1, 0), 2)


def test_batch_streams_are_standard_and_viewed_by_count():
    streams, twin = BatchStreams(3, 500), BatchStreams(3, 500)
    x = streams.normal((20,), torch.float64)
    assert torch.equal(x, twin.normal((20,), torch.float64))
    assert abs(float(x.mean())) < 4.5 / 100
    assert abs(float(x.var()) - 1) < 4.5 * (2 / 10000) ** 0.5
    view = streams.select([4, 4, 1])
    assert len(view) == 3
    assert view.integers(5, 9).shape == (3,)
    assert view.normal_like(torch.zeros(3, 2)).shape == (3, 2)
    assert len(streams) == 500


# -- rows ------------------------------------------------------------------------------------------


def test_every_sampler_has_a_row():
    named = {variant.name for variant in variants.MAIN.values() if variant is not None}
    assert named == set(SAMPLERS) - {"mgdm_marginal"}
    published = variants.MAIN["mgdm-published"]
    assert (published.levels, published.gibbs, published.denoising_steps) == (100, 1, 19)
    assert variants.MAIN["mgdm-published-r4"] == replace(published, gibbs=4)
    assert variants.MAIN["mgdm"] is None  # the library's own choice


def test_rows_are_chosen_by_name_and_group():
    assert list(variants.chosen(["ddrm", "mgdm"])) == ["ddrm", "mgdm"]
    assert variants.chosen(["main", "ablations"]) == variants.chosen(["all"]) == variants.VARIANTS
    with pytest.raises(KeyError, match="no sampler 'mgmd'; groups: main, ablations, all"):
        variants.chosen(["mgmd"])


def test_rows_run_where_they_can():
    linear = build(CASE, 2).posed(1)
    bent = build(Case("nonlinear", 2, 1, 0.5, 0), 2).posed(1)
    counts = build(Case("poisson", 2, 1, None, 0), 2).posed(1)
    rows = variants.MAIN
    mix = build(Case("mixing", 4, 1, 0.5, 0), 2).posed(1)
    for row in rows.values():
        mixing = row is not None and "mixing" in row.needs
        assert bool(refused(row, linear)) == mixing
        assert not refused(row, mix)
    for name in ("mgdm", "mgdm-published", "dps", "twisted_smc"):
        assert not refused(rows[name], bent)
        assert not refused(rows[name], counts)
    for name in ("ddrm", "ddnm", "diffpir"):
        assert refused(rows[name], bent)
        assert refused(rows[name], counts)
    jobs, left_out = plan(["ddrm", "dps"], [CASE, Case("poisson", 2, 1, None, 0)], 10)
    assert [(job.name, job.case.task) for job in jobs] == [
        ("ddrm", "linear"),
        ("dps", "linear"),
        ("dps", "poisson"),
    ]
    (line,) = left_out
    assert line.startswith("ddrm on poisson: ddrm needs 'gaussian'")


def test_a_run_is_measured_and_repeats():
    record = run_job(Job("ddrm", CASE, 60))
    again = run_job(Job("ddrm", CASE, 60))
    for name in ("sliced_wasserstein", "floor", "mode_error", "mode_floor"):
        assert record[name] == again[name]
        assert record[name] >= 0
    assert record["evaluations"] == 20
    assert record["vjps"] == 0
    assert record["seconds"] > 0
    assert cost({"evaluations": 10, "vjps": 3}) == 16
    assert runner.key(record) == runner.job_key(Job("ddrm", CASE, 60))
    # It shares no random numbers with the exact samples, so it cannot beat their floor by much.
    assert record["sliced_wasserstein"] > 0.5 * record["floor"]


def test_particles_are_the_samples_and_their_cost_is_per_sample(tmp_path):
    job = Job("mcg_diff", Case("linear", 2, 1, 0.5, 0), 40)
    record = run_job(job, folder=tmp_path)
    assert 90 <= record["evaluations"] <= 110
    assert record["particles"]
    path = runner.sample_path(job, tmp_path)
    assert np.load(path).shape == (40, 2)
    assert runner.sample_path(Job("mcg_diff", CASE, 40), tmp_path) is None


def test_a_failure_is_told_and_not_measured(monkeypatch):
    bad = replace(variants.MAIN["dps"], gamma=1e250)
    monkeypatch.setitem(variants.VARIANTS, "dps-wild", bad)
    record = run_job(Job("dps-wild", CASE, 3))
    assert record["error"].startswith("dps: NaN or infinity at level")
    assert "sliced_wasserstein" not in record
    record = run_job(Job("ddrm", Case("linear", 3, 1, 0.5, 0), 3))
    assert record["error"].startswith("ValueError: the means repeat pairs")

    def too_much(job, callback, folder):
        raise MemoryError

    monkeypatch.setattr(runner, "_measured", too_much)
    assert run_job(Job("ddrm", CASE, 3))["error"].startswith("out of memory; use a smaller batch")


def test_the_peak_of_a_block_is_measured():
    with PeakMeter() as meter:
        block = torch.ones(2**23, dtype=torch.float64)
        del block
    if meter.peak is None:
        pytest.skip("this system cannot reset the peak of the resident size")
    assert 60 * 2**20 < meter.peak < 200 * 2**20
    with PeakMeter() as idle:
        pass
    assert idle.peak < 20 * 2**20


def test_a_measurement_is_known_again_in_another_process():
    code = (
        "from recipes.exact_posterior.runner import Job, job_key\n"
        "from recipes.exact_posterior.problems import Case\n"
        "print([job_key(Job(n, Case('linear', 4, 1, 0.5, 0), 60)) for n in ('pgdm', 'mgdm')])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{[runner.job_key(Job(name, CASE, 60)) for name in ('pgdm', 'mgdm')]}\n"}


def test_a_new_default_makes_another_measurement(monkeypatch):
    before = runner.job_key(Job("mgdm", CASE, 60))
    presets = {"default": replace(PRESETS["mgdm_marginal"]["default"], levels=7)}
    monkeypatch.setitem(PRESETS, "mgdm_marginal", presets)
    assert runner.job_key(Job("mgdm", CASE, 60)) != before
    assert runner.job_key(Job("ddrm", CASE, 60)) == runner.job_key(Job("ddrm", CASE, 60))


@pytest.mark.slow
def test_ours_is_nearer_than_the_published_setting_and_cheaper():
    case = Case("linear", 20, 1, 0.05, 0)
    ours, theirs = (run_job(Job(name, case, 200)) for name in ("mgdm", "mgdm-published"))
    assert ours["sliced_wasserstein"] < theirs["sliced_wasserstein"]
    assert ours["mode_error"] < 0.5 * theirs["mode_error"]
    assert cost(ours) <= cost(theirs)
