"""Reading: every format, in blocks, with the sample count of the decoder."""

import io
import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from mgdm_audio.io.decoders import PyAVDecoder
from mgdm_audio.io.reader import SpooledFile, open_blocks, probe, read, spooled

RATE = 44_100
LAGS = range(-5, 6)


def tone(frames: int = 30_011, channels: int = 2, rate: int = RATE) -> np.ndarray:
    """A chord well inside full scale, another one in each channel; (channels, frames)."""
    t = np.arange(frames) / rate
    rows = [
        0.3 * np.sin(2 * np.pi * 220 * (c + 1) * t) + 0.2 * np.sin(2 * np.pi * 997 * t + c)
        for c in range(channels)
    ]
    return np.stack(rows).astype(np.float32)


def encode(path: Path, samples: np.ndarray, rate: int, codec: str, container: str, fmt: str):
    """Encode through FFmpeg, with timestamps, so that the container declares its padding."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.format = fmt
        size = stream.codec_context.frame_size or 1024
        convert = av.AudioResampler(format=fmt, layout=layout, rate=rate, frame_size=size)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples), format="fltp", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in convert.resample(frame) + convert.resample(None):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "form", "subtype", "tolerance"),
    [
        ("a.wav", "WAV", "PCM_U8", 1 / 128),
        ("a.wav", "WAV", "PCM_16", 1 / 32768),
        ("a.wav", "WAV", "PCM_24", 2.0**-23),
        ("a.wav", "WAV", "PCM_32", 1e-7),
        ("a.wav", "WAV", "FLOAT", 0),
        ("a.wav", "WAV", "DOUBLE", 0),
        ("a.wav", "WAVEX", "PCM_24", 2.0**-23),
        ("a.wav", "RF64", "FLOAT", 0),
        ("a.wav", "WAV", "ULAW", 0.02),
        ("a.aiff", "AIFF", "PCM_16", 1 / 32768),
        ("a.flac", "FLAC", "PCM_24", 2.0**-23),
        ("a.caf", "CAF", "PCM_16", 1 / 32768),
        ("a.w64", "W64", "PCM_16", 1 / 32768),
        ("a.au", "AU", "PCM_16", 1 / 32768),
        ("no_extension", "WAV", "FLOAT", 0),
        ("wrong_extension.mp3", "WAV", "FLOAT", 0),
    ],
)
def test_lossless_formats_come_back(tmp_path, name, form, subtype, tolerance):
    path, x = tmp_path / name, tone()
    sf.write(str(path), x.T, RATE, format=form, subtype=subtype)
    info = probe(path)
    assert (info.rate, info.channels, info.frames) == (RATE, 2, x.shape[1])
    assert info.subtype == subtype
    assert info.seconds == pytest.approx(x.shape[1] / RATE)
    y, rate = read(path)
    assert rate == RATE
    assert y.dtype == np.float32
    assert y.shape == x.shape
    assert np.abs(y - x).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "codec", "container", "fmt", "rate", "exact"),
    [
        ("a.mp3", "libmp3lame", "mp3", "fltp", 44_100, True),
        ("a.m4a", "aac", "ipod", "fltp", 44_100, False),
        ("a.mp4", "aac", "mp4", "fltp", 44_100, False),
        ("alac.m4a", "alac", "ipod", "s32p", 44_100, True),
        ("a.opus", "libopus", "opus", "flt", 48_000, True),
        ("a.ogg", "vorbis", "ogg", "fltp", 44_100, True),
        ("a.mka", "flac", "matroska", "s16", 44_100, True),
        ("a.wav", "pcm_s64le", "wav", "s64", 44_100, True),
    ],
)
def test_compressed_formats_are_aligned(tmp_path, name, codec, container, fmt, rate, exact):
    """What the container declares as encoder delay is gone: the chord starts where it did."""
    path, x = tmp_path / name, tone(rate=rate)
    if codec == "vorbis":  # not among PyAV's encoders
        sf.write(str(path), x.T, rate, format="OGG", subtype="VORBIS")
    else:
        encode(path, x, rate, codec, container, fmt)
    info = probe(path)
    y, found = read(path)
    assert (info.rate, info.channels, found) == (rate, 2, rate)
    assert info.frames in (None, y.shape[1])
    assert info.seconds == pytest.approx(x.shape[1] / rate, abs=0.1)
    if exact:
        assert y.shape == x.shape
    assert 0 <= y.shape[1] - x.shape[1] < 2048  # padding to a whole packet at the end at most
    errors = [np.square(y[:, 5000 + k : 25_000 + k] - x[:, 5000:25_000]).sum() for k in LAGS]
    assert LAGS[int(np.argmin(errors))] == 0
    assert min(errors) < 0.01 * np.square(x[:, 5000:25_000]).sum()


def test_bare_aac_keeps_its_undeclared_priming(tmp_path):
    x = tone()
    encode(tmp_path / "a.aac", x, RATE, "aac", "adts", "fltp")
    info = probe(tmp_path / "a.aac")
    y, _ = read(tmp_path / "a.aac")
    assert info.frames is None
    assert y.shape[1] % 1024 == 0
    assert y.shape[1] > x.shape[1]


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6, 8])
@pytest.mark.parametrize("rate", [8000, 22_050, 192_000])
def test_rates_and_channels(tmp_path, channels, rate):
    path, x = tmp_path / "a.wav", tone(501, channels, rate)
    sf.write(str(path), x.T, rate, subtype="FLOAT")
    y, found = read(path)
    assert found == rate
    np.testing.assert_array_equal(y, x)


def test_six_channels_through_ffmpeg(tmp_path):
    x = tone(9000, 6)
    encode(tmp_path / "a.mka", x, RATE, "flac", "matroska", "s32")
    y, _ = read(tmp_path / "a.mka")
    assert np.abs(y - x).max() < 2.0**-22


def test_mp4_with_picture_and_one_track(tmp_path):
    """A video's sound is taken; cover art is a video track too."""
    path, x = tmp_path / "clip.mp4", tone(RATE)
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        audio = file.add_stream("aac", rate=RATE, layout="stereo")
        for _ in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
        for start in range(0, RATE, 1024):
            part = np.ascontiguousarray(x[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            frame.time_base = Fraction(1, RATE)
            file.mux(audio.encode(frame))
        file.mux(audio.encode(None))
    y, _ = read(path)
    assert y.shape[0] == 2
    assert np.corrcoef(y[0, 4000:40_000], x[0, 4000:40_000])[0, 1] > 0.99


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
@pytest.mark.parametrize("block", [1, 777, 4096, 10**6])
def test_blocks_are_the_file_in_pieces(tmp_path, name, block):
    path, x = tmp_path / name, tone(3001 if block == 1 else 20_000)
    if name == "a.mp3":
        encode(path, x, RATE, "libmp3lame", "mp3", "fltp")
    else:
        sf.write(str(path), x.T, RATE)
    whole, _ = read(path)
    pieces = list(open_blocks(path, block))
    assert all(piece.shape[1] == block for piece in pieces[:-1])
    assert 1 <= pieces[-1].shape[1] <= block
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


def test_one_sample(tmp_path):
    sf.write(str(tmp_path / "a.wav"), np.array([0.5]), RATE, subtype="FLOAT")
    y, _ = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(y, [[0.5]])


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
def test_header_written_to_a_pipe(tmp_path, length):
    """FFmpeg, SoX and arecord cannot go back to fill in the length: what is there counts."""
    path, x = tmp_path / "a.wav", tone(5000)
    sf.write(str(path), x.T, RATE, subtype="FLOAT")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path)[0], x)


