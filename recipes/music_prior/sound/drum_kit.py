"""A drum kit as a sampler: every drum is struck once per strength, then placed where it is hit.

A drum sounds the same however often it is struck, and cymbals ring for seconds, so that playing
every hit of a song by FluidSynth costs five times as much as this. Hits fall on samples, not on
FluidSynth's blocks.
"""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.song import Note, Track
from recipes.music_prior.sound import effects
from recipes.music_prior.sound.soundfonts import Preset
from recipes.music_prior.sound.synth import BLOCK, Synthesizer, Timbre

_STRENGTHS = np.array((30, 54, 76, 94, 110, 124))  # velocities that are struck
_CYMBALS = (46, 49, 51, 52, 53, 55, 57, 59)
_RING, _RING_CYMBAL = 1.1, 2.8  # seconds
_OPEN_HAT, _CLOSING = 46, (42, 44)  # the pedal stops the open hi-hat
_GAP = 4  # blocks of silence before a hit, in which the one before is switched off


def play_kit(
    player: Synthesizer,
    track: Track,
    preset: Preset,
    timbre: Timbre,
    seconds: float,
    channels: int,
    decimated: bool,
) -> np.ndarray:
    """Play a drum track.

    Parameters
    ----------
    player
        FluidSynth at the output's rate, or at twice that.
    track
        The hits.
    preset, timbre
        The kit.
    seconds
        How long to play.
    channels
        1 or 2.
    decimated
        Whether to halve the player's rate.

    Returns
    -------
    array
        float32 [channels, samples].
    """
    rate = player.rate // (2 if decimated else 1)
    sound = np.zeros((channels, round(seconds * rate)), np.float32)
    hits = _strike(player, track, preset, timbre, channels, decimated)
    closings = np.array([note.start for note in track.notes if note.pitch in _CLOSING])
    fade = np.linspace(1, 0, rate // 100, dtype=np.float32)
    for note in track.notes:
        strength = _strength(note)
        wave = hits[note.pitch, strength]
        start = round(note.start * rate)
        count = min(wave.shape[1], sound.shape[1] - start)
        closed = None
        if note.pitch == _OPEN_HAT:
            following = int(np.searchsorted(closings, note.start, side="right"))
            if following < len(closings):
                closed = round(closings[following] * rate) - start
                count = min(count, closed + len(fade))
        if count <= 0:
            continue
        # A soundfont's loudness goes with the square of the velocity.
        part = wave[:, :count] * np.float32((note.velocity / strength) ** 2)
        if closed is not None and count > closed:
            part[:, closed:] *= fade[: count - closed]
        sound[:, start : start + count] += part
    return sound


def _strength(note: Note) -> int:
    return int(_STRENGTHS[np.abs(_STRENGTHS - note.velocity).argmin()])


def _strike(
    player: Synthesizer,
    track: Track,
    preset: Preset,
    timbre: Timbre,
    channels: int,
    decimated: bool,
) -> dict[tuple[int, int], np.ndarray]:
    """Return the sound of every (key, strength) that a track needs, float32 [channels, n]."""
    wanted = sorted({(note.pitch, _strength(note)) for note in track.notes})
    per_block = BLOCK / player.rate
    starts, notes, now = [], [], 0
    for pitch, strength in wanted:
        starts.append(now)
        struck = (now + _GAP) * per_block
        notes.append(Note(struck, struck + 0.3, pitch, strength))
        now += _GAP + round((_RING_CYMBAL if pitch in _CYMBALS else _RING) / per_block)
    played = player.render(
        [Track("drums", track.program, tuple(notes))],
        [preset],
        now * per_block,
        channels,
        [timbre],
        cuts=[block * per_block for block in starts],
    )[0]
    if decimated:
        played = effects.decimate(played)
    block = BLOCK // 2 if decimated else BLOCK
    hits = {}
    for key, start, stop in zip(wanted, starts, [*starts[1:], now]):
        wave = played[:, (start + _GAP) * block : stop * block]
        loud = np.flatnonzero(np.abs(wave).max(0) > 3e-4 * np.abs(wave).max())
        wave = wave[:, : loud[-1] + 1 if len(loud) else 1].copy()
        tail = wave.shape[1] // 4
        wave[:, wave.shape[1] - tail :] *= np.linspace(1, 0, tail, dtype=np.float32) ** 2
        hits[key] = wave
    return hits
