"""The command of the exact-posterior benchmark: records, table, pictures."""

import json
import os
import sys

import pytest
from click.testing import CliRunner

from recipes.exact_posterior import cli, variants
from recipes.exact_posterior.pictures import gibbs_picture, memory_picture
from recipes.exact_posterior.table import markdown, rows_of, write_parquet


def record_of(sampler, problem, distance, gibbs=None, **changes):
    return {
        "sampler": sampler,
        "task": "linear",
        "dim": 2,
        "observations": 1,
        "noise": 0.05,
        "problem": problem,
        "samples": 10,
        "settings": "x",
        "particles": False,
        "gibbs": gibbs,
        "sliced_wasserstein": distance,
        "floor": 0.4,
        "mode_error": 0.1,
        "mode_floor": 0.05,
        "residual_ratio": 1.2,
        "coverage": 0.8,
        "evaluations": 100,
        "vjps": 10,
        "seconds": 1.0,
        "peak_memory": None,
        "warnings": ["divergence"],
        **changes,
    }


def test_the_table_holds_means_and_standard_errors():
    rows = rows_of([record_of("b", 0, 2.0), record_of("b", 1, 4.0), record_of("a", 0, 5.0)])
    assert [row["sampler"] for row in rows] == ["b", "a"]
    assert rows[0]["sliced_wasserstein"] == 3.0
    assert rows[0]["standard_error"] == pytest.approx(1.0)
    assert rows[0]["cost"] == 120
    assert rows[1]["standard_error"] is None
    text = markdown(rows, "Heading")
    assert text.startswith("# Heading\n")
    assert "| linear | 2 | 1 | 0.05 | b |  | 3.00 ± 1.00 | 0.40 | 0.10 | 1.20 | 0.80 |" in text


def test_parquet_comes_back_and_its_absence_is_told(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    records = [record_of("a", 0, 2.0), record_of("a", 1, 3.0)]
    assert write_parquet(records, tmp_path / "table.parquet") is None
    frame = pandas.read_parquet(tmp_path / "table.parquet")
    assert frame["sliced_wasserstein"].tolist() == [2.0, 3.0]
    assert frame["warnings"].tolist() == ["divergence", "divergence"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = write_parquet(records, tmp_path / "other.parquet")
    assert "pyarrow is a development dependency" in told
    assert not (tmp_path / "other.parquet").exists()


def test_the_error_against_r_needs_several(tmp_path):
    one = rows_of([record_of("mgdm-published", 0, 2.0, gibbs=1)])
    assert gibbs_picture(one, tmp_path / "r.png") is None
    two = rows_of(
        [
            record_of("mgdm-published", 0, 2.0, gibbs=1),
            record_of("mgdm-published-r4", 0, 1.5, gibbs=4),
        ]
    )
    assert gibbs_picture(two, tmp_path / "r.png").stat().st_size > 5000
    assert memory_picture([{"peak_memory": None}], tmp_path / "m.png") is None


ASKED = ["--dims", "2", "--observations", "1", "--noise", "0.5", "--samples", "30"]


KEYS = {
    "sampler",
    "dim",
    "observations",
    "noise",
    "problem",
    "sliced_wasserstein",
    "floor",
    "evaluations",
    "vjps",
    "seconds",
}


def call(*arguments):
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments], catch_exceptions=False)
    return result


def test_the_command_writes_records_table_and_pictures(tmp_path, monkeypatch):
    points = [
        {"sampler": s, "particles": n, "dim": 2, "peak_memory": n * 4096}
        for s in ("mgdm", "mcg_diff")
        for n in (10, 100)
    ]
    monkeypatch.setattr(cli, "growth_curve", lambda counts: points)
    path, out = tmp_path / "deep" / "records.json", tmp_path / "out"
    common = (*ASKED, "--json", path, "--out", out)
    result = call(*common, "--problems", 1, "--samplers", "ddrm,guess_and_guide")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {record["sampler"] for record in records} == {"ddrm", "guess_and_guide"}
    assert all(set(record) >= KEYS for record in records)
    assert all((record["dim"], record["noise"]) == (2, 0.5) for record in records)
    assert {record["task"] for record in records} == {"linear"}
    assert "| ddrm |" in (out / "table.md").read_text()
    pictures = {p.name for p in out.glob("*.png")}
    assert pictures == {
        "error_against_evaluations.png",
        "memory_against_particles.png",
        "plane_linear_1_noise0.5.png",
    }

    # Resuming runs what is missing only, shows what was asked for, and keeps the rest but what a
    # sampler measured with other settings.
    marked = [{**record, "seconds": 123.0} for record in records]
    old = {**marked[0], "settings": "other"}
    path.write_text("\n".join(map(json.dumps, [*marked, old])) + '\n{"cut off')
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = call(*common, "--problems", 2, "--samplers", "ddrm", "--resume", "--no-pictures")
    assert "1 runs, 1 kept from before" in result.output
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found[:-1] == marked
    assert [(r["sampler"], r["problem"]) for r in found if r["sampler"] == "ddrm"] == [
        ("ddrm", 0),
        ("ddrm", 1),
    ]
    assert found[-1]["seconds"] < 123.0
    assert "pip install 'mgdm[dev]'" in result.output
    assert "guess_and_guide" not in result.output + (out / "table.md").read_text()


