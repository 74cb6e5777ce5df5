"""Writing: formats, exact counts, RF64, clipping, and files that appear whole or not at all."""

import os
import shutil
import struct

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.errors import AudioClipError, AudioFormatError, CheckpointError
from mgdm_audio.io.atomic import FileOutput, commit_all, replacing
from mgdm_audio.io.encoders import OutputFormat, WavEncoder, quantise
from mgdm_audio.io.reader import probe, read
from mgdm_audio.io.stem_writer import StemWriter, clipping, common_gain
from mgdm_core.errors import SettingsError
from tests.audio.test_audio_io_read import RATE, tone

FORMATS = [
    OutputFormat("wav", "float32"),
    OutputFormat("wav", "int24"),
    OutputFormat("wav", "int16"),
    OutputFormat("flac", "int24"),
    OutputFormat("flac", "int16"),
    OutputFormat("mp3"),
]
STEP = {"float32": 0.0, "int24": 2.0**-24, "int16": 2.0**-16}


def identifier(value):
    return f"{value.container}-{value.sample}" if isinstance(value, OutputFormat) else None


def listing(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("output", FORMATS, ids=identifier)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 1151, 20_011])
def test_round_trip(tmp_path, output, channels, frames):
    x = tone(frames, channels)
    path = tmp_path / f"new folder/bass.{output.extension}"
    with StemWriter(path, RATE, channels, output) as writer:
        for start in range(0, frames, 3000):
            writer.write(x[:, start : start + 3000])
        assert writer.frames == frames
        assert listing(tmp_path / "new folder") != ["bass." + output.extension]
        writer.commit()
    assert listing(tmp_path) == ["new folder", f"new folder/bass.{output.extension}"]
    y, rate = read(path)
    assert rate == RATE
    if output.container == "mp3":
        assert y.shape == x.shape or (frames == 1 and y.shape[1] < 1152)
        if frames > 10_000:
            assert np.square(y - x).sum() < 0.01 * np.square(x).sum()
    else:
        assert y.shape == x.shape
        assert np.abs(y - x).max() <= STEP[output.sample]


@pytest.mark.parametrize("output", FORMATS[:5], ids=identifier)
@pytest.mark.parametrize("channels", [3, 8])
def test_many_channels(tmp_path, output, channels):
    x = tone(999, channels)
    path = tmp_path / f"a.{output.extension}"
    writer = StemWriter(path, 96_000, channels, output)
    writer.write(x)
    writer.commit()
    y, rate = read(path)
    assert rate == 96_000
    assert np.abs(y - x).max() <= STEP[output.sample]


def test_float_wav_is_bit_exact_beyond_full_scale(tmp_path):
    x = np.array([[1e-30, -1.5, 3.25e3, 1.0, -1.0, 0.1]], np.float32)
    writer = StemWriter(tmp_path / "a.wav", RATE, 1)
    writer.write(x)
    writer.commit()
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], x)


