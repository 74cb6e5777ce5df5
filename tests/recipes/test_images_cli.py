"""The command line: what it writes."""

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_core.samplers import DPS, PRESETS
from mgdm_core.trace import Trace
from recipes.images import sweep
from recipes.images.cli import main
from recipes.images.image_io import read_image, write_image
from recipes.images.metrics import LPIPS, psnr
from recipes.images.presets import apply_changes, describe, published_for, settings_for
from recipes.images.priors import load_prior
from recipes.images.priors.digits import DIGITS_FILE
from recipes.images.restore import Restoration
from recipes.images.sweep import Sweep, run_sweep
from recipes.images.tasks import build_task

pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
lpip = pytest.importorskip("torchmetrics.image.lpip", reason="torchvision is not installed")

FAST = [
    arg
    for change in (
        "levels=4",
        "denoising_steps=1",
        "conditional.steps=1",
        "conditional.late_steps=1",
    )
    for arg in ("--set", change)
]
MGDM = ["-s", "mgdm", *FAST]


def unreachable(*_, **__):
    raise OSError("no network")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """LPIPS would look for its weights at every command."""
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", unreachable)


def run(*args, fails=False):
    result = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=not fails)
    assert (result.exit_code != 0) == fails, result.output
    return result.output


def complaint(*args):
    """The one line that a failing command prints."""
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.strip()]
    assert len(lines) == 1, result.output
    return lines[0]


def restore(tmp_path, *args, **kwargs):
    return run("restore", *args, "-o", tmp_path / "out", "-n", "2", *MGDM, **kwargs)


# -- what restore writes ------------------------------------------------------------


def test_restore_writes_images_a_picture_and_a_json(tmp_path):
    output = restore(tmp_path, "digit:3", "--task", "sr4")
    out = tmp_path / "out"
    names = {p.name for p in out.iterdir()}
    assert names == {
        "restoration_1.png",
        "restoration_2.png",
        "mean.png",
        "observation.png",
        "observation.npy",
        "comparison.png",
        "result.json",
    }
    assert pil.open(out / "restoration_1.png").size == (32, 32)
    assert pil.open(out / "observation.png").size == (8, 8)
    assert pil.open(out / "comparison.png").size[0] > 600
    record = json.loads((out / "result.json").read_text())
    assert record["settings"]["levels"] == 4
    assert record["settings"]["conditional"]["class"] == "Variational"
    assert record["trace"]["evaluations"] > 0
    assert record["metrics"]["lpips_sample"] is None
    assert "could not be fetched" in record["metrics"]["lpips_note"]
    assert "PSNR" in output
    # The JSON's figure is the one of the images written.
    truth = read_image("digit:3", (1, 32, 32))[None]
    mean = read_image(out / "mean.png", (1, 32, 32))[None]
    assert abs(float(psnr(mean, truth)) - record["metrics"]["psnr_mean"]) < 0.2


def test_a_folder_holds_one_restoration(tmp_path):
    restore(tmp_path, "digit:3", "--task", "sr4")
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    line = complaint("restore", "digit:4", "-t", "blur", "-o", out, *MGDM)
    assert f"{out} holds a restoration already; use --overwrite to replace it" in line
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    run("restore", "digit:4", "-t", "blur", "-o", out, "-n", 1, *MGDM, "--overwrite")
    assert {p.name for p in out.iterdir()} == set(before) - {"restoration_2.png", "mean.png"}
    assert json.loads((out / "result.json").read_text())["task"] == "blur"
    assert (out / "notes.txt").read_text() == "mine"


def test_the_same_seed_gives_the_same_images(tmp_path):
    for name in ("a", "b", "c"):
        seed = 1 if name == "c" else 0
        run(
            "restore",
            "digit:0",
            "-t",
            "blur",
            "-n",
            1,
            "-o",
            tmp_path / name,
            *MGDM,
            "--seed",
            seed,
        )
    images = [(tmp_path / n / "restoration_1.png").read_bytes() for n in ("a", "b", "c")]
    assert images[0] == images[1] != images[2]


@pytest.mark.parametrize("task", ["sr4", "inpainting_center"])
def test_a_degraded_image_is_taken_as_it_is(tmp_path, task):
    restore(tmp_path, "digit:3", "--task", task)
    seen = tmp_path / "out" / "observation.png"
    truth = tmp_path / "truth.png"
    write_image(truth, read_image("digit:3", (1, 32, 32)))
    second = tmp_path / "second"
    given = ["restore", seen, "-t", task, "--observation", "-o", second, "-n", 1, *MGDM]
    run(*given)
    assert json.loads((second / "result.json").read_text())["metrics"] is None
    run(*given, "--truth", truth, "--overwrite")
    assert json.loads((second / "result.json").read_text())["metrics"]["psnr_mean"] > 0


def test_a_spectrum_is_read_from_an_array(tmp_path):
    restore(tmp_path, "digit:3", "--task", "phase_retrieval")
    array = tmp_path / "out" / "observation.npy"
    assert np.load(array).shape == (1, 48, 48)
    run("restore", array, "-t", "phase_retrieval", "--observation", "-o", tmp_path / "b", *MGDM)


