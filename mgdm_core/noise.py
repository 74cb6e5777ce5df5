"""One random stream per item, so that an item's draws do not depend on the batch it rides in."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.precision import wide, widest


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
        self._generators = []
        for seed in _checked(seeds):
            # The generator looks at 32 bits of its seed: longer ones are hashed to as many.
            short = seed if seed < 2**32 else int(_mix(torch.tensor(seed))) & (2**32 - 1)
            self._generators.append(torch.Generator("cpu").manual_seed(short))

    @classmethod
    def from_seed(cls, seed: int, count: int) -> RandomStreams:
        """Streams seed, seed + 1, ..., seed + count - 1."""
        return cls(range(seed, seed + count))

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, items: Sequence[int]) -> RandomStreams:
        """View of some items' streams: draws through the view advance the same generators."""
        view = object.__new__(type(self))
        view._generators = [self._generators[i] for i in items]
        return view

    def state(self) -> Any:
        """Return where the streams stand, for :meth:`restore`."""
        return [generator.get_state() for generator in self._generators]

    def restore(self, state: Any) -> None:
        """Go on from a :meth:`state`."""
        for generator, saved in zip(self._generators, state):
            generator.set_state(saved)

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
        drawn = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        rows = [torch.randn((1, *shape), generator=g, dtype=drawn) for g in self._generators]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).to(device, dtype)

    def normal_like(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Draw standard normal numbers in the shape, dtype and device of ``x``."""
        if x.shape[0] != len(self):
            raise ShapeError(
                f"the batch has one item per random stream: {len(self)} streams, "
                f"found {x.shape[0]} items"
            )
        return self.normal(x.shape[1:], x.dtype, x.device)

    def uniform(
        self, shape: Sequence[int] = (), device: torch.device | str = "cpu"
    ) -> Float[Tensor, "batch ..."]:
        """Uniform numbers on [0, 1) of shape (batch, *shape), in the device's widest type."""
        rows = [
            torch.rand(tuple(shape), generator=g, dtype=torch.float64) for g in self._generators
        ]
        dtype = widest(torch.device(device))
        # What float32 would round up to 1 stays below it.
        return torch.stack(rows).clamp_max(1 - torch.finfo(dtype).eps / 2).to(device, dtype)

    def integers(
        self,
        low: int | Int[Tensor, " batch"],
        high: int | Int[Tensor, " batch"],
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, " batch"]:
        """Uniform integers in [low, high), one per item; the bounds may differ per item."""
        if isinstance(low, int) and isinstance(high, int) and high <= low:
            raise SettingsError(f"integers need low < high; found low {low}, high {high}")
        width = high - low
        drawn = (self.uniform((), device) * width).floor().long()
        # A product just below the width may round up to it.
        return (torch.as_tensor(drawn) + low).clamp_max(high - 1)

    def categorical(self, weights: Float[Tensor, "batch choices"]) -> Int[Tensor, " batch"]:
        """One index per item, with probability proportional to its row of weights.

        Rows need a positive finite sum, which is not checked here.
        """
        cumulative = wide(weights).cumsum(-1)
        point = self.uniform((), weights.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, point, right=True)[:, 0].clamp_max(
            weights.shape[-1] - 1
        )


class DeviceStreams(RandomStreams):
    """Streams that draw where the state lives: a number is a hash of (seed, draw, position).

    There is no generator to keep: every draw of every item is a few integer operations on the
    device, the same whatever the batch, and the state is how many draws came before. Numbers agree
    across devices up to the rounding of log and cos.

    Parameters
    ----------
    seeds : sequence of int
        One seed per item.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = _checked(seeds)
        self._keys: dict[torch.device, Tensor] = {}
        # How many draws came before, per item, in cells that views share.
        self._draws = [[0] for _ in seeds]

    def __len__(self) -> int:
        return len(self._seeds)

    def select(self, items: Sequence[int]) -> DeviceStreams:
        """View of some items' streams: draws through the view count for these as well."""
        chosen = DeviceStreams([self._seeds[i] for i in items])
        chosen._draws = [self._draws[i] for i in items]
        return chosen

    def state(self) -> Any:
        """Return how many draws of each item came before."""
        return [cell[0] for cell in self._draws]

    def restore(self, state: Any) -> None:
        """Go on after so many draws."""
        for cell, draws in zip(self._draws, state, strict=True):
            cell[0] = int(draws)

    def _bits(self, count: int, device: torch.device | str) -> Int[Tensor, "batch count"]:
        """63 hashed bits per number."""
        device = torch.device(device)
        if device not in self._keys:
            seeds = torch.tensor(self._seeds, dtype=torch.int64)
            self._keys[device] = _mix(seeds * _ODD + 1).to(device)
        steps = []
        for cell in self._draws:
            cell[0] += 1
            steps.append(cell[0] * _STEP % 2**62)
        # Where all stand alike, as in any one run, nothing is sent to the device.
        step = steps[0] if min(steps) == max(steps) else torch.tensor(steps, device=device)
        key = _mix(self._keys[device] + step)
        position = torch.arange(count, device=device, dtype=torch.int64)
        return _mix(_mix(position[None] * _ODD + key[:, None]) ^ key[:, None]) & (2**63 - 1)

    def uniform(
        self, shape: Sequence[int] = (), device: torch.device | str = "cpu"
    ) -> Float[Tensor, "batch ..."]:
        """Uniform numbers on [0, 1) of shape (batch, *shape), in the device's widest type."""
        bits = self._bits(math.prod(shape), device)
        dtype = widest(bits.device)
        unit = 24 if dtype == torch.float32 else 53
        return ((bits >> (63 - unit)).to(dtype) * 2.0**-unit).reshape(len(self), *shape)

    def normal(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "batch ..."]:
        """Draw standard normal numbers of shape (batch, *shape) by Box and Muller's transform."""
        kind = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        count = math.prod(shape)
        half = (count + 1) // 2
        bits = self._bits(2 * half, device)
        # float32 holds 24 bits: fewer would round the radius' uniform to 0 or 1.
        unit = 24 if kind == torch.float32 else 53
        u = ((bits >> (63 - unit)).to(kind) + 0.5) * 2.0**-unit
        radius = (-2 * u[:, :half].log()).sqrt()
        angle = 2 * math.pi * u[:, half:]
        drawn = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]
        return drawn.to(dtype).reshape(len(self), *shape)


_ODD = -7046029254386353131  # 2^64 over the golden ratio, odd, as a signed number
_STEP = 0x2545F4914F6CDD1D


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele et al. 2014): every input bit reaches every output bit."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, None)):
        x = x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))
        x = x if factor is None else x * factor
    return x


def _checked(seeds: Sequence[int]) -> list[int]:
    """The seeds as whole numbers of Python."""
    try:
        whole = [operator.index(seed) for seed in seeds]
    except TypeError:
        raise SettingsError(f"seeds are whole numbers, one per sample; found {seeds!r}") from None
    if not whole:
        raise SettingsError("random streams need at least one seed; found none")
    for seed in whole:
        if not 0 <= seed < 2**63:
            raise SettingsError(f"a seed lies in [0, 2**63); found {seed}")
    return whole
