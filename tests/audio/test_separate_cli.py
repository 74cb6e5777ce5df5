import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.cli.separate_run import TimeLeft
from mgdm_audio.compute.speed import speed_words
from mgdm_audio.io.atomic import _host
from mgdm_audio.separation.file_plan import check_template, safe_name
from mgdm_core.errors import SettingsError
from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song

QUICK = ["--preset", "fast", "--set", "levels=3"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def mix(tmp_path):
    path = tmp_path / "mix.wav"
    sf.write(path, song(2.0, 44_100, 2).T, 44_100, subtype="FLOAT")
    return path


@pytest.fixture
def call(prior, tmp_path):
    def run(*args, out="out", code=0):
        arguments = [*QUICK, *map(str, args), "-n", str(prior), "-o", str(tmp_path / out)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result

    return run


def one_error(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def folder(tmp_path, out="out", track="mix"):
    return tmp_path / out / "tiny" / track


def read_all(where, names):
    return {n: sf.read(where / f"{n}.wav", always_2d=True, dtype="float64")[0].T for n in names}


def leftovers(root):
    return [p for p in root.rglob("*") if ".mgdm-" in p.name]


class TestOutputs:
    def test_stems_and_residual_sum_to_the_input_at_its_own_rate_and_length(
        self, call, mix, tmp_path
    ):
        call(mix)
        stems = read_all(folder(tmp_path), (*STEMS, "residual"))
        given, rate = sf.read(mix, always_2d=True, dtype="float64")
        assert rate == 44_100
        assert all(s.shape == given.T.shape for s in stems.values())
        assert np.abs(sum(stems.values()) - given.T).max() < 1e-6
        record = json.loads((folder(tmp_path) / "mgdm.json").read_text())
        assert record["stems"] == [*STEMS, "residual"]
        assert record["seed"] == 0
        assert record["evaluations"] > 0
        assert len(record["prior"]["checksum"]) == 64
        assert record["settings"]["settings"]["levels"] == 3

    def test_without_residual_the_stems_alone_sum_to_the_input(self, call, mix, tmp_path):
        call(mix, "--no-residual")
        stems = read_all(folder(tmp_path), STEMS)
        assert not (folder(tmp_path) / "residual.wav").exists()
        given = sf.read(mix, always_2d=True, dtype="float64")[0].T
        assert np.abs(sum(stems.values()) - given).max() < 1e-6

    def test_two_stems(self, call, mix, tmp_path):
        call(mix, "--two-stems", "drums")
        assert sorted(p.name for p in folder(tmp_path).glob("*.wav")) == [
            "drums.wav",
            "no_drums.wav",
        ]
        parts = read_all(folder(tmp_path), ("drums", "no_drums"))
        given = sf.read(mix, always_2d=True, dtype="float64")[0].T
        assert np.abs(sum(parts.values()) - given).max() < 1e-6

    def test_some_stems(self, call, mix, tmp_path):
        call(mix, "--stems", "bass, piano", "--no-residual", code=2)
        call(mix, "--stems", "bass, piano")
        names = ("bass", "piano", "residual")
        assert {p.stem for p in folder(tmp_path).glob("*.wav")} == set(names)
        given = sf.read(mix, always_2d=True, dtype="float64")[0].T
        assert np.abs(sum(read_all(folder(tmp_path), names).values()) - given).max() < 1e-6

    def test_raw_output_is_mono_at_the_priors_rate(self, call, mix, tmp_path):
        call(mix, "--rate", "prior", "--mono")
        info = sf.info(folder(tmp_path) / "bass.wav")
        assert (info.samplerate, info.channels, info.frames) == (22_050, 1, 44_100)
        call(mix, "--mono", code=2)

    @pytest.mark.parametrize(
        ("flags", "suffix", "subtype"),
        [
            (("--int16",), "wav", "PCM_16"),
            (("--int24",), "wav", "PCM_24"),
            (("--flac",), "flac", "PCM_24"),
            (("--flac", "--int16"), "flac", "PCM_16"),
        ],
    )
    def test_formats(self, call, mix, tmp_path, flags, suffix, subtype):
        call(mix, *flags)
        info = sf.info(folder(tmp_path) / f"bass.{suffix}")
        assert info.subtype == subtype
        assert info.frames == 88_200

    def test_samples_and_uncertainty(self, call, mix, tmp_path):
        call(mix, "--samples", 2, "--save-samples", "--uncertainty")
        where = folder(tmp_path)
        assert (where / "bass.sample00.wav").exists()
        assert (where / "piano.sample01.wav").exists()
        numbers = np.load(where / "mgdm_uncertainty.npz")
        assert set(numbers) == {*STEMS, "seconds_per_frame"}
        assert (numbers["bass"] >= 0).all()
        assert (where / "mgdm_uncertainty.png").stat().st_size > 1000

    def test_error_bars_come_from_the_preset_that_has_them(self, call, prior, mix, tmp_path):
        where = ["-n", str(prior), "-o", str(tmp_path / "out"), "-d", "cpu"]
        said = CliRunner().invoke(main, [str(mix), *where, "--uncertainty", "--samples", "2"])
        assert said.exit_code == 0, said.output
        record = json.loads((folder(tmp_path) / "mgdm.json").read_text())
        assert record["settings"]["draws"] == "shares"
        assert "uncalibrated" in said.output  # nothing was fitted for this prior
        assert record["confidence"] is None
        said = call(mix, "--uncertainty", "--samples", 2, "--overwrite")
        assert "leave out --preset" in said.output

    def test_error_bars_where_windows_are_shifted(self, prior, tmp_path):
        mix = tmp_path / "mix.wav"
        sf.write(mix, song(0.7, 22_050, 1).T, 22_050, subtype="FLOAT")
        given = ["-n", str(prior), "-o", str(tmp_path / "out"), "-d", "cpu", "--save-samples"]
        given += ["--preset", "posterior", "--shifts", "2", "--samples", "2", "--uncertainty"]
        said = CliRunner().invoke(main, [str(mix), *given])
        assert said.exit_code == 0, said.output
        where = folder(tmp_path)
        numbers = np.load(where / "mgdm_uncertainty.npz")
        assert all((numbers[stem] > 0).any() for stem in STEMS)
        # Each draw sums to what the stems do.
        sums = [
            sum(sf.read(where / f"{stem}{suffix}.wav")[0] for stem in STEMS)
            for suffix in ("", ".sample00", ".sample01")
        ]
        assert np.abs(np.array(sums[1:]) - sums[0]).max() < 1e-3

    def test_filename_template_and_folders(self, call, tmp_path):
        songs = tmp_path / "songs"
        songs.mkdir()
        for name in ("a", "b"):
            sf.write(songs / f"{name}.flac", song(0.5, 22_050, 1)[0], 22_050)
        (songs / "notes.txt").write_text("no sound")
        call(songs, "--filename", "{track}/{stem}_x.{ext}")
        assert (tmp_path / "out" / "a" / "bass_x.wav").exists()
        assert (tmp_path / "out" / "b" / "mgdm_x.json").exists()

    def test_standard_input(self, prior, mix, tmp_path):
        arguments = ["-", "-n", str(prior), "-o", str(tmp_path / "out"), *QUICK]
        result = CliRunner().invoke(main, arguments, input=mix.read_bytes())
        assert result.exit_code == 0, result.output
        assert sf.info(folder(tmp_path, track="stdin") / "bass.wav").frames == 88_200

    def test_silence_is_silent_at_once(self, call, tmp_path):
        path = tmp_path / "mix.wav"
        sf.write(path, np.zeros((30_000, 2)), 48_000)
        call(path)
        assert not any(s.any() for s in read_all(folder(tmp_path), STEMS).values())
        assert json.loads((folder(tmp_path) / "mgdm.json").read_text())["evaluations"] == 0

    def test_one_sample(self, call, tmp_path):
        path = tmp_path / "mix.wav"
        sf.write(path, np.array([0.5]), 44_100, subtype="FLOAT")
        call(path)
        parts = read_all(folder(tmp_path), (*STEMS, "residual"))
        assert abs(float(sum(parts.values()).item()) - 0.5) < 1e-6

    def test_clipping_integers_are_turned_down_together_and_said(self, call, tmp_path):
        path = tmp_path / "mix.wav"
        sf.write(path, 60 * song(1.0, 22_050, 1)[0], 22_050, subtype="FLOAT")
        result = call(path, "--int16")
        assert "turned down" in result.stderr
        record = json.loads((folder(tmp_path) / "mgdm.json").read_text())
        assert 0 < record["common_gain"] < 1
        error = one_error(call(path, "--int16", "--on-clip", "error", out="other", code=1))
        assert "--float32" in error
        assert not (tmp_path / "other").exists()


class TestDeterminism:
    def test_same_bytes_in_another_process_and_other_bytes_for_another_seed(
        self, call, mix, prior, tmp_path
    ):
        call(mix, out="a")
        call(mix, "--seed", 1, out="c")
        arguments = [mix, "-n", prior, "-o", tmp_path / "b", *QUICK]
        # The order of additions, and so the last bit, depends on the number of threads.
        subprocess.run(
            [sys.executable, "-m", "mgdm_audio.cli.separate", *map(str, arguments)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        for name in (*STEMS, "residual"):
            a, b = (folder(tmp_path, o) / f"{name}.wav" for o in "ab")
            assert a.read_bytes() == b.read_bytes()
        assert (folder(tmp_path, "a") / "bass.wav").read_bytes() != (
            folder(tmp_path, "c") / "bass.wav"
        ).read_bytes()


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
        sf.write(mix, song(2.0, 44_100, 2, seed=7).T, 44_100, subtype="FLOAT")
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


def one_error_line(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert lines, result.output
    return lines[0]


class TestBadInput:
    def test_a_bad_file_does_not_stop_the_others(self, call, mix, tmp_path):
        bad = tmp_path / "bad.wav"
        bad.write_text("this is no sound")
        missing = tmp_path / "missing.wav"
        result = call(bad, missing, mix, code=1)
        assert (folder(tmp_path) / "bass.wav").exists()
        assert "bad.wav" in result.stderr
        assert "missing.wav" in result.stderr
        assert "2 of 3 inputs failed" in result.stderr
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--preset", "best"), "fast, balanced, posterior, paper"),
            (("--sampler", "nope"), "valid names"),
            (("--set", "level=3"), "valid names"),
            (("--set", "levels"), "NAME=VALUE"),
            (("--set", "levels=many"), "whole number"),
            (("--set", "levels=0"), "at least 1"),
            (("--stems", "voice"), "bass, drums, guitar, piano"),
            (("--two-stems", "bass", "--stems", "drums"), "not both"),
            (("--filename", "{track}.{ext}"), "{stem}"),
            (("--filename", "{title}/{stem}.{ext}"), "{title}"),
            (("--filename", "../{stem}.{ext}"), "inside the output folder"),
            (("--overlap", "0.9"), "overlap"),
            (("--window", "0.1"), "window"),
            (("--batch-size", "0"), "--batch-size"),
            (("--seed", "-1"), "seed"),
            (("--device", "tpu"), "tpu"),
            (("--seed", "1.5"), "seed"),
            (("--flac", "--float32"), "flac"),
            (("--flac", "--mp3"), "--flac and --mp3 exclude each other"),
            (("--int16", "--int24"), "--int24 and --int16 exclude each other"),
            (("--mp3", "--int16"), "leave out --int16"),
            (("--mp3-bitrate", "128"), "is for --mp3"),
            (("--mp3", "--mp3-bitrate", "999"), "--mp3-bitrate"),
            (("--window", "1e9"), "window lies in 1..60"),
            (("--window", "nan", "--dry-run"), "window lies in 1..60"),
            (("--samples", "1000000"), "samples"),
            (("--shifts", "0"), "shifts"),
            (("--uncertainty", "--preset", "balanced"), "--samples 4"),
            (("--filename", "{stem.x}"), "template"),
            (("--filename", "C:\\x\\{stem}.{ext}"), "inside the output folder"),
            (("--filename", "{track}/{stem}.mp3"), "{ext}"),
            (("--resume", "--overwrite"), "choose one"),
            (("--no-such-option",), "No such option"),
        ],
    )
    def test_wrong_usage_is_one_line_and_code_two(self, call, mix, tmp_path, arguments, says):
        result = call(mix, *arguments, code=2)
        assert says in one_error(result)
        assert not (tmp_path / "out").exists()

    def test_only_inputs_that_collide_are_refused_and_told_apart_by_their_folder(
        self, call, mix, tmp_path
    ):
        for name in ("x", "y"):
            (tmp_path / name).mkdir()
            sf.write(tmp_path / name / "01.wav", song(0.2, 22_050, 1)[0], 22_050)
        inputs = (tmp_path / "x" / "01.wav", tmp_path / "y" / "01.wav", mix)
        result = call(*inputs, code=1)
        assert "2 of 3 inputs failed" in result.stderr
        assert (folder(tmp_path) / "bass.wav").exists()
        assert not folder(tmp_path, track="01").exists()
        advised = re.search(r"--filename '([^']*)'", result.stderr).group(1)
        assert "{source_dir}" in advised
        call(*inputs, "--filename", advised, out="b")
        assert (tmp_path / "b" / "tiny" / "01_x" / "bass.wav").exists()
        assert (tmp_path / "b" / "tiny" / "01_y" / "bass.wav").exists()

    def test_one_name_with_two_endings(self, call, tmp_path):
        for ending in ("wav", "flac"):
            sf.write(tmp_path / f"s.{ending}", song(0.2, 22_050, 1)[0], 22_050)
        inputs = (tmp_path / "s.wav", tmp_path / "s.flac")
        advised = re.search(r"--filename '([^']*)'", call(*inputs, code=1).stderr).group(1)
        call(*inputs, "--filename", advised)
        assert (tmp_path / "out" / "tiny" / "s_wav" / "mgdm.json").exists()
        assert (tmp_path / "out" / "tiny" / "s_flac" / "bass.wav").exists()

    def test_the_record_is_json_whatever_the_pattern(self, call, mix, tmp_path):
        call(mix, "--filename", "{track}-{stem}.wav")
        assert json.loads((tmp_path / "out" / "mix-mgdm.json").read_text())["track"] == "mix"

    def test_names_that_windows_does_not_allow(self):
        assert safe_name("a<b>:c?. ", windows=True) == "a_b__c_"
        assert safe_name("nul.tar", windows=True) == "nul.tar_"
        assert safe_name("a<b>:c?. ", windows=False) == "a<b>:c?. "
        for template in ("D:{stem}.{ext}", "\\\\host\\share\\{stem}.{ext}", "a\\..\\{stem}.{ext}"):
            with pytest.raises(SettingsError, match="inside the output folder"):
                check_template(template)

    def test_a_name_that_is_no_unicode(self, call, mix, tmp_path):
        strange = os.fsencode(tmp_path) + b"/caf\xe9.wav"
        with open(strange, "wb") as file:
            file.write(mix.read_bytes())
        told = json.loads(call(os.fsdecode(strange), mix, "--flac", "--json").stdout)
        assert [record["source"] for record in told["tracks"]] == [os.fsdecode(strange), str(mix)]
        assert os.path.exists(os.fsencode(tmp_path) + b"/out/tiny/caf\xe9/bass.flac")
        assert (folder(tmp_path) / "bass.flac").exists()
        assert "finished before" in call(os.fsdecode(strange), "--flac", "--resume").stderr

    def test_any_exception_stays_the_files_and_is_named_when_it_happens(
        self, call, mix, tmp_path, monkeypatch
    ):
        from mgdm_audio.separation import file_work

        real = file_work.run_job

        def sometimes(separator, job, *rest):
            if job.track == "a":
                raise ZeroDivisionError("first")
            return real(separator, job, *rest)

        monkeypatch.setattr(file_work, "run_job", sometimes)
        other = tmp_path / "a.wav"
        other.write_bytes(mix.read_bytes())
        result = call(other, mix, code=1)
        assert (folder(tmp_path) / "bass.wav").exists()
        lines = result.output.splitlines()  # both streams, in order
        assert "a.wav: ZeroDivisionError: first" in lines[0]
        assert "mix.wav -> " in lines[1]
        assert lines[2] == "1 of 2 inputs failed"

    def test_an_output_that_is_an_input(self, call, tmp_path):
        where = tmp_path / "out"
        where.mkdir()
        path = where / "mix_bass.wav"
        sf.write(path, song(0.2, 22_050, 1)[0], 22_050)
        sf.write(where / "mix.wav", song(0.2, 22_050, 1)[0], 22_050)
        before = path.read_bytes()
        error = one_error(
            call(path, where / "mix.wav", "--filename", "{track}_{stem}.{ext}", code=1)
        )
        assert "would overwrite" in error
        assert path.read_bytes() == before

    def test_out_is_a_file(self, call, mix, tmp_path):
        (tmp_path / "out").write_text("in the way")
        assert "is a file" in one_error(call(mix, code=1))

    def test_no_room_on_the_disk(self, call, mix, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 1000})())
        assert "free" in one_error(call(mix, code=1))

    def test_strange_names(self, call, tmp_path):
        path = tmp_path / "two\nlines 🎸 {0}.wav"
        sf.write(path, song(0.2, 22_050, 1)[0], 22_050)
        call(path)
        assert (tmp_path / "out" / "tiny" / "two\nlines 🎸 {0}" / "bass.wav").exists()

    def test_a_folder_without_sound_and_a_pattern_without_files(self, call, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "no sound files" in one_error_line(call(tmp_path / "empty", code=1))
        assert "no file matches" in one_error_line(call(tmp_path / "*.xyz", code=1))

    def test_folders_of_folders_and_hidden_files(self, call, mix, tmp_path):
        album = tmp_path / "album"
        (album / "cd1").mkdir(parents=True)
        for name in ("1.wav", "._1.wav", ".hidden.wav"):
            (album / "cd1" / name).write_bytes(mix.read_bytes())
        assert "add -r" in one_error_line(call(album, code=1))
        result = call(album, "-r")
        assert "2 hidden file(s) left out" in result.stderr
        assert [p.name for p in (tmp_path / "out" / "tiny").iterdir()] == ["1"]

    def test_a_symbolic_link_loop(self, call, tmp_path):
        (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
        (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
        one_error_line(call(tmp_path / "a.wav", code=1))

    def test_a_pattern_given_as_the_priors_name(self, mix):
        result = CliRunner().invoke(main, [str(mix), "--name", "{track}/{stem}.{ext}"])
        assert result.exit_code == 2
        assert "--filename" in one_error(result)

    def test_a_prior_that_is_not_there(self, mix, tmp_path):
        result = CliRunner().invoke(main, [str(mix), "-n", "nope", "-o", str(tmp_path / "o")])
        assert result.exit_code == 2
        assert "music-stems" in one_error(result)


class TestDryRun:
    def test_prints_a_plan_and_writes_nothing(self, call, mix, tmp_path):
        plan = json.loads(call(mix, "--dry-run", "--json").stdout)
        assert plan["seconds_of_audio"] == pytest.approx(2.0)
        assert plan["estimated_seconds"] > 0
        assert plan["estimated_memory"] > 1e6
        assert not (tmp_path / "out").exists()
        assert "than real time" in call(mix, "--dry-run").stdout

    def test_very_slow_work_is_said_before_it_starts(self, call, mix, tmp_path, monkeypatch):
        from mgdm_audio.separation import estimate

        made = estimate.Estimate(seconds=100.0, seconds_of_audio=2.0, memory=1)
        monkeypatch.setattr(estimate, "estimate", lambda request, files: made)
        slow = (mix, "--set", "levels=40")
        assert "1 min 40 s, 50.0x slower than real time" in call(*slow, out="a").stderr
        assert "slower" not in call(*slow, "--yes", out="b").stderr

    def test_very_slow_work_is_asked_for(self, call, mix, tmp_path, monkeypatch):
        from mgdm_audio.separation import estimate

        made = estimate.Estimate(seconds=100.0, seconds_of_audio=2.0, memory=1)
        monkeypatch.setattr(estimate, "estimate", lambda request, files: made)
        terminal = SimpleNamespace(isatty=lambda: True)
        here = SimpleNamespace(stdin=terminal, stderr=terminal)
        monkeypatch.setattr("mgdm_audio.cli.separate.sys", here)
        monkeypatch.setattr("click.confirm", lambda *_, **__: False)
        declined = call(mix, "--set", "levels=40", code=1)
        assert "answer was no" in one_error(declined)
        assert not (tmp_path / "out").exists()


class TestWords:
    def test_speed_has_one_meaning(self):
        assert speed_words(5.0, 18.0) == "3.6x faster than real time"
        assert speed_words(18.0, 5.0) == "3.6x slower than real time"

    def test_time_left_over_all_files_from_the_second_report_on(self):
        now = [0.0]
        left = TimeLeft(100.0, lambda: now[0])
        assert left(0.0) == ""
        now[0] = 10.0
        assert left(5.0) == ""
        now[0] = 20.0
        assert left(10.0) == "3 min 0 s left"

    def test_the_summary_counts_evaluations_per_window(self, call, tmp_path):
        path = tmp_path / "mix.wav"
        sf.write(path, song(12.0, 22_050, 1)[0], 22_050)
        result = call(path, "--set", "chunk=5")
        assert "than real time, 3 evaluation(s) per window" in result.stdout

    @pytest.mark.parametrize("level", [0.0, 1e-6, 0.5])
    def test_quiet_input_is_said(self, call, tmp_path, level):
        path = tmp_path / "mix.wav"
        sf.write(path, np.full(22_050, level), 22_050, subtype="FLOAT")
        assert "the residual holds it" in call(path).stderr

    def test_list_models_needs_no_input(self):
        result = CliRunner().invoke(main, ["--list-models"])
        assert result.exit_code == 0
        assert "music-stems" in result.stdout

    def test_one_prior_with_a_hyphen_or_an_underscore(self, mix, tmp_path):
        arguments = [str(mix), "-n", "music_stems", "-o", str(tmp_path / "o"), "--preset", "fast"]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        assert (tmp_path / "o" / "music-stems" / "mix" / "bass.wav").exists()


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


class TestSeveralAtOnce:
    def test_processes_write_what_one_writes(self, call, mix, tmp_path):
        other = tmp_path / "other.wav"
        other.write_bytes(mix.read_bytes())
        bad = tmp_path / "bad.wav"
        bad.write_bytes(b"RIFF")
        torch.set_num_threads(1)
        call(mix, out="a")
        result = call(mix, other, bad, "-j", 2, out="b", code=1)
        assert "1 of 3 inputs failed" in result.stderr
        for track in ("mix", "other"):
            for name in (*STEMS, "residual"):
                assert (tmp_path / "b" / "tiny" / track / f"{name}.wav").read_bytes() == (
                    folder(tmp_path, "a") / f"{name}.wav"
                ).read_bytes()


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


class TestPage:
    def test_is_written_beside_the_stems_with_links_to_them(self, call, mix, tmp_path):
        result = call(mix, "--page", "--samples", "2", "--uncertainty")
        page = folder(tmp_path) / "listen.html"
        assert f"listening page: {page}" in result.output
        text = page.read_text()
        for name in (*STEMS, "residual"):
            assert f'href="{name}.wav" download' in text
        assert text.count('class="confidence"') == len(STEMS)
        assert "Posterior samples" in text

    def test_as_a_folder_that_resume_writes_again(self, call, mix, tmp_path):
        call(mix)
        call(mix, "--resume", "--page", "folder", "--filename", "{prior}/{track}/{stem}.{ext}")
        page = folder(tmp_path) / "listen"
        assert 'href="../residual.wav" download' in (page / "index.html").read_text()
        assert sorted(p.name for p in (page / "audio").iterdir())[0] == "0-0.js"

    def test_that_cannot_be_written_leaves_the_stems(self, call, mix, tmp_path):
        page = folder(tmp_path) / "listen.html"
        page.mkdir(parents=True)
        result = call(mix, "--page", code=1)
        assert "the stems are written, but not the page" in one_error(result)
        assert (folder(tmp_path) / "residual.wav").is_file()
