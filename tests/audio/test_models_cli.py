"""``mgdm-models``: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.cli import common
from mgdm_audio.cli.models import main
from mgdm_audio.errors import AudioError
from mgdm_audio.priors import catalogue as registry
from mgdm_audio.priors import load_prior
from mgdm_core.errors import CancelledError, SettingsError
from tests.audio.checkpoint_helpers import STEMS, lightning_file, save_tiny


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MGDM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def msdm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("msdm") / "msdm.ckpt"
    lightning_file(path)
    return path


@pytest.fixture
def tiny(tmp_path):
    save_tiny(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def error_of(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    return lines[0]


def test_list(tiny):
    registry.register("mine", tiny)
    result = run("list")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("mine"))
    assert "unet1d" in line
    assert "bass,drums,guitar,piano" in line
    assert "22050 Hz" in line
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == ["music-stems", "mine"]
    assert rows[1]["stems"] == list(STEMS)


def test_list_goes_on_where_a_file_is_damaged(tiny):
    registry.register("mine", tiny)
    tiny.write_bytes(tiny.read_bytes()[:-5])
    assert "truncated" in run("list").stdout
    tiny.unlink()
    assert "missing" in run("list").stdout


def test_info(tiny):
    text = run("info", tiny).stdout
    for part in (
        "unet1d",
        "bass, drums, guitar, piano",
        "MIT",
        "sigma 0.001 to 2",
        "training steps",
    ):
        assert part in text
    facts = json.loads(run("info", tiny, "--json").stdout)
    assert facts["stems"] == list(STEMS)
    assert facts["levels"]["steps"] == 50
    assert facts["stored_as"] == ["float32"]
    assert facts["numbers"] == sum(p.numel() for p in load_prior(tiny).network.parameters())


def test_import_msdm(msdm_file, tmp_path):
    out = tmp_path / "out" / "msdm.safetensors"
    result = run("import", "msdm", msdm_file, "-o", out, "--licence", "CC0")
    assert f"wrote {out}" in result.stdout
    assert "note: took the weights under model.unet.*" in result.stderr
    assert registry.resolve("msdm") == out
    assert load_prior(out).licence == "CC0"
    assert "exists already" in error_of(run("import", "msdm", msdm_file, "-o", out, code=1))
    run("import", "msdm", msdm_file, "-o", out, "--force", "--store", "float16")
    assert "float16" in run("info", "msdm").stdout
    assert "ok" in run("verify", "msdm", out).stdout
    assert run("where", "msdm").stdout.strip() == str(out)
    run("forget", "msdm")
    assert out.exists()
    run("where", "msdm", code=2)


def test_a_file_whose_name_is_no_priors_is_refused_before_it_is_written(msdm_file, tmp_path):
    out = tmp_path / "my prior.safetensors"
    assert "made of letters" in error_of(run("import", "msdm", msdm_file, "-o", out, code=1))
    assert not out.exists()
    run("import", "msdm", msdm_file, "-o", out, "--name", "mine")
    assert registry.resolve("mine") == out


def test_import_without_a_file_goes_to_the_folder(msdm_file, home):
    run("import", "msdm", msdm_file, "--name", "mine", "--stems", "a, b,c,d")
    path = home / "priors" / "mine.safetensors"
    assert load_prior(path).stems == ("a", "b", "c", "d")
    assert run("where").stdout.strip() == str(home)
    other = home / "other.safetensors"
    message = error_of(run("import", "msdm", msdm_file, "-o", other, "--name", "mine", code=1))
    assert "stands for" in message
    assert not other.exists()


def test_import_weakly_msdm(tmp_path):
    files = [tmp_path / f"{stem}.ckpt" for stem in STEMS]
    for seed, file in enumerate(files):
        lightning_file(file, seed=seed, in_channels=1)
    result = run("import", "weakly-msdm", *files, "-o", tmp_path / "weak.safetensors")
    assert "reading drums" in result.stderr
    prior = load_prior(registry.resolve("weak"))
    assert prior.stems == STEMS
    # Each stem has the weights of its own file.
    weights = [net.embedding.frequencies for net in prior.network.networks]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "nobody"], 2, "unknown prior 'nobody'; known are: music-stems"),
        (["info", "none.safetensors"], 2, "no such file; check the path"),
        (["info", ""], 2, "a prior has a name; found ''; 'mgdm-models list' shows the names"),
        (["info", "hf://nobody"], 2, "an address is hf://owner/name"),
        (["verify", "none.safetensors"], 1, "no such file"),
        (["import", "msdm", "none.ckpt", "-o", "a.safetensors"], 1, "no such file; check"),
        (["import", "msdm", "none.ckpt", "-o", "a.bin"], 2, "must end in .safetensors"),
        (["import", "msdm", "none.ckpt", "-o", "a.safetensors", "--rate", "x"], 2, "--rate"),
        (["import", "msdm", "none.ckpt", "--name", "a/b"], 1, "made of letters"),
        (["import", "msdm", "x.ckpt", "-o", "music-stems.safetensors"], 1, "bundled prior"),
        (["import", "weakly-msdm", "a.ckpt", "b.ckpt"], 2, "one checkpoint per stem"),
        (["import", "msdm"], 2, "FILE"),
        (["verify"], 2, "FILE"),
        (["nothing"], 2, "No such command 'nothing'"),
        (["list", "--yaml"], 2, "--yaml"),
        (["forget", "nobody"], 1, "nobody"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, code=code)
    assert words in error_of(result)
    assert result.stdout == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_settings_that_do_not_fit_are_usage(msdm_file, tmp_path):
    out = tmp_path / "a.safetensors"
    assert "rate" in error_of(run("import", "msdm", msdm_file, "-o", out, "--rate", "3", code=2))
    assert not out.exists()


def test_verify_goes_on_after_a_bad_file(tiny, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(tiny.read_bytes()[:-1])
    result = run("verify", bad, tiny, code=1)
    assert "truncated" in error_of(result)
    assert f"{tiny}: ok" in result.stdout


def test_help_and_no_arguments():
    assert "List, describe, import" in run("--help").stdout
    assert "Commands:" in run(code=2).stderr


# -- the shared wrapper ---------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (None, 0, ""),
        (AudioError("two\nlines"), 1, "error: two lines"),
        (SettingsError("rate is positive"), 2, "error: rate is positive"),
        (click.UsageError("wrong"), 2, "error: wrong"),
        (click.ClickException("failed"), 1, "error: failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (CancelledError("stop"), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/x/y.wav"), 1, "error: /x/y.wav: No space left"),
        (MemoryError(), 1, "error: out of memory"),
        (OutOfMemoryError("CUDA"), 1, "error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), 1, "error: out of memory"),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: standard output was closed"),
        (ZeroDivisionError("by 0"), 1, "internal error: ZeroDivisionError: by 0"),
    ],
)
def test_every_exception_has_its_exit_code(error, code, words):
    @click.command(cls=common.Command)
    def command():
        if error is not None:
            raise error

    result = CliRunner().invoke(command, [])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_returned_number_is_the_exit_code():
    @click.command(cls=common.Command)
    def command() -> int:
        return 1

    assert CliRunner().invoke(command, []).exit_code == 1


def test_debugging_shows_where(monkeypatch):
    @click.command(cls=common.Command)
    def command():
        raise ZeroDivisionError

    monkeypatch.setenv("MGDM_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(command, []).stderr


@click.command(cls=common.Command)
@common.device_option
@common.precision_option
@common.prior_option
def shared(device, precision, prior):
    click.echo(f"{type(device).__name__} {device} {precision} {prior}")


def test_shared_options(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    runner = CliRunner()
    assert runner.invoke(shared, []).stdout == "device cpu auto music-stems\n"
    assert (
        "device cpu bfloat16 x"
        in runner.invoke(shared, ["-d", "CPU", "--precision", "bfloat16", "-n", "x"]).stdout
    )
    for device, words in {
        "cuda": "no CUDA device", "cuda:0": "no CUDA device", "mps": "mps is not available",
        "tpu": "is auto, cpu", "cuda:x": "is auto, cpu", "cuda:-1": "is auto, cpu",
    }.items():  # fmt: skip
        result = runner.invoke(shared, ["-d", device])
        assert result.exit_code == 2
        assert words in result.stderr
    assert runner.invoke(shared, ["--precision", "int8"]).exit_code == 2


def test_devices_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    runner = CliRunner()
    assert "device cuda auto" in runner.invoke(shared, []).stdout
    assert "device cuda:1 auto" in runner.invoke(shared, ["-d", "cuda:1"]).stdout
    result = runner.invoke(shared, ["-d", "cuda:2"])
    assert result.exit_code == 2
    assert "cuda:0 to cuda:1" in result.stderr


def test_as_a_process(tiny, repo_root, home):
    environment = os.environ | {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mgdm_audio.cli.models"]
    done = subprocess.run(
        [*command, "verify", str(tiny)], env=environment, capture_output=True, text=True, check=True
    )
    assert ": ok (unet1d" in done.stdout
    assert done.stderr == ""
    failed = subprocess.run(
        [*command, "info", "nobody"], env=environment, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: unknown prior")
    assert failed.stderr.count("\n") == 1
