"""A small data set in exactly the raw layout of Slakh2100, for tests.

Four short tracks: ``Track00001`` is complete and has residual instruments; ``Track00002`` has no
guitar; ``Track00003`` has a piano stem without audio beside one with; ``Track00004`` is in another
split. All files are mono, 44.1 kHz, 16-bit.
"""

import struct
from pathlib import Path

import numpy as np
import soundfile
import yaml

RATE = 44_100

# name: program, drum?, name of the program
BASS = (33, False, "Electric Bass (finger)")
DRUMS = (128, True, "Drums")
GUITAR = (27, False, "Electric Guitar (clean)")
PIANO = (0, False, "Acoustic Grand Piano")
STRINGS = (48, False, "String Ensemble 1")
CLASS = {"Bass": BASS, "Drums": DRUMS, "Guitar": GUITAR, "Piano": PIANO, "Strings": STRINGS}

TRACKS = {
    "test/Track00001": (5.0, ["Bass", "Drums", "Guitar", "Piano", "Strings", "Guitar"], []),
    "test/Track00002": (3.0, ["Bass", "Drums", "Piano", "Strings"], []),
    "test/Track00003": (4.5, ["Bass", "Drums", "Guitar", "Piano", "Piano"], ["S04"]),
    "train/Track00004": (2.6, ["Bass", "Drums", "Guitar", "Piano"], []),
}


def write_fake_slakh(root: Path, tracks=TRACKS, seed: int = 0) -> Path:
    """Write the data set under ``root`` and return it."""
    for index, (key, (seconds, instruments, silent)) in enumerate(tracks.items()):
        rng = np.random.default_rng([seed, index])
        _write_track(root / key, seconds, instruments, silent, rng)
    return root


def _write_track(folder, seconds, instruments, without_audio, rng):
    (folder / "stems").mkdir(parents=True)
    (folder / "MIDI").mkdir()
    n = round(seconds * RATE)
    facts, mix = {}, np.zeros(n)
    for i, instrument in enumerate(instruments):
        name = f"S{i:02d}"
        program, is_drum, program_name = CLASS[instrument]
        rendered = name not in without_audio
        facts[name] = {
            "audio_rendered": rendered,
            "inst_class": instrument,
            "integrated_loudness": -20.0 if rendered else -np.inf,
            "is_drum": is_drum,
            "midi_program_name": program_name,
            "midi_saved": True,
            "plugin_name": "generated",
            "program_num": program,
        }
        (folder / "MIDI" / f"{name}.mid").write_bytes(_midi(program, is_drum))
        if rendered:
            samples = quantised(_sound(instrument, n, rng))
            mix += samples
            soundfile.write(folder / "stems" / f"{name}.flac", samples, RATE, subtype="PCM_16")
    soundfile.write(folder / "mix.flac", quantised(mix), RATE, subtype="PCM_16")
    (folder / "all_src.mid").write_bytes(_midi(0, False))
    (folder / "metadata.yaml").write_text(
        yaml.safe_dump(
            {
                "UUID": f"{rng.integers(2**32):08x}",
                "audio_dir": "stems",
                "lmd_midi_dir": "lmd_matched/X",
                "midi_dir": "MIDI",
                "normalization_factor": -13.0,
                "normalized": True,
                "overall_gain": 0.18,
                "stems": facts,
                "target_peak": -1.0,
            }
        )
    )


def quantised(samples):
    """What a 16-bit file holds of these samples."""
    return np.clip(np.round(samples * 32768), -32768, 32767) / 32768


def _sound(instrument, n, rng):
    t = np.arange(n) / RATE
    beat = t % 0.5
    if instrument == "Drums":
        return 0.1 * rng.standard_normal(n) * np.exp(-12 * beat)
    pitch = {"Bass": 55.0, "Guitar": 330.0, "Piano": 880.0, "Strings": 1900.0}[instrument]
    pitch *= 2 ** (rng.integers(-3, 4) / 12)
    tone = sum(np.sin(2 * np.pi * pitch * k * t + rng.uniform(0, 6)) / k**2 for k in (1, 2, 3))
    sound = 0.08 * tone * np.exp(-2 * beat)
    if instrument in ("Guitar", "Piano"):  # rests, so that windows and frames differ
        sound *= (t // 1.5).astype(int) % 2 == (instrument == "Piano")
    return sound


def _midi(program, is_drum):
    """A Standard MIDI File with one note."""
    channel = 9 if is_drum else 0
    change = b"" if is_drum else bytes([0, 0xC0 | channel, program])
    note = bytes([0, 0x90 | channel, 60, 100, 96, 0x80 | channel, 60, 0])
    track = change + note + b"\x00\xff\x2f\x00"
    return (
        b"MThd"
        + struct.pack(">IHHH", 6, 0, 1, 96)
        + b"MTrk"
        + struct.pack(">I", len(track))
        + track
    )
