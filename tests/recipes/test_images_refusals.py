"""The command line: one clear line for bad input."""

import os
import signal
import time

import numpy as np
import pytest
from click.testing import CliRunner

from recipes.images import cli
from recipes.images.cli import main
from recipes.images.image_io import read_image
from recipes.images.priors.digits import DIGITS_FILE
from tests.recipes.test_images_cli import complaint, lpip, pil, run, unreachable


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """LPIPS would look for its weights at every command."""
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", unreachable)


def test_unknown_names_list_the_valid_ones(tmp_path):
    assert "valid names: inpainting_center, " in complaint("restore", "digit:0", "-t", "sr5")
    line = complaint("restore", "digit:0", "-t", "sr4", "-s", "mgmd")
    assert "no sampler 'mgmd'; valid names: " in line
    assert "mgdm" in line
    line = complaint("restore", "digit:0", "-t", "sr4", "--prior", "digit")
    assert "no prior 'digit'; a prior is one of: 'digits'" in line
    assert "no sampler 'x'" in complaint("sweep", "--samplers", "mgdm,x", "-o", tmp_path)
    assert "no task 'y'" in complaint("sweep", "--tasks", "sr4,y", "-o", tmp_path)
    line = complaint("restore", "digit:0", "-t", "sr4", "-s", "mgdm", "--set", "level=3")
    assert "no setting 'level'; valid names: levels, " in line
    assert "found 'levels'" in complaint(
        "restore", "digit:0", "-t", "sr4", "-s", "mgdm", "--set", "levels"
    )
    assert "levels is a whole number, at least 2" in complaint(
        "restore", "digit:0", "-t", "sr4", "-s", "mgdm", "--set", "levels=1"
    )


def test_a_sampler_that_cannot_do_the_task_says_what_it_needs(tmp_path):
    line = complaint("restore", "digit:0", "-t", "jpeg2", "-s", "ddnm", "-o", tmp_path)
    assert "needs 'spectral', which JPEG does not have" in line


def test_images_that_do_not_fit_get_one_line(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (32, 32), dtype=np.uint8)
    rgba = rng.integers(0, 255, (32, 32, 4), dtype=np.uint8)
    files = {
        "rgb.png": (pil.fromarray(rgba[..., :3]), "is 8-bit RGB; digits takes 8-bit greyscale"),
        "rgba.png": (pil.fromarray(rgba), "is RGB with alpha; digits takes"),
        "deep.png": (pil.fromarray(grey.astype(np.uint16) * 257), "is 16-bit greyscale; digits"),
        "large.png": (pil.fromarray(np.tile(grey, (2, 1))), "is 64 x 32 pixels (height x width)"),
    }
    for name, (picture, message) in files.items():
        picture.save(tmp_path / name)
        assert message in complaint("restore", tmp_path / name, "-t", "sr4")
        converted = read_image(tmp_path / name, (1, 32, 32), convert=True)
        assert converted.shape == (1, 32, 32)
        assert -1 <= float(converted.min()) < float(converted.max()) <= 1
    (tmp_path / "text.png").write_text("no image")
    pil.fromarray(grey).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    for name in ("text.png", "cut.png"):
        assert "cannot be read as an image" in complaint("restore", tmp_path / name, "-t", "sr4")
    assert "no image at" in complaint("restore", tmp_path / "none.png", "-t", "sr4")
    assert "digit:N takes N from 0 to 196" in complaint("restore", "digit:500", "-t", "sr4")
    line = complaint("restore", tmp_path / "large.png", "-t", "sr4", "--observation")
    assert "has 8 x 8 pixels and 1 channel(s); found 64 x 32" in line
    assert "holds no images" in complaint("sweep", "--images", DIGITS_FILE.parent, "-o", tmp_path)


