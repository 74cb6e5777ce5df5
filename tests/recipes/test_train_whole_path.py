"""From nothing to a prior: compose, render, train, resume, pack, export, load."""

import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.priors.checkpoint.store import load_prior

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
    commands("pack", "--out", tmp_path / "shards", "--segments", 4, "--workers", 0)
    output = commands(
        *("train", "--out", tmp_path / "run", "--preset", "gpu-25min", "--dry", "--no-compile"),
        *("--data-dir", tmp_path / "shards"),
    )
    assert "saved step 6" in output
