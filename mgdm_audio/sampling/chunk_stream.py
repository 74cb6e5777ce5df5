"""A mono stream in, posterior samples of its stems out, in constant memory.

The recording is sampled in chunks of some 40 s. A chunk overlaps the next by as much as two
windows do; on that stretch the later chunk is pinned to the earlier one's estimate, both draw the
same noise (see :mod:`mgdm_audio.sampling.seam_noise`), and the two are cross-faded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_audio.sampling.cost import count_evaluations
from mgdm_audio.sampling.crossfade import fade_in, reflected
from mgdm_audio.sampling.level import is_silent
from mgdm_audio.sampling.seam_noise import NOISE_BLOCK
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import CancelledError
from mgdm_core.trace import Trace

PADDING = NOISE_BLOCK
"""Reflected samples before the first and at least half as many after the last sample."""


def chunk_sizes(sampler: StemSampler, samples: int, shift: int = 0) -> list[int]:
    """Lengths of the chunks in which a stream is sampled; silent ones cost nothing."""
    chunk, overlap = sampler.chunk_length(), sampler.window - sampler.hop
    left, sizes = samples + PADDING + shift + PADDING // 2, []
    while left > chunk:
        sizes.append(chunk)
        left -= chunk - overlap
    return [*sizes, sampler.padded_length(left)]


class ChunkStream:
    """Samples a stream chunk by chunk.

    ``samples`` is the length of the whole stream at the prior's rate. ``on_progress`` receives the
    fraction done after every evaluation of the network and returns False to cancel. Windows begin
    ``shift`` samples earlier, a multiple of the noise block.
    """

    def __init__(
        self,
        sampler: StemSampler,
        seed: int,
        samples: int,
        on_progress: Callable[[float], object] | None = None,
        shift: int = 0,
    ) -> None:
        self.sampler, self.seed, self.length = sampler, seed, samples
        self.traces: list[Trace] = []
        self._on_progress = on_progress
        self._overlap = sampler.window - sampler.hop
        self._buffer = torch.zeros(0)
        self._start = -PADDING - shift  # position of the next chunk in the recording
        self._given = 0  # samples of the recording returned so far
        self._received = 0
        self._tail: Tensor | None = None  # the last chunk's estimate where the next overlaps it
        self._sizes = chunk_sizes(sampler, samples, shift)
        self._chunk = 0
        self._share = 0.0
        self._evaluations = 0.0
        if on_progress is not None:
            counted = count_evaluations(
                sampler.settings, sampler.prior.schedule, len(sampler.prior.stems)
            )
            self._evaluations = max(1.0, counted[0])

    def push(self, block: Float[Tensor, " samples"]) -> list[Float[Tensor, "draws stems part"]]:
        """Take the next block of the mixture; return the pieces that are finished.

        Of samples around a separation the separation is the first row.
        """
        self._buffer = torch.cat([self._buffer, block.to("cpu", torch.float32)])
        self._received += block.shape[-1]
        out: list[Tensor] = []
        while self._given < self.length:
            size, last = self._sizes[self._chunk], self._chunk == len(self._sizes) - 1
            # The last chunk reaches beyond the end, the last but one may: no more is to come.
            if self._received < min(self.length, self._start + size):
                break
            out.append(self._take(size, last))
        return out

    def _take(self, size: int, last: bool) -> Tensor:
        stop = self._start + size
        base = self._received - self._buffer.shape[-1]  # position of the buffer's first sample
        before = max(0, base - self._start)
        piece = self._buffer[max(0, self._start - base) : stop - base]
        after = max(0, size - before - piece.shape[-1])
        mixture = reflected(piece, before, after)
        estimate = self._sample(mixture, slice(before, size - after))
        overlap = self._overlap
        if self._tail is not None:
            head = self._tail + fade_in(overlap) * (estimate[..., :overlap] - self._tail)
            estimate = torch.cat([head, estimate[..., overlap:]], -1)
        final = min(self.length, stop if last else stop - overlap)
        done = estimate[..., self._given - self._start : final - self._start]
        self._given = final
        if not last:
            self._tail = estimate[..., size - overlap :].clone()
            self._start = stop - overlap
            drop = self._start - base
            self._buffer = self._buffer[max(0, drop) :].clone()
        self._chunk += 1
        self._report(0.0)
        return done

    def _sample(self, mixture: Tensor, heard: slice) -> Tensor:
        sampler = self.sampler
        size = mixture.shape[-1]
        if is_silent(mixture):
            count, stems = sampler.settings.rows, len(sampler.prior.stems)
            return torch.zeros(count, stems, size)
        windows = 1 + max(0, size - sampler.window) // sampler.hop
        expected = max(1.0, windows * sampler.settings.runs * self._evaluations)
        done = 0

        def evaluated(some: int) -> None:
            nonlocal done
            done += some
            self._report(min(1.0, done / expected))

        result = sampler.sample(
            mixture,
            self._start,
            self.seed,
            heard=heard,
            pinned=self._tail,
            on_windows=evaluated,
        )
        if result.trace is not None:
            self.traces.append(result.trace)
        return result.rows

    def _report(self, share: float) -> None:
        """Say how much is done, ``share`` of the present chunk included."""
        if self._on_progress is None:
            return
        done = sum(self._sizes[: self._chunk])
        if self._chunk < len(self._sizes):
            done += share * self._sizes[self._chunk]
        # A chunk that has to be begun again in smaller batches does not fall back.
        self._share = max(self._share, min(1.0, done / sum(self._sizes)))
        if self._on_progress(self._share) is False:
            raise CancelledError("the separation was cancelled")


class ShiftedStreams:
    """The mean over several :class:`ChunkStream` whose windows begin at different places."""

    def __init__(
        self,
        sampler: StemSampler,
        seed: int,
        samples: int,
        on_progress: Callable[[float], object] | None = None,
    ) -> None:
        self.sampler = sampler
        count = sampler.settings.shifts
        self._shares = [0.0] * count

        def told(k: int) -> Callable[[float], object] | None:
            def tell(share: float) -> object:
                self._shares[k] = share
                return on_progress(sum(self._shares) / count) if on_progress else None

            return None if on_progress is None else tell

        self._streams = [
            ChunkStream(sampler, seed, samples, told(k), shift)
            for k, shift in enumerate(sampler.shifts)
        ]
        draws, stems = sampler.settings.rows, len(sampler.prior.stems)
        self._held = [torch.zeros(draws, stems, 0) for _ in self._streams]

    @property
    def traces(self) -> list[Trace]:
        """One per chunk that was sampled."""
        return [trace for stream in self._streams for trace in stream.traces]

    def push(self, block: Float[Tensor, " samples"]) -> list[Float[Tensor, "draws stems part"]]:
        """Take the next block of the mixture; return the pieces that are finished in all."""
        if len(self._streams) == 1:
            return self._streams[0].push(block)
        for k, stream in enumerate(self._streams):
            self._held[k] = torch.cat([self._held[k], *stream.push(block)], -1)
        ready = min(held.shape[-1] for held in self._held)
        if ready == 0:
            return []
        mean = sum(held[..., :ready] for held in self._held) / len(self._held)
        self._held = [held[..., ready:] for held in self._held]
        return [torch.as_tensor(mean)]
