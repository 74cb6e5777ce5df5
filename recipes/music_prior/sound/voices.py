"""Voices: espeak-ng's speech, and its syllables sung to a melody, as a stand-in for singers.

A syllable is taken apart into a source and a filter; the filter is stretched to the note, and the
source is a new pulse train at the note's pitch, with glides and a vibrato.
"""

from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass

import numpy as np
import soundfile

from recipes.music_prior.songs.other_parts import SPEECH
from recipes.music_prior.songs.song import Note, SongError, Track

RATE = 22_050  # espeak-ng's own
_SIZE, _HOP, _LIFTER = 1024, 256, 56
LANGUAGES = (
    "en-us", "en-gb", "de", "fr-fr", "es", "it", "pt-br", "sv", "nl", "pl", "cs", "fi", "hu", "ro",
)  # fmt: skip
_VARIANTS = (
    *(f"f{n}" for n in range(1, 6)), *(f"m{n}" for n in range(1, 9)), "anika", "belinda", "linda",
    "steph", "steph2", "Alicia", "Annie", "Andrea", "grandma", "grandpa", "whisperf", "croak",
    "adam", "boris", "caleb", "ed", "Gene", "Hugo", "Lee", "Michael", "norbert", "paul", "rob",
    "victor", "zac",
)  # fmt: skip
_ONSETS = (
    "",
    "l",
    "m",
    "n",
    "d",
    "t",
    "b",
    "r",
    "s",
    "sh",
    "k",
    "g",
    "w",
    "h",
    "f",
    "v",
    "st",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u", "ee", "oo", "ay", "ow", "ah", "oh")
_CODAS = ("", "", "", "n", "m", "l", "s", "t")
_SYLLABLES = 20  # spoken per singer, then they come again
HELD_OUT_ONE_IN = 8  # variants of the voice kept for validation


class VoiceError(SongError):
    """espeak-ng is missing or does not speak."""


@dataclass(frozen=True)
class Voice:
    """Somebody: an espeak-ng voice, how high (0 to 99) and how fast (words a minute) they speak."""

    name: str
    pitch: int
    speed: int


def draw_voice(rng: np.random.Generator, split: str) -> Voice:
    """Draw a voice of a split."""
    held_out = _VARIANTS[3::HELD_OUT_ONE_IN]
    variants = held_out if split == "valid" else [v for v in _VARIANTS if v not in held_out]
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    variant = variants[int(rng.integers(len(variants)))]
    return Voice(f"{language}+{variant}", int(rng.integers(20, 80)), int(rng.integers(110, 200)))


def speak(text: str, voice: Voice, gap: int = 0) -> np.ndarray:
    """Speak a text: float32 [samples] at 22 050 Hz.

    Parameters
    ----------
    text
        What to say.
    voice
        Who says it.
    gap
        Pause between words, hundredths of a second.

    Raises
    ------
    VoiceError
        When espeak-ng is not installed or fails.
    """
    command = ["espeak-ng", "-v", voice.name, "-p", str(voice.pitch), "-s", str(voice.speed)]
    try:
        done = subprocess.run(
            [*command, "-g", str(gap), "--stdout", "--", text],
            capture_output=True,
            timeout=60,
            check=True,
        )
    except FileNotFoundError as error:
        raise VoiceError("voices need espeak-ng; run `apt-get install espeak-ng`") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise VoiceError(f"espeak-ng does not speak as {voice.name}: {error}") from error
    wave, rate = soundfile.read(io.BytesIO(_sized(done.stdout)), dtype="float32")
    if rate != RATE:
        raise VoiceError(f"espeak-ng speaks at {rate} Hz; {RATE} Hz is what its voices have")
    return wave


def _sized(wav: bytes) -> bytes:
    """Write the true length into the header of a WAV file that was written to a pipe."""
    if len(wav) < 44:
        return wav
    size = len(wav) - 44
    return (
        wav[:4]
        + (size + 36).to_bytes(4, "little")
        + wav[8:40]
        + size.to_bytes(4, "little")
        + wav[44:]
    )


def _words(rng: np.random.Generator, count: int, longest: int) -> list[str]:
    def syllable() -> str:
        parts = (_ONSETS, _VOWELS, _CODAS)
        return "".join(options[int(rng.integers(len(options)))] for options in parts)

    return ["".join(syllable() for _ in range(rng.integers(1, longest + 1))) for _ in range(count)]


def perform(
    track: Track, seconds: float, rate: int, rng: np.random.Generator, split: str
) -> np.ndarray:
    """Sing or speak a track: float32 [samples].

    Parameters
    ----------
    track
        One note at a time; with the role "speech" a note is the time of a phrase.
    seconds, rate
        How long, and the output's sampling rate in Hz.
    rng
        The random stream: decides who, and what.
    split
        "train" or "valid": they have no voice in common.
    """
    voice = draw_voice(rng, split)
    samples = round(seconds * RATE)
    if track.role == SPEECH:
        sound = _talk(track.notes, voice, samples, rng)
    else:
        syllables = _syllables(speak(" ".join(_words(rng, _SYLLABLES, 1)), voice, gap=18))
        sound = _sing(track.notes, syllables, samples, rng)
        for _ in range(int(rng.choice((0, 0, 1, 2)))):  # the singer again, or a second one
            sound += rng.uniform(0.3, 0.9) * _sing(track.notes, syllables, samples, rng)
    if rate != RATE:
        import soxr

        sound = soxr.resample(sound, RATE, rate)
    wanted = round(seconds * rate)
    return np.pad(sound[:wanted], (0, max(0, wanted - len(sound)))).astype(np.float32)


def _talk(
    notes: tuple[Note, ...], voice: Voice, samples: int, rng: np.random.Generator
) -> np.ndarray:
    sound = np.zeros(samples, np.float32)
    for note in notes:
        start, room = round(note.start * RATE), round((note.end - note.start) * RATE)
        if start >= samples:
            break
        phrase = speak(" ".join(_words(rng, max(1, int(3 * room / RATE)), 3)), voice)[:room]
        phrase = phrase[: samples - start]
        sound[start : start + len(phrase)] += phrase
    return sound


@dataclass(frozen=True)
class _Syllable:
    """Envelopes [frames, bins], which share of each frame is voiced, and where its vowel begins."""

    envelope: np.ndarray
    voiced: np.ndarray
    vowel: int


def _syllables(speech: np.ndarray) -> list[_Syllable]:
    """Cut words apart where there is silence, and take each apart."""
    hop = _HOP
    level = np.sqrt(np.mean(speech[: len(speech) // hop * hop].reshape(-1, hop) ** 2, axis=1))
    loud = level > 0.02 * max(level.max(initial=0.0), 1e-9)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    found: list[list[int]] = []
    for start, stop in zip(edges[::2], edges[1::2]):
        if found and start - found[-1][1] < 0.08 * RATE / hop:  # a stop within a word
            found[-1][1] = int(stop)
        else:
            found.append([int(start), int(stop)])
    parts = [speech[a * hop : b * hop] for a, b in found if (b - a) * hop > 0.1 * RATE]
    if not parts:
        raise VoiceError("espeak-ng said nothing that can be sung")
    return [_analyse(part) for part in parts]


def _frames(sound: np.ndarray) -> np.ndarray:
    padded = np.pad(sound, (_SIZE // 2, _SIZE))
    count = 1 + len(sound) // _HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, _SIZE)[::_HOP][:count]
    return np.fft.rfft(frames * np.hanning(_SIZE).astype(np.float32), axis=-1)


def _analyse(part: np.ndarray) -> _Syllable:
    power = np.abs(_frames(part)) ** 2 + 1e-8
    # The pitch of speech repeats at lags above the lifter: what is below is the vocal tract.
    cepstrum = np.fft.irfft(0.5 * np.log(power), axis=-1)
    cepstrum[:, _LIFTER:-_LIFTER] = 0
    envelope = np.exp(np.fft.rfft(cepstrum, axis=-1).real).astype(np.float32)
    repeats = np.fft.irfft(power, axis=-1)
    lags = slice(RATE // 400, RATE // 60)
    voiced = np.clip(2.5 * (repeats[:, lags].max(1) / repeats[:, 0]) - 0.5, 0, 1)
    level = envelope.mean(1)
    vowel = int(np.argmax(level > 0.6 * level.max()))
    return _Syllable(envelope, voiced.astype(np.float32), vowel)


def _sing(
    notes: tuple[Note, ...],
    syllables: list[_Syllable],
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sing notes, a syllable each: float32 [samples]."""
    frames = 1 + samples // _HOP
    envelope = np.zeros((frames, _SIZE // 2 + 1), np.float32)
    voiced = np.zeros(frames, np.float32)
    pitch = np.zeros(frames)
    first = int(rng.integers(len(syllables)))
    depth, speed = rng.uniform(0.0, 0.5), rng.uniform(4.5, 6.5)
    tune = rng.normal(0, 0.06)
    for number, note in enumerate(notes):
        start, stop = round(note.start * RATE / _HOP), round(note.end * RATE / _HOP)
        stop = min(stop, frames)
        if stop - start < 3:
            continue
        syllable = syllables[(first + number) % len(syllables)]
        time = np.arange(stop - start)
        # Consonants keep their pace, the vowel is held, what follows it comes at the end.
        length, vowel = len(syllable.envelope), min(syllable.vowel, len(time) // 2)
        held = vowel + (time - vowel) * (length - 1 - vowel) / max(len(time) - 1 - vowel, 1)
        where = np.rint(np.where(time < vowel, time, held)).astype(int).clip(0, length - 1)
        gain = (note.velocity / 100) ** 2 * np.minimum(1, (len(time) - time) / 4)
        envelope[start:stop] = syllable.envelope[where] * gain[:, None]
        voiced[start:stop] = syllable.voiced[where]
        seconds = time * _HOP / RATE
        wave = depth * np.sin(2 * np.pi * speed * seconds) * np.clip((seconds - 0.2) / 0.3, 0, 1)
        pitch[start:stop] = note.pitch + tune + rng.normal(0, 0.05) + wave
    pitch = _glide(pitch, rng.uniform(0.2, 0.6))
    source = _pulses(440 * 2 ** ((pitch - 69) / 12), samples, rng)
    noise = rng.standard_normal(samples).astype(np.float32)
    mixed = voiced[:, None] * _frames(source) + (1.1 - voiced[:, None]) * 0.7 * _frames(noise)
    return _overlap(mixed * envelope, samples)


def _glide(pitch: np.ndarray, pace: float) -> np.ndarray:
    """Move from note to note by the share `pace` of what is left each frame; hold through rests."""
    gliding = np.empty_like(pitch)
    sounding = pitch[pitch > 0]
    now = sounding[0] if len(sounding) else 60.0
    for index, wanted in enumerate(pitch):
        if wanted > 0:
            now += pace * (wanted - now)
        gliding[index] = now
    return gliding


def _pulses(frequency: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return one pulse per period, shared between the two samples next to it: float32 [samples]."""
    jitter = 1 + 0.004 * rng.standard_normal(len(frequency))
    cycles = np.interp(np.arange(samples), np.arange(len(frequency)) * _HOP, frequency * jitter)
    phase = np.cumsum(cycles / RATE)
    struck = np.flatnonzero(np.floor(phase[1:]) > np.floor(phase[:-1])) + 1
    late = (phase[struck] - np.floor(phase[struck])) / (cycles[struck] / RATE)
    height = np.sqrt(RATE / cycles[struck])  # the power of white noise, whatever the pitch
    source = np.zeros(samples, np.float32)
    source[struck] += height * (1 - late)
    source[struck - 1] += height * late
    return source


def _overlap(spectra: np.ndarray, samples: int) -> np.ndarray:
    """Add up frames: float32 [samples]; the inverse of `_frames` for unchanged spectra."""
    window = np.hanning(_SIZE).astype(np.float32)
    frames = np.fft.irfft(spectra, _SIZE, axis=-1).astype(np.float32) * window
    sound = np.zeros(_SIZE + _HOP * len(frames) + _SIZE, np.float32)
    for phase in range(_SIZE // _HOP):  # frames that do not overlap can be laid side by side
        chosen = frames[phase :: _SIZE // _HOP]
        row = chosen.reshape(-1)
        sound[phase * _HOP : phase * _HOP + len(row)] += row
    return sound[_SIZE // 2 : _SIZE // 2 + samples] / np.float32(1.5)
