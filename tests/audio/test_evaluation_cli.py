"""``mgdm-evaluate`` from end to end on the generated raw Slakh: every command, every exit code."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import soundfile
from click.testing import CliRunner

from mgdm_audio.cli.evaluate_options import expand_variants
from mgdm_audio.evaluation.run_folder import Variant

from . import evaluate_with_fake
from .fake_slakh import write_fake_slakh

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture(scope="module")
def slakh(tmp_path_factory):
    return write_fake_slakh(tmp_path_factory.mktemp("data") / "slakh")


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Run the command in this process with the cheap separator; returns click's result."""
    from mgdm_audio.cli import evaluate as command

    monkeypatch.setattr(command, "make_spec", evaluate_with_fake.make_spec)
    monkeypatch.setattr(command, "default_sampler", lambda preset: "bands")
    monkeypatch.chdir(tmp_path)

    def run(*args):
        return CliRunner().invoke(command.main, [str(a) for a in args], prog_name="mgdm-evaluate")

    return run


QUICK = ("--no-museval", "--no-report", "-q", "-d", "cpu", "--rate", "8000")


def scores_of(run):
    """What two runs of the same command must have in common: all but the seconds."""
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "results.parquet").drop_columns(["seconds"]).to_pylist()
    return (run / "summary.md").read_text().split("## Cost")[0], rows


def test_every_command_on_raw_slakh(slakh, invoke, tmp_path):
    result = invoke("check", slakh)
    assert result.exit_code == 0, result.output
    assert "3 of 151" in result.output
    assert "S04 (piano) has no audio" in result.output

    result = invoke("convert", slakh, "four", "--split", "test", "--rate", 8000, "--jobs", 1, "-q")
    assert result.exit_code == 0, result.output
    assert result.output == "3 tracks written, 0 there already, 0 failed\n"
    again = invoke("convert", slakh, "four", "--split", "test", "--rate", 8000, "-q")
    assert again.output.startswith("0 tracks")

    # `run` need not be typed, and the split is test unless another is asked for.
    result = invoke(slakh, "--limit", 1, "--rate", 8000, "-q", "-d", "cpu", "-o", "raw")
    assert result.exit_code == 0, result.output
    assert "SI-SDR improvement, active stems" in result.output
    assert "BSSEval" in result.output
    summary = json.loads((tmp_path / "raw/summary.json").read_text())["variants"][0]
    assert summary["label"] == "bands"
    assert {s: summary["scores"]["SDR"][s]["tracks"] for s in ("bass", "all")} == {
        "bass": 1,
        "all": 1,
    }
    assert "bands" in (tmp_path / "raw/report/index.html").read_text()

    # A sweep on the converted data set, which is the same music.
    result = invoke("run", "four", *QUICK, "-o", "sweep",
                    "--samplers", "bands,mixture", "--set", "bands:steps=2,8")  # fmt: skip
    assert result.exit_code == 0, result.output
    variants = json.loads((tmp_path / "sweep/summary.json").read_text())["variants"]
    assert [v["label"] for v in variants] == ["bands steps=2", "bands steps=8", "mixture"]
    means = [v["scores"]["SI-SDRi"]["all"]["value"] for v in variants]
    assert means[2] == pytest.approx(0, abs=1e-6)
    assert means[2] < means[0] < means[1]
    found = invoke("compare", "raw", "sweep", "--b", "bands steps=8", "--json")
    row = next(r for r in json.loads(found.stdout)["rows"] if r["stem"] == "all")
    assert row["result"]["difference"]["value"] == pytest.approx(0, abs=0.02)

    result = invoke("--compare", "sweep", "sweep", "--a", "mixture", "--b", "bands_steps=8",
                    "-o", "cmp")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Paired comparison" in result.output
    assert (tmp_path / "cmp/index.html").exists()
    result = invoke("compare", "sweep", "sweep")
    assert result.exit_code == 2
    assert "several variants; name one of" in result.output

    shutil.rmtree(tmp_path / "raw/report")
    assert invoke("report", "raw").exit_code == 0
    assert (tmp_path / "raw/report/index.html").exists()


