"""What ``import mgdm_audio`` offers, and what a separation can do for its owner."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile as sf
import torch

import mgdm_audio
from mgdm_audio.errors import AudioError, AudioWriteError
from mgdm_core.errors import SettingsError
from tests.audio.tiny_stems_prior import STEMS, save_tiny_stems, song


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")
    separator = mgdm_audio.Separator.from_pretrained(path, device="cpu", preset="fast")
    return separator(torch.from_numpy(song(0.5, 44_100, 2)), 44_100)


def test_names_are_there_and_nothing_heavy_is_loaded_before_they_are_used():
    code = (
        "import sys, mgdm_audio; assert 'torch' not in sys.modules; "
        "assert {'Separator', 'separate_file', 'load_prior', 'evaluate'} <= set(dir(mgdm_audio)); "
        "print(mgdm_audio.Separator.__name__, mgdm_audio.evaluate.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Separator evaluate\n"
    with pytest.raises(AttributeError, match="no attribute 'separate'"):
        mgdm_audio.separate  # noqa: B018


def test_load_prior_takes_a_name():
    prior = mgdm_audio.load_prior("music_stems", device="cpu")
    assert prior.stems == (*STEMS, "other")


@pytest.mark.parametrize(
    ("format", "subtype"), [("wav", "FLOAT"), ("flac", "PCM_24"), ("mp3", "MPEG_LAYER_III")]
)
def test_save(result, tmp_path, format, subtype):
    paths = result.save(tmp_path / "a" / "b", format=format)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == sorted(
        f"{name}.{format}" for name in (*STEMS, "residual")
    )
    assert sf.info(paths["bass"]).subtype == subtype
    if format == "wav":
        assert np.array_equal(sf.read(paths["drums"], dtype="float32")[0].T, result.stems["drums"])
    with pytest.raises(AudioWriteError, match="exists already"):
        result.save(tmp_path / "a" / "b", format=format)
    result.save(tmp_path / "a" / "b", format=format, overwrite=True)
    with pytest.raises(SettingsError, match="wav, flac, mp3"):
        result.save(tmp_path, format="aiff")


def test_to_dict_is_plain(result):
    told = result.to_dict()
    assert np.array_equal(told["stems"]["bass"], result.stems["bass"].numpy())
    assert isinstance(told["residual"], np.ndarray)
    numbers = {k: v for k, v in told.items() if k not in ("stems", "residual")}
    assert json.loads(json.dumps(numbers)) == numbers


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_a_notebook_shows_players_and_a_picture_without_any_file(result):
    parser = _Tags()
    parser.feed(result._repr_html_())
    players = [a for tag, a in parser.seen if tag == "audio"]
    assert len(players) == len(STEMS) + 1
    assert all(a["src"].startswith("data:audio/flac;base64,") for a in players)
    assert sum(tag == "svg" for tag, _ in parser.seen) == len(STEMS) + 1
    assert not any("http" in str(a) for _, a in parser.seen)
    assert repr(result).startswith("Separation(bass, drums, guitar, piano and residual: 0.50 s")


def test_the_readme_block_runs_as_it_stands(repo_root, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (repo_root / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 1
    monkeypatch.chdir(tmp_path)
    sf.write("mix.wav", song(1.0, 22_050, 2).T, 22_050)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert sorted(p.name for p in (tmp_path / "stems").iterdir()) == sorted(
        f"{name}.flac" for name in (*STEMS, "other", "residual")
    )


@pytest.fixture(scope="module")
def separator(tmp_path_factory):
    path = save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")
    return mgdm_audio.Separator.from_pretrained(path, device="cpu", preset="fast")


def test_separate_file_takes_one_stem_by_its_name(separator, tmp_path):
    sf.write(tmp_path / "mix.wav", song(0.5, 44_100, 2).T, 44_100)
    files = mgdm_audio.separate_file(
        tmp_path / "mix.wav", tmp_path / "out", separator=separator, stems="bass"
    )
    assert list(files) == ["bass", "residual"]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"separator": "x"}, "the separator is a Separator; found 'x'"),
        ({"preset": "paper"}, "a separator has its settings; found preset 'paper'"),
        ({"source": None}, "the source is the path of a sound file; found None"),
    ],
)
def test_separate_file_refuses_what_it_cannot_use(
    separator, tmp_path, wrong, rule, unchecked_shapes
):
    given = {"source": tmp_path / "mix.wav", "separator": separator, **wrong}
    with pytest.raises(SettingsError, match=rule):
        mgdm_audio.separate_file(out=tmp_path / "out", **given)


def test_evaluate_takes_folders_and_refuses_what_is_no_estimator(tmp_path, unchecked_shapes):
    (tmp_path / "data" / "song").mkdir(parents=True)
    for name in STEMS:
        sf.write(tmp_path / "data" / "song" / f"{name}.wav", song(0.5, 8000, 1).T, 8000)
    with pytest.raises(SettingsError, match="the spec is one of an estimator's; found 'x'"):
        mgdm_audio.evaluate(tmp_path / "data", "x", [], tmp_path / "run")


def test_sound_that_float32_cannot_be_computed_with_is_refused(separator):
    with pytest.raises(AudioError, match="the sound reaches"):
        separator(1e18 * torch.from_numpy(song(0.5, 44_100, 2)), 44_100)
