"""What folders of evaluations hold, and what questions they answer."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mgdm_audio.compute.engines import InlinePool
from mgdm_audio.datasets import open_dataset
from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.result_files import result_rows
from mgdm_audio.evaluation.run import EngineSettings, EvaluationSettings, best_and_worst, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import summarise
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL, LEAK, PUBLISHED, SCORES
from mgdm_audio.reports.html import write_report
from mgdm_audio.reports.summary_page import write_summary
from mgdm_core.errors import SettingsError

from .evaluation_runs import BANDS, QUICK, RATE, table
from .fake_separator import FakeSpec, blended
from .fake_slakh import write_fake_slakh


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_fake_slakh(tmp_path_factory.mktemp("slakh"))).select("test")


def test_results_of_version_0_1_0_are_still_read(tmp_path):
    old = RunFolder(shutil.copytree(Path(__file__).parent / "data/run_of_0.1", tmp_path / "run"))
    summary = write_summary(old)
    bands = summary.variants[0]
    # As that version printed them: "active" is then what the published protocol says.
    printed = {
        ACTIVE: [17.68, 9.96, 15.21, 13.37, 14.05],
        PUBLISHED: [17.68, 9.96, 15.83, 13.37, 14.21],
        "SI-SDR": [16.99, -3.36, 13.79, 7.53, 8.74],
        "SDR": [17.23, 0.17, 13.46, 8.54, 9.59],
    }
    for score, values in printed.items():
        found = [bands.scores[score][stem].value for stem in (*summary.stems, ALL)]
        assert found == pytest.approx(values, abs=0.0051)
    assert (bands.scores[ACTIVE]["bass"].low, bands.scores[ACTIVE]["bass"].high) == pytest.approx(
        (17.12917685833927, 17.95235685367864)
    )
    assert math.isnan(bands.scores[LEAK][ALL].value)
    assert summary.nothing == []
    assert "kept no levels" in summary.remarks[0]
    assert summary.remarks[0] in (old.path / "summary.md").read_text()
    assert len(result_rows(old)) == 2 * (4 + 4 + 1)
    assert set(SCORES) == set(bands.scores)
    assert write_report(old).exists()


def test_another_question_needs_another_folder(dataset, tmp_path):
    run = RunFolder(tmp_path / "run")
    some = dataset.select(names=["Track00002"])
    evaluate(some, FakeSpec(), [BANDS], run, QUICK)
    with pytest.raises(AudioError, match="seed was 0, now 1"):
        evaluate(some, FakeSpec(), [BANDS], run, replace(QUICK, seed=1))
    assert run.record(BANDS, "test/Track00002")["evaluations"] == 80
    evaluate(some, FakeSpec(), [BANDS], run, replace(QUICK, seed=1), overwrite=True)
    assert run.description["asked"]["seed"] == 1
    # Another variant of the same question is one more row.
    more = Variant("bands", (("steps", 2),))
    evaluate(some, FakeSpec(), [more], run, replace(QUICK, seed=1))
    assert [v.label for v in summarise(run).variants] == ["bands", "bands steps=2"]
    assert [v.evaluations for v in summarise(run).variants] == [80, 20]

    # A preset that no longer means the same settings is another question too.
    class Changed(FakeSpec):
        def settings_of(self, variant):
            return {**super().settings_of(variant), "noise": 1}

    with pytest.raises(AudioError, match=r"bands\.noise was None, now 1"):
        evaluate(some, Changed(), [more], run, replace(QUICK, seed=1))
    # What is no run is left alone.
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("x")
    with pytest.raises(AudioError, match="something other than an evaluation"):
        evaluate(some, FakeSpec(), [BANDS], RunFolder(tmp_path / "thesis"), QUICK, overwrite=True)


def test_settings_are_validated():
    for settings, name, wrong in (
        (EvaluationSettings(), "rate", 10),
        (EvaluationSettings(), "mixture", "both"),
        (EvaluationSettings(), "keep", "some"),
        (EngineSettings(), "engine", "slurm"),
        (EngineSettings(), "devices", ()),
        (EngineSettings(), "bss_jobs", 0),
    ):
        # Set behind the type checker of the tests, which users do not have.
        object.__setattr__(settings, name, wrong)
        with pytest.raises(SettingsError, match=rf"{name.rstrip('s')}.*found"):
            settings.__post_init__()


def test_threads_that_this_process_has_not_are_those_of_a_worker(dataset, tmp_path, monkeypatch):
    asked = []

    def pool(work, devices, threads):
        asked.append((tuple(devices), threads))
        return InlinePool(work, "cpu")

    monkeypatch.setattr("mgdm_audio.evaluation.run.ProcessPool", pool)
    here, some = torch.get_num_threads(), dataset.select(names=["Track00002"])
    for number, threads in enumerate((None, here, here + 1)):
        run = RunFolder(tmp_path / f"run{number}")
        engine = EngineSettings(threads=threads)
        assert evaluate(some, FakeSpec(), [BANDS], run, QUICK, engine) == 0
    assert asked == [(("cpu",), here + 1)]


def test_bss_goes_on_where_it_stopped(dataset, tmp_path, monkeypatch):
    # In this process: the processes have a test of their own.
    monkeypatch.setattr(
        "mgdm_audio.evaluation.run.ProcessPool",
        lambda work, devices, threads: InlinePool(work, "cpu"),
    )
    run, log, key = RunFolder(tmp_path / "run"), tmp_path / "log", "test/Track00002"
    some = dataset.select(names=["Track00002"])
    settings = replace(QUICK, bss=True)
    assert evaluate(some, FakeSpec(), [BANDS], run, settings) == 0
    before = table(run)
    record = run.record(BANDS, key, "bss")
    museval = json.loads((run.path / "bands/museval" / f"{key}.json").read_text())
    assert [t["name"] for t in museval["targets"]] == list(dataset.stems)
    frames = [f["metrics"]["SDR"] for f in museval["targets"][0]["frames"]]
    frames = [f for f in frames if not math.isnan(f)]
    assert record["medians"]["bass"]["SDR"] == pytest.approx(np.median(frames), abs=1e-5)
    assert "the reference of guitar is silent: no BSSEval" in record["notes"]
    assert record["medians"]["guitar"]["SDR"] is None
    scores = summarise(run).variants[0].scores
    assert scores["SDR"]["bass"].value == record["medians"]["bass"]["SDR"]
    assert math.isnan(scores["SDR"]["guitar"].value)
    # The estimates that it needed are gone: to run BSSEval again it separates again.
    assert not (run.path / "bands" / "stems").exists()
    (run.path / "bands/bss" / f"{key}.json").unlink()
    assert evaluate(some, FakeSpec(log=str(log)), [BANDS], run, settings) == 0
    assert "Track00002" in log.read_text()
    assert table(run) == before
    # With them it does not.
    log.unlink()
    (run.path / "bands/bss" / f"{key}.json").unlink()
    audio = some.tracks[0].load(RATE)
    run.write_sounds(run.stems_folder(BANDS, key), blended(audio.mixture, RATE), RATE)
    assert evaluate(some, FakeSpec(log=str(log)), [BANDS], run, settings) == 0
    assert not log.exists()
    assert table(run) == before


def test_variants_have_folders_of_their_own():
    labels = [
        Variant("mgdm"),
        Variant("mgdm", (("gibbs", 2),)),
        Variant("mgdm", (("law", "a/b"),)),
        Variant("mgdm", (("law", "a_b"),)),
        Variant("../escape"),
        Variant("x" * 300),
    ]
    slugs = [v.slug for v in labels]
    assert slugs[:2] == ["mgdm", "mgdm_gibbs=2"]
    assert len(set(slugs)) == len(slugs)
    assert all("/" not in s and not s.startswith(".") and len(s) < 100 for s in slugs)


@pytest.mark.parametrize("value", [2, 0.5, None, "a/b", (1, 2), Path("x"), (1, Path("x"))])
def test_a_variant_comes_back_from_json_with_its_folder(value):
    variant = Variant("mgdm", (("law", value),))
    (stored,) = json.loads(json.dumps(variant.stored))
    again = Variant("mgdm", ((stored[0], tuple(v) if isinstance(v := stored[1], list) else v),))
    assert again.slug == variant.slug


@pytest.mark.parametrize("text", ["[]", "{}", "5", "{"])
def test_a_description_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(AudioError, match=r"run\.json: is damaged .*evaluate again"):
        summarise(RunFolder(tmp_path))


def test_best_and_worst():
    ranks = {c: float(i) for i, c in enumerate("abcdefgh")} | {"nan": math.nan}
    assert best_and_worst(ranks, 2) == ["h", "g", "b", "a"]
    assert best_and_worst({"a": 1.0, "b": 2.0}, 3) == ["b", "a"]
    assert best_and_worst({}, 3) == []


def test_excerpts_of_the_best_and_worst_only(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("mgdm_audio.evaluation.run.LISTEN_TRACKS", 1)
    run = RunFolder(tmp_path / "run")
    evaluate(dataset, FakeSpec(), [BANDS], run, QUICK)
    kept = {p.name for p in (run.path / "bands/listen/test").iterdir()}
    means = {}
    for row in result_rows(run):
        if row["sampler"] != "nothing" and row["si_sdr_improvement"] is not None:
            means.setdefault(row["track"][5:], []).append(row["si_sdr_improvement"])
    order = sorted(means, key=lambda k: np.mean(means[k]))
    assert kept == {order[0], order[-1]}