# -- sweeps ------------------------------------------------------------


def test_sweep_writes_a_table_and_resumes(tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    changes = [a.replace("levels", "mgdm:levels") if "=" in a else a for a in FAST]
    changes = ["mgdm:" + a if "=" in a and not a.startswith("mgdm:") else a for a in changes] + [
        "--set",
        "dps:steps=3",
    ]
    command = ["sweep", "--tasks", "sr4,jpeg2,nonlinear_blur", "--images", "digits:3", "-o", out]
    command += ["--samplers", "pseudo_inverse,mgdm,dps,ddnm", "--gibbs", "1,2", "--batch", 2]
    command += ["--set", "ddnm:steps=3", *changes]
    run(*command)
    text = (out / "table.md").read_text()
    head = "| PSNR (dB) / SSIM of the mean | pseudo_inverse | mgdm R=1 | mgdm R=2 | dps | ddnm |"
    assert text.startswith(head)
    row = next(line for line in text.splitlines() if line.startswith("| JPEG, quality 2 |"))
    assert row.split(" | ")[1] == ""  # no pseudo-inverse of JPEG
    assert "Super-resolution ×4 | mgdm R=2 | 3 |" in text
    assert "could not be fetched" in text
    assert "nonlinear_blur, mgdm R=1: nonlinear_blur needs the published kernel network" in text
    assert "jpeg2, ddnm: not applicable" in text
    assert (out / "gibbs.png").is_file()
    cells = sorted((out / "cells").glob("*.json"))
    # sr4: pseudo-inverse, two R, dps, ddnm; jpeg2: two R, dps; two batches each.
    assert len(cells) == 2 * (5 + 3)
    before = [(p.name, p.stat().st_mtime_ns) for p in cells]
    cells[0].unlink()
    run(*command)
    again = sorted((out / "cells").glob("*.json"))
    assert [p.name for p in again] == [name for name, _ in before]
    unchanged = [p.stat().st_mtime_ns == t for p, (_, t) in zip(again, before)]
    assert unchanged == [False] + [True] * (len(cells) - 1)
    assert (out / "table.md").read_text().count("\n") == text.count("\n")
    # What was done with --gibbs is found without it: R = 1 is the settings' own.
    run(*(part for part in command if part not in ("--gibbs", "1,2")))
    assert sorted(p.name for p in (out / "cells").glob("*.json")) == [p.name for p in again]
    assert "| mgdm | dps |" in (out / "table.md").read_text().splitlines()[0]


def test_lpips_of_what_was_done_without_its_network_is_made_up_for(tmp_path):
    prior = load_prior("digits")
    made = []

    class Known(LPIPS):
        def __init__(self):
            self.reason = None

        def __call__(self, x, truth):
            made.append(len(x))
            return (x - truth).abs().mean((1, 2, 3))

    def means(images, lpips, batch=1):
        plan = Sweep(["sr4"], ["ddrm"], batch=batch, changes=["steps=2"])
        names = [f"digit:{k}" for k in range(images)]
        cells = run_sweep(
            tmp_path, plan, prior, names, lambda n: read_image(n, (1, 32, 32)), lpips=lpips
        )
        with (tmp_path / "table.csv").open() as file:
            (line,) = csv.DictReader(file)
        return [row["lpips_sample"] for cell in cells for row in cell["rows"]], line["lpips_sample"]

    absent = LPIPS.absent("no network")
    assert means(2, absent)[1] == "nan"
    rows, mean = means(3, Known())
    assert float(mean) == pytest.approx(sum(rows) / 3)
    assert made == [1, 1, 1]
    # The same as if the network had been there from the beginning, and once only.
    assert means(3, Known())[0] == rows
    assert made == [1, 1, 1]
    for file in (tmp_path / "cells").iterdir():
        file.unlink()
    assert means(3, Known())[0] == pytest.approx(rows)
    # A mean over some of the images would not be comparable.
    assert means(4, absent)[1] == "nan"


def test_a_cell_that_fails_is_told_at_the_end(tmp_path, monkeypatch):
    given = ["sweep", "--tasks", "sr4", "--samplers", "ddrm,dps", "--images", "digits:2"]
    given += ["--batch", 1, "--set", "steps=2", "-o", tmp_path]
    restored = sweep.restore

    def faulty(*args, **kwargs):
        if kwargs["first"] == 1 and isinstance(args[3], DPS):
            raise ValueError("as asked")
        return restored(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "restore", faulty)
        told = run(*given, fails=True).splitlines()
    assert "failed: sr4, dps, digit:1: ValueError: as asked" in told
    assert told[-1] == "error: 1 of 4 cells failed; the same command tries them again"
    assert "| ddrm | 2 |" in (tmp_path / "table.md").read_text()
    assert "- sr4, dps: failed: ValueError: as asked" in (tmp_path / "table.md").read_text()
    run(*given)
    assert "| dps | 2 |" in (tmp_path / "table.md").read_text()
    # What a cell was of is told by the image, not by its name alone.
    for digit in (3, 4, 3):
        write_image(tmp_path / "in.png", read_image(f"digit:{digit}", (1, 32, 32)))
        run(*given, "--images", tmp_path)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4 + 2 * 2


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "table.csv").mkdir()
    given = ["sweep", "--tasks", "sr4", "--samplers", "pseudo_inverse", "--images", "digits:1"]
    assert "table.csv" in complaint(*given, "-o", tmp_path)