def _faulty(job, callback=None, folder=None):
    """Of five problems the second has no record and the third none to whom it could be given."""
    if job.case.problem == 1:
        return {"error": "ValueError: as asked"}
    if job.case.problem == 2:
        os._exit(9)
    return record_of("ddrm", job.case.problem, 2.0, samples=30, settings=cli.digest(job.variant))


def test_what_fails_in_a_process_loses_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "run_job", _faulty)
    given = (*ASKED, "--noise", "0.05", "--problems", 5, "--samplers", "ddrm", "--no-pictures")
    result = call(*given, "--jobs", 2, "--out", tmp_path)
    assert result.exit_code == 1
    told = result.output.splitlines()
    where = "ddrm on linear, d = 2, 1 observed, sigma_y 0.05, problem"
    assert f"failed: {where} 1: ValueError: as asked" in told
    assert f"failed: {where} 2: its process died; is there enough memory?" in told
    assert told[-1] == "error: 2 of 5 runs failed; --resume tries them again"
    found = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {record["problem"] for record in found} == {0, 3, 4}
    assert "| ddrm |" in (tmp_path / "table.md").read_text()


def test_a_file_of_other_records_is_not_resumed(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"key": "of another benchmark"}\n')
    result = call(*ASKED, "--samplers", "ddrm", "--out", tmp_path, "--json", path, "--resume")
    assert result.exit_code == 2
    assert "holds something other than this benchmark's records" in result.output
    assert path.read_text() == '{"key": "of another benchmark"}\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samplers", "mgmd"], "no sampler 'mgmd'"),
        (["--tasks", "sine"], "tasks are linear, masked, mixing, nonlinear, poisson; found sine"),
        (["--dims", "3"], "even and at least 2; found 3"),
        (["--dims", "a"], "comma-separated values"),
        (["--observations", "1,0"], "at least 1 number is observed; found 0"),
        (["--noise", "-0.5"], "a noise is positive and finite; found -0.5"),
        (["--noise", "nan"], "a noise is positive and finite; found nan"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_the_command_lists_the_samplers():
    output = " ".join(call("--list").output.split())
    for name in variants.VARIANTS:
        assert name in output


def test_the_grid_of_problems():
    tasks = ["linear", "masked", "mixing", "nonlinear", "poisson"]
    cases = cli.cases_of(tasks, [2, 20, 80], [1, 3], [0.05, 0.5], 2)
    assert len([c for c in cases if c.task == "linear"]) == 3 * 2 * 2 * 2
    masked = {(c.dim, c.observations) for c in cases if c.task == "masked"}
    assert masked == {(2, 1), (20, 1), (20, 3), (80, 1), (80, 3)}  # something is hidden
    mixing = {(c.dim, c.observations) for c in cases if c.task == "mixing"}
    assert mixing == {(2, 1), (20, 5)}  # 2 stems of 1 number, 4 of 5
    assert {c.dim for c in cases if c.task in ("nonlinear", "poisson")} == {2}
    assert len([c for c in cases if c.task == "nonlinear"]) == 2 * 2 * 2
    assert len([c for c in cases if c.task == "poisson"]) == 2 * 2
    assert len(set(cases)) == len(cases)
    assert cli.cases_of(2 * tasks, [2, 20, 80, 2], [1, 3, 1], [0.05, 0.5], 2) == cases