def test_check_finds_what_is_broken(slakh, invoke, tmp_path):
    shutil.copytree(slakh, tmp_path / "broken")
    (tmp_path / "broken/test/Track00002/stems/S00.flac").write_bytes(b"fLaC")
    result = invoke("check", "broken")
    assert result.exit_code == 1
    assert "broken: test/Track00002: stems/S00.flac" in result.output
    found = json.loads(invoke("check", "broken", "--json", "--split", "test").output)
    assert found["splits"] == {"test": {"tracks": 3, "expected": 151}}
    assert [b["track"] for b in found["broken"]] == ["test/Track00002"]
    assert found["stems"] == {"bass": 2, "drums": 3, "guitar": 2, "piano": 3}
    result = invoke("convert", "broken", "out", "--jobs", 1, "-q")
    assert result.exit_code == 1
    assert "3 tracks written, 0 there already, 1 failed" in result.output


def test_a_failing_track_is_told_and_the_exit_code_is_1(slakh, invoke, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_FAIL", "Track00003")
    result = invoke(slakh, *QUICK, "-o", "run")
    assert result.exit_code == 1
    assert "error: test/Track00003 (bands): cannot separate Track00003" in result.output
    assert "1 of 3 tracks failed" in result.output
    assert "cannot separate" in (tmp_path / "run/summary.md").read_text()
    monkeypatch.delenv("FAKE_FAIL")
    assert invoke(slakh, *QUICK, "-o", "run").exit_code == 0
    assert invoke(slakh, *QUICK, "-o", "fresh").exit_code == 0
    assert scores_of(tmp_path / "run") == scores_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nowhere"], 1, "nowhere: cannot be opened"),
        (["check", "nowhere"], 1, "nowhere: cannot be opened"),
        (["{slakh}", "--split", "none"], 2, "no tracks in split 'none'"),
        (["{slakh}", "--tracks", "Track9"], 2, "no track Track9"),
        (["{slakh}", "--tracks", ""], 2, "--tracks names at least one track; found ''; give"),
        (["{slakh}", "--tracks", " ,"], 2, "--tracks names at least one track; found ' ,'; give"),
        (["{slakh}", "--devices", ""], 2, "device"),
        (["{slakh}", "--set", "steps"], 2, "--set needs name=value"),
        (["{slakh}", "--set", "dps:steps=1"], 2, "'dps' is not run"),
        (["{slakh}", "--limit", "0"], 2, "'--limit'"),
        (["{slakh}", "--device", "abacus"], 2, "abacus"),
        (["{slakh}", "--devices", "0,1"], 2, "no CUDA device"),
        (["{slakh}", "--address", "auto"], 2, "--engine ray"),
        (["{slakh}", "--mixture", "both"], 2, "both"),
        (["{slakh}", "--rate", "10", "-q"], 2, "rate lies in 1000..768000"),
        (["{slakh}", "-o", "{slakh}", "-q"], 1, "something other than an evaluation"),
        (["report", "{slakh}"], 1, "holds no evaluation"),
        (["compare", "{slakh}", "{slakh}"], 1, "holds no evaluation"),
        (["score", "nowhere", "{slakh}"], 2, "not a folder"),
        (["convert", "{slakh}", "{slakh}"], 2, "the data set itself"),
        (["convert", "{slakh}", "out", "--rate", "0"], 2, "1000..768000 Hz; found 0"),
        (["--nonsense"], 2, "nonsense"),
    ],
)
def test_wrong_usage_is_one_line(slakh, invoke, args, code, text):
    import torch

    if "--devices" in args and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = invoke(*(a.format(slakh=slakh) for a in args))
    assert result.exit_code == code, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert text in lines[0]


def test_help_needs_no_command(invoke):
    for args in (["--help"], ["-h"], ["run", "--help"], ["--version"]):
        assert invoke(*args).exit_code == 0
    assert "score" in invoke("--help").output