def test_what_a_device_restores_is_measured_on_the_processor(tmp_path, monkeypatch):
    def restored(prior, degradation, y, *_, **__):
        assert y.device.type == "meta"
        return Restoration(torch.zeros(len(y), 1, 1, 32, 32), Trace("dps"), 1.0)

    monkeypatch.setattr(sweep, "restore", restored)
    (cell,) = run_sweep(
        tmp_path,
        Sweep(["sr4"], ["dps"]),
        load_prior("digits"),
        ["digit:0"],
        lambda name: read_image(name, (1, 32, 32)),
        device="meta",
    )
    assert cell["rows"][0]["psnr_mean"] > 0


def test_a_cell_does_not_depend_on_the_batch(tmp_path):
    rows = {}
    for batch in (1, 3):
        out = tmp_path / str(batch)
        run(
            "sweep",
            "--tasks",
            "motion_blur",
            "--samplers",
            "mgdm",
            "--images",
            "digits:3",
            "-o",
            out,
            *FAST,
            "--batch",
            batch,
        )
        files = sorted((out / "cells").glob("*.json"))
        rows[batch] = [row["psnr_mean"] for f in files for row in json.loads(f.read_text())["rows"]]
    np.testing.assert_allclose(rows[1], rows[3], atol=0.02)


def test_demo(tmp_path, monkeypatch):
    import recipes.images.demo as demo

    monkeypatch.setattr(
        demo,
        "settings_for",
        lambda sampler, *rest: apply_changes(
            settings_for("mgdm", *rest), [a for a in FAST if "=" in a]
        ),
    )
    output = run("demo", "-o", tmp_path, "--digits", 2, "-n", 2)
    assert pil.open(tmp_path / "demo.png").size[1] > 300
    assert "JPEG, quality 2: PSNR" in output
    assert len(json.loads((tmp_path / "demo.json").read_text())) == 4


def test_training_makes_a_prior_that_loads(tmp_path):
    file = tmp_path / "mine.safetensors"
    run("train-digits", "-o", file, "--steps", 2, "--batch", 2)
    restore(tmp_path, "digit:1", "-t", "sr4", "--prior", file)


def test_a_training_that_cannot_be_written_leaves_the_prior_that_was_there(tmp_path, monkeypatch):
    def full(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recipes.images.priors.digits.save_file", full)
    file = tmp_path / "mine.safetensors"
    file.write_text("an older one")
    line = complaint("train-digits", "-o", file, "--steps", 1, "--batch", 2)
    assert "No space left on device" in line
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an older one"]


def test_the_shipped_weights_are_small():
    assert DIGITS_FILE.stat().st_size < 2_000_000


# -- settings ------------------------------------------------------------


def test_published_settings_by_task():
    assert published_for("dps", "jpeg2", "ffhq-pixel").gamma == 0.2
    assert published_for("diffpir", "inpainting_center", "ffhq-pixel").zeta == 1.0
    assert published_for("mgdm", "sr4", "ffhq-latent").conditional.steps == 3
    assert published_for("mgdm", "sr4", "ffhq-pixel").levels == 100
    assert published_for("pnp_dm", "sr4", "ffhq-pixel").iterations == 100
    json.dumps(describe(published_for("mgdm", "sr4", "digits")))


def test_the_default_is_the_library_s_own_choice():
    prior = load_prior("digits")

    def chosen(task):
        return settings_for("default", build_task(task, prior.image_shape), prior)

    for task in ("blur", "motion_blur", "sr4"):
        assert chosen(task) == PRESETS["ding"]["many-values"]
    assert chosen("sr16") == PRESETS["mgdm_marginal"]["default"]
    for task in ("inpainting_center", "outpainting_half", "outpainting_expand"):
        assert chosen(task) == PRESETS["mgdm"]["unseen-entries"]
    # MGDM by itself has the prior's settings.
    assert chosen("jpeg2") == published_for("mgdm", "jpeg2", "digits")


def test_a_sweep_tells_priors_of_one_name_apart_and_does_nothing_twice(tmp_path):
    for seed in (1, 2):
        file = tmp_path / str(seed) / "mine.safetensors"
        run("train-digits", "-o", file, "--steps", 1, "--batch", 2, "--seed", seed)
        given = ["--tasks", "sr4", "--images", "digits:1", "-o", tmp_path / "sweep", *FAST]
        run("sweep", *given, "--samplers", "mgdm,mgdm", "--gibbs", "1,1", "--prior", file)
        assert len(list((tmp_path / "sweep/cells").glob("*.json"))) == seed
    assert "| mgdm R=1 | 1 |" in (tmp_path / "sweep/table.md").read_text()
