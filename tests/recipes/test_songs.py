"""Songs as data: classes, augmentation, cutting, MIDI files."""

from dataclasses import replace

import numpy as np
import pytest

from recipes.music_prior.songs.midi_songs import (
    MidiError,
    augment,
    is_held_out,
    load_song,
    scan,
    split_files,
)
from recipes.music_prior.songs.song import (
    FIVE_STEMS,
    STEMS,
    Bend,
    Note,
    Song,
    SongError,
    Track,
    change_tempo,
    excerpt,
    humanise,
    stem_of,
    transpose,
)
from recipes.music_prior.sound.soundfonts import (
    DRUM_BANK,
    Preset,
    SoundfontError,
    find_soundfonts,
    instruments,
    split_presets,
    stand_ins,
    stem_of_preset,
)

mido = pytest.importorskip("mido")


def a_song() -> Song:
    notes = (Note(0.5, 1.0, 60, 90), Note(1.0, 3.0, 64, 70), Note(4.0, 4.5, 127, 100))
    drums = (Note(0.0, 0.1, 36, 100), Note(2.0, 2.1, 38, 90))
    return Song(
        "test",
        (
            Track("piano", 0, notes, bends=(Bend(1.0, 0.5), Bend(3.0, -0.5))),
            Track("drums", 0, drums),
        ),
        5.0,
    )


@pytest.mark.parametrize(
    ("program", "stem"),
    [(0, "piano"), (7, "piano"), (8, None), (23, None), (24, "guitar"), (31, "guitar"),
     (32, "bass"), (39, "bass"), (40, None), (127, None)],
)  # fmt: skip
def test_general_midi_programs_map_to_stems(program, stem):
    assert stem_of(program, is_drum=False) == stem
    assert stem_of(program, is_drum=True) == "drums"


def test_a_track_of_no_stem_is_refused():
    with pytest.raises(SongError, match="bass, drums, guitar, piano"):
        Track("strings", 48, ())
    with pytest.raises(SongError, match=r"0\.\.127"):
        Track("piano", 128, ())


def test_transposition_moves_pitched_notes_only_and_drops_what_leaves_the_keys():
    moved = transpose(a_song(), 3)
    assert [note.pitch for note in moved.tracks[0].notes] == [63, 67]
    assert moved.tracks[1] == a_song().tracks[1]
    assert transpose(a_song(), -3).tracks[0].notes[2].pitch == 124


def test_tempo_change_divides_every_time():
    fast = change_tempo(a_song(), 2.0)
    assert fast.duration == 2.5
    assert [(n.start, n.end) for n in fast.tracks[0].notes] == [(0.25, 0.5), (0.5, 1.5), (2, 2.25)]
    assert [bend.time for bend in fast.tracks[0].bends] == [0.5, 1.5]
    with pytest.raises(SongError, match="above 0"):
        change_tempo(a_song(), 0.0)


def test_an_excerpt_keeps_what_sounds_across_its_edges():
    cut = excerpt(a_song(), 1.5, 1.0)
    assert cut.tracks[0].notes == (Note(0.0, 1.0, 64, 70),)
    assert cut.tracks[0].bends == (Bend(0.0, 0.5),)  # bent before the cut, still bent in it
    assert cut.tracks[1].notes == (Note(0.5, 0.6000000000000001, 38, 90),)
    assert cut.duration == 1.0


def test_humanising_keeps_keys_and_lengths_and_moves_starts_a_little():
    song = a_song()
    played = humanise(song, np.random.default_rng(0), timing=0.01, velocity=5)
    assert played != song
    for before, after in zip(song.tracks, played.tracks):
        assert sorted(n.pitch for n in before.notes) == sorted(n.pitch for n in after.notes)
        for a, b in zip(before.notes, after.notes):
            assert abs(a.start - b.start) < 0.08
            assert 1 <= b.velocity <= 127
            assert b.end > b.start >= 0
    assert humanise(song, np.random.default_rng(0), 0.01, 5) == played


