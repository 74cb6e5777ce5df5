"""The fifth stem: parts written over any song, instruments of its own, and voices."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from recipes.music_prior.songs.midi_songs import augment
from recipes.music_prior.songs.other_parts import SPEECH, VOICE, add_parts, listen
from recipes.music_prior.songs.song import (
    FIVE_STEMS,
    OTHER,
    RATE,
    STEMS,
    Note,
    Song,
    Track,
)
from recipes.music_prior.sound import voices
from recipes.music_prior.sound.render import OTHER_SHARE, Fonts, render_song
from recipes.music_prior.sound.soundfonts import (
    DEFAULT_FONTS,
    HELD_OUT_OTHER,
    Preset,
    SoundfontError,
    is_other,
    other_instruments,
)
from recipes.music_prior.sound.stream import StemStream, StreamError, StreamSettings

FONT = tuple(path for _, path in DEFAULT_FONTS if path.endswith(".sf2") and Path(path).is_file())
C_MAJOR, A_MINOR = (48, 60, 64, 67), (45, 57, 60, 64)


def two_chords(seconds: float = 8.0) -> Song:
    """C major for half of the song, A minor for the rest, struck twice a second."""
    notes = [
        Note(i * 0.5, i * 0.5 + 0.45, key, 90)
        for i in range(int(2 * seconds))
        for key in (C_MAJOR if i < seconds else A_MINOR)
    ]
    piano = Track("piano", 0, tuple(notes))
    bass = Track("bass", 33, tuple(n for n in notes if n.pitch < 50))
    drums = Track("drums", 0, tuple(Note(i * 0.5, i * 0.5 + 0.1, 36, 100) for i in range(16)))
    return Song("two chords", (piano, bass, drums), seconds)


@pytest.fixture(scope="module")
def fonts() -> Fonts:
    try:
        return Fonts(FONT, stems=FIVE_STEMS)
    except SoundfontError as error:
        pytest.skip(f"FluidSynth and its soundfonts are not here: {error}")


def test_harmony_is_read_from_the_notes():
    harmony = listen(two_chords(), 1.0)
    assert set(harmony.chord_at(1.0)) == {0, 4, 7}
    assert harmony.chord_at(1.0)[0] == 0
    assert set(harmony.chord_at(6.0)) == {9, 0, 4}
    assert harmony.chord_at(6.0)[0] == 9
    assert set(harmony.scale) == {0, 4, 7, 9}
    np.testing.assert_allclose(harmony.onsets, np.arange(16) / 2)


def test_parts_are_in_key_in_time_and_leave_the_four_stems_alone():
    song = two_chords()
    roles, programs = set(), set()
    for seed in range(60):
        with_others = add_parts(song, np.random.default_rng(seed))
        assert with_others.tracks[: len(song.tracks)] == song.tracks
        added = with_others.tracks[len(song.tracks) :]
        assert added
        for track in added:
            roles.add(track.role)
            programs.add(track.program)
            assert track.stem == OTHER
            assert all(0 <= n.start < song.duration and n.end > n.start for n in track.notes)
            if track.role != SPEECH and track.program not in (47, 55) and track.program < 112:
                assert {n.pitch % 12 for n in track.notes} <= {0, 4, 7, 9}
            if track.role == VOICE:
                assert all(b.start >= a.end for a, b in zip(track.notes, track.notes[1:]))
    assert roles == {"", VOICE, SPEECH}
    assert len({program // 8 for program in programs}) >= 8
    assert not programs & {*range(8), *range(24, 40)}


def test_parts_depend_on_the_stream_alone_and_a_song_without_notes_gets_some_or_none():
    song = two_chords()
    first = add_parts(song, np.random.default_rng(3))
    assert add_parts(song, np.random.default_rng(3)) == first
    empty = Song("empty", (Track("drums", 0, ()),), 4.0)
    for seed in range(10):
        add_parts(empty, np.random.default_rng(seed))


def test_what_stands_in_for_nothing_is_the_fifth_stem():
    song = two_chords()
    horns = Track("guitar", 61, song.tracks[0].notes, role="stand-in")
    strings = Track("piano", 48, song.tracks[0].notes, role="stand-in")
    drips = Track(OTHER, 115, song.tracks[0].notes)
    song = replace(song, tracks=(*song.tracks, horns, strings, drips))
    four, five = (augment(song, np.random.default_rng(4), stems) for stems in (STEMS, FIVE_STEMS))
    assert [t for t in five.tracks if t.stem != OTHER] == list(four.tracks)
    # the song has a piano, so strings cannot stand in for it; the horns are the guitar, or not
    assert {48, 115} <= {t.program for t in five.tracks if t.stem == OTHER}


def test_instruments_beside_the_four_stems_have_a_split_of_their_own():
    presets = [Preset(0, 0, program) for program in range(128)] + [Preset(0, 128, 0)]
    train, valid = (other_instruments(presets, split) for split in ("train", "valid"))
    assert not set(train) & set(valid)
    assert sorted({*train, *valid}) == [p for p in range(128) if is_other(Preset(0, 0, p))]
    assert {program % 8 for program in valid} == {HELD_OUT_OTHER}
    assert len(train) + len(valid) == 128 - 24


def test_half_of_the_songs_have_a_fifth_stem_and_the_others_are_silent_there(fonts):
    song = two_chords(3.0)
    sounds = [
        render_song(song, np.random.default_rng(0), fonts, others=np.random.default_rng(seed))
        for seed in range(24)
    ]
    heard = [bool(sound[-1].any()) for sound in sounds]
    assert 0.2 < np.mean(heard) < 0.8
    assert OTHER_SHARE == 0.5
    for sound, present in zip(sounds, heard):
        assert sound.shape == (len(FIVE_STEMS), 3 * RATE)
        assert np.isfinite(sound).all()
        assert np.abs(sound.sum(0)).max() <= 1.0001
        if present:
            levels = 20 * np.log10(np.sqrt(np.mean(sound[[0, 1, 3, 4]] ** 2, axis=1)))
            assert levels[-1] > levels[:3].min() - 20
    # Where nobody joins in, the four are as if nobody had been asked, and else one gain apart.
    alone = render_song(song, np.random.default_rng(0), fonts)
    assert alone.shape == (len(STEMS), 3 * RATE)
    np.testing.assert_array_equal(sounds[heard.index(False)][:-1], alone)
    joined = sounds[heard.index(True)][:-1]
    gain = np.abs(joined).max() / np.abs(alone).max()
    np.testing.assert_allclose(joined, gain * alone, atol=1e-5)


def test_the_stream_yields_five_stems(fonts):
    settings = StreamSettings(
        segment=8192, segments_per_song=2, workers=0, seed=5, soundfonts=FONT, stems=FIVE_STEMS
    )
    first = list(islice(StemStream(settings), 4))
    assert {item.shape for item in first} == {(5, 8192)}
    again = list(islice(StemStream(settings, start=2), 2))
    for item, wanted in zip(again, first[2:]):
        np.testing.assert_array_equal(item, wanted)
    with pytest.raises(StreamError, match="stems must be"):
        StreamSettings(stems=("bass", "vocals"))


def test_held_out_soundfonts_need_no_other_instruments(fonts, shared_dir):
    heldout = shared_dir / "soundfonts" / "heldout.sf3"
    if not heldout.is_file():
        pytest.skip("the shared soundfonts are not here")
    valid = Fonts(FONT, "valid", (str(heldout),), FIVE_STEMS)
    rng = np.random.default_rng(0)
    assert {valid.choose(Track("guitar", 27, ()), rng).source for _ in range(20)} == {"heldout"}
    chosen = {valid.choose_other(Track(OTHER, 56, ()), rng).program for _ in range(40)}
    assert {program % 8 for program in chosen} == {HELD_OUT_OTHER}
    assert 59 in chosen  # the one trumpet that is held out


def sung(keys: tuple[int, ...], seed: int, role: str = VOICE) -> tuple[Track, np.ndarray]:
    notes = tuple(Note(0.2 + 0.7 * i, 0.85 + 0.7 * i, key, 100) for i, key in enumerate(keys))
    track = Track(OTHER, 52, notes, role=role)
    try:
        seconds = 0.7 * len(keys) + 0.4
        return track, voices.perform(track, seconds, RATE, np.random.default_rng(seed), "train")
    except voices.VoiceError as error:
        pytest.skip(f"espeak-ng is not here: {error}")


def test_voices_sing_the_notes_and_rest_between_them():
    """The period found by autocorrelation is the key's, within a third of a semitone."""
    keys = (50, 53, 57, 60)
    right = []
    for seed in range(4):
        track, sound = sung(keys, seed)
        for note in track.notes:
            part = sound[round((note.start + 0.25) * RATE) : round((note.end - 0.1) * RATE)]
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 15)) ** 2
            repeats = np.fft.irfft(spectrum)[: RATE // 60]
            low = RATE // 500
            lag = low + int(np.argmax(repeats[low:]))
            found = 69 + 12 * np.log2(RATE / lag / 440)
            right.append(abs((found - note.pitch + 6) % 12 - 6) < 0.6)
        assert np.abs(sound[: round(0.15 * RATE)]).max() < 0.02 * np.abs(sound).max()
    assert np.mean(right) > 0.8


def test_voices_depend_on_the_stream_and_differ_between_splits():
    _, first = sung((55, 60), 1)
    np.testing.assert_array_equal(sung((55, 60), 1)[1], first)
    assert not np.array_equal(sung((55, 60), 2)[1], first)
    _, speech = sung((60, 60, 60), 1, SPEECH)
    assert np.abs(speech).max() > 0.05
    rng = np.random.default_rng(0)
    drawn = {s: {voices.draw_voice(rng, s).name.split("+")[1] for _ in range(300)}
             for s in ("train", "valid")}  # fmt: skip
    assert not drawn["train"] & drawn["valid"]


def test_a_machine_without_voices_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(voices.VoiceError, match="apt-get install espeak-ng"):
        voices.speak("la", voices.Voice("en-us+f1", 50, 150))


def test_unchanged_frames_come_back():
    """Analysis and synthesis windows of four overlapping frames add up to one inside."""
    sound = np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    back = voices._overlap(voices._frames(sound), len(sound))
    np.testing.assert_allclose(back[1024:-1024], sound[1024:-1024], atol=0.01)
