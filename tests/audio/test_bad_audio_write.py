"""Outputs that cannot be written: one clear line, and nothing half-written left behind."""

import os
import signal

import numpy as np
import pytest

from mgdm_audio.errors import AudioFormatError, AudioWriteError
from mgdm_audio.io.atomic import AtomicOutput, FileOutput, abort_all, commit_all
from mgdm_audio.io.encoders import FlacEncoder, OutputFormat
from mgdm_audio.io.reader import read
from mgdm_audio.io.stem_writer import StemWriter
from mgdm_core.errors import ShapeError
from tests.audio.test_audio_io_read import RATE, tone
from tests.audio.test_audio_io_write import FORMATS, identifier, listing
from tests.audio.test_bad_audio_read import one_line

resource = pytest.importorskip("resource", reason="no resource limits on this system")


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: writes fail as on a full disk, whoever runs the test."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("output", FORMATS, ids=identifier)
def test_full_disk(tmp_path, output, small_disk):
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 200_000)).astype(np.float32)
    writer = StemWriter(tmp_path / f"new/a.{output.extension}", RATE, 2, output)

    def write_all():
        for start in range(0, 200_000, 10_000):
            writer.write(noise[:, start : start + 10_000])
        writer.commit()

    with pytest.raises(AudioWriteError, match=r"File too large.*nothing is left") as caught:
        write_all()
    one_line(caught.value)
    assert listing(tmp_path) == []
    writer.abort()  # harmless


@pytest.mark.parametrize("output", FORMATS[3:], ids=identifier)
def test_disk_full_while_encoding(tmp_path, output, small_disk, monkeypatch):
    """The spool fitted, the encoder's own file does not."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 200_000)).astype(np.float32)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    writer = StemWriter(tmp_path / f"new/a.{output.extension}", RATE, 2, output)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, hard))
    writer.write(noise)
    writer._spool.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    with pytest.raises(AudioWriteError, match="cannot be written") as caught:
        writer.commit()
    one_line(caught.value)
    assert listing(tmp_path) == []


def test_one_stem_fails_and_none_appears(tmp_path, small_disk):
    stems = [StemWriter(tmp_path / f"song/{n}.wav", RATE, 1) for n in "abc"]
    for stem in stems[:2]:
        stem.write(tone(1000, 1))
    with pytest.raises(AudioWriteError, match=r"c\.wav"):
        stems[2].write(tone(100_000, 1))
    abort_all(stems)
    assert listing(tmp_path) == []


def test_failing_rename_restores_what_was_there(tmp_path):
    """The second of three targets becomes a folder meanwhile: the first is taken back."""
    (tmp_path / "a.wav").write_bytes(b"old a")
    stems = [StemWriter(tmp_path / f"{n}.wav", RATE, 1, overwrite=True) for n in "abc"]
    for stem in stems:
        stem.write(tone(100, 1))
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(AudioWriteError, match=r"b\.wav.*folder"):
        commit_all(stems)
    assert listing(tmp_path) == ["a.wav", "b.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"old a"


def test_system_refuses_the_last_rename(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"old a")
    (tmp_path / "c.wav").write_bytes(b"old c")
    stems = [StemWriter(tmp_path / f"{n}.wav", RATE, 1, overwrite=True) for n in "abc"]
    for stem in stems:
        stem.write(tone(100, 1))
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith("c.wav") and str(source) == str(stems[2].finished):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(AudioWriteError, match=r"No space left.*nothing is left") as caught:
        commit_all(stems)
    one_line(caught.value)
    assert listing(tmp_path) == ["a.wav", "c.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"old a"
    assert (tmp_path / "c.wav").read_bytes() == b"old c"


def test_leaving_the_block_aborts(tmp_path):
    def interrupted():
        with StemWriter(tmp_path / "x/a.wav", RATE, 1) as writer:
            writer.write(tone(100, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listing(tmp_path) == []


def test_interrupted_commit_leaves_nothing(tmp_path, monkeypatch):
    stems = [StemWriter(tmp_path / f"x/{n}.wav", RATE, 1) for n in "ab"]
    for stem in stems:
        stem.write(tone(100, 1))

    def interrupt(gain):
        raise KeyboardInterrupt

    monkeypatch.setattr(stems[1], "_complete", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit_all(stems)
    assert listing(tmp_path) == []


def test_existing_file_is_kept(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"precious")
    with pytest.raises(AudioWriteError, match="exists already") as caught:
        StemWriter(tmp_path / "a.wav", RATE, 1)
    one_line(caught.value)
    assert (tmp_path / "a.wav").read_bytes() == b"precious"


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    writer = StemWriter(tmp_path / "a.wav", RATE, 1)
    writer.write(tone(100, 1))
    (tmp_path / "a.wav").write_bytes(b"precious")
    with pytest.raises(AudioWriteError, match="exists already"):
        writer.commit()
    assert (tmp_path / "a.wav").read_bytes() == b"precious"
    assert listing(tmp_path) == ["a.wav"]


def test_folder_in_the_way(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(AudioWriteError, match="a folder has this name"):
        StemWriter(tmp_path / "a.wav", RATE, 1, overwrite=True)


def test_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "song").write_bytes(b"")
    with pytest.raises(AudioWriteError, match=r"belongs to a file|Not a directory") as caught:
        StemWriter(tmp_path / "song/a.wav", RATE, 1)
    one_line(caught.value)
    with pytest.raises(AudioWriteError, match="Not a directory"):
        StemWriter(tmp_path / "song/deeper/a.wav", RATE, 1)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no such folder here")
def test_folder_that_cannot_be_made():
    with pytest.raises(AudioWriteError, match="cannot be written"):
        StemWriter("/proc/mgdm/a.wav", RATE, 1)


def test_folder_without_the_right_to_write(tmp_path, monkeypatch):
    """Rights do not stop the superuser, so the system's answer is put in its mouth."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(AudioWriteError, match="Permission denied") as caught:
        StemWriter(tmp_path / "a.wav", RATE, 1)
    one_line(caught.value)


