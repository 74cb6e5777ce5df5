"""Where training and validation songs come from: rendered on the fly, or packed shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mgdm_audio.io.atomic import replacing
from mgdm_core.array_types import Array
from recipes.music_prior.sound.stream import StemStream, StreamSettings
from recipes.music_prior.training.data import INT16_SCALE, SegmentSource

__all__ = ["RenderSource", "pack"]

RENDERER = 3  # to be raised when the same settings come to sound otherwise in training


class RenderSource:
    """Songs composed (or read from MIDI files) and rendered as they are asked for."""

    name = "rendering songs"

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self.segment = settings.segment

    @property
    def identity(self) -> str:
        """What decides the sound of segment number i, as text."""
        values = asdict(self.settings)
        values.pop("workers")
        values["renderer"] = RENDERER
        values["stems"] = list(self.settings.stems)
        values["midi_dirs"] = [Path(d).name for d in self.settings.midi_dirs]
        for kind in ("soundfonts", "heldout_soundfonts"):
            values[kind] = [Path(f).name for f in values[kind]]
        return json.dumps(values, sort_keys=True)

    def stream(self, start: int) -> Iterator[Array]:
        """Segments from number ``start`` on, without end."""
        return iter(StemStream(self.settings, start=start))


def pack(source: SegmentSource, out: Path, segments: int, per_shard: int = 16) -> int:
    """Write segments as int16 shards for a machine that cannot render; returns bytes written."""
    out.mkdir(parents=True, exist_ok=True)
    limits = np.iinfo(np.int16)
    written = 0
    stream = source.stream(0)
    for first in range(0, segments, per_shard):
        items = np.stack([next(stream) for _ in range(min(per_shard, segments - first))])
        shard = np.clip(np.rint(items * INT16_SCALE), limits.min, limits.max).astype(np.int16)
        path = out / f"shard{first // per_shard:04d}.npy"
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, shard)
        written += path.stat().st_size
    return written
