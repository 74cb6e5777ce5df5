"""MGDM's law in closed form where all of it is affine: Gaussian prior, linear observation.

With a deterministic index law, DDPM steps and the linearised conditional (exact here), every draw
of the sampler is an affine map of (x_0, x_t, x_above) plus Gaussian noise. So the law of its
result is a Gaussian whose moments follow by matrix algebra, with no sampling at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

from mgdm_core.schedule import NoiseSchedule

from .closed_forms import chain_joint, condition


@dataclass
class Problem:
    """x_0 ~ N(mean, cov), y = matrix x_0 + N(0, sigma_y^2)."""

    mean: torch.Tensor
    cov: torch.Tensor
    matrix: torch.Tensor
    y: torch.Tensor
    sigma_y: float

    def posterior(self) -> tuple[torch.Tensor, torch.Tensor]:
        return condition(self.mean, self.cov, self.matrix, self.y, self.sigma_y**2)

    def noised(self, alpha: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Moments of x_t = alpha x_0 + sigma eps given y."""
        mean, cov = self.posterior()
        eye = torch.eye(len(mean), dtype=torch.float64)
        return alpha * mean, alpha**2 * cov + sigma**2 * eye


class AffineMGDM:
    """State z = (x_0, x_t, x_above), each of dimension d, with its mean and covariance."""

    def __init__(self, problem: Problem, schedule: NoiseSchedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.d = len(problem.mean)
        self.eye = torch.eye(self.d, dtype=torch.float64)
        self.bridge = cache(self._bridge)
        self.denoiser = cache(self._denoiser)
        top = schedule.last
        self.mean = torch.zeros(3 * self.d, dtype=torch.float64)
        self.cov = torch.zeros(3 * self.d, 3 * self.d, dtype=torch.float64)
        # x_T is pure noise, in the slot of x_t
        self.cov[self.d : 2 * self.d, self.d : 2 * self.d] = schedule.sigma[top] ** 2 * self.eye

    def update(self, slot: int, parts: dict[int, torch.Tensor], shift, noise) -> None:
        """z[slot] = sum of parts[j] z[j] + shift + N(0, noise)."""
        d = self.d
        move = torch.eye(3 * d, dtype=torch.float64)
        rows = slice(slot * d, (slot + 1) * d)
        move[rows] = 0
        for j, matrix in parts.items():
            move[rows, j * d : (j + 1) * d] = matrix
        self.mean = move @ self.mean
        self.mean[rows] += shift
        self.cov = move @ self.cov @ move.T
        self.cov[rows, rows] += noise

    def _denoiser(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """D_t(x) = J x + c."""
        alpha, sigma = float(self.schedule.alpha[t]), float(self.schedule.sigma[t])
        cov = self.problem.cov
        j = alpha * torch.linalg.solve(alpha**2 * cov + sigma**2 * self.eye, cov).T
        return j, self.problem.mean - alpha * j @ self.problem.mean

    def _bridge(self, s: int, t: int) -> tuple[float, float, float]:
        """Coefficients of x_0 and x_t and the variance of the bridge."""
        if s == 0:
            return 1.0, 0.0, 0.0
        row = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        joint = [chain_joint(self.schedule, [s, t], x_0) for x_0 in (0.0, 1.0)]
        zero, one = (torch.tensor([v], dtype=torch.float64) for v in (0.0, 1.0))
        from_0, var = condition(*joint[1], row, zero)
        from_t, _ = condition(*joint[0], row, one)
        return float(from_0[0]), float(from_t[0]), float(var[0, 0])

    def between(self, s: int, t: int, u: int) -> tuple[float, float, float]:
        mean, cov = chain_joint(self.schedule, [s, t, u], 0.0)
        rows = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
        near, var = condition(mean, cov, rows, torch.tensor([1.0, 0.0], dtype=torch.float64))
        far, _ = condition(mean, cov, rows, torch.tensor([0.0, 1.0], dtype=torch.float64))
        return float(near[1]), float(far[1]), float(var[1, 1])

    def conditional(self, s: int, t: int, inflate: float) -> None:
        """x_s given (x_0, x_t, y), left in the slot of x_0."""
        p = self.problem
        c_0, c_t, var = self.bridge(s, t)
        j, c = self.denoiser(s)
        alpha, sigma = float(self.schedule.alpha[s]), float(self.schedule.sigma[s])
        seen = p.matrix @ j
        noise = p.sigma_y**2 * torch.eye(len(p.y), dtype=torch.float64)
        noise = noise + inflate * sigma**2 / alpha * seen @ p.matrix.T
        gain = torch.linalg.solve(var * seen @ seen.T + noise, var * seen).T
        keep = self.eye - gain @ seen
        self.update(
            0,
            {0: c_0 * keep, 1: c_t * keep},
            gain @ (p.y - p.matrix @ c),
            var * keep,
        )

    def backward(self, s: int, steps: int) -> None:
        """DDPM steps of the slot of x_0 from level s to 0."""
        levels = [-(-s * (steps - k) // steps) for k in range(steps + 1)]
        for t, r in pairwise(levels):
            if t == r:
                continue
            c_0, c_t, var = self.bridge(r, t)
            j, c = self.denoiser(t)
            self.update(0, {0: c_0 * j + c_t * self.eye}, c_0 * c, var * self.eye)

    def run(
        self,
        levels: list[int],
        gibbs: int,
        denoising_steps: int,
        index,
        inflate: float = 0.0,
        renoise: str = "between",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of the x_0 that the sampler returns."""
        d, schedule = self.d, self.schedule
        j, c = self.denoiser(levels[0])
        self.update(0, {1: j}, c, torch.zeros(d, d, dtype=torch.float64))
        above = levels[0]
        for step, t in enumerate(levels[1:]):
            if t < 2:
                break
            below = levels[step + 2] if step + 2 < len(levels) else t // 2
            self.update(2, {1: self.eye}, 0.0, 0.0 * self.eye)
            c_0, c_t, var = self.bridge(t, above)
            self.update(1, {0: c_0 * self.eye, 2: c_t * self.eye}, 0.0, var * self.eye)
            for _ in range(gibbs):
                s = index(t, below)
                self.conditional(s, t, inflate)
                # x_s sits in the slot of x_0: renoise from it before it is denoised.
                if renoise == "between":
                    near, far, var = self.between(s, t, above)
                    self.update(1, {0: near * self.eye, 2: far * self.eye}, 0.0, var * self.eye)
                else:
                    a = float(schedule.alpha[t] / schedule.alpha[s])
                    var = float(schedule.sigma[t] ** 2) - a**2 * float(schedule.sigma[s] ** 2)
                    self.update(1, {0: a * self.eye}, 0.0, var * self.eye)
                self.backward(s, denoising_steps)
            above = t
        return self.mean[:d], self.cov[:d, :d]
