"""Write sampled instruments as a SoundFont 2 file, which FluidSynth plays.

The layout is that of the SoundFont Technical Specification 2.01, sections 5 to 8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from recipes.music_prior.sound.sfz import Region, SfzError

LONGEST = 10.0  # seconds of a sample that is not looped
GUARD = 46  # silent samples after each, as the specification asks for
# FluidSynth turns only this share of an instrument's attenuation into dB, as old hardware did.
_ATTENUATION_SCALE = 0.4
_KEYS, _VELOCITIES, _ATTENUATION, _SAMPLE, _MODES = 43, 44, 48, 53, 54
_COARSE, _FINE, _SCALE, _CHOKE, _ROOT, _ATTACK, _RELEASE = 51, 52, 56, 57, 58, 34, 38
_INSTRUMENT = 41


@dataclass(frozen=True)
class Instrument:
    """A name, an address, and what sounds there."""

    name: str
    bank: int
    program: int
    regions: Sequence[Region]


def write_sf2(path: Path, instruments: Sequence[Instrument]) -> None:
    """Write instruments into one .sf2 file; samples are folded to mono.

    Raises
    ------
    SfzError
        When a sample cannot be read.
    """
    samples = list(dict.fromkeys(_cut(r) for i in instruments for r in i.regions))
    waves = {sample: _read(*sample) for sample in samples}
    peak = max(float(np.abs(wave).max(initial=0.0)) for wave, _ in waves.values())
    loudest = max(region.volume for i in instruments for region in i.regions)
    sound, headers, starts, position = [], [], {}, 0
    for number, sample in enumerate(samples):
        wave, rate = waves[sample]
        whole = np.rint(wave * (32_000 / max(peak, 1e-6))).astype("<i2")
        loop = [edge - sample[1] for edge in sample[3] or (0, 0)]
        stop = position + len(whole)
        first, last = (position + min(max(edge, 0), len(whole) - 1) for edge in loop)
        headers.append(
            struct.pack(
                "<20sIIIIIBbHH",
                f"s{number}".encode(),
                position,
                stop,
                first,
                last,
                rate,
                60,
                0,
                0,
                1,
            )
        )
        starts[sample] = number
        sound += [whole, np.zeros(GUARD, "<i2")]
        position = stop + GUARD
    headers.append(struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0))

    phdr, pbag, pgen = b"", b"", b""
    inst, ibag, imod, igen = b"", b"", b"", b""
    zones = modulators = generators = 0
    for number, instrument in enumerate(instruments):
        name = instrument.name.encode("ascii", "replace")[:19]
        phdr += struct.pack(
            "<20sHHHIII", name, instrument.program, instrument.bank, number, 0, 0, 0
        )
        pbag += struct.pack("<HH", number, 0)
        pgen += struct.pack("<HH", _INSTRUMENT, number)
        inst += struct.pack("<20sH", name, zones)
        for region in instrument.regions:
            ibag += struct.pack("<HH", generators, modulators)
            zone = _generators(region, starts[_cut(region)], loudest)
            igen += b"".join(zone)
            generators += len(zone)
            # In place of the default: velocity, falling and concave, onto attenuation.
            amount = round(960 * min(max(region.velocity_tracking, 0.0), 1.0))
            imod += struct.pack("<HHhHH", 0x0502, _ATTENUATION, amount, 0, 0)
            zones += 1
            modulators += 1
    count = len(instruments)
    phdr += struct.pack("<20sHHHIII", b"EOP", 0, 0, count, 0, 0, 0)
    pbag += struct.pack("<HH", count, 0)
    pgen += struct.pack("<HH", 0, 0)
    inst += struct.pack("<20sH", b"EOI", zones)
    ibag += struct.pack("<HH", generators, modulators)
    igen += struct.pack("<HH", 0, 0)
    imod += struct.pack("<HHhHH", 0, 0, 0, 0, 0)
    pmod = struct.pack("<HHhHH", 0, 0, 0, 0, 0)
    tables = (
        (b"phdr", phdr), (b"pbag", pbag), (b"pmod", pmod), (b"pgen", pgen), (b"inst", inst),
        (b"ibag", ibag), (b"imod", imod), (b"igen", igen), (b"shdr", b"".join(headers)),
    )  # fmt: skip
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0")
    info += chunk(b"INAM", b"sfz\0")
    body = b"sfbk" + chunk_list(b"INFO", info)
    body += chunk_list(b"sdta", chunk(b"smpl", np.concatenate(sound).tobytes()))
    body += chunk_list(b"pdta", b"".join(chunk(*table) for table in tables))
    path.write_bytes(chunk(b"RIFF", body))


_Cut = tuple[Path, int, int | None, tuple[int, int] | None]


def _cut(region: Region) -> _Cut:
    return region.sample, *region.part, region.loop


def _read(path: Path, start: int, stop: int | None, loop: tuple[int, int] | None):
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True, start=start, stop=stop)
    except (OSError, RuntimeError) as error:
        raise SfzError(f"the sample {path} cannot be read: {error}") from error
    mono = wave.mean(1)
    longest = round(LONGEST * rate)
    if loop is None and len(mono) > longest:
        mono = mono[:longest]
        fade = min(rate // 4, longest)
        mono[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return mono, rate


def _generators(region: Region, sample: int, loudest: float) -> list[bytes]:
    def signed(operator: int, value: float) -> bytes:
        return struct.pack("<Hh", operator, round(value))

    def span(operator: int, ends: tuple[int, int]) -> bytes:
        return struct.pack("<HBB", operator, *ends)

    def envelope(operator: int, seconds: float) -> bytes:
        return signed(operator, 1200 * np.log2(min(max(seconds, 0.001), 20)))

    coarse = round(region.cents / 100)
    quieter = min(10 * (loudest - region.volume) / _ATTENUATION_SCALE, 1440)
    # The ranges come first and the sample last, by the specification.
    return [
        span(_KEYS, region.keys),
        span(_VELOCITIES, region.velocities),
        signed(_ATTENUATION, quieter),
        signed(_COARSE, coarse),
        signed(_FINE, region.cents - 100 * coarse),
        signed(_SCALE, 100 * region.key_tracking),
        signed(_CHOKE, min(region.choke, 127)),
        signed(_ROOT, region.centre),
        envelope(_ATTACK, region.attack),
        envelope(_RELEASE, region.release),
        signed(_MODES, 1 if region.loop else 0),
        struct.pack("<HH", _SAMPLE, sample),
    ]


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a RIFF chunk."""
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def chunk_list(name: bytes, data: bytes) -> bytes:
    """Return a RIFF list of chunks."""
    return chunk(b"LIST", name + data)
