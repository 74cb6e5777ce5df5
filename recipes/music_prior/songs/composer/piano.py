"""Piano parts: block chords, comping, arpeggios, ballad figures, stride, montunos, melodies."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.melody import melody
from recipes.music_prior.songs.composer.score import Event, Section
from recipes.music_prior.songs.composer.theory import Chord, nearest, voicing

ROLES = (
    "block", "comp", "arpeggio", "ballad", "stab", "montuno", "melody", "pad", "octaves",
    "stride", "boogie", "alberti", "rolled", "charleston",
)  # fmt: skip
# Roles whose left hand has a figure of its own, or none.
_OWN_LEFT = ("montuno", "octaves", "stride", "boogie", "alberti", "rolled")


class _Part:
    """A piano part under construction: what the chords of one section share."""

    def __init__(self, rng: np.random.Generator, section: Section) -> None:
        self.rng, self.section = rng, section
        self.velocity = 62 + 36 * section.energy
        self.centre = float(rng.uniform(56, 70))
        self.count = int(rng.choice((3, 3, 4, 5)))
        self.left = rng.random() < 0.55
        self.bar = section.metre.steps
        self.mask = rng.random(self.bar) < rng.uniform(0.25, 0.5)
        self.mask[0] |= rng.random() < 0.7
        self.order = rng.permutation(4)
        self.events: list[Event] = []

    def add(self, at: float, length: float, keys, force: float = 1.0) -> None:
        for pitch in keys:
            loudness = self.velocity * force + self.rng.normal(0, 4)
            self.events.append(Event(at, length, int(pitch), loudness))


def play(rng: np.random.Generator, section: Section, role: str, scale: str) -> list[Event]:
    """Play a section in one role of `ROLES`."""
    part = _Part(rng, section)
    if role == "melody" and not section.hits:
        part.events, _ = melody(rng, section, section.key, scale, 62, 91, part.velocity + 8)
    for bar in section.bars:
        for offset, length, harmony in bar.chords:
            if section.hits:
                hand = voicing(harmony, part.centre, part.count)
                for step in section.hits:
                    if offset <= step < offset + length:
                        low = nearest(harmony.root, 40)
                        part.add(bar.start + step, 1.6, [low, *hand], 1.1)
                continue
            start = bar.start + offset
            if part.left and role not in _OWN_LEFT:
                _left_hand(part, role, start, length, harmony)
            if role in _OWN_LEFT:
                _two_hands(part, role, start, length, harmony)
            else:
                _right_hand(part, role, start, offset, length, harmony)
    return part.events


def _left_hand(part: _Part, role: str, start: int, length: int, harmony: Chord) -> None:
    low = nearest(harmony.root, 40)
    if role in ("arpeggio", "ballad"):
        part.add(start, length, [low], 0.9)
        if length >= 8:
            part.add(start + 4, length - 4, [low + 7], 0.75)
    else:
        part.add(start, length * 0.95, [low, low + 12] if part.section.energy > 0.6 else [low])


def _right_hand(
    part: _Part, role: str, start: int, offset: int, length: int, harmony: Chord
) -> None:
    add = part.add
    hand = voicing(harmony, part.centre, part.count)
    if role == "block":
        spacing = 4 if part.mask[1] else 8
        for step in range(0, length, spacing):
            add(start + step, 0.95 * spacing, hand, 1.0 if step == 0 else 0.85)
    elif role == "comp":
        on = [step for step in range(length) if part.mask[(offset + step) % part.bar]] or [0]
        for number, step in enumerate(on):
            stop = on[number + 1] if number + 1 < len(on) else length
            add(start + step, min(stop - step, 4) * 0.9, hand, 0.95)
    elif role == "charleston":
        for step in (0, 6):
            if step < length:
                add(start + step, 2.4 if step else 3.0, hand, 0.95)
    elif role == "arpeggio":
        tones = voicing(harmony, part.centre + 3, 4)
        for number, step in enumerate(range(0, length, 2 if part.mask[2] else 1)):
            add(start + step, 3.0, [tones[part.order[number % 4]]], 0.9)
    elif role == "ballad":
        for step in range(0, length, 2):
            strong = step % 4 == 0
            add(start + step, 2.2, hand[-2:] if strong else hand[:1], 0.95 if strong else 0.75)
    elif role == "stab":
        for step in range(2, length, 4):
            add(start + step, 1.0, hand, 0.95)
    elif role == "melody":
        add(start, length * 0.98, voicing(harmony, 54, 3), 0.75)
    else:  # pad
        add(start, length, hand, 0.8)


def _two_hands(part: _Part, role: str, start: int, length: int, harmony: Chord) -> None:
    add, low = part.add, nearest(harmony.root, 41)
    hand = voicing(harmony, part.centre, 3)
    if role == "montuno":
        for step in (0, 3, 4, 6, 7, 10, 11, 13, 14):
            if step < length:
                tone = hand[int(part.order[step % 4]) % len(hand)]
                add(start + step, 1.4, [tone, tone + 12] if step % 2 == 0 else [tone])
    elif role == "octaves":
        for step in range(0, length, 2):
            add(start + step, 1.8, [low + 12, low + 24], 0.9)
    elif role == "stride":
        for number, step in enumerate(range(0, length, 4)):
            if number % 2 == 0:
                add(start + step, 3.0, [low - 12 if low > 40 else low, low])
            else:
                add(start + step, 2.0, voicing(harmony, 57, 3), 0.85)
        if part.mask[3]:
            add(start + 2, 3.0, [hand[-1] + 12], 0.9)
    elif role == "boogie":
        third = low + harmony.intervals[1]
        for number, step in enumerate(range(0, length, 2)):
            add(start + step, 1.8, [(low, third, low + 7, low + 9)[number % 4]], 0.95)
        for step in range(0, length, 4):
            if part.mask[step % part.bar]:
                add(start + step + 2, 1.6, [tone + 12 for tone in hand], 0.9)
    elif role == "alberti":
        tones = (low + 12, hand[-1], hand[min(1, len(hand) - 1)], hand[-1])
        for number, step in enumerate(range(0, length, 2)):
            add(start + step, 1.9, [tones[number % 4]], 0.85)
    else:  # rolled: up and down over three octaves, pedal held
        tones = sorted({low, low + 7, *(nearest(c, 58) for c in harmony.classes()), *hand})
        wave = [*tones, *tones[-2:0:-1]]
        for number, step in enumerate(range(length)):
            add(start + step, length - step, [wave[number % len(wave)]], 0.8)
