"""BSSEval through museval, with silence accounted for."""

import json

import numpy as np
import pytest

from mgdm_audio.errors import AudioError
from mgdm_audio.metrics.bss_eval import METRICS, _import_museval, bss_eval
from mgdm_core.errors import SettingsError

RATE = 2000


def sounds(names, seconds=4, seed=0):
    rng = np.random.default_rng(seed)
    return {name: 0.1 * rng.standard_normal(seconds * RATE) for name in names}


@pytest.fixture
def stems():
    return sounds(["bass", "drums", "piano"])


def noisy(stems, level=0.03, seed=1):
    rng = np.random.default_rng(seed)
    return {k: v + level * rng.standard_normal(len(v)) for k, v in stems.items()}


def test_scores_are_those_of_museval_paired_by_name(stems):
    estimates = noisy(stems)
    shuffled = {name: estimates[name] for name in ("piano", "bass", "drums")}
    scores = bss_eval(shuffled, stems, RATE)
    assert list(scores.frames) == ["bass", "drums", "piano"]
    theirs = _import_museval().evaluate(
        np.stack(list(stems.values()))[..., None],
        np.stack(list(estimates.values()))[..., None],
        win=RATE,
        hop=RATE,
        mode="v4",
    )
    for metric, values in zip(METRICS, theirs, strict=True):
        for row, name in enumerate(stems):
            np.testing.assert_array_equal(scores.frames[name][metric], values[row])
            assert scores.medians[name][metric] == pytest.approx(np.median(values[row]))
    assert scores.notes == ()
    # By hand: noise of 0.03 beside a stem of 0.1, of which the filters explain a little.
    assert scores.medians["bass"]["SDR"] == pytest.approx(20 * np.log10(0.1 / 0.03), abs=1.0)


def test_museval_reads_back_its_own_file(stems, tmp_path):
    scores = bss_eval(noisy(stems), stems, RATE)
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "song.json").write_text(scores.to_museval_json("song"))
    content = json.loads((folder / "song.json").read_text())
    assert [t["name"] for t in content["targets"]] == ["bass", "drums", "piano"]
    store = _import_museval().EvalStore()
    store.add_eval_dir(tmp_path)
    theirs = store.agg_frames_tracks_scores()
    for name in stems:
        for metric in METRICS:
            assert theirs[name, metric] == pytest.approx(scores.medians[name][metric], abs=1e-5)


def test_a_silent_reference_is_left_out_and_changes_nothing_else(stems):
    estimates = noisy({**stems, "guitar": np.zeros(4 * RATE)})
    with_silent = bss_eval(estimates, {"guitar": np.zeros(4 * RATE), **stems}, RATE)
    without = bss_eval(estimates, stems, RATE)
    assert with_silent.notes == ("the reference of guitar is silent: no BSSEval",)
    assert np.isnan(with_silent.frames["guitar"]["SDR"]).all()
    assert np.isnan(with_silent.medians["guitar"]["SIR"])
    for name in stems:
        assert with_silent.medians[name] == without.medians[name]


def test_a_silent_estimate_has_no_score_and_still_counts_as_interference(stems):
    estimates = noisy(stems)
    # The piano leaks into the bass: only a reference of the piano can tell.
    estimates["bass"] = estimates["bass"] + 0.5 * stems["piano"]
    full = bss_eval(estimates, stems, RATE)
    scores = bss_eval({**estimates, "piano": np.zeros(4 * RATE)}, stems, RATE)
    assert "the estimate of piano is silent: no BSSEval" in scores.notes
    assert np.isnan(scores.medians["piano"]["SDR"])
    assert scores.medians["bass"] == pytest.approx(full.medians["bass"])
    # A stem that was not estimated at all is the same case.
    del estimates["piano"]
    missing = bss_eval(estimates, stems, RATE)
    assert missing.notes == ("piano was not estimated: no BSSEval",)
    assert missing.medians["bass"] == pytest.approx(full.medians["bass"])


def test_frames_in_which_a_stem_rests_are_counted(stems):
    stems["drums"][: 2 * RATE] = 0.0
    scores = bss_eval(noisy(stems), stems, RATE)
    assert scores.notes == ("BSSEval over 2 of 4 frames: in the others a stem is silent",)
    assert np.isnan(scores.frames["bass"]["SDR"][:2]).all()
    assert np.isfinite(scores.medians["bass"]["SDR"])
    json.loads(scores.to_museval_json("song"))


@pytest.mark.parametrize(
    ("estimates", "references"),
    [
        ({"bass": np.ones(300)}, {"bass": np.zeros(300)}),
        ({}, sounds(["bass"])),
        (sounds(["bass"], seed=5), sounds(["bass"])),
        ({"bass": np.ones(10)}, {"bass": np.ones(300)}),
    ],
)
def test_degenerate_tracks_do_not_crash(estimates, references):
    scores = bss_eval(estimates, references, RATE)
    assert set(scores.frames) == set(references)
    json.loads(scores.to_museval_json("x"))


def test_wrong_input_is_refused(stems):
    estimates = noisy(stems)
    estimates["drums"][7] = np.nan
    with pytest.raises(AudioError, match="drums holds NaN"):
        bss_eval(estimates, stems, RATE)
    with pytest.raises(SettingsError, match="must be positive"):
        bss_eval(stems, stems, RATE, window=0.0)
