"""Time in words, the same everywhere."""

from __future__ import annotations


def speed_words(seconds: float, seconds_of_audio: float) -> str:
    """How long work took beside how long the sound lasts.

    Examples
    --------
    >>> speed_words(5.0, 18.0), speed_words(30.0, 10.0)
    ('3.6x faster than real time', '3.0x slower than real time')
    """
    if seconds_of_audio <= 0 or seconds <= 0:
        return "no sound to speak of"
    factor = seconds_of_audio / seconds
    word = "faster"
    if factor < 1:
        factor, word = 1 / factor, "slower"
    shown = f"{factor:.1f}" if factor < 99.5 else f"{factor:.0f}"
    return f"{shown}x {word} than real time"


def duration_words(seconds: float) -> str:
    """Seconds as people say them.

    Examples
    --------
    >>> duration_words(7.4), duration_words(200), duration_words(9000)
    ('7 s', '3 min 20 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 2 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"
