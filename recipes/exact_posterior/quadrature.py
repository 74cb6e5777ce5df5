"""Posteriors in the plane by quadrature, for observations without a closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_core.priors import GaussianMixture

__all__ = ["GridPosterior"]


class GridPosterior:
    """Posterior of a planar mixture on a fine grid: cell masses, draws, weights of the modes.

    Parameters
    ----------
    mixture : GaussianMixture
        Prior, dim 2, unit covariances.
    log_likelihood : callable
        log g(y | x) of points (n, 2), up to a constant.
    step : float
        Width of a cell; well below the likelihood's finest detail, which the midpoint rule then
        integrates to many digits.
    extent : float
        The grid covers [-extent, extent] squared.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        log_likelihood: Callable[[torch.Tensor], torch.Tensor],
        step: float,
        extent: float = 22.0,
    ) -> None:
        self.step = step
        axis = torch.arange(-extent + step / 2, extent, step, dtype=torch.float64)
        # With unit covariances a component is a product of two lines.
        lines = torch.exp(-0.5 * (axis[:, None, None] - mixture.means) ** 2)
        weighted = lines[:, :, 0] * mixture.weights
        rows = max(1, 2**20 // len(axis))
        points, masses = [], []
        best = -torch.inf
        for first in range(0, len(axis), rows):
            x = axis[first : first + rows]
            prior = (weighted[first : first + rows] @ lines[:, :, 1].T).clamp_min(1e-300).log()
            cells = torch.cartesian_prod(x, axis)
            value = prior.reshape(-1) + log_likelihood(cells)
            best = max(best, float(value.max()))
            keep = value > best - 40.0
            points.append(cells[keep])
            masses.append(value[keep])
        value = torch.cat(masses)
        keep = value > best - 40.0
        self.points = torch.cat(points)[keep]
        self.masses = torch.softmax(value[keep], 0)
        self.mixture = mixture
        labels = self.label(self.points)
        self.weights = torch.zeros(len(mixture.weights), dtype=torch.float64)
        self.weights.index_add_(0, labels, self.masses)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw points: a cell by its mass, then uniform within it."""
        edges = self.masses.cumsum(0)
        at = torch.rand(count, generator=generator, dtype=torch.float64) * edges[-1]
        which = torch.searchsorted(edges, at).clamp_max(len(edges) - 1)
        inside = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
        return self.points[which] + self.step * inside

    def label(self, x: torch.Tensor) -> torch.Tensor:
        """Prior component with the largest responsibility for each point."""
        squares = torch.cdist(x.double(), self.mixture.means).square()
        return (self.mixture.weights.log() - 0.5 * squares).argmax(1)