def test_score_pairs_tracks_and_stems_by_name(slakh, invoke, tmp_path):
    assert invoke("convert", slakh, "four", "--split", "test", "--jobs", 1, "-q").exit_code == 0
    # As demucs writes them: no splits, one folder per track.
    for name in ("Track00001", "Track00002"):
        shutil.copytree(tmp_path / "four/test" / name, tmp_path / "mine" / name)
    bass, rate = soundfile.read(tmp_path / "mine/Track00001/bass.wav")
    soundfile.write(tmp_path / "mine/Track00001/bass.wav", -0.5 * bass, rate)
    result = invoke("score", "mine", "four", "--no-museval", "--no-report", "-q", "-o", "a")
    assert result.exit_code == 1
    assert "no folder of estimates for test/Track00003" in result.output
    result = invoke("score", "mine", "four", "--allow-missing", "--no-museval", "--no-report",
                    "-q", "-o", "b", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    variant = summary["variants"][0]
    assert (variant["label"], variant["tracks"]) == ("mine", 2)
    # A perfect estimate at another gain: far above any separator, whatever the sign.
    assert variant["scores"]["SI-SDR"]["bass"]["value"] > 60


def test_settings_make_variants():
    assert expand_variants(["a"], []) == [Variant("a")]
    assert expand_variants(["a", "b"], ["x=1,2", "b:y=(1,2)"]) == [
        Variant("a", (("x", "1"),)),
        Variant("a", (("x", "2"),)),
        Variant("b", (("x", "1"), ("y", "(1,2)"))),
        Variant("b", (("x", "2"), ("y", "(1,2)"))),
    ]


def kill_and_compare(slakh, tmp_path, repo_root, lives, spread, delay, *options):
    """Kill the command so many times, let it end, and compare with a run that nobody killed."""
    environment = {**os.environ, "FAKE_DELAY": str(delay), "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m"]
    arguments = [str(slakh), "-q", "-d", "cpu", *options]
    killer = [*python, "tests.audio.evaluate_killed", str(lives), str(random.randrange(10**6)),
              str(spread)]  # fmt: skip
    done = subprocess.run([*killer, str(tmp_path / "killed"), *arguments], cwd=repo_root,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(lives), "0"], (killer, done.stdout)
    plain = [*python, "tests.audio.evaluate_with_fake", *arguments, "-o", str(tmp_path / "plain")]
    subprocess.run(plain, cwd=repo_root, env=environment, check=True, capture_output=True)
    assert scores_of(tmp_path / "killed") == scores_of(tmp_path / "plain")
    assert not list((tmp_path / "killed").rglob(".mgdm-*"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("lives", "steps"), [pytest.param(2, "1,2", marks=pytest.mark.gate), (10, "1,2,4,8,16,32")]
)
def test_killed_at_random_moments_and_resumed(slakh, tmp_path, repo_root, lives, steps):
    options = ("--no-museval", "--no-report", "--rate", "8000", "--set", f"steps={steps}")
    kill_and_compare(slakh, tmp_path, repo_root, lives, 0.4, 0.1, *options)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_with_museval_running(slakh, tmp_path, repo_root):
    kill_and_compare(slakh, tmp_path, repo_root, 10, 4.0, 0.5, "--no-report")
    assert not (tmp_path / "killed" / "bands" / "stems").exists()


def test_ctrl_c_ends_with_130(slakh, tmp_path, repo_root):
    log = tmp_path / "log"
    environment = {**os.environ, "FAKE_DELAY": "500", "FAKE_LOG": str(log)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.audio.evaluate_with_fake", str(slakh), *QUICK,
         "-o", str(tmp_path / "run")],
        cwd=repo_root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Whoever runs the tests in the background may have SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        # In the middle of a track: while a library is being imported it may swallow the signal.
        deadline = time.monotonic() + 120
        while not (log.exists() and "Track" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "interrupted"
