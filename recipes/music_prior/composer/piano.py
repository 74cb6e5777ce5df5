"""Piano parts: block chords, comping, arpeggios, ballad figures, stabs, montunos, melodies."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.composer.melody import melody
from recipes.music_prior.composer.score import Event, Section
from recipes.music_prior.composer.theory import nearest, voicing

ROLES = ("block", "comp", "arpeggio", "ballad", "stab", "montuno", "melody", "pad", "octaves")


def play(
    rng: np.random.Generator, section: Section, role: str, key: int, scale: str
) -> list[Event]:
    """Play a section in one role of `ROLES`."""
    velocity = 62 + 36 * section.energy
    centre = float(rng.uniform(57, 68))
    count = int(rng.choice((3, 3, 4)))
    left = rng.random() < 0.55
    steps = section.bars[0].steps
    mask = rng.random(steps) < rng.uniform(0.25, 0.5)
    mask[0] |= rng.random() < 0.7
    order = rng.permutation(4)
    events: list[Event] = []
    if role == "melody":
        events, _ = melody(rng, section, key, scale, 64, 91, velocity + 8)

    def add(at: float, length: float, keys, force: float = 1.0) -> None:
        for pitch in keys:
            events.append(Event(at, length, int(pitch), velocity * force + rng.normal(0, 4)))

    for bar in section.bars:
        for offset, length, harmony in bar.chords:
            start = bar.start + offset
            hand = voicing(harmony, centre, count)
            low = nearest(harmony.root, 40)
            if left and role not in ("montuno", "octaves"):
                if role in ("arpeggio", "ballad"):
                    add(start, length, [low], 0.9)
                    if length >= 8:
                        add(start + 4, length - 4, [low + 7], 0.75)
                else:
                    add(start, length * 0.95, [low, low + 12] if section.energy > 0.6 else [low])
            if role == "block":
                for step in range(0, length, 4 if mask[1] else 8):
                    add(start + step, 3.8 if mask[1] else 7.6, hand, 1.0 if step == 0 else 0.85)
            elif role == "comp":
                on = [step for step in range(length) if mask[(offset + step) % steps]] or [0]
                for number, step in enumerate(on):
                    stop = on[number + 1] if number + 1 < len(on) else length
                    add(start + step, min(stop - step, 4) * 0.9, hand, 0.95)
            elif role == "arpeggio":
                tones = voicing(harmony, centre + 3, 4)
                for number, step in enumerate(range(0, length, 2 if mask[2] else 1)):
                    add(start + step, 3.0, [tones[order[number % 4]]], 0.9)
            elif role == "ballad":
                for step in range(0, length, 2):
                    keys = hand[-2:] if step % 4 == 0 else hand[:1]
                    add(start + step, 2.2, keys, 0.95 if step % 4 == 0 else 0.75)
            elif role == "stab":
                for step in range(2, length, 4):
                    add(start + step, 1.0, hand, 0.95)
            elif role == "montuno":
                for step in (0, 3, 4, 6, 7, 10, 11, 13, 14):
                    if step < length:
                        tone = hand[int(order[step % 4]) % len(hand)]
                        add(start + step, 1.4, [tone, tone + 12] if step % 2 == 0 else [tone])
            elif role == "melody":
                add(start, length * 0.98, voicing(harmony, 54, 3), 0.75)
            elif role == "octaves":
                for step in range(0, length, 2):
                    add(start + step, 1.8, [low + 12, low + 24], 0.9)
            else:  # pad
                add(start, length, hand, 0.8)
    return events
