"""A mono stream in, posterior samples of its stems out, in constant memory.

The recording is sampled in chunks of some 40 s. A chunk overlaps the next by as much as two
windows do; on that stretch the later chunk is pinned to the earlier one's estimate, both draw the
same noise (see :mod:`mgdm_audio.sampling.seam_noise`), and the two are cross-faded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_audio.sampling.level import is_silent
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_core.array_types import Float, Tensor
from mgdm_core.trace import Trace

__all__ = ["PADDING", "ChunkStream", "reflected"]

PADDING = NOISE_BLOCK
"""Reflected samples before the first and at least half as many after the last sample."""


def reflected(x: Float[Tensor, " samples"], before: int, after: int) -> Float[Tensor, " padded"]:
    """Reflect a signal at its first and last sample, as often as the padding needs."""
    n = x.shape[-1]
    index = torch.arange(-before, n + after)
    if n == 1:
        return x[torch.zeros_like(index)]
    index = index.remainder(2 * (n - 1))
    return x[torch.where(index < n, index, 2 * (n - 1) - index)]


class ChunkStream:
    """Samples a stream chunk by chunk.

    Parameters
    ----------
    sampler : StemSampler
    seed : int
    samples : int
        Length of the whole stream.
    on_progress : callable, optional
        Receives the fraction done; return False to cancel.

    Attributes
    ----------
    traces : list of Trace
        One per chunk that was sampled.
    """

    def __init__(
        self,
        sampler: StemSampler,
        seed: int,
        samples: int,
        on_progress: Callable[[float], object] | None = None,
    ) -> None:
        self.sampler, self.seed, self.length = sampler, seed, samples
        self.traces: list[Trace] = []
        self._on_progress = on_progress
        self._overlap = sampler.window - sampler.hop
        self._buffer = torch.zeros(0)
        self._start = -PADDING  # position of the next chunk in the recording
        self._given = 0  # samples of the recording returned so far
        self._received = 0
        self._tail: Tensor | None = None  # the last chunk's estimate where the next overlaps it

    def push(self, block: Float[Tensor, " samples"]) -> list[Float[Tensor, "draws stems part"]]:
        """Take the next block of the mixture; return the pieces that are finished."""
        self._buffer = torch.cat([self._buffer, block.to("cpu", torch.float32)])
        self._received += block.shape[-1]
        chunk = self.sampler.chunk_length()
        out: list[Tensor] = []
        # Whether a chunk is the last is known from the length, so one in hand can be sampled.
        while self._end() > self._start + chunk and self._received >= self._start + chunk:
            out.append(self._take(chunk, last=False))
        if self._received >= self.length and self._given < self.length:
            need = self._end() - self._start
            out.append(self._take(self.sampler.padded_length(need), last=True))
        return out

    def _end(self) -> int:
        """Where the reflected recording ends at the least."""
        return self.length + PADDING // 2

    def _take(self, size: int, last: bool) -> Tensor:
        stop = self._start + size
        base = self._received - self._buffer.shape[-1]  # position of the buffer's first sample
        before = max(0, base - self._start)
        piece = self._buffer[max(0, self._start - base) : stop - base]
        after = max(0, size - before - piece.shape[-1])
        mixture = reflected(piece, before, after)
        estimate = self._sample(mixture)
        overlap = self._overlap
        if self._tail is not None:
            ramp = (torch.arange(overlap, dtype=torch.float32) + 0.5) / overlap
            ramp = torch.sin(0.5 * torch.pi * ramp) ** 2
            head = self._tail + ramp * (estimate[..., :overlap] - self._tail)
            estimate = torch.cat([head, estimate[..., overlap:]], -1)
        final = min(self.length, stop if last else stop - overlap)
        done = estimate[..., self._given - self._start : final - self._start]
        self._given = final
        if not last:
            self._tail = estimate[..., size - overlap :].clone()
            self._start = stop - overlap
            drop = self._start - base
            self._buffer = self._buffer[max(0, drop) :].clone()
        self._report(0.0, size, last)
        return done

    def _sample(self, mixture: Tensor) -> Tensor:
        sampler = self.sampler
        size = mixture.shape[-1]
        if is_silent(mixture):
            count, stems = sampler.settings.samples, len(sampler.prior.stems)
            return torch.zeros(count, stems, size)
        result = sampler.sample(
            mixture,
            self._start,
            self.seed,
            pinned=self._tail,
            on_progress=lambda share: self._report(share, size, False),
        )
        if result.trace is not None:
            self.traces.append(result.trace)
        return result.samples

    def _report(self, share: float, size: int, last: bool) -> object:
        if self._on_progress is None:
            return None
        # The overlap with the next chunk counts for that one, so progress never falls back.
        total = self._end() + PADDING
        position = self._start + PADDING + share * (size - self._overlap)
        return self._on_progress(1.0 if last else min(1.0, position / total))
