"""Distances between two sets of samples."""

from __future__ import annotations

import torch

__all__ = ["coverage", "sliced_wasserstein", "total_variation"]


def sliced_wasserstein(
    a: torch.Tensor, b: torch.Tensor, projections: int = 500, seed: int = 7
) -> float:
    """Sliced Wasserstein-1 distance: mean over random directions of the 1-D distance.

    Parameters
    ----------
    a, b : Tensor, shapes (n, dim) and (m, dim)
        With n = m the sorted projections are compared entry by entry, else their quantile
        functions are, on the joint grid.
    projections : int
        Directions, uniform on the sphere, the same for every call with the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64)
    lines = lines / lines.norm(dim=0)
    left, right = (torch.sort(x.double() @ lines, 0)[0] for x in (a, b))
    if len(left) != len(right):
        cuts = torch.cat([torch.arange(1, len(x) + 1).double() / len(x) for x in (left, right)])
        cuts = cuts.sort()[0]
        widths = torch.diff(cuts, prepend=torch.zeros(1, dtype=torch.float64))
        middle = cuts - widths / 2
        left, right = (x[(middle * len(x)).long().clamp_max(len(x) - 1)] for x in (left, right))
        return float(((left - right).abs() * widths[:, None]).sum(0).mean())
    return float((left - right).abs().mean())


def coverage(
    a: torch.Tensor, b: torch.Tensor, share: float = 0.9, projections: int = 500, seed: int = 7
) -> float:
    """Share of ``b`` inside the central interval of ``a``, mean over random directions.

    The interval holds ``share`` of the samples ``a``: less comes out where they are too narrow or
    beside ``b``, more where they are too wide.
    """
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64)
    left, right = a.double() @ lines, b.double() @ lines
    tails = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = left.quantile(tails, 0)
    return float(((right >= low) & (right <= high)).double().mean())


def total_variation(which: torch.Tensor, weights: torch.Tensor) -> float:
    """Half the L1 distance between the shares of the labels ``which`` and exact ``weights``."""
    shares = torch.bincount(which, minlength=len(weights)).double() / len(which)
    return float(0.5 * (shares - weights).abs().sum())