def write_midi(path, *, broken=False):
    midi = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    midi.tracks.append(track)

    def add(kind, time=0, **values):
        track.append(mido.Message(kind, time=time, **values))

    track.append(mido.MetaMessage("set_tempo", tempo=500_000))  # 120 bpm: a beat is 0.5 s
    add("program_change", channel=0, program=4)
    add("program_change", channel=1, program=33)
    add("program_change", channel=2, program=80)  # a synthesizer's lead
    add("program_change", channel=3, program=100)  # stands in for nothing
    add("note_on", channel=0, note=60, velocity=100)
    add("note_on", channel=1, note=40, velocity=90)
    add("note_on", channel=2, note=72, velocity=90)
    add("note_on", channel=3, note=50, velocity=90)
    add("note_on", channel=9, note=36, velocity=110)
    add("control_change", channel=0, control=64, value=127)
    add("pitchwheel", channel=1, pitch=4096)
    add("note_off", time=480, channel=0, note=60)  # held by the pedal
    add("note_on", channel=1, note=40, velocity=0)
    add("note_off", channel=2, note=72)
    add("note_off", channel=3, note=50)
    add("note_off", channel=9, note=36)
    add("control_change", time=480, channel=0, control=64, value=0)
    midi.save(path)
    if broken:
        path.write_bytes(path.read_bytes()[:40])
    return path


def test_a_midi_file_becomes_tracks_by_class(tmp_path):
    song = load_song(write_midi(tmp_path / "song.mid"))
    tracks = {track.stem: track for track in song.tracks}
    assert set(tracks) == set(FIVE_STEMS)
    assert tracks["other"].program == 100
    assert tracks["other"].role == ""
    assert tracks["piano"].program == 4
    assert tracks["piano"].notes == (Note(0.0, 1.0, 60, 100),)  # the pedal holds it
    assert tracks["bass"].notes == (Note(0.0, 0.5, 40, 90),)
    assert tracks["bass"].bends == (Bend(0.0, 1.0),)  # half of two semitones
    assert tracks["drums"].notes[0].pitch == 36
    assert tracks["guitar"].role == "stand-in"
    assert song.duration == pytest.approx(1.0)


def test_augmentation_moves_all_pitches_by_one_interval_and_all_times_by_one_factor(tmp_path):
    song = load_song(write_midi(tmp_path / "song.mid"))
    stood_in = 0
    for seed in range(20):
        varied = augment(song, np.random.default_rng(seed))
        assert varied == augment(song, np.random.default_rng(seed))
        tracks = {track.stem: track for track in varied.tracks}
        shift = tracks["piano"].notes[0].pitch - 60
        assert -5 <= shift <= 6
        assert tracks["bass"].notes[0].pitch == 40 + shift
        assert tracks["drums"].notes[0].pitch == 36
        factor = song.duration / varied.duration
        assert 0.8 <= factor <= 1.25
        assert tracks["bass"].notes[0].end == pytest.approx(0.5 / factor)
        assert all(track.role != "stand-in" for track in varied.tracks)
        stood_in += "guitar" in tracks
    assert 5 < stood_in < 20  # the synthesizer's lead is mostly, not always, played by a guitar


def test_files_that_are_no_midi_are_named(tmp_path):
    with pytest.raises(MidiError, match=r"broken\.mid cannot be parsed"):
        load_song(write_midi(tmp_path / "broken.mid", broken=True))
    noise = tmp_path / "noise.mid"
    noise.write_bytes(b"no midi at all")
    with pytest.raises(MidiError, match=r"noise\.mid cannot be parsed"):
        load_song(noise)


def test_a_midi_file_without_any_of_the_four_stems_is_no_song(tmp_path):
    midi = mido.MidiFile()
    track = mido.MidiTrack(
        [
            mido.Message("program_change", program=100),
            mido.Message("note_on", note=60, velocity=90),
            mido.Message("note_off", note=60, time=480),
        ]
    )
    midi.tracks.append(track)
    midi.save(tmp_path / "pad.mid")
    assert load_song(tmp_path / "pad.mid") is None


def test_scan_finds_files_in_a_fixed_order_or_says_what_is_wrong(tmp_path):
    with pytest.raises(MidiError, match="no folder"):
        scan(tmp_path / "absent")
    with pytest.raises(MidiError, match=r"no \.mid"):
        scan(tmp_path)
    (tmp_path / "b").mkdir()
    write_midi(tmp_path / "b" / "x.MID")
    write_midi(tmp_path / "a.mid")
    assert [path.name for path in scan(tmp_path)] == ["a.mid", "x.MID"]


def test_every_file_is_in_one_split_wherever_it_lies(tmp_path):
    files = [tmp_path / f"{number:03d}.mid" for number in range(300)]
    train, valid = split_files(files, "train"), split_files(files, "valid")
    assert sorted(train + valid) == files
    assert 15 < len(valid) < 50
    assert all(is_held_out(path.parent / "elsewhere" / path.name) for path in valid)


