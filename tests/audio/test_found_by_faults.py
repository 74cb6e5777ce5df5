"""What the fault campaign and the newcomer's list found, each as it was found."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from click.testing import CliRunner

from mgdm_audio.cli.evaluate import main as evaluate
from mgdm_audio.datasets import open_dataset
from mgdm_audio.errors import CheckpointError, DatasetError, one_line
from mgdm_audio.evaluation.track_scores import TrackScores
from mgdm_audio.priors import load_prior
from mgdm_audio.priors.msdm.importer import read_msdm
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.separation.request import OutputChoice, SeparateRequest
from mgdm_audio.separation.separator import _as_array
from mgdm_audio.separation.uncertainty import uncertainty_note
from mgdm_core.errors import SettingsError, ShapeError
from recipes.exact_posterior.cli import main as exact_posterior
from recipes.speed.cli import main as speed

from .tiny_stems_prior import save_tiny_stems


def test_a_checkpoint_whose_names_are_no_text(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"byteorder", b"byteord\x85r", 1))
    with pytest.raises(CheckpointError, match="damaged"):
        read_msdm(path)


def test_no_stem_is_called_as_the_file_of_what_no_stem_takes(tmp_path):
    with pytest.raises(SettingsError, match="no stem may be called 'residual'"):
        save_tiny_stems(tmp_path / "a.safetensors", stems=("bass", "residual"))
    path = save_tiny_stems(tmp_path / "b.safetensors", stems=("bass", "residuum"))
    path.write_bytes(path.read_bytes().replace(b"residuum", b"residual"))
    with pytest.raises(CheckpointError, match=r"b\.safetensors: .*called 'residual'"):
        load_prior(path)


def test_a_track_of_no_more_than_two_seconds_has_no_windows():
    stems = ("bass", "drums")
    none = {stem: [] for stem in stems}
    record = {
        "stems": stems,
        "si_sdr": none,
        "mixture_si_sdr": none,
        "active": none,
        "rms": none,
        "rest_rms": none,
        "estimate_rms": none,
        "mixture_rms": [],
    }
    scores = TrackScores.of(record)
    assert all((counts == 0).all() for counts in scores.counts.values())


def test_memory_that_torch_does_not_get_on_the_cpu_is_named():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert one_line(caught.value).startswith("out of memory")


def request_of(**changes):
    facts = {
        "inputs": ("a.wav",),
        "out": Path("out"),
        "prior": Path("prior"),
        "prior_name": "p",
        "choice": OutputChoice(("bass",)),
    }
    return SeparateRequest(**(facts | changes))


def test_a_spread_that_means_nothing_is_said_to():
    cold = sampling_settings("balanced", samples=4)
    (note,) = request_of(sampling=cold, uncertainty=True).notes
    assert "temperature 0.01" in note
    assert request_of(sampling=cold).notes == ()
    warm = sampling_settings("paper", samples=4)
    assert request_of(sampling=warm, uncertainty=True).notes == ()
    asked = request_of(sampling=warm, uncertainty=True)
    assert "leave out --preset" in str(uncertainty_note(asked, fitted=True))


def test_draws_of_an_error_model_are_not_passed_off_as_the_posterior():
    drawn = request_of(sampling=sampling_settings("posterior"), uncertainty=True)
    assert drawn.notes == ()
    assert "no samples of the posterior" in str(uncertainty_note(drawn, fitted=True))
    assert "uncalibrated" in str(uncertainty_note(drawn, fitted=False))
    assert uncertainty_note(request_of(sampling=sampling_settings("posterior")), True) is None
    for without, warned in (((), False), (("other",), False), (("piano", "other"), True)):
        note = uncertainty_note(replace(drawn, without=without), fitted=True)
        assert ("known to be without piano, other" in str(note)) is warned


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
@pytest.mark.parametrize("place", [b"songs/tr\xe9", b"songs/track"])
def test_a_data_set_whose_names_are_no_text_is_refused_in_a_line(tmp_path, place):
    """It was an internal error, at the first track that was read or only when results were."""
    folder = tmp_path / os.fsdecode(place)
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"b\xe4ss.wav")).touch()
    with pytest.raises(DatasetError, match=r"\\udce[49].*rename it"):
        open_dataset(tmp_path / "songs")


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_estimates_whose_folder_is_no_text_are_refused_in_a_line(tmp_path):
    """It was an internal error when run.json was written, and later when the tables were."""
    folder, data = tmp_path / os.fsdecode(b"estim\xe9s"), tmp_path / "songs"
    soundfile.write(tmp_path / "tone.wav", torch.ones(8000).cumsum(0).sin().numpy() / 2, 8000)
    for held in (folder, data):
        (held / "song").mkdir(parents=True)
        shutil.copy(tmp_path / "tone.wav", held / "song" / "bass.wav")
    out = tmp_path / "run"
    asked = ["score", str(folder), str(data), "-o", str(out), "--no-museval", "--quiet"]
    result = CliRunner().invoke(evaluate, asked)
    assert result.exit_code == 1
    assert "rename it" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


def test_lists_that_are_no_array_are_named():
    with pytest.raises(ShapeError, match="numpy makes none"):
        _as_array([[0.1, 0.2], [0.3]])


@pytest.mark.parametrize("option", ["--seconds", "--score", "--museval"])
def test_lengths_are_positive(option):
    result = CliRunner().invoke(speed, [option, "-1"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_results_that_cannot_be_written_are_one_line():
    result = CliRunner().invoke(exact_posterior, ["--quick", "--out", "/dev/null"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no hangups here")
def test_a_hangup_ends_training_as_a_termination_does():
    from recipes.music_prior.training.train_log import InterruptFlag

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with InterruptFlag() as flag:
            signal.raise_signal(signal.SIGHUP)
            assert flag.raised
    finally:
        signal.signal(signal.SIGHUP, before)
