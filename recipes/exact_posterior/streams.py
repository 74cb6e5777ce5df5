"""All items' random numbers from one generator: for batches that are only ever drawn as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mgdm_core.noise import RandomStreams

__all__ = ["BatchStreams"]


class BatchStreams(RandomStreams):
    """Streams for ``count`` items that share one generator.

    The library's own streams give every item its generator, so that it draws the same alone and in
    any batch. Here 500 samples of one posterior are drawn together and nobody asks for item i: one
    generator gives the same law, and a benchmark in half the time.
    """

    def __init__(self, seed: int, count: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def select(self, items: Sequence[int]) -> BatchStreams:
        """View of as many items, which advances the same generator."""
        view = object.__new__(BatchStreams)
        view._generator, view._count = self._generator, len(items)
        return view

    def normal(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Standard normal numbers of shape (count, *shape)."""
        drawn = torch.randn((self._count, *shape), generator=self._generator, dtype=torch.float64)
        return drawn.to(device, dtype)

    def uniform(
        self, shape: Sequence[int] = (), device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Uniform numbers on [0, 1) in float64, of shape (count, *shape)."""
        drawn = torch.rand((self._count, *shape), generator=self._generator, dtype=torch.float64)
        return drawn.to(device)

    def state(self) -> Any:
        """Return where the generator stands."""
        return self._generator.get_state()

    def restore(self, state: Any) -> None:
        """Go on from a :meth:`state`."""
        self._generator.set_state(state)
