"""The table of samplers on one folder of stems: every name, equal cost, a file that goes on."""

import json

import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cost import count_evaluations
from mgdm_audio.presets import sampling_settings
from mgdm_audio.priors.checkpoints import load_prior
from mgdm_core.samplers import SAMPLERS
from recipes.slakh.separation_table import _EXTRA, _ways, main
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
def test_no_sampler_costs_more_than_the_default_where_it_can_be_shortened(tiny):
    prior = load_prior(tiny)

    def cost(sampling):
        evaluations, vjps = count_evaluations(sampling, prior.schedule, len(prior.stems))
        return sampling.samples * (evaluations + 2 * vjps)

    budget = cost(sampling_settings())
    ways = _ways(prior, [*_EXTRA, *SAMPLERS], budget)
    assert set(ways) == {"mgdm (fast)", "mgdm-published", *SAMPLERS}
    costs = {name: cost(sampling) for name, sampling in ways.items()}
    # The published MGDM cannot be that short: its conditional step alone costs more.
    assert {name for name, spent in costs.items() if spent > budget} <= {
        "mgdm-published",
        "guess_and_guide",
        "twisted_smc",
    }, costs
    assert all(spent >= budget / 2 for name, spent in costs.items() if name != "mgdm (fast)")


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


def test_the_file_is_markdown_and_goes_on(call):
    first, _, _ = call("--samplers", "fast")
    assert [r["sampler"] for r in first] == ["average-spectrum Wiener", "mgdm (fast)"]
    rows, text, _ = call("--samplers", "fast,msdm_dirac")
    assert rows[:2] == first
    assert [r["sampler"] for r in rows[2:]] == ["msdm_dirac"]
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {len(STEMS) + 7}
    assert "python -m recipes.slakh.separation_table" in text
    means = [float(line.split("|")[len(STEMS) + 2]) for line in table[2:]]
    assert means == sorted(means, reverse=True)
    _, _, result = call("--seed", "1", code=1)
    assert "another question" in result.output
