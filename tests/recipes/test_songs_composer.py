"""The composer: harmony by its definitions, songs within their bounds, variety."""

import numpy as np
import pytest

from recipes.music_prior.songs.composer import bass, compose, drums, guitar, piano
from recipes.music_prior.songs.composer.arrange import write_song
from recipes.music_prior.songs.composer.form import LEAST_SECONDS, lay_out
from recipes.music_prior.songs.composer.score import COMMON, Clock, Event, Section, push, to_notes
from recipes.music_prior.songs.composer.styles import STYLES
from recipes.music_prior.songs.composer.theory import (
    SCALES,
    Chord,
    chord,
    nearest,
    scale_keys,
    strummed,
    voicing,
)
from recipes.music_prior.songs.song import STEMS, SongError

SONGS = [compose(np.random.default_rng(seed)) for seed in range(24)]


@pytest.mark.parametrize(
    ("symbol", "key", "classes"),
    [
        ("I", 0, (0, 4, 7)),
        ("vi", 0, (9, 0, 4)),
        ("V7", 0, (7, 11, 2, 5)),
        ("bVII", 2, (0, 4, 7)),
        ("iih7", 0, (2, 5, 8, 0)),
        ("iv", 9, (2, 5, 9)),
        ("IM7", 5, (5, 9, 0, 4)),
        ("bII5", 0, (1, 8)),
        ("viio", 0, (11, 2, 5)),
    ],
)
def test_roman_numerals_are_chords(symbol, key, classes):
    assert chord(symbol, key).classes() == classes


@pytest.mark.parametrize("symbol", ["H7", "", "IIX", "bb", "I/V"])
def test_what_is_no_numeral_is_refused(symbol):
    with pytest.raises(SongError, match="Roman numeral"):
        chord(symbol, 0)


def test_voicings_hold_chord_tones_only():
    harmony = chord("ii7", 3)
    keys = voicing(harmony, 60, 4)
    assert len(set(keys)) == 4
    assert {key % 12 for key in keys} <= set(harmony.classes())
    assert max(abs(key - 60) for key in keys) <= 7


def test_the_open_e_major_grip_is_the_one_guitarists_know():
    assert strummed(Chord(4, (0, 4, 7)), 0) == [40, 47, 52, 56, 59, 64]


def test_nearest_key_is_within_half_an_octave():
    for pitch_class in range(12):
        key = nearest(pitch_class, 60)
        assert key % 12 == pitch_class
        assert abs(key - 60) <= 6


def test_scale_keys_are_the_scale():
    assert list(scale_keys(0, "major", 60, 72)) == [60, 62, 64, 65, 67, 69, 71, 72]


def test_swing_moves_the_off_beat_and_nothing_else():
    straight, swung = Clock(120), Clock(120, swing=2 / 3)
    for beat in range(5):
        assert swung.seconds(4 * beat) == pytest.approx(0.5 * beat)
    assert straight.seconds(2) == pytest.approx(0.25)
    assert swung.seconds(2) == pytest.approx(0.5 * 2 / 3)


def test_time_always_runs_forward():
    clock = Clock(200, swing=0.68, swing_unit=2, drift=0.06, period=150)
    times = [clock.seconds(step) for step in np.arange(0, 400, 0.25)]
    assert np.all(np.diff(times) > 0)


def test_one_key_never_sounds_twice_at_once():
    events = [Event(0, 8, 60, 90), Event(4, 4, 60, 90), Event(4, 2, 60, 80), Event(2, 2, 64, 90)]
    notes = to_notes(events, Clock(120))
    on_60 = [note for note in notes if note.pitch == 60]
    assert [(note.start, note.end) for note in on_60] == [(0.0, 0.5), (0.5, 1.0)]


def test_a_push_comes_an_eighth_early_and_ends_where_it_did():
    section = Section("verse", (), 0.5, frozenset(), pushed=frozenset({16}))
    moved = push([Event(16, 4, 60, 90), Event(20, 4, 60, 90)], section)
    assert moved == [Event(14, 6, 60, 90), Event(20, 4, 60, 90)]


def test_styles_name_what_exists():
    for style in STYLES:
        assert set(style.drums) <= set(drums.FEELS)
        assert set(style.bass) <= set(bass.FEELS)
        assert set(style.guitars) <= set(guitar.ROLES)
        assert set(style.pianos) <= set(piano.ROLES)
        assert set(style.scales) <= set(SCALES)
        for progression in style.progressions:
            for symbol in progression.split():
                chord(symbol, 0)


