"""Damaged, lying and impossible inputs: the right exception, one clear line, a word of advice."""

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mgdm_audio.errors import AudioError, AudioFormatError, AudioReadError, display_name
from mgdm_audio.io.reader import open_blocks, probe, read, spooled
from tests.audio.test_audio_io_read import RATE, encode, tone


def riff(channels=2, rate=RATE, frames=10, declared=None, tag=1, bits=16):
    """A RIFF file byte by byte, as wrong as asked."""
    data = bytes(bits // 8 * channels * frames)
    declared = len(data) if declared is None else declared
    align = bits // 8 * channels
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", declared) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def wav(samples, subtype="FLOAT", rate=RATE, form="WAV"):
    file = io.BytesIO()
    sf.write(file, samples.T, rate, format=form, subtype=subtype)
    return file.getvalue()


def with_value(value, frame=7, channel=1):
    x = tone(100)
    x[channel, frame] = value
    return wav(x)


def declared_data(data, length):
    out = bytearray(data)
    at = out.index(b"data") + 4
    out[at : at + 4] = struct.pack("<I", length)
    return bytes(out)


NOISE = np.random.default_rng(0).bytes(20_000)
BAD_BYTES = {
    # name: (content, exception, what the message must say)
    "empty": (b"", AudioReadError, "is empty"),
    "one byte": (b"R", AudioReadError, "not audio"),
    "truncated header": (wav(tone(100))[:30], AudioReadError, "not audio"),
    "header and nothing else": (wav(tone(100))[:44], AudioReadError, "not audio"),
    "no samples": (riff(frames=0), AudioReadError, "holds no samples"),
    "unfinished recording": (
        declared_data(wav(tone(100)), 0),
        AudioReadError,
        "holds no samples.*bytes follow",
    ),
    "lies about length": (
        declared_data(wav(tone(1000)), 10**8),
        AudioReadError,
        "cut off: the header declares 100000000 bytes",
    ),
    "half a wav": (wav(tone(1000))[:4100], AudioReadError, "cut off"),
    "half a big-endian wav": (
        wav(tone(1000), "PCM_16", form="AIFF")[:2000],
        AudioReadError,
        "cut off",
    ),
    "half an rf64": (wav(tone(1000), form="RF64")[:4100], AudioReadError, "cut off"),
    "text": (b"this is a shopping list, not a sound\n" * 100, AudioReadError, "not audio"),
    "noise": (NOISE, AudioReadError, "not audio"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + NOISE, AudioReadError, "not audio"),
    "an archive": (b"PK\x03\x04" + NOISE, AudioReadError, "not audio"),
    "zero channels": (riff(channels=0), AudioReadError, "Channel count is zero"),
    "9 channels": (riff(channels=9), AudioFormatError, "9 channels and 1 to 8"),
    "2000 channels": (riff(channels=2000), AudioReadError, "not audio"),
    "200 kHz": (riff(rate=200_000), AudioFormatError, "200000 Hz and 8000 to 192000"),
    "4 kHz": (riff(rate=4000), AudioFormatError, "4000 Hz and 8000 to 192000"),
    "0 Hz": (riff(rate=0), AudioReadError, "0 Hz"),
    "unknown codec": (riff(tag=0x7777), AudioFormatError, "codec is not known"),
    "NaN": (with_value(np.nan), AudioReadError, r"NaN or infinite.* in channel 2"),
    "infinity": (with_value(np.inf), AudioReadError, "NaN or infinite"),
    "minus infinity": (with_value(-np.inf, 0, 0), AudioReadError, r"0\.000 s in channel 1"),
    "beyond float32": (
        wav(np.full((1, 10), 1e300), "DOUBLE"),
        AudioReadError,
        "NaN or infinite",
    ),
    "flac header only": (wav(tone(1000), "PCM_16", form="FLAC")[:20], AudioReadError, "not audio"),
    "half a flac": (
        wav(tone(30_000), "PCM_16", form="FLAC")[:20_000],
        AudioReadError,
        "damaged|cut off",
    ),
}


def one_line(error: AudioError) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.isprintable()
    assert 10 < len(text) < 400
    return text


@pytest.mark.parametrize("what", BAD_BYTES)
def test_bad_file(tmp_path, what):
    content, expected, says = BAD_BYTES[what]
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(expected, match=says) as caught:
        read(path)
    assert str(path) in one_line(caught.value)


@pytest.mark.parametrize("what", ["9 channels", "200 kHz", "text", "empty", "lies about length"])
def test_found_out_without_decoding(tmp_path, what):
    content, expected, says = BAD_BYTES[what]
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(expected, match=says):
        probe(tmp_path / "x.wav")


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_damaged_compressed_file(tmp_path, name, how):
    path = tmp_path / name
    codec = ("libmp3lame", "mp3") if name == "a.mp3" else ("aac", "ipod")
    encode(path, tone(60_000), RATE, *codec, "fltp")
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        data[middle : middle + 1500] = NOISE[:1500]
        path.write_bytes(data)
    with pytest.raises(AudioReadError, match=r"cut off|damaged|not audio") as caught:
        read(path)
    one_line(caught.value)


def test_blocks_before_the_damage_are_given(tmp_path):
    """Streaming cannot know: the error comes when the damage is reached, not as silence."""
    x = tone(50_000)
    x[0, 40_000] = np.nan
    (tmp_path / "a.wav").write_bytes(wav(x))
    blocks = open_blocks(tmp_path / "a.wav", 10_000)
    for _ in range(4):
        next(blocks)
    with pytest.raises(AudioReadError, match=r"0\.907 s"):
        next(blocks)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.wav\n",
        "#EXTM3U\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["list.wav", "list.mp3", "list.m3u8", "list.m4a"])
def test_playlists_open_no_other_file(tmp_path, text, name):
    (tmp_path / "secret.wav").write_bytes(wav(tone(5000)))
    (tmp_path / name).write_text(text)
    with pytest.raises(AudioReadError, match="not audio") as caught:
        read(tmp_path / name)
    one_line(caught.value)


def video(path: Path, tracks: int):
    import av

    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        sounds = [file.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(tracks)]
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
        for sound in sounds:
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 800), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = 8000, 0
            file.mux(sound.encode(frame))
            file.mux(sound.encode(None))


