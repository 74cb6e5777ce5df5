"""Read .sfz instruments: which sample sounds at which key and velocity, how tuned and how loud.

The common opcodes of the format (sfzformat.com): sample, key, lokey, hikey, pitch_keycenter, lovel,
hivel, seq_length, seq_position, lorand, hirand, volume, amplitude, tune, transpose, pitch_keytrack,
amp_veltrack, ampeg_attack, ampeg_release, loop_mode, loop_start, loop_end, offset, end, group,
off_by, trigger and sw_last; the headers control (default_path, note_offset, octave_offset), global,
master, group and region; #include, #define and comments. Others are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.music_prior.songs.song import SongError

MOST_VARIANTS = 4  # of a round robin
_LEVELS = ("global", "master", "group", "region")
_OPCODE = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)")
_TOKEN = re.compile(r"<(\w+)>([^<]*)")
_KEY = re.compile(r"([a-g])([#b]?)(-?\d+)", re.IGNORECASE)
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


class SfzError(SongError):
    """An .sfz file that cannot be read or holds nothing that can be played."""


class MissingSampleError(SfzError):
    """An instrument names a sample that is not beside it."""


@dataclass(frozen=True)
class Region:
    """One sample and where it sounds.

    Attributes
    ----------
    sample
        The sound file.
    keys, velocities
        First and last MIDI key and velocity.
    centre
        The key at which the sample sounds as it was recorded.
    cents
        How far it is tuned up from there.
    volume
        dB.
    key_tracking, velocity_tracking
        0 to 1: how far pitch follows the key, and loudness the velocity.
    attack, release
        Seconds.
    loop
        First and last sample of the loop, or none.
    part
        First sample, and the one after the last where that is not the end of the file.
    choke
        Number of the group in which a note ends the one before, or 0.
    turn, turns
        Which of how many strokes in a row it plays, from 0.
    """

    sample: Path
    keys: tuple[int, int]
    velocities: tuple[int, int] = (1, 127)
    centre: int = 60
    cents: float = 0.0
    volume: float = 0.0
    key_tracking: float = 1.0
    velocity_tracking: float = 1.0
    attack: float = 0.0
    release: float = 0.0
    loop: tuple[int, int] | None = None
    part: tuple[int, int | None] = (0, None)
    choke: int = 0
    turn: int = 0
    turns: int = 1


def key_number(text: str, path: Path) -> int:
    """Return a key given by its number or its name: c4 is 60."""
    try:
        return int(text)
    except ValueError:
        found = _KEY.fullmatch(text.strip())
    if found is None:
        raise SfzError(f"{path}: a key must be a number or a name as c4, eb3, f#5; got {text!r}")
    name, sign, octave = found.groups()
    return _STEPS[name.lower()] + {"": 0, "#": 1, "b": -1}[sign] + 12 * (int(octave) + 1)


def read_sfz(path: Path) -> list[Region]:
    """Read an .sfz file.

    Raises
    ------
    SfzError
        When it or what it includes cannot be read, a value is no number, a sample does not exist,
        or no region is left.
    """
    scopes: dict[str, dict[str, str]] = {level: {} for level in _LEVELS}
    control: dict[str, str] = {}
    regions = []
    for header, opcodes in _sections(path):
        if header == "control":
            control.update(opcodes)
        if header not in _LEVELS:
            continue
        level = _LEVELS.index(header)
        for inner in _LEVELS[level:]:
            scopes[inner] = {}
        scopes[header] = opcodes
        if header == "region":
            merged = {k: v for scope in _LEVELS for k, v in scopes[scope].items()}
            region = _region(merged, control, path)
            if region is not None:
                regions.append(region)
    if not regions:
        raise SfzError(f"{path} holds no region with a sample that a struck key plays")
    return regions


def variants(regions: list[Region]) -> list[list[Region]]:
    """Return the instrument as it plays the first stroke, the second, ...: at most four times."""
    count = min(max(region.turns for region in regions), MOST_VARIANTS)
    return [[r for r in regions if turn % r.turns == r.turn] for turn in range(count)]


def _sections(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    text = _expanded(path, {}, 0)
    for header, body in _TOKEN.findall(text):
        opcodes: dict[str, str] = {}
        for line in body.splitlines():
            opcodes.update({name.lower(): value.strip() for name, value in _OPCODE.findall(line)})
        yield header.lower(), opcodes


def _expanded(path: Path, names: dict[str, str], depth: int) -> str:
    """Return the text with comments removed, inclusions put in and names replaced."""
    if depth > 8:
        raise SfzError(f"{path}: files include each other more than 8 deep")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SfzError(f"{path} cannot be read: {error.strerror}") from error
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    lines = []
    for line in text.splitlines():
        line = re.sub(r"(?<!:)//.*", "", line)
        defined = re.match(r"\s*#define\s+(\$\w+)\s+(\S+)", line)
        included = re.match(r"\s*#include\s+\"([^\"]+)\"", line)
        if defined:
            names[defined.group(1)] = defined.group(2)
            continue
        if included:
            inner = path.parent / included.group(1).replace("\\", "/")
            lines.append(_expanded(inner, names, depth + 1))
            continue
        for name in sorted(names, key=len, reverse=True):
            line = line.replace(name, names[name])
        lines.append(line)
    return "\n".join(lines)


def _region(opcodes: dict[str, str], control: dict[str, str], path: Path) -> Region | None:
    """Return a region, or None where it is not what a struck key plays."""

    def number(name: str, default: float, *aliases: str) -> float:
        for found in (name, *aliases):
            if found in opcodes:
                try:
                    return float(opcodes[found])
                except ValueError:
                    value = opcodes[found]
                    raise SfzError(f"{path}: {found} must be a number; got {value!r}") from None
        return default

    def key(name: str, default: int) -> int:
        return key_number(opcodes[name], path) + shift if name in opcodes else default

    shift = int(float(control.get("note_offset", 0)) + 12 * float(control.get("octave_offset", 0)))
    struck = opcodes.get("trigger", "attack") in ("attack", "first")
    switched = "sw_last" in opcodes and opcodes["sw_last"] != opcodes.get("sw_default")
    controlled = any(name.startswith(("on_locc", "on_hicc")) for name in opcodes)
    sample = opcodes.get("sample", "")
    if not struck or switched or controlled or not sample or sample.startswith("*"):
        return None
    file = path.parent / (control.get("default_path", "") + sample).replace("\\", "/")
    if not file.is_file():
        raise MissingSampleError(f"{path}: there is no sample {file}")
    only = key("key", -1)
    low, high = (only, only) if only >= 0 else (0, 127)
    keys = max(key("lokey", low), 0), min(key("hikey", high), 127)
    if keys[0] > keys[1]:
        return None
    turns = max(1, int(number("seq_length", 1)))
    turn = int(number("seq_position", 1)) - 1
    least, most = number("lorand", 0.0), number("hirand", 1.0)
    if turns == 1 and most - least < 0.999:
        turns = max(1, round(1 / max(most - least, 0.01)))
        turn = round(least * turns)
    amplitude = max(number("amplitude", 100.0) / 100, 1e-3)
    looped = opcodes.get("loop_mode", opcodes.get("loopmode", "")).startswith(
        ("loop_continuous", "loop_sustain")
    )
    ends = number("loop_start", 0, "loopstart"), number("loop_end", 0, "loopend")
    last = int(number("end", 0))
    group = int(number("group", 0))
    return Region(
        sample=file,
        keys=keys,
        velocities=(max(int(number("lovel", 1)), 1), min(int(number("hivel", 127)), 127)),
        centre=key("pitch_keycenter", only if only >= 0 else 60),
        cents=number("tune", 0.0, "pitch") + 100 * number("transpose", 0.0),
        volume=number("volume", 0.0)
        + number("group_volume", 0.0)
        + 20 * float(np.log10(amplitude)),
        key_tracking=number("pitch_keytrack", 100.0) / 100,
        velocity_tracking=number("amp_veltrack", 100.0) / 100,
        attack=number("ampeg_attack", 0.0),
        release=number("ampeg_release", 0.0),
        loop=(int(ends[0]), int(ends[1])) if looped and ends[1] > ends[0] else None,
        part=(int(number("offset", 0)), last + 1 if last > 0 else None),
        choke=group if group and int(number("off_by", 0)) == group else 0,
        turn=turn % turns,
        turns=turns,
    )
