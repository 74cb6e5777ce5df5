"""The .sfz reader, by its opcodes, and what FluidSynth plays of what it read."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.music_prior.songs.song import Note, Track
from recipes.music_prior.sound.sf2_writer import Instrument, write_sf2
from recipes.music_prior.sound.sfz import Region, SfzError, key_number, read_sfz, variants
from recipes.music_prior.sound.sfz_library import address_of, as_soundfont
from recipes.music_prior.sound.soundfonts import SoundfontError, find_soundfonts, instruments
from recipes.music_prior.sound.synth import Synthesizer

RATE = 22_050


def tone(path: Path, frequency: float, level: float = 0.3, seconds: float = 1.5) -> Path:
    time = np.arange(round(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(2 * np.pi * frequency * time), RATE)
    return path


def sfz(folder: Path, text: str, name: str = "test.sfz") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, frequency in (("a", 440.0), ("b", 660.0), ("hard hit", 880.0)):
        tone(tmp_path / "samples" / f"{name}.wav", frequency)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "key"), [("60", 60), ("c4", 60), ("C#4", 61), ("eb3", 51), ("a-1", 9), ("g9", 127)]
)
def test_keys_are_numbers_or_names(text, key):
    assert key_number(text, Path("x.sfz")) == key


def test_opcodes_are_inherited_and_overridden(folder):
    path = sfz(
        folder,
        """
        // a comment with key=1
        <control> default_path=samples/
        #define $LOUD 100
        <global> ampeg_release=0.5 volume=-3
        <master> tune=10
        <group> lovel=1 hivel=99 /* the soft
        ones */
        <region> sample=a.wav lokey=c3 hikey=b3 pitch_keycenter=57
        <region> sample=b.wav key=64 volume=2 tune=-20 transpose=1
        <group> lovel=$LOUD hivel=127
        <region> sample=hard hit.wav lokey=48 hikey=59 pitch_keycenter=57 amplitude=50
        """,
    )
    first, second, third = read_sfz(path)
    assert (first.sample.name, first.keys, first.centre) == ("a.wav", (48, 59), 57)
    assert (first.velocities, first.volume, first.cents, first.release) == ((1, 99), -3, 10, 0.5)
    assert (second.keys, second.centre, second.volume, second.cents) == ((64, 64), 64, 2, 80)
    assert (third.sample.name, third.velocities) == ("hard hit.wav", (100, 127))
    assert third.volume == pytest.approx(-3 + 20 * np.log10(0.5))


def test_a_new_master_forgets_the_group(folder):
    path = sfz(
        folder,
        "<control> default_path=samples/\n<group> lovel=100\n<master> volume=1\n"
        "<region> sample=a.wav key=60",
    )
    assert read_sfz(path)[0].velocities == (1, 127)


def test_includes_are_read_and_circles_refused(folder):
    sfz(folder, "<region> sample=samples\\\\a.wav key=$KEY".replace("\\\\", "\\"), "inner.txt")
    path = sfz(folder, '#define $KEY 61\n#include "inner.txt"')
    assert read_sfz(path)[0].keys == (61, 61)
    circle = sfz(folder, '#include "circle.sfz"', "circle.sfz")
    with pytest.raises(SfzError, match="include each other"):
        read_sfz(circle)


def test_only_what_a_struck_key_plays_is_kept(folder):
    path = sfz(
        folder,
        "<control> default_path=samples/\n"
        "<region> sample=a.wav key=60\n"
        "<region> sample=b.wav key=60 trigger=release\n"
        "<region> sample=b.wav key=60 sw_last=24 sw_default=25\n"
        "<region> sample=b.wav key=62 sw_last=25 sw_default=25\n"
        "<region> sample=*sine key=61\n"
        "<region> sample=b.wav key=60 on_locc64=127\n",
    )
    assert [region.keys[0] for region in read_sfz(path)] == [60, 62]


def test_a_round_robin_takes_turns(folder):
    path = sfz(
        folder,
        "<control> default_path=samples/\n"
        "<region> sample=a.wav key=60 seq_length=2 seq_position=1\n"
        "<region> sample=b.wav key=60 seq_length=2 seq_position=2\n"
        "<region> sample=a.wav key=62 lorand=0.5 hirand=1\n"
        "<region> sample=b.wav key=62 lorand=0 hirand=0.5\n"
        "<region> sample=b.wav key=64\n",
    )
    first, second = variants(read_sfz(path))
    assert [(r.keys[0], r.sample.stem) for r in first] == [(60, "a"), (62, "b"), (64, "b")]
    assert [(r.keys[0], r.sample.stem) for r in second] == [(60, "b"), (62, "a"), (64, "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<region> sample=none.wav key=60", "there is no sample"),
        ("<region> sample=samples/a.wav key=h4", "a key must be a number or a name"),
        ("<region> sample=samples/a.wav key=60 volume=loud", "volume must be a number"),
        ("nothing at all", "holds no region"),
    ],
)
def test_what_cannot_be_read_is_named(folder, text, message):
    with pytest.raises(SfzError, match=message):
        read_sfz(sfz(folder, text))
    with pytest.raises(SfzError, match="cannot be read"):
        read_sfz(folder / "absent.sfz")


def played(path: Path, key: int, velocity: int = 127, seconds: float = 1.0) -> np.ndarray:
    try:
        player = Synthesizer([path], RATE)
    except SoundfontError as error:
        if path.is_file() and "cannot read" in str(error):
            raise
        pytest.skip(f"FluidSynth is not here: {error}")
    preset = player.presets()[0]
    track = Track("piano", 0, (Note(0.0, seconds, key, velocity),))
    return player.render([track], [preset], seconds, 1)[0, 0]


def frequency(sound: np.ndarray) -> float:
    part = sound[RATE // 10 : RATE // 10 + RATE // 2]
    return float(np.argmax(np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * RATE))) / 8)


def level(sound: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(sound[RATE // 10 : RATE // 2] ** 2)) + 1e-9))


@pytest.fixture
def instrument(folder) -> Path:
    a, b = folder / "samples" / "a.wav", folder / "samples" / "b.wav"
    regions = [
        Region(a, (40, 69), centre=69),
        Region(b, (70, 70), (1, 90), centre=70, cents=150, volume=-6),
        Region(a, (70, 70), (91, 127), centre=70),
        Region(a, (72, 80), centre=69, key_tracking=0.0, velocity_tracking=0.0),
    ]
    path = folder / "out.sf2"
    write_sf2(path, [Instrument("test", 0, 0, regions)])
    return path


def test_what_is_written_sounds_at_its_pitch(instrument):
    assert frequency(played(instrument, 69)) == pytest.approx(440, rel=2e-3)
    assert frequency(played(instrument, 57)) == pytest.approx(220, rel=2e-3)
    assert frequency(played(instrument, 70, 60)) == pytest.approx(660 * 2 ** (150 / 1200), rel=2e-3)
    assert frequency(played(instrument, 70, 120)) == pytest.approx(440, rel=2e-3)
    assert frequency(played(instrument, 75)) == pytest.approx(440, rel=2e-3)
    assert not played(instrument, 30).any()


def test_volumes_are_decibels_and_velocities_squares(instrument):
    full = level(played(instrument, 69, 127))
    assert level(played(instrument, 69, 64)) - full == pytest.approx(40 * np.log10(64 / 127), abs=1)
    soft = level(played(instrument, 70, 90)) - 40 * np.log10(90 / 127)
    assert soft - full == pytest.approx(-6.0, abs=1)
    assert level(played(instrument, 75, 20)) == pytest.approx(full, abs=0.5)


def test_names_say_what_an_instrument_is(tmp_path):
    for name, address in (
        ("Warm Upright Piano.sfz", (0, 0)), ("rhodes/mk1.sfz", (0, 4)),
        ("Precision Bass.sfz", (0, 33)), ("guitars/nylon/x.sfz", (0, 24)),
        ("Jazz Kit.sfz", (128, 0)), ("strings.sfz", None),
    ):  # fmt: skip
        assert address_of(tmp_path / name, tmp_path) == address


def test_a_folder_of_sfz_is_played_like_any_soundfont(folder, monkeypatch):
    monkeypatch.setenv("MGDM_HOME", str(folder / "home"))
    text = (
        "<control> default_path=../samples/\n"
        "<region> sample=a.wav lokey=40 hikey=90 pitch_keycenter=69 seq_length=2 seq_position=1\n"
        "<region> sample=b.wav lokey=40 hikey=90 pitch_keycenter=69 seq_length=2 seq_position=2\n"
    )
    (folder / "library").mkdir()
    (folder / "library" / "piano").mkdir()
    sfz(folder / "library", text.replace("../", "../"), "bass one.sfz")
    (made,) = find_soundfonts((str(folder / "library"),))
    assert made.suffix == ".sf2"
    before = made.stat().st_mtime_ns
    assert find_soundfonts((str(folder / "library" / "bass one.sfz"),)) != ()
    assert find_soundfonts((str(folder / "library"),)) == (made,)
    assert made.stat().st_mtime_ns == before
    assert not [p for p in made.parent.iterdir() if p.name.startswith(".")]
    presets = Synthesizer([made], RATE).presets()
    assert [(p.bank, p.program) for p in presets] == [(0, 33), (1, 33)]
    assert instruments(presets, "bass") == [presets]  # both strokes are one instrument
    with pytest.raises(SfzError, match="put it into a folder"):
        as_soundfont(sfz(folder, text.replace("../", ""), "strange.sfz"))


def test_a_folder_passes_over_instruments_without_their_samples(folder, monkeypatch):
    """A licence folder may hold .sfz texts alone; that must not end a training."""
    monkeypatch.setenv("MGDM_HOME", str(folder / "home"))
    library = folder / "library"
    library.mkdir()
    sfz(library, "<region> sample=../samples/a.wav key=60", "bass.sfz")
    gone = sfz(library, "<region> sample=gone.wav key=60", "piano.sfz")
    with pytest.warns(UserWarning, match="passed over: .*there is no sample"):
        (made,) = find_soundfonts((str(library),))
    assert made.stem.startswith("bass")
    with pytest.raises(SfzError, match="there is no sample"):
        find_soundfonts((str(gone),))