def test_the_shared_songs_are_readable(shared_dir):
    files = scan(shared_dir / "midi")
    songs, broken = [], 0
    for path in files[::20]:
        try:
            songs.append(load_song(path))
        except MidiError:
            broken += 1
    assert broken <= 2
    assert sum(song is not None and "drums" in song.stems() for song in songs) > 0.7 * len(songs)


def presets():
    names = [(0, p) for p in range(128)] + [(8, 4), (8, 25), (126, 0)]
    names += [(DRUM_BANK, p) for p in (0, 8, 25, 40, 48, 56)]
    return [Preset(0, bank, program) for bank, program in names]


def test_presets_map_to_stems_by_bank_and_program():
    assert stem_of_preset(Preset(0, 8, 25)) == "guitar"
    assert stem_of_preset(Preset(0, DRUM_BANK, 25)) == "drums"
    assert stem_of_preset(Preset(0, DRUM_BANK, 56)) is None  # marching drums
    assert stem_of_preset(Preset(0, 126, 0)) is None
    assert stem_of_preset(Preset(0, 0, 48)) is None


def test_training_and_validation_share_no_preset():
    train, valid = split_presets(presets(), "train"), split_presets(presets(), "valid")
    assert not set(train) & set(valid)
    for split in (train, valid):
        assert {stem_of_preset(preset) for preset in split} == set(STEMS)


def test_stand_ins_are_no_preset_of_either_split_of_their_stem():
    for stem in STEMS:
        others = stand_ins(presets(), stem)
        assert bool(others) == (stem != "drums")
        for preset in others:
            assert stem_of_preset(preset) != stem
            assert preset not in split_presets(presets(), "valid")


def test_a_tiny_soundfont_serves_both_splits():
    tiny = [Preset(0, 0, 0), Preset(0, 0, 25), Preset(0, 0, 33), Preset(0, DRUM_BANK, 0)]
    assert split_presets(tiny, "train") == split_presets(tiny, "valid")
    assert set(split_presets(tiny, "train")) == set(tiny)


def test_only_debians_own_addresses_are_held_out():
    """Another soundfont's bank 0 program 26 is another instrument: it is trained on."""
    others = [replace(preset, font=1, source="guitars") for preset in presets()]
    train, valid = (
        split_presets(presets() + others, "train"),
        split_presets(presets() + others, "valid"),
    )
    assert {p for p in train if p.source == "guitars"} == {
        p for p in others if stem_of_preset(p) is not None
    }
    assert not [p for p in valid if p.source == "guitars"]


def test_one_instrument_in_two_fonts_of_a_collection_is_one():
    fluid = [Preset(0, 0, 0), Preset(1, 0, 0), Preset(1, 0, 1), Preset(0, 0, 25)]
    other = Preset(2, 0, 0, source="pianos")
    found = instruments([*fluid, other], "piano")
    assert found == [[fluid[0], fluid[1]], [fluid[2]], [other]]


def test_a_held_out_soundfont_is_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    for name in ("pianos.sf3", "heldout.sf3"):
        (tmp_path / name).touch()
    heldout = str(tmp_path / "heldout.sf3")
    assert [path.name for path in find_soundfonts((str(tmp_path),))] == ["pianos.sf3"]
    with pytest.raises(SoundfontError, match="--heldout-soundfont"):
        find_soundfonts((heldout,))
    assert [path.name for path in find_soundfonts((heldout,), "valid")] == ["heldout.sf3"]


def test_absent_soundfonts_are_reported_with_the_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "recipes.music_prior.sound.soundfonts.DEFAULT_FONTS", (("some-font", "/none"),)
    )
    with pytest.raises(SoundfontError, match="apt-get install some-font"):
        find_soundfonts()
    with pytest.raises(SoundfontError, match="there is no"):
        find_soundfonts((str(tmp_path / "x.sf2"),))
    with pytest.raises(SoundfontError, match=r"no \.sf2, \.sf3 or \.sfz"):
        find_soundfonts((str(tmp_path),))
    (tmp_path / "b.SF2").touch()
    (tmp_path / "a.sf3").touch()
    assert [path.name for path in find_soundfonts((str(tmp_path),))] == ["a.sf3", "b.SF2"]
