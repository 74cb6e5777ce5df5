"""A composer of multi-track songs: styles, forms, harmony, and a player for each stem."""

from __future__ import annotations

import numpy as np

from recipes.music_prior.songs.composer.arrange import write_song
from recipes.music_prior.songs.song import Song

__all__ = ["compose"]


def compose(rng: np.random.Generator) -> Song:
    """Write a song; the stream's state decides it wholly."""
    return write_song(rng)
