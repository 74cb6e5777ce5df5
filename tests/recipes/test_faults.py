"""The fault campaign: its kinds of damage, what it takes for lost, and a very short one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_core.errors import MGDMError
from recipes.faults import fuzzing
from recipes.faults.bad_files import bad_files
from recipes.faults.cases import _goes_on, _killed, _limited
from recipes.faults.cli import main, table
from recipes.faults.commands import Bench, Job
from recipes.faults.material import Material
from recipes.faults.sandbox import Disturbance, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def bench_in(folder):
    return Bench(folder, Material(Path(), Path(), Path(), None), 0)


def job_of(work):
    """A job whose result is the text of one file."""
    return Job("job", lambda out: lambda: work(out), lambda out: (out / "result").read_text())


def careful(out):
    """Ends with the same result whatever happened before."""
    out.mkdir(parents=True, exist_ok=True)
    time.sleep(0.1)
    (out / "new.part").write_text("done" * 1000)
    os.replace(out / "new.part", out / "result")


def test_kinds_of_bad_files_are_many_and_the_same_for_the_same_seed(tmp_path):
    kinds = dict(bad_files(3))
    assert len(kinds) >= 220
    assert sum("drawn" in name for name in kinds) >= 60  # by hypothesis
    again = dict(bad_files(3))
    for name in (
        "flac: eight bits of the header",
        "wav: rate 0",
        "wav: header drawn 5",
        "aiff: bytes drawn 1",
    ):
        written = []
        for number, found in enumerate((kinds, again)):
            (where := tmp_path / name / str(number)).mkdir(parents=True)
            written.append(found[name](where).read_bytes())
        assert written[0] == written[1]
    assert (a := dict(bad_files(4))["flac: header of noise"](tmp_path).read_bytes())
    assert a != kinds["flac: header of noise"](tmp_path).read_bytes()


def test_ends_are_told_apart(tmp_path):
    def hang():
        time.sleep(60)

    def fail():
        raise ZeroDivisionError("words")

    assert run(lambda: 3, tmp_path).code == 3
    assert "ZeroDivisionError" in (run(fail, tmp_path).traceback or "")
    assert "did not end" in (run(hang, tmp_path, limit=0.2).traceback or "")
    assert "ended by signal" in (
        run(lambda: os.kill(os.getpid(), signal.SIGUSR1), tmp_path).traceback or ""
    )
    ended = run(hang, tmp_path, Disturbance(signal.SIGKILL, 0.1))
    assert (ended.code, ended.disturbed, ended.traceback) == (-9, True, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_words_that_find_no_room_count_as_the_interpreter_counts_them(tmp_path):
    def talk(stream):
        with contextlib.suppress(OSError):  # as the module warnings does
            print("words", file=stream)

    def spoil(number):
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    assert run(lambda: talk(sys.stderr), tmp_path, prepare=lambda: spoil(2)).code == 0
    assert run(lambda: talk(sys.stdout), tmp_path, prepare=lambda: spoil(1)).code == 120


def test_another_process_than_the_command_may_be_the_victim(tmp_path):
    def work():
        if (helper := os.fork()) == 0:
            time.sleep(60)
        (tmp_path / "helper").write_text(str(helper))
        raise SystemExit(abs(os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])))

    def helper(command):
        told = (tmp_path / "helper").read_text() if (tmp_path / "helper").exists() else ""
        return int(told) if told else None

    ended = run(work, tmp_path, Disturbance(signal.SIGKILL, 0.0, helper))
    assert (ended.code, ended.disturbed) == (signal.SIGKILL, True)


@pytest.mark.parametrize(
    ("left", "seen"),
    [
        ("part", "stays for ever"),
        ("half", "the results differ"),
        ("words", "ValueError: half a file"),
        ("code", "cannot go on"),
        (None, ""),
    ],
)
def test_what_a_kill_loses_is_found(tmp_path, left, seen):
    def work(out):
        if left == "words":
            raise ValueError("half a file")
        if left == "code":
            raise SystemExit(1)
        if left != "half":
            careful(out)

    out = tmp_path / "out"
    out.mkdir()
    (out / "result").write_text("ha")
    if left == "part":
        (out / "result.part").touch()
    found = _goes_on(job_of(work), out, "done" * 1000)
    assert found.status == ("clean" if left is None else "traceback" if left == "words" else "lost")
    assert seen in found.detail


@pytest.mark.parametrize(("word", "status"), [("SIGKILL", "clean"), ("SIGTERM", "traceback")])
def test_a_signal_at_a_random_moment(tmp_path, word, status):
    """A command of ours answers SIGTERM with a line and a code; this one knows no signals."""
    found = _killed(job_of(careful), f"job {word}", word)(bench_in(tmp_path))
    assert found.status == status, found


def test_a_full_disk_must_be_told_in_a_line(tmp_path):
    def silent(out):
        try:
            careful(out)
        except OSError:
            (out / "new.part").unlink()
            raise SystemExit(1) from None

    def told(out):
        try:
            silent(out)
        except SystemExit:
            print("error: no room", file=sys.stderr)
            raise

    # The name decides the size: this one is 2 kB.
    name = next(
        n for n in map(str, range(99)) if 3.2 < bench_in(tmp_path).stream(n).uniform(1, 5) < 3.5
    )
    assert _limited(job_of(told), name)(bench_in(tmp_path)).status == "clean"
    found = _limited(job_of(silent), name)(bench_in(tmp_path / "other"))
    assert "without a line" in found.detail


def test_readers_may_say_no_and_nothing_else(tmp_path, monkeypatch):
    def refuses(data, folder):
        raise MGDMError("no")

    def breaks(data, folder):
        raise KeyError("oops")

    monkeypatch.setitem(fuzzing.TARGETS, "audio", refuses)
    fuzzing.feed("audio", b"", tmp_path)
    monkeypatch.setitem(fuzzing.TARGETS, "audio", breaks)
    with pytest.raises(KeyError):
        fuzzing.feed("audio", b"", tmp_path)
    assert fuzzing._at_random("pickle", 0.2, tmp_path, 0) >= 1


def test_a_reader_that_does_not_end_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(fuzzing.TARGETS, "audio", lambda data, folder: time.sleep(60))
    monkeypatch.setattr(fuzzing, "TIMEOUT", 1, raising=False)
    ended = run(
        lambda: fuzzing._at_random("audio", 0.1, tmp_path, 0), tmp_path, limit=20,
        prepare=lambda: signal.signal(signal.SIGALRM, signal.SIG_DFL),  # pytest's own is inherited
    )  # fmt: skip
    assert (ended.code, ended.timed_out) == (-signal.SIGALRM, False)


@pytest.mark.parametrize("target", list(fuzzing.TARGETS))
def test_fuzzing_begins_with_what_is_read_to_its_end(tmp_path, target):
    for data in fuzzing.seeds_of(target):
        fuzzing.TARGETS[target](data, tmp_path)


def test_odd_metadata_is_json_still():
    (seed,) = fuzzing.seeds_of("metadata")
    rng = np.random.default_rng(0)
    odd = seed
    for _ in range(500):  # each from the one before, as atheris does
        odd = fuzzing._odd_json(odd, rng) or b""
        assert isinstance(json.loads(odd), dict)
    assert json.loads(odd) != json.loads(seed)
    assert fuzzing._odd_json(b"{", rng) is None


def test_table():
    rows = [{"group": g, "status": s} for g, s in [("a", "clean"), ("a", "lost"), ("b", "skipped")]]
    assert table(rows).splitlines()[2:] == [
        "| a | 2 | 1 | 1 | 0 | 0 |",
        "| b | 0 | 0 | 0 | 0 | 1 |",
        "| all | 2 | 1 | 1 | 0 | 1 |",
    ]


def quick_campaign(repo_root, options):
    command = [sys.executable, "-m", "recipes.faults", "--quick", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("group", "least"),
    [("bad files", 20), ("streams", 6), pytest.param("signals", 16, marks=pytest.mark.slow)],
)
def test_some_of_every_cheap_group_of_the_campaign_is_clean(tmp_path, repo_root, group, least):
    told = quick_campaign(repo_root, ["--only", group, "--out", str(tmp_path)])
    (row,) = [line for line in told.split("\n") if line.startswith(f"| {group} |")]
    tried, clean, *rest = [int(cell) for cell in row.strip("| ").split(" | ")[1:]]
    assert tried == clean >= least
    assert rest == [0, 0, 0]


def test_a_campaign_goes_on(tmp_path, repo_root):
    options = ["--quick", "--only", "clock", "--out", str(tmp_path)]
    assert "| clock | 1 | 1 | 0 | 0 | 0 |" in quick_campaign(repo_root, options[1:])
    (row,) = json.loads((tmp_path / "faults.json").read_text())["cases"]
    (tmp_path / "results.jsonl").write_text(json.dumps({**row, "status": "lost"}) + '\n{"cut o')
    threads = torch.get_num_threads()
    again = CliRunner().invoke(main, options)
    torch.set_num_threads(threads)
    assert again.exit_code == 1  # nothing was left to do, and what was lost before is lost
    assert "| clock | 1 | 0 | 1 | 0 | 0 |" in again.output