@pytest.mark.parametrize("sample", ["float32", "int24", "int16"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_rf64_where_riff_is_too_small(tmp_path, sample, channels):
    """The limit is 4 GB; the test asks for RF64 below it. libsndfile and FFmpeg both read it."""
    x = tone(1001, channels)
    for rf64, kind in [("auto", b"RIFF"), ("always", b"RF64")]:
        path = tmp_path / "a.wav"
        encoder = WavEncoder(path, RATE, channels, sample, rf64=rf64)
        encoder.write(x)
        encoder.close()
        data = path.read_bytes()
        assert data[:4] == kind
        assert path.stat().st_size % 2 == 0
        info = probe(path)
        assert (info.frames, info.channels) == (1001, channels)
        y, _ = read(path)
        assert np.abs(y - x).max() <= STEP[sample]
        if kind == b"RF64":
            riff, size, frames = struct.unpack("<QQQ", data[20:44])
            assert riff == len(data) - 8
            assert frames == 1001
            exact = 1001 * channels * {"float32": 4, "int24": 3, "int16": 2}[sample]
            assert size in (exact, exact + exact % 2)  # FFmpeg counts the byte that pads
        assert ffmpeg_frames(path) == 1001


@pytest.mark.slow
def test_wav_beyond_4_gigabytes(tmp_path):
    """A recording of the length at which RIFF ends, and what libsndfile makes of it."""
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("needs 6 GB of disk space")
    block = np.tile(tone(1 << 20, 2), (4, 4))
    encoder = WavEncoder(tmp_path / "a.wav", 96_000, 8, "float32")
    for _ in range(33):
        encoder.write(block)
    encoder.close()
    with sf.SoundFile(tmp_path / "a.wav") as file:
        assert file.frames == 33 << 22
        assert file.frames * 32 > 1 << 32
        file.seek(file.frames - 1000)
        np.testing.assert_array_equal(file.read(dtype="float32").T, block[:, -1000:])


def ffmpeg_frames(path):
    import av

    with av.open(str(path)) as file:
        return sum(frame.samples for frame in file.decode(audio=0))


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50), st.sampled_from([16, 24]))
def test_rounding_is_to_the_nearest(values, bits):
    x = np.array([values], np.float32)
    q = quantise(x, bits)
    scale = 2.0 ** (bits - 1)
    assert q.min() >= -scale
    assert q.max() <= scale - 1
    inside = x.astype(np.float64) * scale <= scale - 1
    assert np.abs(q - x.astype(np.float64) * scale)[inside].max(initial=0) <= 0.5
    assert (q[~inside] == scale - 1).all()


@pytest.mark.parametrize("output", FORMATS[1:], ids=identifier)
def test_clipping_is_said_and_a_common_gain_offered(tmp_path, output):
    loud, soft = tone(5000) * 4, tone(5000) * 0.5
    names = [f"{n}.{output.extension}" for n in ("loud", "soft")]
    writers = [StemWriter(tmp_path / n, RATE, 2, output) for n in names]
    writers[0].write(loud)
    writers[1].write(soft)
    assert clipping(writers) == writers[:1]
    assert common_gain(writers) == pytest.approx(1 / np.abs(loud).max())
    with pytest.raises(AudioClipError, match=r"loud.*would clip, peak \+\d+\.\d\d dBFS") as caught:
        commit_all(writers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / names[0]).exists()
    # Nothing was lost by asking: the same writers take the offer.
    gain = common_gain(writers)
    commit_all(writers, gain)
    assert listing(tmp_path) == sorted(names)
    if output.container != "mp3":
        for name, x in zip(names, [loud, soft]):
            assert (
                np.abs(read(tmp_path / name)[0] - x * gain).max()
                <= 1.01 * 2 * STEP[output.sample] + 1e-7
            )


def test_full_scale_does_not_clip(tmp_path):
    x = np.array([[1.0, -1.0, 0.0]], np.float32)
    writer = StemWriter(tmp_path / "a.wav", RATE, 1, OutputFormat("wav", "int16"))
    writer.write(x)
    assert not writer.clips
    writer.commit()
    np.testing.assert_array_equal(sf.read(tmp_path / "a.wav", dtype="int16")[0], [32767, -32768, 0])


def test_float_output_needs_no_gain(tmp_path):
    with StemWriter(tmp_path / "a.wav", RATE, 1) as writer:
        writer.write(tone(10, 1) * 100)
        assert clipping([writer]) == []
        assert common_gain([writer]) == 1
        with pytest.raises(SettingsError, match="gain 1"):
            writer.commit(0.5)


def test_same_stem_same_bytes(tmp_path):
    x = tone(30_000)
    for output in FORMATS:
        for k, block in enumerate((30_000, 777)):
            writer = StemWriter(tmp_path / f"{k}.{output.extension}", RATE, 2, output)
            for start in range(0, 30_000, block):
                writer.write(x[:, start : start + block])
            writer.commit()
        first, second = (tmp_path / f"{k}.{output.extension}" for k in (0, 1))
        assert first.read_bytes() == second.read_bytes(), output
        first.unlink()
        second.unlink()