def test_settings_that_nothing_would_take_are_refused(tmp_path):
    given = ("sweep", "--tasks", "sr4", "--images", "digits:1", "-o", tmp_path / "out")
    line = complaint(*given, "--set", "mgmd:levels=3")
    assert "--set mgmd:levels=3: no sampler of this sweep takes it; those with settings" in line
    line = complaint(*given, "--samplers", "pseudo_inverse", "--set", "levels=3")
    assert "--set levels=3: no sampler of this sweep takes it" in line
    line = complaint(*given, "--samplers", "dps", "--gibbs", "1,2")
    assert "--gibbs varies MGDM's R; found the samplers dps" in line
    assert "at least one sampler" in complaint(*given, "--samplers", ",")
    assert "batch and samples are at least 1; found -1" in complaint(*given, "--batch", "-1")
    assert "batch and samples are at least 1; found 0" in complaint(*given, "--batch", "0")
    line = complaint("train-digits", "--steps", "0", "-o", tmp_path / "w.safetensors")
    assert "steps and batch are at least 1; found 0" in line


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_computed(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")
    line = complaint("restore", "digit:0", "-t", "sr4", "-o", taken)
    assert f"results cannot be written to {taken}: File exists" in line


def test_arrays_of_another_shape_get_one_line(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((8, 8)))
    line = complaint("restore", tmp_path / "flat.npy", "-t", "sr4", "--observation")
    assert "has 8 x 8 pixels and 1 channel(s); found an array of shape (8, 8)" in line


def test_files_that_are_no_weights_get_one_line(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    line = complaint("restore", "digit:0", "-t", "sr4", "--prior", text)
    assert "cannot be read as a checkpoint of plain tensors (it is no file of torch" in line
    line = complaint("restore", "digit:0", "-t", "nonlinear_blur", "--kernel-weights", text)
    assert "cannot be read safely (it is no file of torch" in line


@pytest.mark.parametrize("asked", [("--size", 64), ("--head-channels", 32)])
def test_options_of_other_checkpoints_are_refused(asked):
    line = complaint("restore", "digit:3", "-t", "blur", *asked)
    assert "--size and --head-channels are for checkpoints of guided-diffusion" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("restore", "digit:3", "-t", "blur", "--seed", 2**50),
        ("restore", "digit:3", "-t", "blur", "--size", 0),
        ("restore", "digit:3", "-t", "blur", "--head-channels", 0),
        ("demo", "--seed", -1),
        ("train-digits", "-o", "mine.pt"),
        ("restore", "digit:3", "-t", "zzz"),
        ("restore", "digit:9999", "-t", "blur"),
        ("restore", "digit:3", "-t", "blur", "-n", 0),
        ("restore", "digit:3", "-t", "blur", "--sigma-y", -1),
        ("restore", "digit:3", "-t", "blur", "--sigma-y", "nan"),
        ("restore", "digit:3", "-t", "blur", "--prior", "nope"),
        ("restore", "digit:3", "-t", "blur", "-d", "cuda:99"),
        ("restore", "digit:3", "-t", "blur", "-d", "nope"),
        ("restore", "digit:3", "-t", "blur", "--label", 3),
        ("sweep", "--images", "digits:0"),
        ("sweep", "--tasks", "zzz"),
        ("sweep", "--sigma-y", 0),
        ("demo", "--digits", 0),
        ("demo", "-n", 0),
        ("train-digits", "-o", "a/b/mine.safetensors", "--steps", 0),
    ],
)
def test_numbers_and_names_that_nothing_takes_are_wrong_usage(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert len(result.output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_demonstration_that_is_stopped_leaves_nothing(tmp_path, monkeypatch):
    def stopped(out, **options):
        assert out.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(cli, "run_demo", stopped)
    kept = tmp_path / "kept"
    kept.mkdir()
    result = CliRunner().invoke(main, ["demo", "-o", str(kept / "a" / "demo")])
    assert result.exit_code == 143
    assert list(kept.iterdir()) == []
    assert CliRunner().invoke(main, ["demo", "-o", str(kept)]).exit_code == 143
    assert kept.is_dir()  # it was there before


@pytest.mark.parametrize("asked", [("--label", 3), ("--guidance", 2.0)])
def test_a_prior_without_classes_takes_none(tmp_path, asked):
    told = run("restore", "digit:3", "-t", "blur", "-o", tmp_path / "o", *asked, fails=True)
    assert "for networks of diffusers; found 'digits'" in told
    assert not (tmp_path / "o").exists()
