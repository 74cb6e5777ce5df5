"""Songs to sound: humanised, played from soundfonts, produced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recipes.music_prior.songs.other_parts import SPEECH, VOICE, add_parts
from recipes.music_prior.songs.playing import line_up, play_freely
from recipes.music_prior.songs.song import (
    FIVE_STEMS,
    OTHER,
    RATE,
    STEMS,
    Song,
    Track,
    excerpt,
    humanise,
)
from recipes.music_prior.sound import production, records
from recipes.music_prior.sound.drum_kit import play_kit
from recipes.music_prior.sound.modelled import SHARE, Patch, draw_patch, play_modelled
from recipes.music_prior.sound.soundfonts import (
    Preset,
    SoundfontError,
    family,
    find_soundfonts,
    instruments,
    other_instruments,
    split_presets,
    stand_ins,
    stem_of_preset,
)
from recipes.music_prior.sound.synth import Synthesizer, Timbre
from recipes.music_prior.sound.voices import perform

TRACKS_AT_ONCE = 8
LEAD_IN = 0.5  # seconds played before a cut, so that sounding notes and rooms are there
# How much sooner than in the soundfont a released note dies, in octaves of time: players damp
# their strings, and voices that linger below hearing cost as much as those that sound.
RELEASE = {
    "bass": (0.5, 2.0),
    "drums": (0.0, 0.5),
    "guitar": (1.0, 2.8),
    "piano": (0.0, 1.5),
    "other": (0.0, 1.5),
}
_CLEAN_PROGRAMS = (26, 27, 28)
STAND_IN_SHARE = 1 / 7
OTHER_SHARE = 0.5  # of the songs hold something beside the four stems
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
        Soundfont files or folders for validation only: in "valid" they alone play the four stems.
    stems
        `STEMS`, or `FIVE_STEMS`: then instruments of no class play the stem "other" only, from
        `paths`.
    strange
        How often computed instruments and those of another class play in training, as a share of
        their usual share.

    Raises
    ------
    SoundfontError
        When no soundfont or no FluidSynth is installed; names the packages. When a soundfont is
        given both for training and as held out.
    """

    def __init__(
        self,
        paths: Sequence[str] = (),
        split: str = "train",
        heldout: Sequence[str] = (),
        stems: tuple[str, ...] = STEMS,
        strange: float = 1.0,
    ) -> None:
        self.split = split
        self.strange = strange
        self.foreign = bool(heldout) and split == "valid"
        self.paths = find_soundfonts(tuple(heldout if self.foreign else paths), split)
        foreign = len(self.paths) if self.foreign else 0
        if foreign and OTHER in stems:
            self.paths += find_soundfonts(tuple(paths), split)
        if heldout and not self.foreign:
            kept = {path.resolve() for path in find_soundfonts(tuple(heldout), "valid")}
            both = [path for path in self.paths if path.resolve() in kept]
            if both:
                raise SoundfontError(f"{both[0]} cannot be both trained on and held out")
        self._players: dict[int, Synthesizer] = {}
        presets = self.player(RATE).presets()
        if foreign:
            self.presets = [preset for preset in presets if preset.font < foreign]
        else:
            self.presets = split_presets(presets, split)
        self.instruments = {stem: instruments(self.presets, stem) for stem in STEMS}
        apart = OTHER in stems
        self.stand_ins = {stem: [] if apart else stand_ins(presets, stem) for stem in STEMS}
        self.others = other_instruments(presets, split) if apart else {}
        if apart and not self.others:
            raise SoundfontError(
                "no soundfont has instruments beside the four stems; add --soundfont debian"
            )
        for stem, found in self.instruments.items():
            if not found:
                names = ", ".join(path.name for path in self.paths)
                raise SoundfontError(f"no instrument in {names} can play the stem {stem}")

    def player(self, rate: int) -> Synthesizer:
        """Return the synthesizer of a rate; made once."""
        if rate not in self._players:
            self._players[rate] = Synthesizer(self.paths, rate)
        return self._players[rate]

    def choose_other(self, track: Track, rng: np.random.Generator) -> Preset:
        """Choose a preset for a track of the fifth stem: its program's family, or any at all."""
        family = range(track.program // 8 * 8, track.program // 8 * 8 + 8)
        programs = [program for program in self.others if program in family]
        if track.program in programs and rng.random() < 0.6:
            programs = [track.program]
        if not programs or rng.random() < 0.15:
            programs = list(self.others)
        found = self.others[programs[int(rng.integers(len(programs)))]]
        recordings = found[int(rng.integers(len(found)))]
        return recordings[int(rng.integers(len(recordings)))]

    def choose(self, track: Track, rng: np.random.Generator) -> Preset:
        """Choose a preset for a track: its own program, or a relative, or any of its stem.

        In training an instrument of another class plays one track in seven, and most of the others
        are played by any instrument of the class, all equally likely; held-out soundfonts always
        are. Else a driven guitar is, one time in three, a clean one: the amplifier will do the
        rest, to whole chords rather than to single notes.
        """
        others = self.stand_ins[track.stem] if self.split == "train" else []
        if others and rng.random() < STAND_IN_SHARE * self.strange:
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
    computed = rng.random() < fonts.strange * SHARE[track.stem] / (3 if many else 1)
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
    others: np.random.Generator | None = None,
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
    others
        The random stream of the fifth stem; None: there is none. The notes of the four stems
        do not depend on it.

    Returns
    -------
    array
        float32 [stems, samples] in the order of `FIVE_STEMS`, or [stems, 2, samples]; a stem
        without notes is silent. The stems' sum is the mixture, with its RMS around 0.1 and its
        peak at most 1.
    """
    start = 0.0 if start is None else start
    length = song.duration - start if length is None else length
    lead = min(LEAD_IN, start)
    song = excerpt(song, start - lead, length + lead)
    record = fonts.split == "train"
    if record:
        song = play_freely(line_up(song, rng), rng)
    tracks = [track for track in song.tracks if track.notes and track.stem in STEMS]
    second_takes = [track for track in tracks if _doubled(track, rng)]
    fifth = None if others is None else _fifth_song(song, others)
    song = humanise(replace(song, tracks=(*tracks, *second_takes)), rng)
    samples, skipped = round(length * rate), round(lead * rate)
    count = len(STEMS) if others is None else len(FIVE_STEMS)
    stems = np.zeros((count, channels, skipped + samples), np.float32)
    chosen = [(track, fonts.choose(track, rng), draw_timbre(track, rng)) for track in song.tracks]
    for stem, sound in zip(STEMS, stems):
        parts = [part for part in chosen if part[0].stem == stem]
        for first in range(0, len(parts), TRACKS_AT_ONCE):
            _play(sound, parts[first : first + TRACKS_AT_ONCE], fonts, rate, rng)
    space = production.draw_space(rng)
    for index, stem in enumerate(STEMS):
        if stems[index].any():
            stems[index] = production.produce_stem(stems[index], stem, space, rng, rate, record)
    if fifth is not None and others is not None:
        _play_others(stems[-1], fifth.tracks, fonts, rate, others)
        if stems[-1].any():
            stems[-1] = production.produce_stem(stems[-1], OTHER, space, others, rate, record)
    stems = production.set_levels(stems[..., skipped:], rng, rate, others)
    if record and rng.random() < records.BUS_SHARE:
        stems = records.compress_bus(stems, rate, rng)
    return stems[:, 0] if channels == 1 else stems


def _fifth_song(song: Song, rng: np.random.Generator) -> Song | None:
    """Return who else plays in a song: in half of the songs nobody."""
    if rng.random() >= OTHER_SHARE:
        return None
    song = add_parts(song, rng)
    tracks = tuple(track for track in song.tracks if track.stem == OTHER and track.notes)
    return humanise(replace(song, tracks=tracks), rng)


def _play_others(
    stem: np.ndarray,
    tracks: tuple[Track, ...],
    fonts: Fonts,
    rate: int,
    rng: np.random.Generator,
) -> None:
    """Add the tracks of the fifth stem to [channels, samples]: voices, and what soundfonts hold."""
    channels, samples = stem.shape
    seconds = samples / rate
    sung = [track for track in tracks if track.role in (VOICE, SPEECH)]
    played = [track for track in tracks if track not in sung]
    parts: list[tuple[Track, np.ndarray]] = []
    for track in sung:
        voice = perform(track, seconds, rate, rng, fonts.split)
        parts.append((track, np.repeat(voice[None], channels, axis=0)))
    for first in range(0, len(played), TRACKS_AT_ONCE):
        some = played[first : first + TRACKS_AT_ONCE]
        presets = [fonts.choose_other(track, rng) for track in some]
        timbres = [draw_timbre(track, rng) for track in some]
        sounds = fonts.player(rate).render(some, presets, seconds, channels, timbres)
        parts += zip(some, sounds)
    for track, sound in parts:
        sound = production.produce_track(sound, track, track.program, rng, rate)
        stem += _placed(sound * np.float32(rng.uniform(0.4, 1.0)), track, rng)


def _placed(sound: np.ndarray, track: Track, rng: np.random.Generator) -> np.ndarray:
    """Put a track somewhere between left and right, where there are two sides."""
    if len(sound) == 1:
        return sound
    angle = np.pi / 4 * (1 + production.pan_of(track, rng))
    return sound * np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32)


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
        record = fonts.split == "train"
        sound = production.produce_track(sound, track, preset.program, rng, rate, record)
        stem += _placed(sound * np.float32(rng.uniform(0.5, 1.0)), track, rng)
