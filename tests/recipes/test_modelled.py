"""Instruments that are computed for training."""

from dataclasses import replace

import numpy as np
import pytest

from recipes.music_prior.songs.song import Note, Track
from recipes.music_prior.sound.modelled import Patch, draw_patch, play_modelled

RATE = 22_050
TINE = Patch("tine", 1, 4.0, 0.5, 0.2, 1.0, 1.5, 1, 1.0, 0.05, 0.0)
ONE = Track("piano", 4, (Note(0.1, 0.9, 69, 80),))


def played(patch, track=ONE, seed=0):
    return play_modelled(track, patch, 1.5, 1, RATE, np.random.default_rng(seed))[0]


def partials(sound, count=8):
    """Power of the first harmonics of 440 Hz while the note is held."""
    held = sound[round(0.15 * RATE) : round(0.55 * RATE)]
    spectrum = np.abs(np.fft.rfft(held * np.hanning(len(held)))) ** 2
    bins = 440 * len(held) / RATE * np.arange(1, count + 1)
    return np.array([spectrum[round(b) - 3 : round(b) + 4].sum() for b in bins]), spectrum.sum()


@pytest.mark.parametrize("kind", ["string", "tine", "fm", "analogue"])
def test_a_key_has_its_pitch_and_sounds_the_same_whenever_it_is_asked_for(kind):
    patch = replace(TINE, kind=kind)
    own, whole = partials(played(patch), 20)
    assert own.sum() > 0.8 * whole
    assert np.array_equal(played(patch), played(patch))


def test_a_tine_that_swings_far_has_more_partials():
    """The pickup's field is all that makes them: close to its axis a swing stays a sine."""
    near, _ = partials(played(replace(TINE, index=0.05, bright=0.0)))
    far, _ = partials(played(replace(TINE, index=3.0, bright=0.0)))
    assert near[2:].sum() < 1e-3 * near.sum()
    assert far[2:].sum() > 0.1 * far.sum()


def test_a_tine_on_the_axis_of_its_pickup_has_even_partials_only():
    """Its field is even, so the octave is what is heard."""
    own, _ = partials(played(replace(TINE, position=0.0, bright=0.0)))
    assert own[0::2].sum() < 1e-3 * own[1::2].sum()


def test_a_damper_that_knocks_is_heard_when_the_key_is_let_go():
    quiet, loud = played(TINE), played(replace(TINE, knock=0.8))
    end = round(0.9 * RATE)
    assert loud[: end - 600] == pytest.approx(quiet[: end - 600], abs=1e-6)
    after = slice(end, end + 400)
    assert np.square(loud[after]).sum() > 2 * np.square(quiet[after]).sum()


def test_electric_pianos_are_drawn_for_pianos_only():
    rng = np.random.default_rng(0)
    found = {
        stem: {draw_patch(Track(stem, program, ()), rng).kind for _ in range(60)}
        for stem, program in (("piano", 0), ("guitar", 24), ("bass", 33))
    }
    assert "tine" in found["piano"]
    assert "tine" not in found["guitar"] | found["bass"]
