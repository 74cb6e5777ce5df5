"""Tier 1 of the calibration: exact draws pass, others fail in the direction that they err in."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_core.errors import ShapeError
from mgdm_core.samplers import PRESETS
from recipes.calibration import statistics
from recipes.calibration.cli import main
from recipes.calibration.exact import EXACT, ExactCell, Posteriors, Setting, measure, simulate
from recipes.calibration.exact_report import verdict
from recipes.calibration.records import run_missing
from recipes.calibration.scores import central_coverage, ranks
from recipes.exact_posterior.problems import mixture_of_25
from recipes.exact_posterior.variants import MAIN

CASES, DRAWS = 400, 19


def _gaussian(deviation=1.0, shift=0.0, dim=3):
    """Truths around random centres, and draws that are as wide as they say or not."""
    rng = np.random.default_rng(4)
    centre = 5 * rng.standard_normal((CASES, dim))
    truth = centre + rng.standard_normal((CASES, dim))
    draws = centre + shift + deviation * rng.standard_normal((DRAWS, CASES, dim))
    return truth, draws, 5 * rng.standard_normal((CASES, dim))


def test_ranks_count_the_draws_below():
    draws = np.array([[1.0, 1.0, 2.0], [2.0, 2.0, 2.0], [3.0, 3.0, 2.0]])
    assert ranks(np.array([2.5, 0.0, 2.0]), draws).tolist() == [2, 0, 1]
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(2,\)"):
        ranks(np.zeros(2), draws)


def test_uniform_ranks_cover_every_share_exactly():
    for draws in (4, 7, 19):
        every = np.arange(draws + 1)
        assert central_coverage(every, draws) == pytest.approx([0.5, 0.8, 0.9, 0.95])
    # Nine draws: the two outermost of ten stretches lie half in the interval of 90 per cent.
    assert central_coverage(np.array([0, 9, 1]), 9, (0.9,)) == pytest.approx([(0.5 + 0.5 + 1) / 3])


def test_rank_histograms_have_the_shape_of_the_fault():
    counts = {}
    for name, deviation in (("exact", 1.0), ("narrow", 0.4), ("wide", 2.5)):
        truth, draws, _ = _gaussian(deviation)
        row = statistics.projected_ranks(truth, draws, 1)[0]
        counts[name] = statistics.rank_counts(row, DRAWS, 10)
        assert counts[name].sum() == CASES
        p = statistics.rank_test(row, DRAWS, 10)
        assert (p > 0.01) == (name == "exact")
    assert counts["narrow"][[0, -1]].min() > 2 * counts["narrow"][4:6].max()  # a bowl
    assert counts["wide"][4:6].min() > 5 * counts["wide"][[0, -1]].max()  # a hill
    with pytest.raises(ValueError, match="20 ranks; found 7"):
        statistics.rank_counts(row, DRAWS, 7)


def test_coverage_tells_narrow_from_wide():
    z = {}
    for name, deviation in (("exact", 1.0), ("narrow", 0.6), ("wide", 1.6)):
        truth, draws, _ = _gaussian(deviation)
        z[name] = statistics.coverage_z(statistics.projected_ranks(truth, draws, 4), DRAWS)
    assert abs(z["exact"]) < 3
    assert z["narrow"] < -5
    assert z["wide"] > 5


@pytest.mark.parametrize(
    ("deviation", "shift", "passes"), [(1, 0, True), (0.5, 0, False), (2, 0, False), (1, 1, False)]
)
def test_random_points_see_width_and_place(deviation, shift, passes):
    truth, draws, references = _gaussian(deviation, shift)
    places = statistics.uniform_places(statistics.tarp_ranks(truth, draws, references), DRAWS)
    assert (statistics.uniform_test(places) > 0.01) == passes
    curve = statistics.coverage_curve(places)
    assert (np.abs(curve - statistics.LEVELS).max() < 0.09) == passes


def test_the_classifier_sees_a_difference_where_there_is_one():
    rng = np.random.default_rng(0)
    exact, same, other = (rng.standard_normal((40, 20, 2)) for _ in range(3))
    assert statistics.classifier_two_sample(exact, same) == pytest.approx(0.5, abs=0.04)
    assert statistics.classifier_two_sample(exact, other + np.array([2, 0])) > 0.8
    assert statistics.classifier_two_sample(exact, 0.3 * other) > 0.65


def test_many_posteriors_at_once_are_those_of_the_mixture():
    mixture = mixture_of_25(4, torch.Generator().manual_seed(0))
    matrix = torch.tensor([[1.0, 0.5, -1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([[3.0], [-7.0]], dtype=torch.float64)
    many = Posteriors.of(mixture, matrix, y, 0.3)
    points = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for k in range(2):
        one = mixture.posterior(matrix, y[k], 0.3)
        torch.testing.assert_close(many.weights[k], one.weights)
        torch.testing.assert_close(many.means[k], one.means)
        torch.testing.assert_close(many.covariance, one.covariances[0])
        said = many.log_prob(points)[k] - one.log_prob(points[k])
        torch.testing.assert_close(said, said[:1].expand(3))
    drawn = many.sample(4000, torch.Generator().manual_seed(2))
    middle = (many.weights[..., None] * many.means).sum(1)
    assert (drawn.mean(1) - middle).abs().max() < 1.0
    residual = y - drawn @ matrix.T[:, 0]
    assert residual.square().mean().sqrt() == pytest.approx(0.3, rel=0.1)


def _record(drawn, simulation):
    cases, draws = drawn.shape[:2]
    return {"cases": cases, "draws": draws, **measure(simulation, drawn)}


def test_verdicts_of_exact_narrow_and_wide_draws():
    simulation = simulate(Setting("linear", 2, 1), 100)
    exact = simulation.exact(DRAWS, seed=1)
    assert verdict(_record(exact, simulation)) == "passes"
    middle = exact.mean(1, keepdim=True)
    said = verdict(_record(middle + 0.3 * (exact - middle), simulation))
    assert said.startswith("fails ranks")
    assert said.endswith("too narrow")
    assert verdict(_record(middle + 3 * (exact - middle), simulation)).endswith("too wide")
    # Draws that miss the data by ten deviations along the only direction that it sees.
    off = exact + 10 * 0.05 * simulation.matrix / simulation.matrix.square().sum()
    assert "ranks, " in verdict(_record(off, simulation))
    assert verdict({"error": "no"}) == "not run"


class _Cell:
    def __init__(self, key):
        self.key, self.name, self.told = key, f"cell {key}", {"key": key}


def test_finished_cells_are_not_run_again(tmp_path):
    path, ran = tmp_path / "x/records.jsonl", []

    def run(cell):
        ran.append(cell.key)
        if cell.key == "b":
            raise ValueError("not\nnow")
        return {"value": np.float64(2)}

    cells = [_Cell(k) for k in "abc"]
    first, failures = run_missing(path, cells[:2], run, lambda *told: None)
    assert failures == ["cell b: ValueError: not now"]
    with path.open("a") as file:
        file.write('{"key": "c", "val')  # cut off in the middle of a line
    second, _ = run_missing(path, cells, run, lambda *told: None)
    assert ran == ["a", "b", "b", "c"]  # what failed is tried again
    assert first == second[:2]
    assert [r["key"] for r in second] == ["a", "b", "c"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("name", ["mgdm_marginal", "ding"])
def test_a_new_default_makes_another_cell(monkeypatch, name):
    def keys():
        setting = Setting("linear", 20, 1)
        return [ExactCell(sampler, setting, 8, 4).key for sampler in ("mgdm", EXACT)]

    before = keys()
    monkeypatch.setitem(PRESETS, name, {"default": "something else"})
    after = keys()
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


def test_a_sampler_that_fails_is_told_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setitem(MAIN, "dps", replace(MAIN["dps"], gamma=1e250))
    given = ["exact", "--quick", "--cases", "8", "--draws", "4", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*given, "--samplers", f"dps,{EXACT}"])
    assert result.exit_code == 1
    assert "error: 1 failed; the same command tries them again" in result.output.splitlines()
    assert "failed: dps, mixing, d = 8, 2 observed, noise 0.05: dps: NaN" in result.output
    assert "| not run: dps: NaN" in (tmp_path / "table.md").read_text()
    # What a sampler lacks is no failure.
    result = CliRunner().invoke(main, [*given[:1], *given[2:], "--problem", "linear",
                                       "--samplers", "msdm_dirac"])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| not run: " in (tmp_path / "table.md").read_text()


def test_the_command_writes_table_picture_and_goes_on(tmp_path):
    given = ["exact", "--quick", "--cases", "8", "--draws", "4", "--out", str(tmp_path)]
    given += ["--samplers", f"{EXACT},ding,twisted_smc"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "table.md").read_text()
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + 3
    assert (tmp_path / "reliability_mixing_8.png").read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "records.jsonl").read_text()
    again = CliRunner().invoke(main, given)
    assert again.exit_code == 0
    assert (tmp_path / "records.jsonl").read_text() == lines
    wrong = CliRunner().invoke(main, ["exact", "--samplers", "coffee"])
    assert wrong.exit_code == 2
    assert "coffee" in wrong.output
