"""A compressed soundfont unpacked: the same instruments, the same samples, the same sound."""

import io
import struct

import numpy as np
import pytest
import soundfile

from recipes.music_prior.sound.sf2_writer import GUARD, Instrument, write_sf2
from recipes.music_prior.sound.sf3 import Sf3Error, shrink, unpack, unpacked
from recipes.music_prior.sound.sfz import read_sfz

RATE = 22_050


@pytest.fixture
def sf2(tmp_path):
    """Two samples, one of them looped."""
    time = np.arange(RATE) / RATE
    for name, pitch in (("low", 110), ("high", 440)):
        soundfile.write(tmp_path / f"{name}.wav", 0.5 * np.sin(2 * np.pi * pitch * time), RATE)
    text = (
        "<region> sample=low.wav hikey=60 pitch_keycenter=45\n"
        "<region> sample=high.wav lokey=61 pitch_keycenter=69 "
        "loop_mode=loop_continuous loop_start=2205 loop_end=4409\n"
    )
    (tmp_path / "a.sfz").write_text(text)
    path = tmp_path / "a.sf2"
    write_sf2(path, [Instrument("a", 0, 0, read_sfz(tmp_path / "a.sfz"))])
    return path


def chunk_of(data, name):
    """Where a chunk's content begins, and its size."""
    place = data.index(name)
    return place + 8, struct.unpack_from("<I", data, place + 4)[0]


def headers_of(data):
    place, size = chunk_of(data, b"shdr")
    return list(struct.iter_unpack("<20sIIIIIBbHH", data[place : place + size]))


def compressed(data):
    """An .sf3 as MuseScore writes it, made from an .sf2."""
    start, size = chunk_of(data, b"smpl")
    sound = np.frombuffer(data[start : start + size], "<i2")
    streams, headers = b"", []
    *samples, last = headers_of(data)
    for name, first, stop, loop, end, *rest, kind in samples:
        stream = io.BytesIO()
        soundfile.write(stream, sound[first:stop], RATE, format="OGG", subtype="VORBIS")
        place = (len(streams), len(streams) + len(stream.getvalue()))
        streams += stream.getvalue()
        headers.append((name, *place, loop - first, end - first, *rest, kind | 0x10))
    table = b"".join(struct.pack("<20sIIIIIBbHH", *h) for h in [*headers, last])
    body = b"smpl" + struct.pack("<I", len(streams)) + streams + b"\0" * (len(streams) % 2)
    sdta = b"LIST" + struct.pack("<I", 4 + len(body)) + b"sdta" + body
    whole = data[12 : start - 20] + sdta + data[start + size :]
    place, size = chunk_of(whole, b"shdr")
    whole = whole[:place] + table + whole[place + size :]
    return b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"sfbk" + whole


def test_samples_loops_and_instruments_are_those_of_the_original(sf2, tmp_path):
    original = sf2.read_bytes()
    (tmp_path / "b.sf3").write_bytes(compressed(original))
    unpack(tmp_path / "b.sf3", tmp_path / "b.sf2")
    found = (tmp_path / "b.sf2").read_bytes()
    assert headers_of(found) == headers_of(original)
    sounds = []
    for data in (original, found):
        start, size = chunk_of(data, b"smpl")
        sounds.append(np.frombuffer(data[start : start + size], "<i2") / 2**15)
    assert len(sounds[0]) == 2 * (RATE + GUARD)
    error = np.square(sounds[1] - sounds[0]).sum() / np.square(sounds[0]).sum()
    assert 10 * np.log10(error) < -20  # Vorbis
    for name in (b"phdr", b"inst", b"igen", b"pbag"):
        (a, n), (b, m) = chunk_of(original, name), chunk_of(found, name)
        assert original[a : a + n] == found[b : b + m]


def test_it_is_unpacked_once_and_again_when_it_changes(sf2, tmp_path):
    path = tmp_path / "b.sf3"
    path.write_bytes(compressed(sf2.read_bytes()))
    first = unpacked(path, tmp_path / "cache")
    written = first.stat().st_mtime_ns
    assert unpacked(path, tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert unpacked(path, tmp_path / "cache") != first
    assert unpacked(sf2) == sf2


@pytest.mark.parametrize("cut", [0, 11, 200, -3000])
def test_what_is_no_soundfont_is_said_in_a_line(sf2, tmp_path, cut):
    path = tmp_path / "b.sf3"
    path.write_bytes(compressed(sf2.read_bytes())[:cut])
    with pytest.raises(Sf3Error, match=r"b\.sf3"):
        unpacked(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.sf2"))


def test_fluidsynth_plays_it_as_it_plays_the_compressed_one(sf2, tmp_path, monkeypatch):
    synth = pytest.importorskip("recipes.music_prior.sound.synth")
    from recipes.music_prior.songs.song import Note, Track

    path = tmp_path / "b.sf3"
    path.write_bytes(compressed(sf2.read_bytes()))
    monkeypatch.setattr(synth, "unpacked", lambda p: unpacked(p, tmp_path / "cache"))
    notes = tuple(Note(0.2 * i, 0.2 * i + 0.4, 45 + 8 * i, 90) for i in range(4))
    sounds = []
    for _ in range(2):
        try:
            player = synth.Synthesizer([path], RATE)
        except synth.SoundfontError as error:
            pytest.skip(str(error))
        sounds.append(player.render([Track("piano", 0, notes)], player.presets()[:1], 1.5))
        monkeypatch.setattr(synth, "unpacked", lambda p: p)
    assert np.abs(sounds[0]).max() > 0.01
    assert np.abs(sounds[0] - sounds[1]).max() < 1e-2 * np.abs(sounds[1]).max()


def test_a_smaller_one_keeps_pitch_and_loops(sf2, tmp_path):
    """Samples at half the rate: a loop of whole periods stays one, and says its own rate."""
    shrink(sf2, tmp_path / "small.sf3", rate=RATE // 2)
    unpack(tmp_path / "small.sf3", tmp_path / "small.sf2")
    data = (tmp_path / "small.sf2").read_bytes()
    start, size = chunk_of(data, b"smpl")
    sound = np.frombuffer(data[start : start + size], "<i2") / 2**15
    (_, a, b, *_), (_, c, d, loop, end, rate, *_), _ = headers_of(data)
    assert b - a == pytest.approx(RATE / 2, abs=1)
    assert end - loop == round((4409 - 2205 + 1) / 2)
    for wave, own, pitch in ((sound[a:b], RATE // 2, 110), (sound[c:d], rate, 440)):
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 18))
        assert spectrum.argmax() * own / (1 << 18) == pytest.approx(pitch, rel=2e-4)
