"""Songs from MIDI files: a parser, General MIDI programs as stems, and augmentation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.music_prior.songs.song import (
    DRUM_CHANNEL,
    OTHER,
    STEMS,
    Bend,
    Note,
    Song,
    SongError,
    Track,
    change_tempo,
    stem_of,
    transpose,
)

# About one file in this many is kept for validation.
HELD_OUT_ONE_IN = 10
LONGEST = 1200.0  # seconds; a longer "song" is a broken clock, not music
# Programs that can stand in for a stem a song lacks, as an arranger would do.
STAND_INS = {
    "piano": (*range(8, 24), *range(40, 56), *range(88, 96)),
    "guitar": (*range(80, 88), *range(40, 48), *range(56, 80), *range(104, 108)),
}


class MidiError(SongError):
    """A MIDI file that cannot be parsed, or that holds no music."""


def scan(folder: str | Path) -> list[Path]:
    """Return the MIDI files below a folder, in a fixed order.

    Raises
    ------
    MidiError
        When there is no such folder or it holds no .mid or .midi file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MidiError(f"--midi-dir must be a folder of MIDI files; there is no folder {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
    if not files:
        raise MidiError(f"no .mid or .midi file in {folder} or below it")
    return files


def is_held_out(path: Path) -> bool:
    """Say whether a file is kept for validation: by a hash of its name."""
    return hashlib.sha256(path.name.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def split_files(files: list[Path], split: str) -> list[Path]:
    """Return the files of a split, "train" or "valid"."""
    return [path for path in files if is_held_out(path) == (split == "valid")]


def load_song(path: str | Path) -> Song | None:
    """Read a MIDI file.

    Parameters
    ----------
    path
        A standard MIDI file.

    Returns
    -------
    Song or None
        All tracks, those of other instruments too (their stem is the one they can stand in for,
        with the role "stand-in", or else "other"); None when no note belongs to any of the four
        stems.

    Raises
    ------
    MidiError
        When the file cannot be parsed.
    """
    import mido

    path = Path(path)
    try:
        midi = mido.MidiFile(path, clip=True)
        if midi.ticks_per_beat <= 0:
            raise ValueError("its clock counts film frames, not beats")
        parts, bends, duration = _play(midi)
    except Exception as error:  # mido raises whatever its parser stumbles over
        reason = str(error) or type(error).__name__
        raise MidiError(f"{path} cannot be parsed as a MIDI file: {reason}") from error
    if duration > LONGEST:
        raise MidiError(f"{path} lasts {duration:.0f} s; songs must last at most {LONGEST:.0f} s")
    tracks = []
    for (channel, program), notes in sorted(parts.items()):
        stem = stem_of(program, is_drum=channel == DRUM_CHANNEL)
        role = ""
        if stem is None:
            able = (s for s, programs in STAND_INS.items() if program in programs)
            stem = next(able, OTHER)
            role = "" if stem == OTHER else "stand-in"
        tracks.append(
            Track(
                stem=stem,
                program=program,
                notes=tuple(sorted(notes, key=lambda n: (n.start, n.pitch))),
                bends=tuple(bends.get(channel, ())) if stem != "drums" else (),
                role=role,
            )
        )
    if not any(track.role != "stand-in" and track.stem != OTHER for track in tracks):
        return None
    return Song(path.stem, tuple(tracks), duration)


class _Channel:
    """The controllers of one MIDI channel while a file plays."""

    def __init__(self) -> None:
        self.program = 0
        self.volume = self.expression = 127
        self.pedal = False
        self.parameter = [127, 127]  # registered parameter number: none
        self.bend_range = 2.0

    def control(self, number: int, value: int) -> None:
        if number == 7:
            self.volume = value
        elif number == 11:
            self.expression = value
        elif number in (100, 101):
            self.parameter[number - 100] = value
        elif number == 6 and self.parameter == [0, 0]:
            self.bend_range = float(min(value, 24))

    def loudness(self) -> float:
        """Return the factor on velocities: a soundfont's gain goes with their square."""
        return (self.volume * self.expression) / 127**2


class _Recorder:
    """Collects notes by (channel, program) and bends by channel."""

    def __init__(self) -> None:
        self.channels = [_Channel() for _ in range(16)]
        self.sounding: dict[tuple[int, int], tuple[float, int, int]] = {}
        self.held: dict[tuple[int, int], None] = {}  # released, but the pedal is down
        self.parts: dict[tuple[int, int], list[Note]] = {}
        self.bends: dict[int, list[Bend]] = {}
        self.now = 0.0

    def receive(self, message) -> None:
        channel = self.channels[message.channel]
        if message.type == "note_on" and message.velocity > 0:
            key = (message.channel, message.note)
            self.end(key)
            velocity = int(min(max(message.velocity * channel.loudness() ** 0.5, 1), 127))
            self.sounding[key] = (self.now, velocity, channel.program)
        elif message.type in ("note_off", "note_on"):
            key = (message.channel, message.note)
            if channel.pedal and message.channel != DRUM_CHANNEL:
                self.held[key] = None
            else:
                self.end(key)
        elif message.type == "program_change":
            channel.program = message.program
        elif message.type == "pitchwheel":
            bend = Bend(self.now, message.pitch / 8192 * channel.bend_range)
            self.bends.setdefault(message.channel, []).append(bend)
        elif message.type == "control_change" and message.control == 64:
            channel.pedal = message.value >= 64
            if not channel.pedal:
                for key in [key for key in self.held if key[0] == message.channel]:
                    self.end(key)
        elif message.type == "control_change":
            channel.control(message.control, message.value)

    def end(self, key: tuple[int, int]) -> None:
        self.held.pop(key, None)
        if key not in self.sounding:
            return
        start, velocity, program = self.sounding.pop(key)
        if self.now > start:
            note = Note(start, self.now, key[1], velocity)
            self.parts.setdefault((key[0], program), []).append(note)


def _play(midi):
    """Return notes by (channel, program), bends by channel, and the duration in seconds.

    mido's own iterator copies every message, which takes longer than all the rest.
    """
    messages = []
    for track in midi.tracks:
        tick = 0
        for message in track:
            tick += message.time
            messages.append((tick, len(messages), message))
    recorder = _Recorder()
    per_tick, before = 0.5 / midi.ticks_per_beat, 0
    for tick, _, message in sorted(messages):
        recorder.now += (tick - before) * per_tick
        before = tick
        if message.type == "set_tempo":
            per_tick = message.tempo * 1e-6 / midi.ticks_per_beat
        elif not message.is_meta and hasattr(message, "channel"):
            recorder.receive(message)
    for key in list(recorder.sounding):
        recorder.end(key)
    return recorder.parts, recorder.bends, recorder.now


def augment(song: Song, rng: np.random.Generator, stems: tuple[str, ...] = STEMS) -> Song:
    """Vary a song: other instruments stand in for absent stems, another key, another tempo.

    Parameters
    ----------
    song
        As `load_song` reads it.
    rng
        The random stream; the song and the stream's state decide the result.
    stems
        `STEMS`, or `FIVE_STEMS`: then what stands in for nothing plays in the stem "other".

    Returns
    -------
    Song
        Only tracks of these stems; transposed by -5..6 semitones, 0.8 to 1.25 times as fast.
    """
    present = {track.stem for track in song.tracks if track.role != "stand-in"}
    tracks = []
    for track in song.tracks:
        if track.role != "stand-in":
            tracks.append(track)
        elif track.stem not in present and rng.random() < 0.8:
            tracks.append(replace(track, program=_program_for(track.stem, rng), role=""))
        else:
            tracks.append(replace(track, stem=OTHER, role=""))
    tracks = [track for track in tracks if track.stem in stems]
    song = replace(song, tracks=tuple(tracks))
    song = transpose(song, int(rng.integers(-5, 7)))
    return change_tempo(song, float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))))


def _program_for(stem: str, rng: np.random.Generator) -> int:
    assert stem in STEMS
    return int(rng.integers(0, 8) if stem == "piano" else rng.integers(24, 32))
