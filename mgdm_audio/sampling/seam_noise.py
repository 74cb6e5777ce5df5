"""Random streams tied to positions in the recording, so that neighbouring chunks agree.

A long recording is sampled in overlapping chunks. If each drew its own noise, two chunks would
disagree where they overlap, however good the prior. Here the noise of a sample of the recording
depends on (seed, position, how many draws came before) only: two chunks that run the same sampler
see the same noise on the stretch that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams

NOISE_BLOCK = 16_384
"""Samples that share one generator; chunks start at multiples of it."""


class PositionStreams(RandomStreams):
    """One stream per item for scalars, one per item and block of the recording for noise.

    Parameters
    ----------
    origin : int
        Position in the recording of the first sample of the chunk, a multiple of
        :data:`NOISE_BLOCK`; may be negative (padding before the start).
    length : int
        Samples in the chunk: the last axis of every noise that is drawn.
    temperature : float
        Deviation of the noise. Below 1 a sampler stays near the middle of the posterior.
    """

    def __init__(
        self, seeds: Sequence[int], origin: int, length: int, temperature: float = 1.0
    ) -> None:
        super().__init__(seeds)
        self._temperature = temperature
        if origin % NOISE_BLOCK:
            raise SettingsError(
                f"a chunk starts at a multiple of {NOISE_BLOCK} samples; found {origin}"
            )
        self._length = length
        first, blocks = origin // NOISE_BLOCK, -(-length // NOISE_BLOCK)
        self._blocks = [[_generator(int(seed), first + j) for j in range(blocks)] for seed in seeds]

    def select(self, items: Sequence[int]) -> PositionStreams:
        """View of some items' streams."""
        view = object.__new__(PositionStreams)
        view._generators = [self._generators[i] for i in items]
        view._blocks = [self._blocks[i] for i in items]
        view._length = self._length
        view._temperature = self._temperature
        return view

    def state(self) -> Any:
        """Return where the streams stand."""
        blocks = [[generator.get_state() for generator in row] for row in self._blocks]
        return super().state(), blocks

    def restore(self, state: Any) -> None:
        """Go on from a :meth:`state`."""
        super().restore(state[0])
        for row, saved in zip(self._blocks, state[1]):
            for generator, one in zip(row, saved):
                generator.set_state(one)

    def normal(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "batch ..."]:
        """Normal numbers of deviation ``temperature``, last axis time of the chunk's length."""
        shape = tuple(shape)
        if shape[-1:] != (self._length,):
            raise SettingsError(
                f"noise of this chunk has {self._length} samples on its last axis; found {shape}"
            )
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        lead = shape[:-1]
        out = torch.empty(len(self._blocks), *shape, dtype=wide)
        for row, generators in zip(out, self._blocks):
            for j, generator in enumerate(generators):
                piece = torch.randn(*lead, NOISE_BLOCK, generator=generator, dtype=wide)
                part = row[..., j * NOISE_BLOCK : (j + 1) * NOISE_BLOCK]
                part.copy_(piece[..., : part.shape[-1]])
        return out.mul_(self._temperature).to(device, dtype)


def _generator(seed: int, block: int) -> torch.Generator:
    """Mix (seed, block) into the seed of a generator of its own; blocks may be negative."""
    words = np.random.SeedSequence([seed, block % 2**63]).generate_state(2, np.uint32)
    return torch.Generator("cpu").manual_seed(int(words[0]) << 31 ^ int(words[1]))
