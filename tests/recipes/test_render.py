"""Rendering and the stream, with real soundfonts; skipped by name where there are none."""

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.music_prior.songs.song import RATE, STEMS, Bend, Note, Song, Track
from recipes.music_prior.sound import render_files
from recipes.music_prior.sound.drum_kit import play_kit
from recipes.music_prior.sound.effects import active_rms
from recipes.music_prior.sound.render import (
    ANY_INSTRUMENT_SHARE,
    STAND_IN_SHARE,
    Fonts,
    render_song,
)
from recipes.music_prior.sound.soundfonts import (
    DEFAULT_FONTS,
    FLUID,
    STAND_INS,
    Preset,
    SoundfontError,
    stem_of_preset,
)
from recipes.music_prior.sound.stream import (
    SongSource,
    StemStream,
    StreamError,
    StreamSettings,
    render_segments,
)
from recipes.music_prior.sound.synth import Synthesizer, Timbre

# An uncompressed soundfont is ready at once; decoding the other one takes every process seconds.
FONT = tuple(path for _, path in DEFAULT_FONTS if path.endswith(".sf2") and Path(path).is_file())
TINY = StreamSettings(segment=11_025, segments_per_song=3, workers=0, seed=5, soundfonts=FONT)


@pytest.fixture(scope="module")
def fonts() -> Fonts:
    try:
        return Fonts(FONT)
    except SoundfontError as error:
        pytest.skip(f"FluidSynth and its soundfonts are not here: {error}")


def a_band(seconds: float = 4.0) -> Song:
    def line(stem: str, program: int, keys, gap: float) -> Track:
        count = int(seconds / gap)
        notes = [Note(i * gap, i * gap + 0.8 * gap, keys[i % len(keys)], 95) for i in range(count)]
        return Track(stem, program, tuple(notes))

    return Song(
        "band",
        (
            line("bass", 33, (40, 43, 45), 0.5),
            line("drums", 0, (36, 42, 38, 42), 0.25),
            line("guitar", 27, (52, 55, 59), 0.5),
            line("piano", 0, (60, 64, 67), 0.5),
        ),
        seconds,
    )


def test_a_song_becomes_four_stems(fonts):
    sound = render_song(a_band(), np.random.default_rng(0), fonts)
    assert sound.shape == (len(STEMS), 4 * RATE)
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()
    mixture = sound.sum(0)
    assert np.abs(mixture).max() <= 1.0001
    assert 0.03 < active_rms(mixture[None], RATE) < 0.25
    for stem in sound:
        assert active_rms(stem[None], RATE) > 0.004


def test_rendering_depends_on_the_song_and_the_stream_alone(fonts):
    first = render_song(a_band(), np.random.default_rng(1), fonts)
    render_song(a_band(2.0), np.random.default_rng(2), fonts)  # nothing of it may remain
    assert np.array_equal(render_song(a_band(), np.random.default_rng(1), fonts), first)
    assert not np.array_equal(render_song(a_band(), np.random.default_rng(3), fonts), first)


def test_a_stem_without_notes_is_silent_and_stereo_has_two_sides(fonts):
    song = a_band()
    song = replace(song, tracks=tuple(t for t in song.tracks if t.stem != "piano"))
    sound = render_song(song, np.random.default_rng(0), fonts, 44_100, 2, start=1.0, length=1.5)
    assert sound.shape == (4, 2, round(1.5 * 44_100))
    assert not sound[STEMS.index("piano")].any()
    guitar = sound[STEMS.index("guitar")]
    assert not np.array_equal(guitar[0], guitar[1])


def test_a_part_of_a_song_starts_where_it_is_cut(fonts):
    """A lone note half a second into the cut is heard half a second into the sound."""
    song = Song("one", (Track("piano", 0, (Note(5.5, 6.0, 60, 110),)),), 8.0)
    sound = render_song(song, np.random.default_rng(0), fonts, start=5.0, length=2.0)
    wave = np.abs(sound[STEMS.index("piano")])
    onset = np.argmax(wave > 0.05 * wave.max()) / RATE
    assert 0.45 < onset < 0.6


