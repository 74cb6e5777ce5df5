"""One random stream per item, so that an item's draws do not depend on the batch it rides in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError

__all__ = ["RandomStreams"]


class RandomStreams:
    """Independent generators, one per batch item; every draw has the batch as its first axis.

    Item i consumes only its own generator, so it draws the same numbers, to the bit, alone and in
    any batch, on any device (numbers are drawn on the CPU and moved).

    Parameters
    ----------
    seeds : sequence of int
        One seed per item, each in [0, 2**63).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        if len(seeds) == 0:
            raise SettingsError("random streams need at least one seed; found none")
        for seed in seeds:
            if not 0 <= int(seed) < 2**63:
                raise SettingsError(f"a seed lies in [0, 2**63); found {seed}")
        self._generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]

    @classmethod
    def from_seed(cls, seed: int, count: int) -> RandomStreams:
        """Streams seed, seed + 1, ..., seed + count - 1."""
        return cls(range(seed, seed + count))

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, items: Sequence[int]) -> RandomStreams:
        """View of some items' streams: draws through the view advance the same generators."""
        view = object.__new__(RandomStreams)
        view._generators = [self._generators[i] for i in items]
        return view

    def normal(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "batch ..."]:
        """Draw standard normal numbers of shape (batch, *shape).

        Half precisions are drawn in float32 and rounded, since they have no generator of their own
        quality.
        """
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        rows = [torch.randn(tuple(shape), generator=g, dtype=wide) for g in self._generators]
        return torch.stack(rows).to(device, dtype)

    def normal_like(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Draw standard normal numbers in the shape, dtype and device of ``x``."""
        if x.shape[0] != len(self):
            raise ShapeError(
                f"the batch has one item per random stream: {len(self)} streams, "
                f"found {x.shape[0]} items"
            )
        return self.normal(x.shape[1:], x.dtype, x.device)

    def uniform(self, shape: Sequence[int] = ()) -> Float[Tensor, "batch ..."]:
        """Uniform numbers on [0, 1) in float64 on the CPU, of shape (batch, *shape)."""
        return torch.stack(
            [torch.rand(tuple(shape), generator=g, dtype=torch.float64) for g in self._generators]
        )

    def integers(
        self, low: int | Int[Tensor, " batch"], high: int | Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """Uniform integers in [low, high), one per item; the bounds may differ per item."""
        low_t = torch.as_tensor(low, device="cpu")
        width = torch.as_tensor(high, device="cpu") - low_t
        if bool((width < 1).any()):
            raise SettingsError(f"integers need low < high; found low {low}, high {high}")
        drawn = (self.uniform() * width).floor().long()
        return torch.minimum(drawn, width - 1) + low_t

    def categorical(self, weights: Float[Tensor, "batch choices"]) -> Int[Tensor, " batch"]:
        """One index per item, with probability proportional to its row of weights."""
        cumulative = weights.to("cpu", torch.float64).cumsum(-1)
        total = cumulative[:, -1:]
        if bool((total <= 0).any()) or not bool(torch.isfinite(total).all()):
            raise SettingsError("weights need a positive finite sum in every row")
        point = self.uniform()[:, None] * total
        return torch.searchsorted(cumulative, point, right=True)[:, 0].clamp_max(
            weights.shape[-1] - 1
        )
