"""What the listening page is made of; how it plays is in tests/browser."""

import hashlib
import io
import re

import av
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.errors import AudioError
from mgdm_audio.listening_page import Confidence, PageOptions, write_page
from mgdm_audio.listening_page.clips import (
    AFTER,
    BEFORE,
    CLIP_FRAMES,
    cut,
    encode,
    kbps_for,
)
from mgdm_audio.listening_page.confidence import UNKNOWN, agreement, own_parts
from mgdm_audio.listening_page.pictures import Portrait
from mgdm_audio.listening_page.sounds import PAGE_RATE, blocks_of
from mgdm_core.errors import SettingsError, ShapeError


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as file:
        frames = [f.to_ndarray() for f in file.decode(audio=0)]
        planar = file.streams.audio[0].format.is_planar
        channels = file.streams.audio[0].channels
    whole = np.concatenate(frames, axis=1)
    return whole if planar else whole.reshape(-1, channels).T


@settings(max_examples=20, deadline=None)
@given(
    frames=st.integers(1, 3 * CLIP_FRAMES),
    size=st.integers(5000, 400_000),
    surplus=st.integers(-2000, 2000),
)
def test_clips_put_together_are_the_song(frames, size, surplus):
    have = max(1, frames + surplus)
    song = np.arange(have, dtype=np.float32)[None]
    blocks = (song[:, i : i + size] for i in range(0, have, size))
    whole = np.zeros(frames, np.float32)
    for index, clip in cut(blocks, frames):
        first = max(0, index * CLIP_FRAMES - BEFORE)
        assert clip.shape[1] == min(frames, (index + 1) * CLIP_FRAMES + AFTER) - first
        whole[first : first + clip.shape[1]] = clip[0]
    expected = np.zeros(frames, np.float32)
    expected[: min(have, frames)] = song[0, :frames]
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("codec", ["opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_encoding_keeps_length_place_and_sound(codec, channels):
    rng = np.random.default_rng(0)
    time = np.arange(30_011) / PAGE_RATE
    tones = [np.sin(2 * np.pi * f * time + p) for f, p in ((220, 0), (700, 1), (1900, 2))]
    sound = np.stack([0.2 * sum(tones) * (1 + 0.2 * c) for c in range(channels)])
    sound *= 0.5 + rng.random() * np.sin(2 * np.pi * 3 * time)
    back = decoded(encode(sound.astype(np.float32), codec, 64))
    assert back.shape == sound.shape
    inner = slice(2000, -2000)
    error = np.mean((back - sound)[:, inner] ** 2) / np.mean(sound[:, inner] ** 2)
    assert error < 10**-2


def test_four_minutes_of_six_stereo_tracks_fit_into_25_megabytes():
    kbps = kbps_for("opus", 240.0, [2] * 6, 24_000_000)
    assert kbps * 1000 * 12 * 240 / 8 * 4 / 3 <= 24_000_000
    assert kbps >= 45
    assert kbps_for("opus", 240.0, [2] * 6, None) == 64


def test_sounds_of_other_rates_and_lengths_are_brought_to_the_page(tmp_path):
    time = np.arange(22_050) / 22_050
    soundfile.write(tmp_path / "a.wav", np.sin(2 * np.pi * 440 * time), 22_050, subtype="FLOAT")
    whole = np.concatenate(list(blocks_of(tmp_path / "a.wav", 44_100, 66_150)), axis=1)
    assert whole.shape == (1, 72_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(48_000) / PAGE_RATE)
    np.testing.assert_allclose(whole[0, 500:47_500], expected[500:47_500], atol=1e-3)
    assert np.abs(whole[0, 49_000:]).max() < 1e-6


def test_peaks_and_spectrogram_lie_where_the_sound_is():
    sound = np.zeros((1, 160_000), np.float32)
    sound[0, 40_000:40_100] = 0.5
    portrait = Portrait(160_000)
    for start in range(0, 160_000, 7001):
        portrait.add(sound[:, start : start + 7001])
    peaks = portrait.peaks()
    assert list(np.flatnonzero(peaks)) == [400]
    assert peaks[400] == 128
    power = portrait.power().sum(axis=0)
    assert np.argmax(power) == pytest.approx(300, abs=10)
    assert power[:250].max() == 0


def test_a_strip_says_how_much_of_a_stem_is_its_own():
    said = {"seconds": 1.0, "stems": {"bass": {"si_sdr": [0.0, None, 10.0, -10.0]}}}
    row = own_parts(said).rows["bass"]
    np.testing.assert_allclose(row, [0.5, np.nan, 10 / 11, 1 / 11])


def test_confidence_keeps_what_is_known():
    row = np.full(2000, np.nan)
    row[:1000] = 0.5
    cells = Confidence({"bass": row}, 0.01).cells("bass", 20.0)
    assert len(cells) == 1000
    assert set(cells[:500]) == {127}
    assert set(cells[500:]) == {UNKNOWN}
    with pytest.raises(SettingsError, match=r"0\.\.1; found"):
        Confidence({"bass": np.array([0.5, 1.5])}, 0.01)


def test_agreement_is_the_share_of_energy():
    level, deviation = np.array([0.1, 0.1, 0.0]), np.array([0.0, 0.1, 0.0])
    share = agreement(level, deviation)
    np.testing.assert_allclose(share[:2], [1.0, 0.5])
    assert np.isnan(share[2])


def test_a_page_is_whole_or_not_there(tmp_path):
    stem = np.zeros(4800, np.float32)
    path = write_page(tmp_path / "page.html", {"bass": stem}, stem, 48_000)
    before = path.read_bytes()
    with pytest.raises(AudioError, match="exists already"):
        write_page(path, {"bass": stem}, stem, 48_000)
    broken = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(ShapeError):
        write_page(tmp_path / "other.html", {"bass": broken}, stem, 48_000)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_bytes() == before


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    stem = np.zeros(4800, np.float32)
    options = PageOptions(folder=True, overwrite=True)
    with pytest.raises(AudioError, match="something other than a page"):
        write_page(tmp_path / "mine", {"bass": stem}, stem, 48_000, options=options)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_the_same_sound_gives_the_same_page(tmp_path):
    stem = np.random.default_rng(0).normal(0, 0.1, 9600).astype(np.float32)
    pages = [write_page(tmp_path / f"{i}.html", {"bass": stem}, stem, 48_000) for i in (0, 1)]
    data = [re.search(r'id="mgdm-data">(.*?)</script>', p.read_text())[1] for p in pages]
    assert data[0] == data[1]


def test_the_bundled_player_is_built_from_these_sources(repo_root):
    folder = repo_root / "mgdm_audio" / "listening_page"
    digest = hashlib.sha256((folder / "player" / "package-lock.json").read_bytes())
    for source in sorted((folder / "player" / "src").iterdir()):
        digest.update(source.read_bytes())
    built = (folder / "static" / "player.js").read_text()
    assert f"sha256:{digest.hexdigest()}" in built.splitlines()[0], "run make player"


def test_page_takes_no_input_for_its_value():
    from mgdm_audio.cli.separate import main

    result = CliRunner().invoke(main, ["--page", "song.wav", "other.wav"])
    assert result.exit_code == 2
    assert "write --page after INPUTS" in result.output
    piped = CliRunner().invoke(main, ["-", "--page"])
    assert piped.exit_code == 2
    assert "not standard input" in piped.output


def test_a_separation_writes_its_page(tmp_path):
    from mgdm_audio.sampling.level import LevelMeter
    from mgdm_audio.separation.result import Separation

    rng = np.random.default_rng(0)
    stems = {n: rng.normal(0, 0.1, (2, 22_050)).astype(np.float32) for n in ("bass", "drums")}
    mix = sum(stems.values())
    meter = LevelMeter(22_050, 2)
    meter.add(torch.from_numpy(mix))
    rows = {"bass": np.full(43, 0.1), "drums": np.zeros(43)}
    result = Separation(stems, np.zeros_like(mix), 22_050, rows, None, None, meter.result())
    text = result.page(tmp_path / "page.html", title="Two").read_text()
    assert "<h1>Two</h1>" in text
    assert "Confidence in bass: 50 % on average" in text
    assert "Confidence in drums: 100 % on average" in text
