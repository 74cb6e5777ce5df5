"""DDNM and DDNM+, range-null-space decomposition (Wang et al. 2023, arXiv 2212.00490)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mgdm_core.array_types import Events
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator
from mgdm_core.problem import Problem
from mgdm_core.sampler import draw, gaussian, require
from mgdm_core.samplers.ddrm import meet_components
from mgdm_core.samplers.descent import Descent
from mgdm_core.settings import share


@dataclass(frozen=True)
class DDNM(Descent):
    """Replace the part of D(x_t) that the data determine, then take the backward step.

    No gradient of a network. ``noise_aware=False`` asks for a linear operator only.

    Parameters
    ----------
    steps : int
        Noise levels.
    eta : float
        The backward step draws noise of deviation eta sigma_s, as the published code does, and
        keeps sqrt(1 - eta^2) of the old noise; at 1 nothing is kept.
    noise_aware : bool
        DDNM+ (equations 17 and 51): a component whose observation has less noise than x_s takes it
        and the noise that is left over; one with more is corrected in part, the data in the place
        of the noise kept. That is the step of :class:`DDRM` with ``eta_b`` = 1; it needs singular
        values. The more steps, the nearer its results gather around y. Otherwise plain DDNM, which
        ends with A x = y.
    """

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang et al. 2023, arXiv 2212.00490"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "spectral"})

    eta: float = share(0.85)
    noise_aware: bool = True

    def requires(self, problem: Problem) -> None:
        """A Gaussian likelihood; singular values to be noise-aware, else an adjoint."""
        require(problem, self.name, "gaussian", "spectral" if self.noise_aware else "linear")

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, correct, go down."""
        schedule = problem.schedule
        alpha_t, sigma_t = schedule.moments(t)
        x_0, z = problem.denoise(x, t), draw(problem, noise)
        if self.noise_aware:
            return meet_components(problem, x, x_0, t, s, z, self.eta, 1.0), x_0
        # The old noise is the network's own, before x_0 is corrected.
        eps = (x - alpha_t * x_0) / sigma_t
        lik = gaussian(problem)
        operator: LinearOperator = lik.operator  # type: ignore[assignment]
        x_0 = x_0 + operator.pseudo_inverse(lik.residual(x_0), problem.shape)
        alpha_s, sigma_s = schedule.moments(s)
        return alpha_s * x_0 + sigma_s * ((1 - self.eta**2) ** 0.5 * eps + self.eta * z), x_0


PRESETS: dict[str, DDNM] = {"published": DDNM(), "noiseless": DDNM(noise_aware=False)}
