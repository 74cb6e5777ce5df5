"""DDRM, denoising diffusion restoration models (Kawar et al. 2022, arXiv 2201.11793)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Start, draw, first_state
from mgdm_core.samplers.descent import Descent, Position
from mgdm_core.settings import at_least, share
from mgdm_core.steps.grids import Pairs, pairs_down, ratio_of


@dataclass(frozen=True)
class DDRM(Descent):
    """Backward steps on the components of the operator's singular value decomposition.

    Written on x_t / alpha_t with q = sigma_t / alpha_t, where the observed component i is
    ybar_i = (U^T y)_i / s_i with deviation sigma_y / s_i (equations 7 and 8). No gradient of a
    network.

    Parameters
    ----------
    steps : int
        Noise levels; the paper's 20.
    eta : float
        Noise of components that the data do not reach, or reach with more noise than the level's.
    eta_b : float
        How far other components are set to the data.
    """

    name: ClassVar[str] = "ddrm"
    paper: ClassVar[str] = "Kawar et al. 2022, arXiv 2201.11793"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "spectral"})

    steps: int = at_least(1, 20)
    eta: float = share(0.85)
    eta_b: float = share(1.0)

    def plan(self, problem: Problem, start: Start | None = None) -> Pairs:
        """Even levels down to the data, from the first that has any signal."""
        return pairs_down(problem, self.steps, start, problem.schedule.top)

    def init(
        self, problem: Problem, plan: Pairs, noise: RandomStreams, start: Start | None = None
    ) -> Position:
        """Noise, with the components that the data reach set to them; or the start."""
        x = first_state(problem, plan.top, noise, start)
        if start is None:
            svd, seen, target, noise_dev = problem.components
            alpha, q = problem.schedule.moments(plan.top)[0], ratio_of(problem.schedule, plan.top)
            shrink = (1 - (noise_dev / q) ** 2).clamp_min(0).sqrt()
            c = svd.v_t(x) / alpha
            c = torch.where(seen & (noise_dev <= q), target + shrink * c, c)
            x = alpha * svd.v(c)
        return Position(0, x)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise; equations 7 and 8."""
        x_0, z = problem.denoise(x, t), draw(problem, noise)
        return meet_components(problem, x, x_0, t, s, z, self.eta, self.eta_b), x_0


def meet_components(
    problem: Problem, x: Events, x_0: Events, t: int, s: int, z: Events, eta: float, eta_b: float
) -> Events:
    """x_s from x_t = x and D(x_t) = x_0: equations 7 and 8, every component by its own noise."""
    schedule = problem.schedule
    svd, seen, target, noise_dev = problem.components
    alpha, q = schedule.moments(s)[0], ratio_of(schedule, s)
    c_0, z = svd.v_t(x_0), svd.v_t(z)
    gap = target - c_0
    # The old noise, written so that a schedule without signal at t has it too.
    alpha_t, sigma_t = schedule.moments(t)
    old = svd.v_t((x - alpha_t * x_0) / sigma_t)
    weak = (1 - eta**2) ** 0.5 * q * torch.where(seen, gap / noise_dev, old) + eta * q * z
    strong = eta_b * gap + (q**2 - (eta_b * noise_dev) ** 2).clamp_min(0).sqrt() * z
    return alpha * svd.v(c_0 + torch.where(seen & (noise_dev <= q), strong, weak))


PRESETS: dict[str, DDRM] = {"published": DDRM(), "hundred-steps": DDRM(steps=100)}