def test_name_that_is_too_long_is_found_at_once(tmp_path):
    with pytest.raises(AudioWriteError, match="too long"):
        StemWriter(tmp_path / ("a" * 300 + ".wav"), RATE, 1)
    assert listing(tmp_path) == []


def test_longest_possible_name(tmp_path):
    path = tmp_path / ("a" * 251 + ".wav")
    writer = StemWriter(path, RATE, 1)
    writer.write(tone(10, 1))
    writer.commit()
    assert path.exists()


def test_name_with_a_nul(tmp_path):
    with pytest.raises(AudioWriteError, match="null"):
        StemWriter("a\0.wav", RATE, 1)


def test_odd_name_is_written_and_quoted(tmp_path):
    path = tmp_path / "two\nlines 🎵.wav"
    writer = StemWriter(path, RATE, 1)
    writer.write(tone(10, 1))
    writer.commit()
    assert read(path)[0].shape == (1, 10)
    with pytest.raises(AudioWriteError) as caught:
        StemWriter(path, RATE, 1)
    assert r"two\nlines 🎵.wav" in one_line(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", FORMATS[:2], ids=identifier)
def test_stem_that_is_not_finite(tmp_path, value, output):
    x = tone(100, 1)
    x[0, 50] = value
    with pytest.raises(AudioWriteError, match="NaN or infinity"):
        StemWriter(tmp_path / "x/a.wav", RATE, 1, output).write(x)
    assert listing(tmp_path) == []


def test_wrong_channels(tmp_path):
    with StemWriter(tmp_path / "a.wav", RATE, 2) as writer, pytest.raises(ShapeError, match="2"):
        writer.write(tone(10, 1))


@pytest.mark.parametrize(("rate", "channels"), [(200_000, 1), (44_100, 9), (4000, 1), (44_100, 0)])
def test_output_outside_what_is_supported(tmp_path, rate, channels):
    with pytest.raises(AudioFormatError, match="supported"):
        StemWriter(tmp_path / "a.wav", rate, channels, OutputFormat())


def test_using_an_output_twice(tmp_path):
    writer = StemWriter(tmp_path / "a.wav", RATE, 1)
    writer.write(tone(10, 1))
    writer.commit()
    with pytest.raises(AudioWriteError, match="complete"):
        writer.write(tone(10, 1))
    with pytest.raises(AudioWriteError, match="before"):
        writer.commit()
    writer.abort()
    assert listing(tmp_path) == ["a.wav"]


def test_another_track_keeps_the_folder(tmp_path):
    """A folder that this output made is not removed from under somebody else's file."""
    output: AtomicOutput = FileOutput(tmp_path / "x/a.json", lambda p: p.write_text("{}"))
    (tmp_path / "x/other.txt").write_text("mine")
    output.abort()
    assert listing(tmp_path) == ["x", "x/other.txt"]


def test_a_short_write_of_flac_is_named(tmp_path, monkeypatch):
    encoder = FlacEncoder(tmp_path / "a.flac", RATE, 1, "int16")

    def short(data):
        raise AssertionError

    monkeypatch.setattr(encoder._file, "write", short)
    with pytest.raises(OSError, match="flac encoder: short write"):
        encoder.write(tone(10, 1))
