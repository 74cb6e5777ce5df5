"""Songs to sound: humanised, played from soundfonts, produced; and data sets on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.music_prior import production
from recipes.music_prior.songs import RATE, STEMS, Song, Track, excerpt, humanise
from recipes.music_prior.soundfonts import Preset, find_soundfonts, split_presets, stem_of_preset
from recipes.music_prior.synth import Synthesizer

TRACKS_AT_ONCE = 8
LEAD_IN = 0.5  # seconds played before a cut, so that sounding notes and rooms are there


# How much sooner than in the soundfont a released note dies, in octaves of time: players damp
# their strings, and voices that linger below hearing cost as much as those that sound.
RELEASE = {"bass": (0.5, 2.0), "drums": (0.0, 0.5), "guitar": (1.0, 2.8), "piano": (0.0, 1.5)}


class Fonts:
    """Soundfonts ready to play, with the presets of one split.

    Parameters
    ----------
    paths
        Soundfont files or folders; empty: the MIT-licensed ones of Debian.
    split
        "train" or "valid": which presets may be used.
    """

    def __init__(self, paths: Sequence[str] = (), split: str = "train") -> None:
        self.paths = find_soundfonts(tuple(paths))
        self.split = split
        self._players: dict[int, Synthesizer] = {}
        self.presets = split_presets(self.player(RATE).presets(), self.paths, split)

    def player(self, rate: int) -> Synthesizer:
        """Return the synthesizer of a rate; made once."""
        if rate not in self._players:
            self._players[rate] = Synthesizer(self.paths, rate)
        return self._players[rate]

    def choose(self, track: Track, rng: np.random.Generator) -> Preset:
        """Choose a preset for a track: its own program where there is one, or a relative."""
        of_stem = [p for p in self.presets if stem_of_preset(p) == track.stem]
        if track.stem == "drums":
            same = [p for p in of_stem if p.program // 8 == track.program // 8]
            keep = 0.5
        else:
            same = [p for p in of_stem if p.program == track.program]
            keep = 0.75
        pool = same if same and rng.random() < keep else of_stem
        return pool[int(rng.integers(len(pool)))]


def render_song(
    song: Song,
    rng: np.random.Generator,
    fonts: Fonts,
    rate: int = RATE,
    channels: int = 1,
    start: float | None = None,
    length: float | None = None,
) -> np.ndarray:
    """Play and produce a song.

    Parameters
    ----------
    song
        What to play.
    rng
        The random stream: decides instruments, feel, production and levels.
    fonts
        The soundfonts.
    rate
        Sampling rate, Hz.
    channels
        1 (mono) or 2 (stereo).
    start, length
        Which part to play, seconds; all of the song when None.

    Returns
    -------
    array
        float32 [4, samples] in the order of `STEMS`, or [4, 2, samples]; a stem without notes is
        silent. The stems' sum is the mixture, with its RMS around 0.1 and its peak at most 1.
    """
    start = 0.0 if start is None else start
    length = song.duration - start if length is None else length
    lead = min(LEAD_IN, start)
    song = humanise(excerpt(song, start - lead, length + lead), rng)
    tracks = [track for track in song.tracks if track.notes]
    player = fonts.player(rate)
    samples = round(length * rate)
    stems = np.zeros((len(STEMS), channels, samples + round(lead * rate)), np.float32)
    chosen = [fonts.choose(track, rng) for track in tracks]
    release = [float(rng.uniform(*RELEASE[track.stem])) for track in tracks]
    for first in range(0, len(tracks), TRACKS_AT_ONCE):
        part = slice(first, first + TRACKS_AT_ONCE)
        played = player.render(
            tracks[part], chosen[part], stems.shape[-1] / rate, channels, release[part]
        )
        for track, preset, sound in zip(tracks[part], chosen[part], played):
            track = track if track.stem == "drums" else replace(track, program=preset.program)
            sound = production.produce_track(sound, track, rng, rate)
            stems[STEMS.index(track.stem)] += sound * np.float32(rng.uniform(0.5, 1.0))
    for index, stem in enumerate(STEMS):
        if stems[index].any():
            stems[index] = production.produce_stem(stems[index], stem, rng, rate)
    stems, _ = production.set_levels(stems[..., stems.shape[-1] - samples :], rng, rate)
    return stems[:, 0] if channels == 1 else stems
