"""Sound cut into clips and encoded small enough to travel inside a page.

All tracks are cut at the same samples. A clip brings some sound before and after its own: a
decoder needs a moment to settle, and the player crossfades from one clip to the next.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np

from mgdm_audio.listening_page.sounds import PAGE_RATE
from mgdm_core.array_types import Array, Float

CLIP_FRAMES = 10 * PAGE_RATE
BEFORE = PAGE_RATE // 10
AFTER = PAGE_RATE // 20


@dataclass(frozen=True)
class Codec:
    """How a codec is asked for; bit rates in kbit/s per channel.

    ``effort`` trades speed for quality: at these bit rates the slowest settings are not heard.
    """

    title: str
    container: str
    encoder: str
    best: int
    least: int
    effort: str


CODECS = {
    "opus": Codec("Opus", "ogg", "libopus", best=64, least=24, effort="4"),
    "mp3": Codec("MP3", "mp3", "libmp3lame", best=96, least=40, effort="6"),
}
_BASE64 = 4 / 3


@dataclass(frozen=True)
class Clip:
    """Encoded sound of one track: ``index`` counts from the start of the song."""

    track: int
    index: int
    data: bytes

    @property
    def base64(self) -> str:
        """The bytes as text."""
        return base64.b64encode(self.data).decode("ascii")


def kbps_for(codec: str, seconds: float, channels: Iterable[int], max_bytes: int | None) -> int:
    """Bit rate per channel, in kbit/s: the codec's best, or what keeps a page below its size.

    Never less than what still sounds acceptable, so that a very long page outgrows ``max_bytes``.
    """
    found = CODECS[codec]
    if max_bytes is None:
        return found.best
    bits = max_bytes * 8 / _BASE64
    return int(np.clip(bits / (seconds * sum(channels) * 1000), found.least, found.best))


def cut(
    blocks: Iterable[Float[Array, "channels n"]], frames: int
) -> Iterator[tuple[int, Float[Array, "channels n"]]]:
    """Cut a sound at the page's rate into clips with what is before and after them.

    Of ``frames`` in all: missing samples are silence, samples beyond are left out.
    """
    source = iter(blocks)
    held = next(source)
    start = 0  # the song's frame that `held` begins with
    for index in range(-(-frames // CLIP_FRAMES)):
        first = max(0, index * CLIP_FRAMES - BEFORE)
        last = min(frames, (index + 1) * CLIP_FRAMES + AFTER)
        held, start = held[:, first - start :], first
        while held.shape[1] < last - first:
            block = next(source, None)
            if block is None:
                block = np.zeros((held.shape[0], last - first - held.shape[1]), np.float32)
            held = np.concatenate([held, block], axis=1)
        yield index, held[:, : last - first]


def encode(samples: Float[Array, "channels n"], codec: str, kbps: int) -> bytes:
    """Encode a clip; ``kbps`` is per channel."""
    asked = CODECS[codec]
    channels = samples.shape[0]
    layout = "mono" if channels == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=asked.container) as output:
        stream = cast(
            "av.AudioStream",
            output.add_stream(
                asked.encoder,
                rate=PAGE_RATE,
                layout=layout,
                bit_rate=1000 * kbps * channels,
                options={"compression_level": asked.effort},
            ),
        )
        data = np.ascontiguousarray(samples)
        frame = av.AudioFrame.from_ndarray(data, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = PAGE_RATE, 0
        frame.time_base = Fraction(1, PAGE_RATE)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()