def test_standard_input_is_spooled_and_read_twice(tmp_path):
    x = tone()
    sf.write(str(tmp_path / "a.wav"), x.T, RATE, subtype="FLOAT")
    stream = io.BytesIO((tmp_path / "a.wav").read_bytes())
    with spooled("-", stream) as source:
        assert isinstance(source, SpooledFile)
        info = probe(source)
        np.testing.assert_array_equal(read(source)[0], x)
        kept = Path(source)
        assert kept.exists()
    assert info.path == "-"
    assert info.frames == x.shape[1]
    assert not kept.exists()


def test_dash_reads_standard_input(tmp_path, monkeypatch):
    x = tone()
    sf.write(str(tmp_path / "a.flac"), x.T, RATE)
    data = io.BytesIO((tmp_path / "a.flac").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
    y, rate = read("-")
    assert rate == RATE
    assert y.shape == x.shape


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe(tmp_path):
    """``mgdm-separate <(ffmpeg ...)`` hands over a pipe that cannot be rewound."""
    x = tone()
    sf.write(str(tmp_path / "a.wav"), x.T, RATE, subtype="FLOAT")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=lambda: pipe.write_bytes((tmp_path / "a.wav").read_bytes()), daemon=True
    )
    writer.start()
    np.testing.assert_array_equal(read(pipe)[0], x)
    writer.join()


@pytest.mark.parametrize("name", ["naïve 🎵.wav", "two\nlines.wav", "a:b%03d.wav", "-.wav"])
def test_odd_names(tmp_path, name):
    x = tone(100)
    sf.write(str(tmp_path / "plain.wav"), x.T, RATE, subtype="FLOAT")
    (tmp_path / "plain.wav").rename(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name)[0], x)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp3")
    x = tone(5000)
    encode(tmp_path / "plain.mp3", x, RATE, "libmp3lame", "mp3", "fltp")
    os.rename(tmp_path / "plain.mp3", path)
    assert read(path)[0].shape == x.shape


def test_samples_may_change_their_kind_midway(tmp_path):
    """Another sample format or layout of as many channels needs another converter, no error."""
    path, x = tmp_path / "a.mp3", tone(3000, 2)
    encode(path, x, RATE, "libmp3lame", "mp3", "fltp")
    decoder = PyAVDecoder(path, "a")
    whole = np.rint(x * 32767).astype(np.int16)
    frames = [
        av.AudioFrame.from_ndarray(np.ascontiguousarray(x, np.float32), "fltp", "stereo"),
        av.AudioFrame.from_ndarray(np.ascontiguousarray(whole.T).reshape(1, -1), "s16", "stereo"),
        av.AudioFrame.from_ndarray(np.ascontiguousarray(x, np.float32), "fltp", "downmix"),
    ]
    for frame in frames:
        frame.sample_rate = RATE
    decoder._decoded = iter(frames)
    decoder._promised = None
    blocks = list(decoder.blocks(700))
    decoder.close()
    assert max(block.shape[1] for block in blocks) == 700
    found = np.concatenate(blocks, axis=1)
    assert np.abs(found - np.concatenate([x, x, x], axis=1)).max() < 1e-4
