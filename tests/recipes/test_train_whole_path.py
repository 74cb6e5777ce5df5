"""From nothing to a prior: compose, render, train, resume, pack, export, load."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from mgdm_audio.priors.checkpoint.store import load_prior
from recipes.music_prior.sound.sf2_writer import Instrument, write_sf2
from recipes.music_prior.sound.sfz import read_sfz

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands():
    pytest.importorskip("fluidsynth", reason="rendering needs FluidSynth (libfluidsynth)")
    from recipes.music_prior.commands import main
    from recipes.music_prior.sound.soundfonts import find_soundfonts

    try:
        find_soundfonts(())
    except Exception as error:
        pytest.skip(f"rendering needs a soundfont: {error}")

    threads = torch.get_num_threads()

    def call(*arguments) -> str:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    yield call
    torch.set_num_threads(threads)


def test_compose_render_train_resume_export_load(commands, tmp_path):
    run, weights = tmp_path / "run", tmp_path / "tiny.safetensors"
    base = ["train", "--out", run, "--preset", "cpu-2h", "--dry", "--no-compile", "--workers", 0]
    base += ["--threads", 1]
    length = ["--steps", 30, "--decay-steps", 10]
    assert "saved step 15" in commands(*base, *length, "--stop-after", 15)
    output = commands(*base, *length)
    assert "saved step 30" in output
    assert "step 16/30" in output
    assert "step 15/30" not in output
    commands("export", run / "last.pt", "--out", weights)
    assert weights.stat().st_size < 40e6
    prior = load_prior(weights)
    assert prior.training["steps"] == 30
    assert prior.stems == ("bass", "drums", "guitar", "piano")
    assert float(prior.average_power.sum()) > 0
    with torch.no_grad():
        out = prior.network(0.05 * torch.ones(1, 4, 22_050), torch.tensor([0.1]))
    assert torch.isfinite(out).all()


def test_rehearsal_of_the_gpu_preset_from_packed_songs(commands, tmp_path):
    commands("pack", "--out", tmp_path / "shards", "--segments", 4, "--workers", 0, "--other")
    output = commands(
        *("train", "--out", tmp_path / "run", "--preset", "gpu-9min", "--dry", "--no-compile"),
        *("--data-dir", tmp_path / "shards"),
    )
    assert "saved step 6" in output


def test_the_kit_trains_in_an_empty_folder_and_goes_on_from_its_pieces(tmp_path):
    """Its own code, instruments and library; without wheels, since this environment has them."""
    pytest.importorskip("fluidsynth", reason="rendering needs FluidSynth (libfluidsynth)")
    if shutil.which("espeak-ng") is None:
        pytest.skip("voices need espeak-ng")
    from recipes.music_prior.training.kit import write_kit

    wave = 0.5 * np.sin(2 * np.pi * 220 * np.arange(22_050) / 22_050)
    soundfile.write(tmp_path / "tone.wav", wave, 22_050)
    (tmp_path / "tone.sfz").write_text("<region> sample=tone.wav pitch_keycenter=57")
    regions, font = read_sfz(tmp_path / "tone.sfz"), tmp_path / "font.sf2"
    places = ((0, 0), (0, 25), (0, 33), (0, 48), (128, 0))
    write_sf2(font, [Instrument(f"{place}", *place, regions) for place in places])
    write_kit(tmp_path / "kit.tar.xz", (str(font),), wheels=())
    subprocess.run(["tar", "xf", tmp_path / "kit.tar.xz"], cwd=tmp_path, check=True)
    where = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def call(*options):
        command = ["bash", "kit/run.sh", "home", "--preset", "gpu-9min", "--dry", "--no-compile"]
        command += ["--threads", "1", "--workers", "1", *options]
        done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    speaker = [tmp_path / "kit/bin/espeak-ng", "--version"]
    there = {**where, "ESPEAK_DATA_PATH": str(tmp_path / "kit")}
    told = subprocess.run(speaker, env=there, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "kit/espeak-ng-data") in told
    assert (tmp_path / "kit/espeak-ng-data/sv_dict").exists()
    assert not (tmp_path / "kit/espeak-ng-data/ru_dict").exists()
    assert "saved step 3" in call("--stop-after", "3")
    pieces = sorted((tmp_path / "home").glob("last.pt.*"))
    assert pieces
    assert all(piece.stat().st_size <= 15e6 for piece in pieces)
    for piece in pieces:
        piece.rename(tmp_path / "kit" / piece.name)
    shutil.rmtree(tmp_path / "kit" / "run")  # another machine
    output = call()
    assert "step 4/6" in output
    assert "step 3/6" not in output