def pitch_of(sound: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(np.hanning(len(sound)) * sound, 8 * len(sound)))
    return float(np.argmax(spectrum) * rate / (8 * len(sound)))


def test_keys_bends_and_timbres_sound_at_their_pitch(fonts):
    """A key is 440 * 2^((k - 69) / 12) Hz; a bend shifts it, a larger instrument does not."""
    player = fonts.player(RATE)
    preset = next(p for p in fonts.presets if stem_of_preset(p) == "guitar" and p.program == 24)
    track = Track("guitar", 24, (Note(0.0, 1.5, 69, 100),))
    cases = (
        (track, Timbre(), 440.0),
        (replace(track, bends=(Bend(0.0, 2.0),)), Timbre(), 440 * 2 ** (2 / 12)),
        (track, Timbre(size=3), 440.0),
        (track, Timbre(detune=25.0), 440 * 2 ** (25 / 1200)),
    )
    for played, timbre, pitch in cases:
        sound = player.render([played], [preset], 1.0, 1, [timbre])[0, 0]
        found = pitch_of(sound[RATE // 5 :], RATE)
        harmonic = max(1, round(found / pitch))
        assert 1200 * abs(np.log2(found / (harmonic * pitch))) < 12  # cents


def test_tracks_are_kept_apart(fonts):
    player = fonts.player(RATE)
    presets = [next(p for p in fonts.presets if stem_of_preset(p) == stem) for stem in STEMS]
    tracks = list(a_band().tracks)
    together = player.render(tracks, presets, 2.0, 1)
    for index, (track, preset) in enumerate(zip(tracks, presets)):
        alone = player.render([track], [preset], 2.0, 1)[0]
        # not to the bit: a voice's first block depends on what the voice played before
        assert np.sum((together[index] - alone) ** 2) < 1e-3 * np.sum(alone**2)
        others = [t if i != index else replace(t, notes=()) for i, t in enumerate(tracks)]
        assert not player.render(others, presets, 2.0, 1)[index].any()


def test_the_sampled_kit_sounds_like_the_kit(fonts):
    player = fonts.player(RATE)
    preset = next(p for p in fonts.presets if stem_of_preset(p) == "drums")
    hits = [(0.1, 36, 110), (0.6, 38, 94), (1.1, 46, 76), (1.6, 42, 85)]
    track = Track("drums", 0, tuple(Note(t, t + 0.3, key, v) for t, key, v in hits))
    sampled = play_kit(player, track, preset, Timbre(), 2.1, 1, decimated=False)
    direct = player.render([track], [preset], 2.1, 1)[0]
    assert sampled.shape == direct.shape
    for time_of_hit, *_ in hits:
        part = slice(round(time_of_hit * RATE), round((time_of_hit + 0.45) * RATE))
        ratio = np.sum(sampled[:, part] ** 2) / np.sum(direct[:, part] ** 2)
        assert abs(10 * np.log10(ratio)) < 2.0


def test_what_is_no_soundfont_is_refused(fonts, tmp_path):
    noise = tmp_path / "noise.sf2"
    noise.write_bytes(b"RIFFnothing of the kind")
    with pytest.raises(SoundfontError, match=r"noise\.sf2"):
        Synthesizer([noise], RATE)


def test_training_and_validation_share_no_instrument(fonts):
    valid = Fonts(FONT, "valid")
    assert not set(valid.presets) & set(fonts.presets)
    for kept in (fonts, valid):
        assert {stem_of_preset(preset) for preset in kept.presets} == set(STEMS)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert valid.choose(Track("guitar", 30, ()), rng) in valid.presets


def test_training_and_validation_compose_other_songs():
    train = SongSource(TINY)
    valid = SongSource(replace(TINY, split="valid"))
    names = {train.song(train.rng(k)).name for k in range(5)}
    assert not names & {valid.song(valid.rng(k)).name for k in range(5)}


@pytest.fixture(scope="module")
def tiny(fonts) -> list[np.ndarray]:
    """Nine items rendered song by song: what every stream must give."""
    source = SongSource(TINY)
    return [item for k in range(3) for item in render_segments(source, fonts, k)]


def test_items_do_not_depend_on_who_renders_them_nor_on_where_one_starts(tiny):
    for workers, start in ((0, 0), (0, 4), (2, 2)):
        stream = StemStream(replace(TINY, workers=workers), start=start)
        items = list(islice(stream, 5))
        for item, wanted in zip(items, tiny[start : start + 5], strict=True):
            assert item.shape == (4, TINY.segment)
            assert item.dtype == np.float32
            assert np.array_equal(item, wanted)


def test_workers_are_gone_after_a_stream_is_closed(fonts):
    stream = iter(StemStream(replace(TINY, workers=1)))
    next(stream)
    before = [p for p in multiprocessing.active_children() if p.name.startswith("render-")]
    assert before
    stream.close()
    assert not [p for p in before if p.is_alive()]


def test_workers_die_with_their_parent(fonts, tmp_path, repo_root):
    """A parent that is killed cannot tell its workers: they must see it themselves."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os\n"
        "from recipes.music_prior.sound.stream import StemStream, StreamSettings\n"
        "if __name__ == '__main__':\n"
        "    stream = iter(StemStream(StreamSettings(segment=2048, segments_per_song=3,\n"
        f"        soundfonts={FONT!r})))\n"
        "    next(stream)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        # With CI set pyfluidsynth prints what it found: nobody should see it on standard output.
        env={**os.environ, "PYTHONPATH": str(repo_root), "CI": "true"},
    )
    worker = int(done.stdout)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{worker}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "Z":  # dead, its entry not yet collected
                return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent by 30 s")


def test_a_failing_worker_is_reported(fonts, tmp_path):
    noise = tmp_path / "noise.sf2"
    noise.write_bytes(b"RIFFnothing of the kind")
    with pytest.raises(StreamError, match=r"noise\.sf2"):
        next(iter(StemStream(replace(TINY, workers=1, soundfonts=(str(noise),)))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment": 0}, "segment must be at least 1"),
        ({"composed_share": 1.5}, r"composed_share must be in 0\.\.1"),
        ({"split": "test"}, "split must be one of"),
        ({"workers": -1}, "workers must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(StreamError, match=message):
        StreamSettings(**change)


def test_data_sets_go_on_where_they_stopped(fonts, tmp_path, monkeypatch):
    made = []

    def short(song, rng, fonts):
        made.append(song.name)
        return render_song(a_band(), rng, fonts)

    monkeypatch.setattr(render_files, "render_song", short)
    settings = replace(TINY, split="valid")
    first = list(render_files.write_tracks(settings, tmp_path, 6 / 3600))
    assert [folder.name for folder, *_ in first] == ["Track00001", "Track00002"]
    before = (tmp_path / "validation" / "Track00001" / "bass.wav").read_bytes()
    again = list(render_files.write_tracks(settings, tmp_path, 10 / 3600))
    assert [folder.name for folder, *_ in again] == ["Track00003"]
    assert len(set(made)) == 3
    assert (tmp_path / "validation" / "Track00001" / "bass.wav").read_bytes() == before
    files = sorted(p.name for p in (tmp_path / "validation" / "Track00003").iterdir())
    assert files == ["bass.wav", "drums.wav", "guitar.wav", "piano.wav"]
    info = soundfile.info(tmp_path / "validation" / "Track00003" / "piano.wav")
    assert (info.samplerate, info.channels, info.frames) == (RATE, 1, 4 * RATE)
    assert not [p for p in (tmp_path / "validation").iterdir() if p.name.startswith(".")]


def test_the_example_is_cut_where_all_stems_play():
    late = Track("guitar", 27, tuple(Note(t, t + 1, 60, 90) for t in range(20, 60)))
    song = Song("x", (*(t for t in a_band(60.0).tracks if t.stem != "guitar"), late), 60.0)
    assert render_files.full_part(song, 15.0, margin=0.0) == 20.0


def test_other_instruments_stand_in_in_training_only(fonts):
    track = Track("guitar", 25, ())
    rng = np.random.default_rng(0)
    programs = [fonts.choose(track, rng).program for _ in range(700)]
    share = np.mean([program in STAND_INS["guitar"] for program in programs])
    expected = STAND_IN_SHARE if fonts.stand_ins["guitar"] else 0.0
    assert abs(share - expected) < 0.05
    seldom = Fonts(FONT, strange=0.0)
    assert not {seldom.choose(track, rng).program for _ in range(300)} & {*STAND_INS["guitar"]}
    held_out = Fonts(FONT, "valid")
    assert not {held_out.choose(track, rng).program for _ in range(300)} & {*STAND_INS["guitar"]}


def shared_fonts(shared_dir: Path) -> dict[str, str]:
    found = {p.stem: str(p) for p in (shared_dir / "soundfonts").glob("*.sf3")}
    return found or pytest.skip("the shared soundfonts are not here")


def test_instruments_of_a_class_are_equally_likely_whatever_files_hold_them(fonts, shared_dir):
    """Chi-squared over the basses of three files, within the share that is drawn uniformly."""
    shared = shared_fonts(shared_dir)
    many = Fonts((*FONT, shared["basses"], shared["generaluser"]))
    found = many.instruments["bass"]
    assert {recordings[0].source for recordings in found} == {FLUID, "basses", "generaluser"}
    assert len(found) > 40
    address = {preset: i for i, recordings in enumerate(found) for preset in recordings}
    rng = np.random.default_rng(0)
    counts = np.zeros(len(found))
    for _ in range(6000):
        preset = many.choose(Track("bass", 33, ()), rng)
        if preset in address:
            counts[address[preset]] += 1
    # Where the song does not ask for it, only the uniform draw reaches a fretless bass.
    asked = {i for p, i in address.items() if p.program in (33, 34, 36, 37)}
    rest = np.array([n for i, n in enumerate(counts) if i not in asked])
    assert counts.min() > 0
    expected = 6000 * (1 - STAND_IN_SHARE) * ANY_INSTRUMENT_SHARE / len(found)
    assert rest.mean() == pytest.approx(expected, rel=0.25)  # with the rare "any of the class"
    statistic = np.sum((rest - rest.mean()) ** 2 / rest.mean())
    assert statistic < len(rest) + 5 * np.sqrt(2 * len(rest))


def test_held_out_soundfonts_alone_play_validation(fonts, shared_dir):
    heldout = shared_fonts(shared_dir)["heldout"]
    valid = Fonts(FONT, "valid", (heldout,))
    assert [path.name for path in valid.paths] == ["heldout.sf3"]
    rng = np.random.default_rng(0)
    names = {valid.choose(Track("guitar", 30, ()), rng).name for _ in range(60)}
    assert names == {"UIowa Classical", "Steel Acoustic 467", "FSFT Telecaster Clea"}
    train = Fonts(FONT, "train", (heldout,))
    assert [str(path) for path in train.paths] == [*FONT]
    with pytest.raises(SoundfontError, match="both trained on and held out"):
        Fonts(FONT, "train", FONT)


def test_a_soundfont_without_a_class_is_refused(shared_dir):
    with pytest.raises(SoundfontError, match=r"pianos\.sf3 can play the stem bass"):
        Fonts((shared_fonts(shared_dir)["pianos"],))


def test_presets_are_listed_with_their_names(fonts):
    found = fonts.player(RATE).presets()
    assert all(isinstance(preset, Preset) and preset.name for preset in found)
    assert len({(p.font, p.bank, p.program) for p in found}) == len(found)
