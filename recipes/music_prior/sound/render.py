"""Songs to sound: humanised, played from soundfonts, produced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recipes.music_prior.songs.song import RATE, STEMS, Song, Track, excerpt, humanise
from recipes.music_prior.sound import production
from recipes.music_prior.sound.drum_kit import play_kit
from recipes.music_prior.sound.modelled import SHARE, Patch, draw_patch, play_modelled
from recipes.music_prior.sound.soundfonts import (
    Preset,
    SoundfontError,
    family,
    find_soundfonts,
    instruments,
    split_presets,
    stand_ins,
    stem_of_preset,
)
from recipes.music_prior.sound.synth import Synthesizer, Timbre

TRACKS_AT_ONCE = 8
LEAD_IN = 0.5  # seconds played before a cut, so that sounding notes and rooms are there
# How much sooner than in the soundfont a released note dies, in octaves of time: players damp
# their strings, and voices that linger below hearing cost as much as those that sound.
RELEASE = {"bass": (0.5, 2.0), "drums": (0.0, 0.5), "guitar": (1.0, 2.8), "piano": (0.0, 1.5)}
_CLEAN_PROGRAMS = (26, 27, 28)
STAND_IN_SHARE = 1 / 7
# Share of the other tracks whose instrument is any of its class, whatever the song asks for.
ANY_INSTRUMENT_SHARE = 0.65
# With this many instruments of a class there is less need for computed ones.
MANY_INSTRUMENTS = 24


class Fonts:
    """Soundfonts ready to play, with the presets of one split.

    Parameters
    ----------
    paths
        Soundfont files or folders; empty: the MIT-licensed ones of Debian.
    split
        "train" or "valid": which presets may be used.
    heldout
        Soundfont files or folders for validation only: in "valid" they alone play.

    Raises
    ------
    SoundfontError
        When no soundfont or no FluidSynth is installed; names the packages. When a soundfont is
        given both for training and as held out.
    """

    def __init__(
        self, paths: Sequence[str] = (), split: str = "train", heldout: Sequence[str] = ()
    ) -> None:
        self.split = split
        self.foreign = bool(heldout) and split == "valid"
        self.paths = find_soundfonts(tuple(heldout if self.foreign else paths), split)
        if heldout and not self.foreign:
            kept = {path.resolve() for path in find_soundfonts(tuple(heldout), "valid")}
            both = [path for path in self.paths if path.resolve() in kept]
            if both:
                raise SoundfontError(f"{both[0]} cannot be both trained on and held out")
        self._players: dict[int, Synthesizer] = {}
        presets = self.player(RATE).presets()
        self.presets = presets if self.foreign else split_presets(presets, split)
        self.instruments = {stem: instruments(self.presets, stem) for stem in STEMS}
        self.stand_ins = {stem: stand_ins(presets, stem) for stem in STEMS}
        for stem, found in self.instruments.items():
            if not found:
                names = ", ".join(path.name for path in self.paths)
                raise SoundfontError(f"no instrument in {names} can play the stem {stem}")

    def player(self, rate: int) -> Synthesizer:
        """Return the synthesizer of a rate; made once."""
        if rate not in self._players:
            self._players[rate] = Synthesizer(self.paths, rate)
        return self._players[rate]

    def choose(self, track: Track, rng: np.random.Generator) -> Preset:
        """Choose a preset for a track: its own program, or a relative, or any of its stem.

        In training an instrument of another class plays one track in seven, and most of the others
        are played by any instrument of the class, all equally likely; held-out soundfonts always
        are. Else a driven guitar is, one time in three, a clean one: the amplifier will do the
        rest, to whole chords rather than to single notes.
        """
        others = self.stand_ins[track.stem] if self.split == "train" else []
        if others and rng.random() < STAND_IN_SHARE:
            return others[int(rng.integers(len(others)))]
        any_of_class = self.split == "train" and rng.random() < ANY_INSTRUMENT_SHARE
        if self.foreign or any_of_class:
            found = self.instruments[track.stem]
            recordings = found[int(rng.integers(len(found)))]
            return recordings[int(rng.integers(len(recordings)))]
        of_stem = [preset for preset in self.presets if stem_of_preset(preset) == track.stem]
        wanted: tuple[int, ...] = (track.program,)
        if track.program in production.DRIVEN and track.stem == "guitar" and rng.random() < 0.35:
            wanted = _CLEAN_PROGRAMS
        luck = rng.random()
        if luck > 0.75:
            wanted = family(track.stem, track.program)
        pool = [preset for preset in of_stem if preset.program in wanted]
        if not pool:  # held out, or not in these soundfonts
            relatives = family(track.stem, track.program)
            pool = [preset for preset in of_stem if preset.program in relatives]
        if not pool or luck > 0.93:
            pool = of_stem
        return pool[int(rng.integers(len(pool)))]


def draw_timbre(track: Track, rng: np.random.Generator) -> Timbre:
    """Draw how one player's instrument differs from the soundfont's."""
    pitched = track.stem != "drums"
    varied = rng.random() < 0.7
    return Timbre(
        release=float(rng.uniform(*RELEASE[track.stem])),
        attack=float(rng.uniform(0, 3)) if pitched and rng.random() < 0.2 else 0.0,
        cutoff=float(rng.uniform(0, 2.0)) if rng.random() < 0.3 else 0.0,
        size=int(rng.integers(-4, 5)) if varied else 0,
        detune=float(np.clip(rng.normal(0, 6), -25, 25)) if pitched else 0.0,
    )


def _patch(track: Track, fonts: Fonts, rng: np.random.Generator) -> Patch | None:
    """Say whether a computed instrument plays a track; never in validation, nor bent strings."""
    many = len(fonts.instruments[track.stem]) >= MANY_INSTRUMENTS
    computed = rng.random() < SHARE[track.stem] / (3 if many else 1)
    if not computed or fonts.split != "train" or track.bends:
        return None
    return draw_patch(track, rng)


def _doubled(track: Track, rng: np.random.Generator) -> bool:
    """Say whether a guitarist records the part twice, as is usual for driven rhythm guitars."""
    rhythm = track.program in production.DRIVEN or track.role in (*production.DRIVEN_ROLES, "strum")
    return track.stem == "guitar" and rhythm and track.role != "lead" and rng.random() < 0.3


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
    song = excerpt(song, start - lead, length + lead)
    tracks = [track for track in song.tracks if track.notes]
    second_takes = [track for track in tracks if _doubled(track, rng)]
    song = humanise(replace(song, tracks=(*tracks, *second_takes)), rng)
    samples, skipped = round(length * rate), round(lead * rate)
    stems = np.zeros((len(STEMS), channels, skipped + samples), np.float32)
    chosen = [(track, fonts.choose(track, rng), draw_timbre(track, rng)) for track in song.tracks]
    for stem, sound in zip(STEMS, stems):
        parts = [part for part in chosen if part[0].stem == stem]
        for first in range(0, len(parts), TRACKS_AT_ONCE):
            _play(sound, parts[first : first + TRACKS_AT_ONCE], fonts, rate, rng)
    space = production.draw_space(rng)
    for index, stem in enumerate(STEMS):
        if stems[index].any():
            stems[index] = production.produce_stem(stems[index], stem, space, rng, rate)
    stems = production.set_levels(stems[..., skipped:], rng, rate)
    return stems[:, 0] if channels == 1 else stems


def _play(
    stem: np.ndarray,
    parts: list[tuple[Track, Preset, Timbre]],
    fonts: Fonts,
    rate: int,
    rng: np.random.Generator,
) -> None:
    """Add tracks of one stem, each through its own amplifier, to [channels, samples]."""
    channels, samples = stem.shape
    seconds = samples / rate
    if parts[0][0].stem == "drums":
        # FluidSynth has no low-pass before it resamples: at 22 050 Hz the hi-hats would gain up
        # to 8 dB above 5 kHz by aliasing. Pitched instruments have too little there to matter.
        twice = rate < 40_000
        player = fonts.player(2 * rate if twice else rate)
        played = [play_kit(player, *part, seconds, channels, twice) for part in parts]
    else:
        patches = [_patch(track, fonts, rng) for track, _, _ in parts]
        sampled = [part for part, patch in zip(parts, patches) if patch is None]
        rest = iter(())
        if sampled:
            tracks, presets, timbres = zip(*sampled)
            rest = iter(fonts.player(rate).render(tracks, presets, seconds, channels, timbres))
        played = [
            next(rest)
            if patch is None
            else play_modelled(track, patch, seconds, channels, rate, rng)
            for (track, _, _), patch in zip(parts, patches)
        ]
    for (track, preset, _), sound in zip(parts, played):
        sound = production.produce_track(sound, track, preset.program, rng, rate)
        sound *= np.float32(rng.uniform(0.5, 1.0))
        if channels == 2:
            angle = np.pi / 4 * (1 + production.pan_of(track, rng))
            sound *= np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)
        stem += sound
