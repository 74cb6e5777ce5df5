"""The evaluation with a cheap separator on the generated Slakh: scores, records, engines."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from mgdm_audio.compute.engines import EngineError
from mgdm_audio.datasets import open_dataset
from mgdm_audio.datasets.patterns import open_patterns
from mgdm_audio.datasets.tracks import resample
from mgdm_audio.errors import AudioError
from mgdm_audio.evaluation.estimators import EstimateFiles, Estimates
from mgdm_audio.evaluation.nothing import MIXTURE, ORACLE
from mgdm_audio.evaluation.result_files import result_rows
from mgdm_audio.evaluation.run import EngineSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import summarise
from mgdm_audio.evaluation.track_scores import (
    ACTIVE,
    ALL,
    KEPT_SILENT,
    LEAK,
    LOST,
    PUBLISHED,
    RETAINED,
    TrackScores,
    record_of,
)
from mgdm_audio.metrics.si_sdr import score_windows
from mgdm_audio.metrics.silence import active_stems
from mgdm_audio.reports.summary_page import write_summary
from mgdm_core.errors import SettingsError

from .evaluation_runs import BANDS, QUICK, RATE, table
from .fake_separator import FakeSpec, blended
from .fake_slakh import write_fake_slakh


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_fake_slakh(tmp_path_factory.mktemp("slakh"))).select("test")


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    """One plain run, to compare others with."""
    run = RunFolder(tmp_path_factory.mktemp("run") / "reference")
    assert evaluate(dataset, FakeSpec(), [BANDS], run, QUICK) == 0
    return run


class EstimatesOf(FakeSpec):
    """What a function of mixture, rate and seed gives."""

    def __init__(self, function):
        self.function = function

    def load(self, device):
        return lambda job: Estimates(self.function(job.audio.mixture, job.audio.rate, job.seed))


def scored(track, stems):
    """What the metrics measure of one track."""
    audio = track.load(RATE)
    return score_windows(
        torch.from_numpy(np.stack([stems(audio)[name] for name in audio.stems])),
        torch.from_numpy(audio.stacked()),
        torch.from_numpy(audio.mixture),
        RATE,
    )


def pooled(dataset, stems, choose, of=lambda s: s.improvement):
    """Mean per stem over all windows of all tracks that ``choose`` picks of the scores."""
    found = [scored(track, stems) for track in dataset.tracks]
    values = [(of(s), choose(s)) for s in found]
    return {
        stem: torch.cat([v[row][m[row]] for v, m in values]).mean().item()
        for row, stem in enumerate(dataset.stems)
    }


def test_scores_are_those_of_the_metric(dataset, reference):
    summary = summarise(reference).variants[0]
    rules = {ACTIVE: active_stems, PUBLISHED: lambda s: s.kept.expand_as(s.active)}
    for name, rule in rules.items():
        # All windows of all tracks weigh the same.
        means = pooled(dataset, lambda audio: blended(audio.mixture, RATE), rule)
        for stem in dataset.stems:
            assert summary.scores[name][stem].value == pytest.approx(means[stem], abs=1e-6)
        mean = sum(means.values()) / 4
        assert summary.scores[name][ALL].value == pytest.approx(mean, abs=1e-6)
    assert (summary.tracks, summary.failed, summary.missing) == (3, 0, 0)
    assert summary.evaluations == 80
    assert summary.name == "bands (preset none)"
    bounds = summary.scores[ACTIVE]["bass"]
    assert bounds.low < bounds.value < bounds.high
    # Track00002 has no guitar: scored as published, left out of the figure to compare by.
    assert summary.scores[PUBLISHED]["guitar"].tracks == 3
    assert summary.scores[ACTIVE]["guitar"].tracks == 2
    # It is the only silent stem, in one window.
    silent = scored(dataset.tracks[1], lambda audio: blended(audio.mixture, RATE))
    leaked = 20 * math.log10(silent.estimate_rms[2, 0] / silent.mixture_rms[0])
    assert summary.scores[LEAK]["guitar"].value == pytest.approx(leaked, abs=1e-4)
    assert summary.scores[LEAK]["guitar"].tracks == 1
    assert math.isnan(summary.scores[LEAK]["bass"].value)
    assert summary.scores[KEPT_SILENT]["guitar"].value == 0
    assert summary.scores[LOST]["guitar"].value == 0
    parts = pooled(
        dataset, lambda audio: blended(audio.mixture, RATE), active_stems, lambda s: s.retained
    )
    for stem in dataset.stems:
        assert summary.scores[RETAINED][stem].value == pytest.approx(100 * parts[stem], abs=1e-6)


def test_a_record_that_does_not_know_what_is_in_a_stem_says_so(dataset):
    scores = scored(dataset.tracks[0], lambda audio: blended(audio.mixture, RATE))
    stems = list(dataset.stems)
    record = {"stems": stems, **record_of(scores, stems, stems)}
    assert TrackScores.of(record).value(RETAINED, "bass") > 0
    del record["retained"]
    old = TrackScores.of(record)
    assert math.isnan(old.value(RETAINED, "bass"))
    assert not math.isnan(old.value(ACTIVE, "bass"))


def test_rows_of_nothing_show_what_silence_is_worth(dataset, reference):
    summary = summarise(reference)
    nothing = {row.name: row.scores for row in summary.nothing}
    assert list(nothing) == [MIXTURE, ORACLE]
    quarter = pooled(dataset, lambda audio: dict.fromkeys(audio.stems, audio.mixture / 4),
                     lambda s: s.kept.expand_as(s.active))  # fmt: skip

    def zeroed(audio):
        return {
            name: audio.mixture / 4 if np.abs(x).max() > 0 else np.zeros_like(x)
            for name, x in audio.stems.items()
        }

    known = pooled(dataset, zeroed, lambda s: s.kept.expand_as(s.active))
    for stem in dataset.stems:
        assert nothing[MIXTURE][PUBLISHED][stem].value == pytest.approx(quarter[stem], abs=1e-4)
        assert nothing[ORACLE][PUBLISHED][stem].value == pytest.approx(known[stem], abs=1e-4)
        for row in (MIXTURE, ORACLE):
            assert nothing[row][ACTIVE][stem].value == pytest.approx(0.0, abs=1e-4)
    # One silent stem in one of four windows: worth 15 dB and more, for no separation at all.
    assert nothing[ORACLE][PUBLISHED]["guitar"].value > 15
    assert nothing[ORACLE][KEPT_SILENT]["guitar"].value == 100
    assert nothing[ORACLE][LEAK]["guitar"].value == pytest.approx(-150)
    assert nothing[MIXTURE][LEAK]["guitar"].value == pytest.approx(20 * math.log10(1 / 4), abs=1e-4)
    assert nothing[MIXTURE][LOST][ALL].value == 0
    # A quarter of every stem, and of what the others correlate with it.
    assert nothing[MIXTURE][RETAINED][ALL].value == pytest.approx(25, abs=5)


def test_files_of_a_run(dataset, reference):
    write_summary(reference)
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(reference.path / "results.parquet").to_pylist()
    assert len(rows) == 12 * 3
    assert [r["variant"] for r in rows[:12:4]] == ["bands", MIXTURE, ORACLE]
    assert rows == result_rows(reference)
    guitar = next(r for r in rows if (r["track"], r["stem"]) == ("test/Track00002", "guitar"))
    assert (guitar["windows_silent"], guitar["silent_kept_silent"]) == (1, 0.0)
    assert guitar["leak"] < 0
    assert guitar["si_sdr_improvement"] is None
    assert guitar["windows_kept"] == 1
    assert guitar["windows_scored"] == 0
    assert guitar["notes"] == "no guitar in this track"
    text = (reference.path / "summary.md").read_text()
    value = summarise(reference).variants[0].scores[ACTIVE][ALL].value
    assert f"{value:.2f}" in text
    assert text.index(MIXTURE) < text.index("published protocol")
    assert json.loads((reference.path / "summary.json").read_text())["name"]
    asked = reference.description["asked"]
    assert asked["estimator"]["sha256"] == "0" * 64
    assert asked["tracks"] == [t.key for t in dataset.tracks]
    # Excerpts: the mixture, and reference and estimate of each stem.
    folder = reference.listen_folder(BANDS, "test/Track00001")
    assert len(list(folder.iterdir())) == 9
    sound, rate = soundfile.read(folder / "bass.reference.flac")
    assert rate == RATE
    start, stop = reference.record(BANDS, "test/Track00001")["excerpt"]
    bass = dataset.tracks[0].load(RATE).stems["bass"][start:stop]
    np.testing.assert_allclose(sound, bass, atol=1 / 32768)


def test_a_second_run_has_nothing_to_do(dataset, reference, tmp_path):
    log = tmp_path / "log"
    before = table(reference)
    assert evaluate(dataset, FakeSpec(log=str(log)), [BANDS], reference, QUICK) == 0
    assert not log.exists()
    assert table(reference) == before


def test_what_is_missing_or_torn_is_done_again(dataset, reference, tmp_path):
    run, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    evaluate(dataset, FakeSpec(), [BANDS], run, QUICK)
    files = sorted((run.path / "bands" / "tracks" / "test").iterdir())
    files[0].unlink()
    files[1].write_text(files[1].read_text()[:100])
    (run.path / "bands" / ".mgdm-123.part").mkdir()
    assert evaluate(dataset, FakeSpec(log=str(log)), [BANDS], run, QUICK) == 0
    worked = [line.split()[0] for line in log.read_text().splitlines()[1:]]
    assert worked == ["Track00001", "Track00002"]
    assert table(run) == table(reference)
    assert not list(run.path.rglob(".mgdm-*"))


def test_a_failing_track_is_recorded_and_the_others_go_on(dataset, reference, tmp_path):
    run = RunFolder(tmp_path / "run")
    told = []
    failed = evaluate(
        dataset, FakeSpec(fail=["Track00002"]), [BANDS], run, QUICK, on_progress=told.append
    )
    assert failed == 1
    assert [(p.done, p.total, p.error) for p in told] == [
        (1, 3, None),
        (2, 3, "cannot separate Track00002"),
        (3, 3, None),
    ]
    error = run.record(BANDS, "test/Track00002")["error"]
    assert error == {"type": "ValueError", "message": "cannot separate Track00002"}
    summary = write_summary(run).variants[0]
    assert (summary.tracks, summary.failed) == (2, 1)
    assert "cannot separate Track00002" in (run.path / "summary.md").read_text()
    assert sum(r["error"] is not None for r in result_rows(run)) == 1
    # The next run tries it again.
    assert evaluate(dataset, FakeSpec(), [BANDS], run, QUICK) == 0
    assert table(run) == table(reference)


def test_a_broken_track_and_nonsense_estimates_are_errors_of_that_track(dataset, tmp_path):
    def nonsense(mix, rate, seed):
        bad = np.full_like(mix, np.nan) if len(mix) == round(3.0 * RATE) else mix[:-1]
        return {"bass": bad}

    run = RunFolder(tmp_path / "run")
    assert evaluate(dataset, EstimatesOf(nonsense), [BANDS], run, QUICK) == 3
    messages = [run.record(BANDS, t.key)["error"]["message"] for t in dataset.tracks]
    assert "needs shape" in messages[0]
    assert "bass holds NaN" in messages[1]
    run = RunFolder(tmp_path / "other")
    spec = EstimatesOf(lambda mix, rate, seed: {"vocals": mix})
    assert evaluate(dataset, spec, [BANDS], run, QUICK) == 3
    assert "none is common" in run.record(BANDS, "test/Track00001")["error"]["message"]


def test_estimates_in_files_are_scored_and_paired_by_name(dataset, reference, tmp_path):
    root = tmp_path / "estimates"
    for track in dataset.tracks:
        audio = track.load(RATE)
        stems = blended(audio.mixture, RATE)
        folder = root / (track.key if track.name == "Track00001" else track.name)
        folder.mkdir(parents=True)
        for name in ("piano", "guitar", "drums", "bass"):
            # A few samples too many are cut.
            longer = np.concatenate([stems[name], np.zeros(100)])
            soundfile.write(folder / f"{name}.wav", longer, RATE, subtype="FLOAT")
        soundfile.write(folder / "residual.wav", audio.mixture, RATE)
    run = RunFolder(tmp_path / "run")
    variant = Variant("estimates")
    assert evaluate(dataset, EstimateFiles(root), [variant], run, QUICK) == 0
    theirs, ours = summarise(run).variants[0], summarise(reference).variants[0]
    for name in (ACTIVE, PUBLISHED):
        for stem in (*dataset.stems, ALL):
            expected = ours.scores[name][stem].value
            assert theirs.scores[name][stem].value == pytest.approx(expected, abs=1e-3)
    assert run.record(variant, "test/Track00003")["warnings"][0] == (
        "bass: +100 samples against the reference"
    )
    # Another recording under the same name, and one without estimates.
    soundfile.write(root / "Track00002" / "bass.wav", np.zeros(RATE), RATE)
    for path in (root / "Track00003").iterdir():
        path.unlink()
    (root / "Track00003").rmdir()
    run = RunFolder(tmp_path / "run2")
    assert evaluate(dataset, EstimateFiles(root), [variant], run, QUICK) == 2
    errors = summarise(run).variants[0].errors
    assert "must not differ" in errors["test/Track00002"]
    assert "no folder of estimates" in errors["test/Track00003"]


def test_published_outputs_as_they_are_found(dataset, reference, tmp_path):
    theirs, truth = tmp_path / "theirs", tmp_path / "truth"
    theirs.mkdir()
    truth.mkdir()
    for n, track in enumerate(dataset.tracks, 1):
        audio = track.load(RATE)
        for name, sound in blended(audio.mixture, RATE).items():
            # At twice the rate; what resampling takes off is at the very top of the spectrum.
            wide = resample(sound, RATE, 2 * RATE)
            soundfile.write(theirs / f"generated_{name}_{n}.wav", wide, 2 * RATE, subtype="FLOAT")
            soundfile.write(truth / f"{name}_{n:03}.wav", audio.stems[name], RATE, subtype="FLOAT")
        soundfile.write(truth / f"mix_{n:03}.wav", audio.mixture, RATE, subtype="FLOAT")
    (theirs / "read_me.txt").write_text("x")
    spec = EstimateFiles(theirs, pattern="generated_{stem}_{n}.wav")
    run = RunFolder(tmp_path / "run")
    # Against a data set, whose tracks' names end with the numbers ...
    assert evaluate(dataset, spec, [Variant("theirs")], run, QUICK) == 0
    # ... and against files with a pattern of their own, mixtures summed or given.
    named = open_patterns(truth, "{stem}_{n}.wav", "mix_{n}.wav")
    assert named.stems == dataset.stems
    assert [t.name for t in named.tracks] == ["1", "2", "3"]
    given = RunFolder(tmp_path / "given")
    settings = replace(QUICK, mixture="mix")
    assert evaluate(named, spec, [Variant("theirs")], given, settings) == 0
    expected = summarise(reference).variants[0]
    for found in (summarise(run).variants[0], summarise(given).variants[0]):
        for stem in (*dataset.stems, ALL):
            for name in (ACTIVE, LEAK):
                value = found.scores[name][stem].value
                close = pytest.approx(expected.scores[name][stem].value, abs=0.2, nan_ok=True)
                assert value == close, (name, stem)
    (theirs / "generated_bass_02.wav").write_bytes(b"")
    with pytest.raises(AudioError, match="are both bass of 2"):
        spec.finder()
    for wrong in ("a_{n}.wav", "{stem}.wav", "{stem}_{n}_{n}.wav", "{stem}_{x}.wav"):
        with pytest.raises(SettingsError, match="pattern"):
            EstimateFiles(theirs, pattern=wrong)
    with pytest.raises(AudioError, match="has no file that fits"):
        open_patterns(truth, "x_{stem}_{n}.wav")


def test_processes_give_the_same_numbers_and_survive_a_death(dataset, reference, tmp_path):
    bomb, log = tmp_path / "bomb", tmp_path / "log"
    bomb.write_text("x")
    run = RunFolder(tmp_path / "run")
    engine = EngineSettings(devices=("cpu", "cpu"))
    assert (
        evaluate(dataset, FakeSpec(die=str(bomb), log=str(log)), [BANDS], run, QUICK, engine) == 0
    )
    assert not bomb.exists()
    assert table(run) == table(reference)
    lines = log.read_text().split("\n")
    loads = [line.split()[1] for line in lines if line.startswith("load")]
    # Two workers and the replacement of the one that died, one load each, none in this process.
    assert len(loads) == len(set(loads)) == 3
    assert str(os.getpid()) not in loads


def test_a_worker_that_cannot_start_ends_the_run(dataset, tmp_path):
    one = dataset.select(limit=1)
    # Alone it is not a process of its own, and the error is the one that was raised.
    for devices, kind in ((("nowhere",), RuntimeError), (("nowhere", "nowhere"), EngineError)):
        run = RunFolder(tmp_path / str(len(devices)))
        with pytest.raises(kind, match="no such device"):
            evaluate(one, FakeSpec(), [BANDS], run, QUICK, EngineSettings(devices=devices))