@pytest.mark.parametrize(
    ("tracks", "says"), [(0, "no audio track"), (2, "2 audio tracks.*-map 0:a:0")]
)
def test_video_without_or_with_several_tracks(tmp_path, tracks, says):
    video(tmp_path / "a.mkv", tracks)
    with pytest.raises(AudioFormatError, match=says) as caught:
        probe(tmp_path / "a.mkv")
    one_line(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(AudioReadError, match="no such file; check the path"):
        probe(tmp_path / "nothing.wav")


def test_folder(tmp_path):
    with pytest.raises(AudioReadError, match="is a folder"):
        probe(tmp_path)


def test_file_as_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(AudioReadError, match=r"Not a directory|no such file"):
        probe(tmp_path / "a" / "b.wav")


@pytest.mark.skipif(os.name == "nt", reason="needs rights there")
def test_symbolic_link_loop(tmp_path):
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(AudioReadError, match="symbolic links"):
        probe(tmp_path / "a.wav")


@pytest.mark.skipif(os.name == "nt", reason="needs rights there")
def test_dangling_link(tmp_path):
    (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
    with pytest.raises(AudioReadError, match="no such file"):
        probe(tmp_path / "a.wav")


def test_unreadable(tmp_path, monkeypatch):
    """Rights do not stop the superuser, so the system's refusal is put in its mouth."""
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(100)))
    path.chmod(0)
    if os.access(path, os.R_OK):

        def refuse(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioReadError, match="Permission denied") as caught:
        probe(path)
    one_line(caught.value)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_device():
    with pytest.raises(AudioReadError, match="not an ordinary file"):
        probe("/dev/zero")


def test_name_with_a_nul():
    with pytest.raises(AudioReadError, match="null"):
        probe("a\0b.wav")


def test_name_too_long(tmp_path):
    with pytest.raises(AudioReadError, match=r"too long|no such file"):
        probe(tmp_path / ("a" * 300 + ".wav"))


def test_address_is_not_fetched():
    with pytest.raises(AudioReadError, match=r"no such file|Invalid argument"):
        probe("http://127.0.0.1:9/a.mp3")


def test_name_with_newlines_and_emoji_stays_on_one_line(tmp_path):
    path = tmp_path / "bad\nname 🎵\x1b[31m.wav"
    path.write_bytes(b"text")
    with pytest.raises(AudioReadError) as caught:
        probe(path)
    text = one_line(caught.value)
    assert r"bad\nname 🎵\x1b[31m.wav" in text


def test_display_name_of_stray_bytes():
    assert display_name(b"caf\xe9") == r"caf\udce9" or os.name == "nt"


def test_raw_samples_without_header(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioReadError, match="not audio"):
        probe(tmp_path / "a.raw")


def test_empty_standard_input():
    with (
        spooled("-", io.BytesIO()) as source,
        pytest.raises(AudioReadError, match="standard input: is empty"),
    ):
        probe(source)


def test_terminal_as_standard_input():
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    with (
        pytest.raises(AudioReadError, match="standard input is a terminal"),
        spooled("-", Terminal()),
    ):
        pass


def test_nothing_on_standard_error(tmp_path, capfd):
    """The decoders' own libraries like to chat there."""
    for k, (content, _, _) in enumerate(BAD_BYTES.values()):
        for ending in ("wav", "mp3"):
            (tmp_path / f"{k}.{ending}").write_bytes(content)
            with pytest.raises(AudioError):
                read(tmp_path / f"{k}.{ending}")
    sys.stderr.flush()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS")])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_cut_off_ogg_is_named(tmp_path, format, subtype, share):
    whole = tmp_path / "whole.ogg"
    rate = 48_000 if subtype == "OPUS" else 44_100
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * rate)
    sf.write(whole, noise, rate, format=format, subtype=subtype)
    assert sum(b.shape[1] for b in open_blocks(whole)) == 5 * rate
    data = whole.read_bytes()
    cut = tmp_path / "cut.ogg"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(AudioReadError, match="cut off"):
        probe(cut)
