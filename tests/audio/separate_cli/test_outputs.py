"""What `mgdm-separate` writes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from tests.audio.tiny_stems_prior import STEMS, song

from .support import QUICK, folder, one_error, read_all


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
        assert (info.samplerate, info.channels, info.frames) == (22_050, 1, 22_050)
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
        assert info.frames == 44_100

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
        assert sf.info(folder(tmp_path, track="stdin") / "bass.wav").frames == 44_100

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
