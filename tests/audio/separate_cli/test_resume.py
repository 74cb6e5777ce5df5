"""`mgdm-separate` broken off, killed, resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile as sf

from mgdm_audio.io.atomic import _host
from tests.audio.tiny_stems_prior import song

from .support import QUICK, folder, leftovers, one_error, one_error_line


class TestResume:
    def test_existing_files_are_not_touched_without_a_word(self, call, mix, tmp_path):
        call(mix)
        before = (folder(tmp_path) / "bass.wav").stat().st_mtime_ns
        assert "exists already" in one_error_line(call(mix, code=1))
        assert (folder(tmp_path) / "bass.wav").stat().st_mtime_ns == before

    def test_resume_leaves_finished_tracks_and_redoes_others(self, call, mix, tmp_path):
        call(mix)
        target = folder(tmp_path) / "bass.wav"
        before = target.stat().st_mtime_ns
        result = call(mix, "--resume")
        assert "finished before" in result.stderr
        assert target.stat().st_mtime_ns == before
        (folder(tmp_path) / "drums.wav").unlink()
        call(mix, "--resume")
        assert (folder(tmp_path) / "drums.wav").exists()

    def test_resumed_tracks_are_in_the_json(self, call, mix):
        first = json.loads(call(mix, "--json").stdout)["tracks"]
        again = json.loads(call(mix, "--json", "--resume").stdout)["tracks"]
        assert again == [{**first[0], "resumed": True}]

    def test_a_run_that_is_overwritten_leaves_none_of_its_stems(self, call, mix, tmp_path):
        call(mix, "--page")
        mine = folder(tmp_path) / "notes.txt"
        mine.write_text("mine")
        assert (folder(tmp_path) / "listen.html").exists()
        result = call(mix, "--overwrite", "--stems", "bass")
        names = sorted(p.name for p in folder(tmp_path).iterdir())
        assert names == ["bass.wav", "mgdm.json", "notes.txt", "residual.wav"]
        assert "drums.wav: removed, it was of the run before" in result.stderr
        call(mix, "--overwrite", "--page")
        assert (folder(tmp_path) / "listen.html").exists()

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--seed", 5), "seed differs (0, now 5)"),
            (("--stems", "bass"), "stems differs"),
            (("--set", "levels=4"), "levels differs (3, now 4)"),
            (("--flac",), "container differs"),
        ],
    )
    def test_resume_never_mixes_two_runs(self, call, mix, tmp_path, options, says):
        call(mix)
        before = {p: p.read_bytes() for p in folder(tmp_path).iterdir()}
        error = one_error(call(mix, "--resume", *options, code=1))
        assert says in error
        assert "--overwrite" in error
        assert {p: p.read_bytes() for p in folder(tmp_path).iterdir()} == before

    def test_resume_notices_another_input_and_a_replaced_output(self, call, mix, tmp_path):
        call(mix)
        target = folder(tmp_path) / "bass.wav"
        kept = target.read_bytes()
        target.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert "has been changed" in one_error(call(mix, "--resume", code=1))
        target.write_bytes(kept)
        os.utime(mix)  # only its contents count
        assert "finished before" in call(mix, "--resume").stderr
        sf.write(mix, song(1.0, 44_100, 2, seed=7).T, 44_100, subtype="FLOAT")
        assert "the input differs" in one_error(call(mix, "--resume", code=1))
        (folder(tmp_path) / "mgdm.json").unlink()
        assert "without a record" in one_error(call(mix, "--resume", code=1))

    def test_what_a_killed_run_left_is_removed_at_the_next_start(self, call, mix, tmp_path):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        where = folder(tmp_path)
        where.mkdir(parents=True)
        stale = [where / f".mgdm-{_host()}-{process.pid}-0123abcd.part"]
        others = [
            where / f".mgdm-{_host()}-{os.getpid()}-0123abcd.part",  # being written
            where / f".mgdm-00000000-{process.pid}-0123abcd.part",  # on another machine
            where / "mine.part",
        ]
        for path in (*stale, *others):
            path.write_bytes(b"x")
        call(mix)
        assert not any(path.exists() for path in stale)
        assert all(path.exists() for path in others)


class TestStreams:
    @pytest.mark.parametrize(
        ("redirect", "code"), [(">&-", 0), ("2>&-", 0), (">/dev/full", 1), ("<&-", 0)]
    )
    def test_closed_and_full_standard_streams(self, prior, mix, tmp_path, redirect, code):
        command = f"{sys.executable} -m mgdm_audio.cli.separate {mix} -n {prior} -o {tmp_path}/o"
        done = subprocess.run(
            ["sh", "-c", f"{command} {' '.join(QUICK)} {redirect}"], capture_output=True, text=True
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.stderr.count("\n") == (1 if code else 0)
        assert (tmp_path / "o" / "tiny" / "mix" / "bass.wav").exists()


class TestInterrupt:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (signal.SIGINT, 130),
            pytest.param(signal.SIGTERM, 143, marks=pytest.mark.gate),
            (signal.SIGHUP, 129),
        ],
    )
    def test_signals_leave_nothing_half_written(self, prior, tmp_path, number, code):
        path = tmp_path / "long.wav"
        sf.write(path, song(120, 22_050, 1)[0], 22_050)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mgdm_audio.cli.separate",
                str(path),
                "-n",
                str(prior),
                "-o",
                str(tmp_path / "out"),
                "--set",
                "levels=200",
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # Whoever runs the tests in the background may have SIGINT ignored; it is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.time() + 300
        while not leftovers(tmp_path) and time.time() < deadline:
            time.sleep(0.2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == code
        assert "Traceback" not in stderr
        assert leftovers(tmp_path) == []
        assert list((tmp_path / "out").rglob("*.wav")) == []
