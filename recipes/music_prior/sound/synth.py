"""FluidSynth by its C interface: every track on an output of its own, in one pass, as float.

pyfluidsynth finds and loads the library; its own `get_samples` gives one 16-bit stereo pair for
the whole band, so the multi-output float calls of libfluidsynth are declared here.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.music_prior.songs.song import Track
from recipes.music_prior.sound.sf3 import unpacked
from recipes.music_prior.sound.soundfonts import DRUM_BANK, Preset, SoundfontError, source_of

BLOCK = 64  # FluidSynth computes in blocks of 64 samples: events fall on their edges
BEND_RANGE = 12  # semitones
MAX_VOICES = 96  # as a hardware sampler; the time to render grows with the voices that sound
# Generators of the SoundFont 2 specification, section 8.1.2.
_FILTER_CUTOFF, _ATTACK, _RELEASE, _COARSE_TUNE, _FINE_TUNE = 8, 34, 38, 51, 52


@dataclass(frozen=True)
class Timbre:
    """How one player's instrument differs from the soundfont's.

    Attributes
    ----------
    release
        How much sooner a released note dies, octaves of time.
    attack
        How much later it swells, octaves of time.
    cutoff
        How far its low-pass filter is closed, octaves.
    size
        Semitones by which the samples are played slower than their key asks: a larger body, a
        lower drum. Pitched tracks keep their pitch.
    detune
        Cents.
    """

    release: float = 0.0
    attack: float = 0.0
    cutoff: float = 0.0
    size: int = 0
    detune: float = 0.0


def _library() -> Any:
    """FluidSynth's library: the file that MGDM_FLUIDSYNTH names, or what pyfluidsynth finds."""
    name = os.environ.get("MGDM_FLUIDSYNTH")
    try:
        if name is None:
            # Where the environment has CI, it prints what it found when it is imported.
            with contextlib.redirect_stdout(io.StringIO()):
                import fluidsynth
            name = fluidsynth._fl._name
        lib = ctypes.CDLL(name)
    except (ImportError, OSError) as error:
        raise SoundfontError(
            "rendering needs pyfluidsynth and the FluidSynth library; run "
            f"`pip install pyfluidsynth` and `apt-get install libfluidsynth3` ({error})"
        ) from error
    pointer, integer, number, text = (
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_double,
        ctypes.c_char_p,
    )
    declarations = {
        "new_fluid_settings": (pointer, []),
        "fluid_settings_setint": (integer, [pointer, text, integer]),
        "fluid_settings_setnum": (integer, [pointer, text, number]),
        "new_fluid_synth": (pointer, [pointer]),
        "delete_fluid_synth": (None, [pointer]),
        "fluid_synth_sfload": (integer, [pointer, text, integer]),
        "fluid_synth_get_sfont_by_id": (pointer, [pointer, integer]),
        "fluid_sfont_iteration_start": (None, [pointer]),
        "fluid_sfont_iteration_next": (pointer, [pointer]),
        "fluid_preset_get_name": (text, [pointer]),
        "fluid_preset_get_banknum": (integer, [pointer]),
        "fluid_preset_get_num": (integer, [pointer]),
        "fluid_synth_pin_preset": (integer, [pointer, integer, integer, integer]),
        "fluid_synth_program_select": (integer, [pointer, integer, integer, integer, integer]),
        "fluid_synth_set_channel_type": (integer, [pointer, integer, integer]),
        "fluid_synth_pitch_wheel_sens": (integer, [pointer, integer, integer]),
        "fluid_synth_pitch_bend": (integer, [pointer, integer, integer]),
        "fluid_synth_set_gen": (integer, [pointer, integer, integer, ctypes.c_float]),
        "fluid_synth_noteon": (integer, [pointer, integer, integer, integer]),
        "fluid_synth_noteoff": (integer, [pointer, integer, integer]),
        "fluid_synth_all_sounds_off": (integer, [pointer, integer]),
        "fluid_synth_add_sfont": (integer, [pointer, pointer]),
        "fluid_synth_remove_sfont": (integer, [pointer, pointer]),
        "fluid_synth_process": (integer, [pointer, integer, integer, pointer, integer, pointer]),
        "fluid_set_log_function": (pointer, [integer, pointer, pointer]),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    # Soundfonts in the wild draw dozens of harmless warnings; keep errors only.
    for level in (2, 3, 4):  # warning, information, debugging
        lib.fluid_set_log_function(level, None, None)
    return lib


class Synthesizer:
    """Soundfonts in memory, and a fresh FluidSynth for every piece of music.

    A voice of FluidSynth remembers what it played last (the first milliseconds of the next note
    differ), so an instance that is used twice gives another sound the second time. The soundfonts,
    which are what takes time to load, move from instance to instance.

    Parameters
    ----------
    fonts
        Soundfont files. Samples are read when a preset is first used, and kept.
    rate
        Sampling rate, Hz.

    Raises
    ------
    SoundfontError
        When the library is missing or a soundfont cannot be loaded.
    """

    def __init__(self, fonts: Sequence[Path], rate: int) -> None:
        self.rate = rate
        self._lib = _library()
        self._settings = self._lib.new_fluid_settings()
        integers = {
            "synth.reverb.active": 0,
            "synth.chorus.active": 0,
            "synth.polyphony": MAX_VOICES,
            "synth.dynamic-sample-loading": 1,
            "synth.cpu-cores": 1,
        }
        for key, value in integers.items():
            self._lib.fluid_settings_setint(self._settings, key.encode(), value)
        self._lib.fluid_settings_setnum(self._settings, b"synth.gain", 0.5)
        self._lib.fluid_settings_setnum(self._settings, b"synth.sample-rate", float(rate))
        loader = self._lib.new_fluid_synth(self._settings)
        self._fonts = []
        self._sources = [source_of(Path(path)) for path in fonts]
        for path in fonts:
            plain = unpacked(Path(path))
            identity = self._lib.fluid_synth_sfload(loader, str(plain).encode(), 0)
            if identity < 0:
                raise SoundfontError(f"FluidSynth cannot read {path} as a soundfont (.sf2, .sf3)")
            self._fonts.append(self._lib.fluid_synth_get_sfont_by_id(loader, identity))
        for font in self._fonts:
            self._lib.fluid_synth_remove_sfont(loader, font)
        # The fonts read samples through callbacks that belong to the instance that loaded them.
        self._loader = loader
        self._pinned: set[tuple[int, int, int]] = set()

    def presets(self) -> list[Preset]:
        """Return all presets of all soundfonts."""
        found = []
        for index, font in enumerate(self._fonts):
            self._lib.fluid_sfont_iteration_start(font)
            while item := self._lib.fluid_sfont_iteration_next(font):
                preset = Preset(
                    font=index,
                    bank=self._lib.fluid_preset_get_banknum(item),
                    program=self._lib.fluid_preset_get_num(item),
                    name=self._lib.fluid_preset_get_name(item).decode("latin-1"),
                    source=self._sources[index],
                )
                found.append(preset)
        return sorted(found, key=lambda p: (p.font, p.bank, p.program))

    def _start(self, outputs: int) -> tuple[Any, list[int]]:
        """Return a new synth that holds the soundfonts, and their numbers in it."""
        for key, value in (
            ("synth.midi-channels", 16 * -(-outputs // 16)),
            ("synth.audio-channels", outputs),
            ("synth.audio-groups", outputs),
        ):
            self._lib.fluid_settings_setint(self._settings, key.encode(), value)
        synth = self._lib.new_fluid_synth(self._settings)
        return synth, [self._lib.fluid_synth_add_sfont(synth, font) for font in self._fonts]

    def _stop(self, synth: Any) -> None:
        for font in self._fonts:
            self._lib.fluid_synth_remove_sfont(synth, font)
        self._lib.delete_fluid_synth(synth)

    def _select(self, synth: Any, channel: int, identity: int, preset: Preset) -> None:
        lib = self._lib
        address = (identity, preset.bank, preset.program)
        key = (preset.font, preset.bank, preset.program)
        if key not in self._pinned:  # read a preset's samples once
            lib.fluid_synth_pin_preset(synth, *address)
            self._pinned.add(key)
        lib.fluid_synth_set_channel_type(synth, channel, int(preset.bank == DRUM_BANK))
        if lib.fluid_synth_program_select(synth, channel, *address) != 0:
            raise SoundfontError(f"the soundfont has no preset {preset.bank}:{preset.program}")
        lib.fluid_synth_pitch_wheel_sens(synth, channel, BEND_RANGE)

    def _shape(self, synth: Any, channel: int, timbre: Timbre) -> None:
        for generator, value in (
            (_RELEASE, -1200 * timbre.release),
            (_ATTACK, 1200 * timbre.attack),
            (_FILTER_CUTOFF, -1200 * timbre.cutoff),
            (_COARSE_TUNE, -timbre.size),
            (_FINE_TUNE, timbre.detune),
        ):
            if value:
                self._lib.fluid_synth_set_gen(synth, channel, generator, float(value))

    def render(
        self,
        tracks: Sequence[Track],
        presets: Sequence[Preset],
        seconds: float,
        channels: int = 2,
        timbres: Sequence[Timbre] | None = None,
        cuts: Sequence[float] = (),
    ) -> np.ndarray:
        """Play tracks from time 0, each on an output of its own.

        Parameters
        ----------
        tracks
            One or more tracks; each costs an output, so play a few at a time.
        presets
            One per track.
        seconds
            How long to play.
        channels
            2, or 1 for the mean of both sides.
        timbres
            Per track; as in the soundfont where None.
        cuts
            Times (seconds) at which everything that sounds is switched off.

        Returns
        -------
        array
            float32 [tracks, channels, samples], samples = round(seconds * rate).
        """
        lib = self._lib
        synth, identities = self._start(len(tracks))
        try:
            for channel, preset in enumerate(presets):
                self._select(synth, channel, identities[preset.font], preset)
                if timbres:
                    self._shape(synth, channel, timbres[channel])
            if timbres:
                tracks = [_moved(track, timbre.size) for track, timbre in zip(tracks, timbres)]
            samples = round(seconds * self.rate)
            total = -(-samples // BLOCK) * BLOCK
            sound = np.zeros((len(tracks), channels, total), np.float32)
            # FluidSynth adds to the buffers, so one buffer for both sides takes their sum.
            sides = sound if channels == 2 else np.broadcast_to(sound, (len(tracks), 2, total))
            outputs = np.array([[s.ctypes.data for s in side] for side in sides], np.uint64).ravel()
            position = 0
            for block, channel, kind, value, velocity in self._events(tracks, cuts, total // BLOCK):
                if block * BLOCK > position:
                    self._write(synth, outputs, position, block * BLOCK)
                    position = block * BLOCK
                if kind == _NOTE_ON:
                    lib.fluid_synth_noteon(synth, channel, value, velocity)
                elif kind == _NOTE_OFF:
                    lib.fluid_synth_noteoff(synth, channel, value)
                elif kind == _CUT:
                    lib.fluid_synth_all_sounds_off(synth, -1)
                else:
                    lib.fluid_synth_pitch_bend(synth, channel, value)
            self._write(synth, outputs, position, total)
        finally:
            self._stop(synth)
        if channels == 1:
            sound *= 0.5
        return sound[..., :samples]

    def _events(
        self, tracks: Sequence[Track], cuts: Sequence[float], blocks: int
    ) -> list[tuple[int, int, int, int, int]]:
        """Return (block, channel, kind, value, velocity) in order; offs before ons."""
        per_second = self.rate / BLOCK
        events = [(round(cut * per_second), 0, _CUT, 0, 0) for cut in cuts]
        for channel, track in enumerate(tracks):
            for note in track.notes:
                start = round(note.start * per_second)
                end = max(round(note.end * per_second), start + 1)
                events.append((start, channel, _NOTE_ON, note.pitch, note.velocity))
                events.append((end, channel, _NOTE_OFF, note.pitch, 0))
            for bend in track.bends:
                wheel = 8192 + round(8191 * min(max(bend.semitones / BEND_RANGE, -1), 1))
                events.append((round(bend.time * per_second), channel, _BEND, int(wheel), 0))
        events = [event for event in events if event[0] < blocks]
        return sorted(events, key=lambda event: (event[0], event[2], event[1], event[3]))

    def _write(self, synth: Any, outputs: np.ndarray, start: int, stop: int) -> None:
        """Compute the samples [start, stop) into buffers that begin at the addresses `outputs`."""
        if stop > start:
            here = outputs + np.uint64(4 * start)
            self._lib.fluid_synth_process(synth, stop - start, 0, None, len(here), here.ctypes.data)


def _moved(track: Track, semitones: int) -> Track:
    """Play higher keys, for samples that are tuned down by as much; drums keep their keys."""
    if track.stem == "drums" or not semitones:
        return track
    notes = (n._replace(pitch=min(max(n.pitch + semitones, 0), 127)) for n in track.notes)
    return replace(track, notes=tuple(notes))


_CUT, _NOTE_OFF, _BEND, _NOTE_ON = range(4)
