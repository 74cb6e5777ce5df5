"""The table of samplers on one folder of stems: every name, equal cost, a file that goes on."""

import json
from dataclasses import fields, replace

import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_core.errors import SettingsError
from mgdm_core.samplers import SAMPLERS
from recipes.slakh.separation_table import _EXTRA, _ways, at_cost, cost_of, main
from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    for index, name in enumerate(STEMS):
        sf.write(folder / f"{name}.flac", 0.3 * song(3.0, 22_050, 1, seed=index).T, 22_050)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("budget", [None, 6.0])
def test_who_costs_more_than_the_budget_could_not_be_shorter(tiny, budget):
    prior = load_prior(tiny)
    budget = cost_of(sampling_settings(), prior) if budget is None else budget
    ways = _ways(prior, [*_EXTRA, *SAMPLERS], budget)
    assert set(ways) == {"tweedie_gibbs (fast)", *SAMPLERS}
    assert cost_of(ways["tweedie_gibbs"], prior) <= budget
    for name, sampling in ways.items():
        spent = cost_of(sampling, prior)
        if name != "tweedie_gibbs (fast)":
            assert spent >= budget / 2, name
        if spent > budget:
            assert all(c > budget or c < budget / 2 for c in shorter(sampling, prior)), name


def test_one_step_is_a_length_too(tiny):
    prior = load_prior(tiny)
    found = at_cost(sampling_settings(sampler="ddrm", samples=1), 1.0, prior)
    assert (found.settings.steps, cost_of(found, prior)) == (1, 1.0)


def test_posterior_samples_count(tiny):
    prior = load_prior(tiny)
    one = at_cost(sampling_settings(sampler="ddrm", samples=1), 8.0, prior)
    four = at_cost(sampling_settings(sampler="ddrm", samples=4), 8.0, prior)
    assert (one.settings.steps, four.settings.steps) == (8, 2)


def test_a_prior_with_other_sounds_is_closed_where_the_references_have_none(tmp_path, references):
    five = save_tiny_stems(tmp_path / "five.safetensors", name="five", stems=(*STEMS, "other"))
    given = [
        str(references),
        "-n",
        str(five),
        "--samplers",
        "fast",
        "--out",
        str(tmp_path / "t.md"),
    ]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    held = json.loads((tmp_path / "t.json").read_text())
    assert held["question"]["stems"] == list(STEMS)
    assert all(set(row["improvement"]) == set(STEMS) for row in held["rows"])


def shorter(sampling, prior):
    """Costs of all lengths below a sampler's own."""
    names = {f.name for f in fields(sampling.settings)}
    name = next(n for n in ("steps", "levels", "iterations") if n in names)
    for length in range(1, getattr(sampling.settings, name)):
        try:
            settings = replace(sampling.settings, **{name: length})
        except SettingsError:
            continue
        yield cost_of(replace(sampling, settings=settings), prior)


@pytest.fixture
def call(tiny, references, tmp_path):
    """Run the command; returns the rows, the Markdown and click's result."""

    def run(*extra, code=0):
        out = tmp_path / "table.md"
        given = [str(references), "-n", str(tiny), "-d", "cpu", "--seconds", "2.2"]
        result = CliRunner().invoke(main, [*given, "--out", str(out), *extra])
        assert result.exit_code == code, result.output
        return json.loads(out.with_suffix(".json").read_text())["rows"], out.read_text(), result

    return run


@pytest.mark.slow
def test_every_name_makes_a_row(call):
    rows, _, _ = call()
    assert {r["sampler"] for r in rows} >= set(SAMPLERS)
    assert [(r["sampler"], r["error"]) for r in rows if r["error"]] == []
    assert all(set(r["improvement"]) == set(STEMS) for r in rows)


def test_the_file_is_markdown_and_goes_on(call, references, monkeypatch):
    first, _, _ = call("--samplers", "fast")
    assert [r["sampler"] for r in first] == ["average-spectrum Wiener", "tweedie_gibbs (fast)"]
    rows, text, _ = call("--samplers", "fast,msdm_dirac")
    assert rows[:2] == first
    assert [r["sampler"] for r in rows[2:]] == ["msdm_dirac"]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {len(STEMS) + 7}
    assert "python -m recipes.slakh.separation_table" in text
    means = [float(line.split("|")[len(STEMS) + 2]) for line in table[2:]]
    assert means == sorted(means, reverse=True)
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], variance_floor=0.05))
    anew, _, _ = call("--samplers", "fast")
    assert [a["settings"] == b["settings"] for a, b in zip(anew, rows)] == [True, False, True]
    for other in (("--seed", "1"), ("--budget", "3"), ("--pooling", "0.1")):
        _, _, result = call(*other, code=2)
        assert "another question" in result.output
    for index, name in enumerate(STEMS):  # other songs in a folder of the same name
        sf.write(references / f"{name}.flac", 0.3 * song(3.0, 22_050, 1, seed=9 + index).T, 22_050)
    _, _, result = call(code=2)
    assert "another question" in result.output
    _, _, result = call("--pooling", "2", code=2)
    assert "pooling is 0 or lies in" in result.output