def test_every_feel_and_role_is_used_by_some_style():
    for field, known in (("drums", drums.FEELS), ("bass", bass.FEELS), ("guitars", guitar.ROLES),
                         ("pianos", piano.ROLES)):  # fmt: skip
        used = {name for style in STYLES for name in getattr(style, field)}
        assert used == set(known), field


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_every_player_can_play_every_section_of_a_style(style):
    rng = np.random.default_rng(5)
    for metre in dict.fromkeys(style.metres):
        section = max(lay_out(rng, style, metre, Clock(300), 2), key=lambda s: len(s.bars))
        first, last = section.bars[0].start, section.bars[-1].start + metre.steps
        parts = [drums.play(rng, section, feel) for feel in set(style.drums)]
        parts += [bass.play(rng, section, feel, 38) for feel in set(style.bass)]
        parts += [guitar.play(rng, section, role, style.scales[0])[0] for role in style.guitars]
        parts += [piano.play(rng, section, role, style.scales[0]) for role in style.pianos]
        for part in parts:
            assert all(first - 2 <= event.start < last + 1 for event in part)
        assert sum(len(part) > 0 for part in parts) >= 0.9 * len(parts)


def test_a_song_depends_on_the_stream_alone():
    assert compose(np.random.default_rng(3)) == SONGS[3]
    assert compose(np.random.default_rng(3)) != compose(np.random.default_rng(4))


def test_songs_are_long_enough_and_within_the_instruments():
    ranges = {"bass": (24, 64), "guitar": (38, 96), "piano": (21, 108), "drums": (35, 81)}
    for song in SONGS:
        assert LEAST_SECONDS <= song.duration < 400
        for track in song.tracks:
            low, high = ranges[track.stem]
            for note in track.notes:
                assert low <= note.pitch <= high
                assert 1 <= note.velocity <= 127
                assert -0.5 < note.start < note.end <= song.duration + 4


def test_most_songs_have_all_four_stems_and_stems_rest():
    assert np.mean([len(song.stems()) == 4 for song in SONGS]) > 0.6
    shares = []
    for song in SONGS:
        for stem in song.stems():
            sounding = np.zeros(int(song.duration) + 5, bool)
            for track in song.tracks:
                for note in track.notes if track.stem == stem else ():
                    sounding[max(int(note.start), 0) : int(note.end) + 1] = True
            shares.append(sounding[: int(song.duration)].mean())
    assert 0.5 < np.mean(shares) < 0.99
    assert min(shares) < 0.8


def test_songs_differ_in_style_key_tempo_and_metre():
    assert len({song.name.split(" in ")[0] for song in SONGS}) >= 6
    assert len({song.name for song in SONGS}) == len(SONGS)
    assert len({song.name.rsplit(", ", 1)[1] for song in SONGS}) >= 3
    assert {stem for song in SONGS for stem in song.stems()} == set(STEMS)


def test_a_guitar_lead_bends():
    bends = [b for song in SONGS for track in song.tracks for b in track.bends]
    assert bends
    assert all(-2.01 <= bend.semitones <= 2.01 for bend in bends)


def test_the_drums_of_a_bar_follow_the_metre():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hits = drums.groove(rng, "rock", COMMON, 0.6)
        snares = {step for step, _, key in hits if key in (drums.SNARE, drums.SIDE_STICK)}
        assert {4.0, 12.0} <= snares
        assert any(step == 0 and key == drums.KICK for step, _, key in hits)
        assert all(0 <= step < 16 for step, _, _ in hits)


def test_a_doubled_riff_stays_on_the_basss_strings():
    riff = [Event(0, 2, 45, 90), Event(2, 2, 48, 90), Event(2.1, 2, 55, 90), Event(4, 1, 64, 90)]
    line = bass.follow(np.random.default_rng(0), riff, 0.5)
    assert [event.start for event in line] == [0, 2, 4]
    assert [event.pitch % 12 for event in line] == [45 % 12, 48 % 12, 64 % 12]
    assert all(bass.LOW <= event.pitch <= bass.HIGH for event in line)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_every_style_writes_a_song(style):
    song = write_song(np.random.default_rng(11), style)
    assert song.name.startswith(style.name)
    assert song.tracks
