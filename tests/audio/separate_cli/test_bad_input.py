"""One clear line for bad input, and what the command says before and after the work."""

import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.compute.speed import speed_words
from mgdm_audio.separation.file_plan import check_template, safe_name
from mgdm_core.errors import SettingsError
from tests.audio.tiny_stems_prior import song

from .support import folder, leftovers, one_error, one_error_line


class TestBadInput:
    def test_a_bad_file_does_not_stop_the_others(self, call, mix, tmp_path):
        bad = tmp_path / "bad.wav"
        bad.write_text("this is no sound")
        missing = tmp_path / "missing.wav"
        result = call(bad, missing, mix, code=1)
        assert (folder(tmp_path) / "bass.wav").exists()
        assert "bad.wav" in result.stderr
        assert "missing.wav: no such file or folder; check the path" in result.stderr
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

    def test_a_pattern_that_names_no_track(self, call, tmp_path):
        for name in ("a", "b"):
            sf.write(tmp_path / f"{name}.wav", song(0.2, 22_050, 1)[0], 22_050)
        inputs = (tmp_path / "a.wav", tmp_path / "b.wav")
        refused = call(*inputs, "--filename", "{stem}.{ext}", code=1)
        advised = re.search(r"--filename '([^']*)'", refused.stderr).group(1)
        call(*inputs, "--filename", advised)
        assert (tmp_path / "out" / "a" / "bass.wav").exists()
        assert (tmp_path / "out" / "b" / "mgdm.json").exists()

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

    def test_sound_that_float32_cannot_be_computed_with(self, call, tmp_path):
        path = tmp_path / "huge.wav"
        sf.write(path, 1e20 * song(1.0, 44_100, 1).T, 44_100, subtype="FLOAT")
        error = one_error_line(call(path, code=1))
        assert "the sound reaches" in error
        assert "full scale is 1; scale it below 1e+12" in error
        assert not list((tmp_path / "out").rglob("*.wav"))

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
        assert plan["seconds_of_audio"] == pytest.approx(1.0)
        assert plan["estimated_seconds"] > 0
        assert plan["estimated_memory"] > 1e6
        assert not (tmp_path / "out").exists()
        assert "than real time" in call(mix, "--dry-run").stdout

    def test_very_slow_work_is_said_before_it_starts(self, call, mix, tmp_path, monkeypatch):
        from mgdm_audio.separation import estimate

        made = estimate.Estimate(seconds=100.0, seconds_of_audio=2.0, memory=1)
        monkeypatch.setattr(estimate, "estimate", lambda request, files: made)
        # What is said is said before anything is separated.
        monkeypatch.setattr("mgdm_audio.cli.separate_run.run_all", lambda *_, **__: [])
        slow = (mix, "--set", "levels=32")
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
        declined = call(mix, "--set", "levels=32", code=1)
        assert "answer was no" in one_error(declined)
        assert not (tmp_path / "out").exists()


class TestWords:
    def test_speed_has_one_meaning(self):
        assert speed_words(5.0, 18.0) == "3.6x faster than real time"
        assert speed_words(18.0, 5.0) == "3.6x slower than real time"

    def test_the_summary_counts_evaluations_per_window(self, call, tmp_path):
        path = tmp_path / "mix.wav"
        sf.write(path, song(6.0, 22_050, 1)[0], 22_050)
        result = call(path, "--set", "chunk=3")
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