def test_text_beside_stems_appears_with_them(tmp_path):
    stem = StemWriter(tmp_path / "a/bass.wav", RATE, 1)
    words = '{"seed": 0, "name": "naïve 🎵"}\n'
    text = FileOutput(tmp_path / "a/mgdm.json", lambda p: p.write_text(words, encoding="utf-8"))
    stem.write(tone(100, 1))
    commit_all([stem, text])
    assert listing(tmp_path / "a") == ["bass.wav", "mgdm.json"]
    assert "🎵" in (tmp_path / "a/mgdm.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", [False, True])
def test_replacing_is_whole_or_leaves_what_was_there(tmp_path, folder):
    target = tmp_path / "new/thing"

    def fill(text):
        with replacing(target, folder=folder, refused=CheckpointError) as part:
            (part / "inner" if folder else part).write_text(text)
            if text == "broken":
                raise OSError(28, "No space left on device")

    held = target / "inner" if folder else target
    for text in ("first", "second"):
        fill(text)
        assert held.read_text() == text
    with pytest.raises(CheckpointError, match=r"thing: cannot be written \(No space left"):
        fill("broken")
    assert held.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["thing"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path, folder):
    target = tmp_path / "thing"
    if (child := os.fork()) == 0:
        with replacing(target, folder=folder) as part:
            if folder:
                (part / "inner").touch()
            os._exit(0)  # as suddenly as a kill
    os.waitpid(child, 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    with replacing(target, folder=folder) as part, replacing(tmp_path / "other"):
        assert part.exists()  # what a living process writes stays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "thing"]


def test_replacing_gives_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "thing") as part:
        part.chmod(0o600)  # as safetensors does
    assert (tmp_path / "thing").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_overwriting_replaces_and_leaves_nothing_else(tmp_path):
    for scale in (0.1, 0.2):
        writer = StemWriter(tmp_path / "a.wav", RATE, 1, overwrite=True)
        writer.write(tone(100, 1) * np.float32(scale))
        writer.commit()
    assert listing(tmp_path) == ["a.wav"]
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], tone(100, 1) * np.float32(0.2))


@pytest.mark.parametrize(
    ("container", "sample"), [("ogg", None), ("wav", "int8"), ("flac", "float32"), ("mp3", "int16")]
)
def test_formats_that_do_not_exist(container, sample):
    with pytest.raises(SettingsError, match=r"stored as|stores"):
        OutputFormat(container, sample)


@pytest.mark.parametrize(("rate", "channels"), [(96_000, 2), (44_100, 3), (44_056, 1)])
def test_mp3_knows_few_rates(tmp_path, rate, channels):
    with pytest.raises(AudioFormatError, match="write wav or flac"):
        StemWriter(tmp_path / "a.mp3", rate, channels, OutputFormat("mp3"))
    assert listing(tmp_path) == []


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 48_000])
def test_mp3_at_low_rates(tmp_path, rate):
    writer = StemWriter(tmp_path / "a.mp3", rate, 2, OutputFormat("mp3"))
    writer.write(tone(5000, 2, rate))
    writer.commit()
    assert read(tmp_path / "a.mp3")[0].shape == (2, 5000)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 2), st.integers(1, 40_000))
def test_disk_estimate_is_enough(tmp_path_factory, output, channels, frames):
    folder = tmp_path_factory.mktemp("estimate")
    noise = np.random.default_rng(frames).uniform(-1, 1, (channels, frames)).astype(np.float32)
    writer = StemWriter(folder / f"a.{output.extension}", RATE, channels, output)
    writer.write(noise)
    writer.commit()
    size = (folder / f"a.{output.extension}").stat().st_size
    spool = 4 * channels * frames if output.clips else 0
    assert size + spool <= output.disk_bytes(RATE, channels, frames)
