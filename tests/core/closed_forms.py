"""Float64 closed forms that the core tests compare with, written apart from the library."""

from __future__ import annotations

import math

import torch

from mgdm_core.noise import RandomStreams
from mgdm_core.operators import Operator
from mgdm_core.schedule import NoiseSchedule


def chain_joint(schedule: NoiseSchedule, levels: list[int], x_0: float) -> tuple:
    """Mean and covariance of (x at each level, ascending) given x_0, from the increments.

    x_1 = a_1 x_0 + v_1 e_1, x_2 = a_2 x_1 + v_2 e_2, ... with the e independent: the lower
    triangular map from the e to the x gives the covariance by brute force.
    """
    alpha, sigma = schedule.alpha, schedule.sigma
    mean, rows = [], []
    scale, before = torch.zeros(len(levels), dtype=torch.float64), 0
    centre = torch.tensor(x_0, dtype=torch.float64)
    for k, level in enumerate(levels):
        a = alpha[level] / alpha[before]
        increment = (sigma[level] ** 2 - a**2 * sigma[before] ** 2).sqrt()
        scale = a * scale
        scale[k] = increment
        centre = a * centre
        mean.append(centre)
        rows.append(scale.clone())
        before = level
    factor = torch.stack(rows)
    return torch.stack(mean), factor @ factor.T


def condition(
    mean: torch.Tensor,
    cov: torch.Tensor,
    matrix: torch.Tensor,
    y: torch.Tensor,
    noise: torch.Tensor | float = 0.0,
) -> tuple:
    """Mean and covariance of z ~ N(mean, cov) given y = matrix z + N(0, noise)."""
    matrix = torch.atleast_2d(matrix)
    if not isinstance(noise, torch.Tensor):
        noise = noise * torch.eye(len(matrix), dtype=torch.float64)
    gram = matrix @ cov @ matrix.T + noise
    gain = torch.linalg.solve(gram, matrix @ cov).T
    return mean + gain @ (y - matrix @ mean), cov - gain @ matrix @ cov


def dense(operator: Operator, shape: tuple[int, ...]) -> torch.Tensor:
    """The operator's matrix, column by column, on flattened events of ``shape``."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return operator.forward(basis).reshape(size, -1).T.contiguous()


def assert_moments(
    draws: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor, deviations: float = 4.5
) -> None:
    """Empirical mean and covariance of ``draws`` (n, d) within some Monte-Carlo deviations.

    A mean's entry has deviation sqrt(C_ii / n), a covariance's sqrt((C_ii C_jj + C_ij^2) / n).
    """
    draws, n = draws.double(), len(draws)
    spread = cov.diagonal().clamp_min(0)
    found = draws.mean(0)
    bound = deviations * (spread / n).sqrt() + 1e-9
    assert bool(((found - mean).abs() <= bound).all()), (found - mean, bound)
    centred = draws - mean
    found = centred.T @ centred / n
    bound = deviations * ((spread[:, None] * spread + cov**2) / n).sqrt() + 1e-9
    assert bool(((found - cov).abs() <= bound).all()), (found - cov, bound)


class ConstantStreams(RandomStreams):
    """Streams whose normal numbers are all one constant: reads mean and deviation of a draw."""

    def __init__(self, count: int, value: float) -> None:
        super().__init__(range(count))
        self.value = value

    def normal(self, shape, dtype=torch.float32, device="cpu"):
        return torch.full((len(self), *shape), self.value, dtype=dtype, device=device)


class OneGenerator(RandomStreams):
    """Draws for a whole batch from one generator: fast, for tests of laws over many draws."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.count

    def normal(self, shape, dtype=torch.float32, device="cpu"):
        return torch.randn((self.count, *shape), generator=self.generator, dtype=dtype)

    def uniform(self, shape=(), device="cpu"):
        return torch.rand((self.count, *shape), generator=self.generator, dtype=torch.float64)


def spd(dim: int, seed: int, low: float = 0.3) -> torch.Tensor:
    """A random covariance with eigenvalues of at least ``low``."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return root @ root.T / dim + low * torch.eye(dim, dtype=torch.float64)


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Fixed standard normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
