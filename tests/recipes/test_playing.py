"""What a band makes of a song, and what makes a mix a record."""

import numpy as np
import pytest

from recipes.music_prior.songs.playing import ghost_notes, line_up, play_freely, strum
from recipes.music_prior.songs.song import STEMS, Note, Song, Track
from recipes.music_prior.sound import effects as fx
from recipes.music_prior.sound import records

RATE = 22_050


def a_song() -> Song:
    def track(stem: str, program: int, *keys: int) -> Track:
        notes = (Note(t / 2, t / 2 + 0.4, key, 80) for t in range(20) for key in keys)
        return Track(stem, program, tuple(notes))

    return Song(
        "band",
        (
            track("bass", 33, 40),
            track("drums", 0, 36),
            track("guitar", 25, 52, 55, 59),
            track("piano", 0, 60, 64),
        ),
        10.0,
    )


def test_stems_are_missing_in_one_song_of_five_and_one_of_five_is_dense():
    song = a_song()
    counts = {"missing": 0, "dense": 0, "same": 0}
    for seed in range(600):
        band = line_up(song, np.random.default_rng(seed))
        if len(band.tracks) < 4:
            assert len(band.stems()) >= 2
            counts["missing"] += 1
        elif len(band.tracks) > 4:
            assert band.stems() == STEMS
            assert band.tracks[:4] == song.tracks
            counts["dense"] += 1
        else:
            assert band == song
            counts["same"] += 1
    shares = np.array(list(counts.values())) / 600
    np.testing.assert_allclose(shares, (0.2, 0.2, 0.6), atol=0.06)


def test_a_dense_song_has_the_players_it_lacked_and_a_lone_player_stays():
    drums_and_bass = Song("duo", a_song().tracks[:2], 10.0)
    alone = Song("alone", a_song().tracks[3:], 10.0)
    stems = set()
    for seed in range(60):
        stems |= set(line_up(drums_and_bass, np.random.default_rng(seed)).stems())
        assert "piano" in line_up(alone, np.random.default_rng(seed)).stems()
    assert stems == set(STEMS)


def test_a_strum_goes_through_the_strings_and_keeps_the_ends():
    notes = list(a_song().tracks[2].notes)
    struck = strum(notes, 0.01)
    first = sorted((n for n in struck if n.end == notes[0].end), key=lambda n: n.pitch)
    np.testing.assert_allclose([n.start for n in first], [0.0, 0.01, 0.02])
    second = sorted((n for n in struck if n.end == notes[3].end), key=lambda n: n.pitch)
    np.testing.assert_allclose([n.start for n in second], [0.52, 0.51, 0.5])
    assert sorted((n.end, n.pitch) for n in struck) == sorted((n.end, n.pitch) for n in notes)


def test_ghost_notes_are_soft_short_and_between_the_others():
    song = a_song()
    for track, pitch in ((song.tracks[1], 38), (song.tracks[0], 40)):
        ghosts = ghost_notes(track, np.random.default_rng(0), 0.999)
        assert len(ghosts) == 19
        for ghost in ghosts:
            assert ghost.start % 0.5 == pytest.approx(0.25)
            assert (ghost.pitch, ghost.velocity < 50) == (pitch, True)
            assert ghost.end - ghost.start < 0.05
    assert ghost_notes(song.tracks[1], np.random.default_rng(0), 0.0) == []


def test_playing_freely_keeps_the_tune_and_the_range_of_velocities():
    song = a_song()
    for seed in range(20):
        played = play_freely(song, np.random.default_rng(seed))
        for before, after in zip(song.tracks, played.tracks):
            loud = [n for n in after.notes if n.end - n.start > 0.05]
            assert sorted(n.pitch for n in loud) == sorted(n.pitch for n in before.notes)
            assert all(1 <= n.velocity <= 127 for n in after.notes)
            assert list(after.notes) == sorted(after.notes, key=lambda n: n.start)


def test_the_bus_compressor_is_static_above_its_threshold_and_one_gain_for_all():
    """A tone of -14 dB RMS over a threshold of -20 dB at 3:1 loses 6 * (1 - 1/3) = 4 dB."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)[None].astype(np.float32)
    tone *= np.float32(10 ** (-14 / 20) * np.sqrt(2))
    gain = records.bus_gain(tone, RATE, -20.0, 3.0, 0.005, 0.1)
    assert 20 * np.log10(gain[RATE:]).mean() == pytest.approx(-4.0, abs=0.05)
    assert np.all(records.bus_gain(0.1 * tone, RATE, -20.0, 3.0, 0.005, 0.1) == 1.0)
    stems = np.stack([tone, 0.3 * tone[:, ::-1], 0 * tone])
    out = records.compress_bus(stems, RATE, np.random.default_rng(0))
    loud = np.abs(stems[:2, 0]).min(0) > 0.01
    first, second = out[:2, 0, loud] / stems[:2, 0, loud]
    np.testing.assert_allclose(first, second, rtol=1e-4)
    assert not out[2].any()
    assert np.abs(out).max() <= np.abs(stems).max()


def test_the_bus_compressor_lets_go_after_a_stroke():
    burst = np.zeros((1, RATE), np.float32)
    burst[:, RATE // 4 : RATE // 2] = 0.5
    gain = records.bus_gain(burst, RATE, -20.0, 4.0, 0.002, 0.1)
    assert gain[: RATE // 4 - 64].min() > 0.99
    assert gain[RATE // 2 - 200] < 0.5
    assert gain[RATE // 2 + 500] < gain[-1]


def test_a_folded_widener_is_a_comb_of_the_same_power():
    impulse = np.zeros((1, 32), np.float32)
    impulse[:, 0] = 1
    for seed in range(10):
        comb = records.folded(impulse, RATE, np.random.default_rng(seed))
        assert np.count_nonzero(comb) == 2
        assert np.sum(comb**2) == pytest.approx(1.0, rel=1e-5)
        assert 4 <= np.flatnonzero(comb[0])[1] <= 400


def test_a_blend_has_both_parts():
    tones = [np.sin(2 * np.pi * f * np.arange(RATE) / RATE)[None] for f in (100, 1000)]
    low, high = (tone.astype(np.float32) for tone in tones)
    mixed = records.blend_of_amplifier(low, 5 * high, 0.25, RATE)
    spectrum = np.abs(np.fft.rfft(mixed[0])) / RATE * 2
    expected = 0.1 * np.sqrt(2) * np.array([0.75, 0.25])
    np.testing.assert_allclose(spectrum[[100, 1000]], expected, rtol=1e-3)
    assert fx.active_rms(mixed, RATE) < 0.1
