"""Scores of files: of stems that are missing, and of files that change between two calls."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from mgdm_audio.datasets import open_dataset
from mgdm_audio.evaluation.compare import compare_runs
from mgdm_audio.evaluation.estimators import EstimateFiles
from mgdm_audio.evaluation.run import EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import summarise
from mgdm_audio.evaluation.track_scores import ACTIVE, ALL
from mgdm_core.errors import SettingsError

RATE = 8000
STEMS = ("bass", "drums", "guitar")
SETTINGS = EvaluationSettings(rate=RATE, bss=False, keep="none")
ROW = Variant("mine")


def write(folder, noise, seed):
    """Six seconds of each stem, with so much of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    truth = {name: rng.standard_normal(6 * RATE).astype(np.float32) / 8 for name in STEMS}
    mixture = sum(truth.values())
    for name, stem in truth.items():
        sound = (1 - noise) * stem + noise * mixture
        soundfile.write(folder / f"{name}.wav", sound, RATE, "FLOAT")


@pytest.fixture
def folders(tmp_path):
    """References of two tracks, and good estimates of both."""
    for seed, track in enumerate(("T1", "T2")):
        write(tmp_path / "truth" / track, 0.0, seed)
        write(tmp_path / "mine" / track, 0.1 * (seed + 1), seed)
    return tmp_path


def score(folders, out, estimates="mine", allow_missing=False):
    dataset = open_dataset(folders / "truth")
    spec = EstimateFiles(folders / estimates, allow_missing=allow_missing)
    run = RunFolder(folders / out)
    failed = evaluate(dataset, spec, [ROW], run, SETTINGS)
    return failed, run, summarise(run).variants[0]


def test_a_stem_that_is_missing_where_it_sounds_is_an_error_of_the_track(folders):
    (folders / "mine/T2/guitar.wav").unlink()
    failed, _, found = score(folders, "a")
    assert (failed, found.tracks) == (1, 1)
    assert "has no guitar for T2, which sounds there" in found.errors["T2"]
    failed, run, found = score(folders, "b", allow_missing=True)
    assert (failed, found.tracks) == (0, 2)
    record = run.record(ROW, "T2")
    assert record["warnings"] == ["guitar: no estimate, left out of the means"]


def test_a_stem_that_no_estimate_has_is_not_asked_for(folders):
    for track in ("T1", "T2"):
        (folders / "mine" / track / "guitar.wav").unlink()
    failed, _, found = score(folders, "a")
    assert (failed, found.tracks) == (0, 2)


def test_a_stem_may_be_missing_where_it_is_silent(folders):
    (folders / "truth/T2/guitar.wav").unlink()
    (folders / "mine/T2/guitar.wav").unlink()
    failed, _, _ = score(folders, "a")
    assert failed == 0


def test_a_comparison_rewards_no_stem_that_is_missing(folders):
    _, whole, _ = score(folders, "a")
    (folders / "mine/T2/guitar.wav").unlink()
    _, part, _ = score(folders, "b", allow_missing=True)
    found = compare_runs(whole, part)
    assert {row.stem: row.result.difference.value for row in found.rows}[ALL] == pytest.approx(0.0)
    assert "stems that only one side has, on 1 tracks: not in the means" in found.remarks


@pytest.mark.parametrize("which", ["mine", "truth"])
def test_a_track_whose_files_have_changed_is_scored_again(folders, which):
    _, run, before = score(folders, "a")
    kept = run.record(ROW, "T2")
    write(folders / which / "T1", 0.5, 7)
    _, run, after = score(folders, "a")
    values = [found.scores[ACTIVE][ALL].value for found in (before, after)]
    assert values[1] < values[0] - 3
    assert run.record(ROW, "T2") == kept


def test_a_track_whose_files_are_the_same_is_not_scored_again(folders):
    score(folders, "a")
    path = folders / "a/mine/tracks/T1.json"
    os.utime(path, (1, 1))
    score(folders, "a")
    assert path.stat().st_mtime == 1


def test_a_draw_without_a_stem_is_none_of_the_mean_over_all(folders):
    """Guitar in one track of two is far worse: half of the draws have none, and no higher mean."""
    (folders / "truth/T2/guitar.wav").unlink()
    (folders / "mine/T2/guitar.wav").unlink()
    truth, rate = soundfile.read(folders / "truth/T1/guitar.wav", dtype="float32")
    noise = np.random.default_rng(3).standard_normal(len(truth)).astype(np.float32)
    soundfile.write(folders / "mine/T1/guitar.wav", truth + noise, rate, "FLOAT")
    _, _, found = score(folders, "a")
    mean, parts = found.scores[ACTIVE][ALL], found.scores[ACTIVE]
    assert parts["guitar"].value < parts["drums"].value - 10
    assert mean.high < np.mean([parts["drums"].high, parts["bass"].high]) - 3


def test_a_mixture_is_one_in_any_case_of_its_letters(folders):
    for track in ("T1", "T2"):
        source = folders / "truth" / track
        soundfile.write(source / "Mixture.wav", soundfile.read(source / "bass.wav")[0], RATE)
    dataset = open_dataset(folders / "truth")
    assert dataset.stems == ("bass", "drums", "guitar")
    assert dataset.tracks[0].mix_path().name == "Mixture.wav"


@pytest.mark.parametrize("wrong", [{"rate": 10**8}, {"seed": -1}])
def test_settings_outside_their_domain(wrong):
    with pytest.raises(SettingsError, match="lies in"):
        EvaluationSettings(**wrong)
