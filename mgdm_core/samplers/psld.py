"""PSLD, posterior sampling with latent diffusion (Rout et al. 2023, arXiv 2307.00619)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from mgdm_core.array_types import Events, Float, Tensor
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import LinearOperator, flat
from mgdm_core.problem import Problem
from mgdm_core.sampler import gaussian
from mgdm_core.samplers._latent import on_data
from mgdm_core.samplers.descent import Descent
from mgdm_core.settings import not_negative, share
from mgdm_core.steps.bridge import bridge_sample
from mgdm_core.steps.gradients import loss_and_gradient


@dataclass(frozen=True)
class PSLD(Descent):
    """DPS on latents with a second pull, towards codes that the encoder gives back.

    With z_0 the denoised latent, E and D the autoencoder's maps and A linear, each step follows
    the gradient in z_t of

        eta ||y - A D(z_0)|| + gamma ||z_0 - E(A^T y + D(z_0) - A^T A D(z_0))||.

    The second term glues what is seen and what is not to one image. The steps are of the norms,
    not of their squares, as the normalised steps of DPS are. On a prior of data E and D are the
    identity. One evaluation and one vector-Jacobian product a step, and one encoding.

    Parameters
    ----------
    steps : int
        Noise levels.
    eta, gamma : float
        Lengths of the two pulls.
    ddim_eta : float
        Noise of the backward step, 1 for DDPM.
    """

    name: ClassVar[str] = "psld"
    paper: ClassVar[str] = "Rout et al. 2023, arXiv 2307.00619"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "linear", "vjp"})

    eta: float = not_negative(1.0)
    gamma: float = not_negative(0.1)
    ddim_eta: float = share(1.0)

    def requires(self, problem: Problem) -> None:
        """The operator on data is linear; the decoder need not be."""
        super().requires(on_data(problem).problem)

    def move(
        self, problem: Problem, x: Events, t: int, s: int, noise: RandomStreams
    ) -> tuple[Events, Events]:
        """Denoise, go down, follow both gradients."""
        x_0, _, grad = loss_and_gradient(problem, x, t, partial(self._pulls, problem))
        x = bridge_sample(problem.schedule, x_0, x, s, t, noise, self.ddim_eta)
        # Level 0 is D(x_t) itself: a step after it would leave the data's manifold.
        return (x - grad if s > 0 else x), x_0

    def _pulls(self, problem: Problem, z_0: Events) -> Float[Tensor, " batch"]:
        """What each step goes down: how far an item is from the data, and from its own codes."""
        encode, decode, inner = on_data(problem)
        likelihood = gaussian(inner)
        operator: LinearOperator = likelihood.operator  # type: ignore[assignment]
        image = decode(z_0)
        residual = likelihood.in_data_units(likelihood.residual(image))
        glued = z_0 - encode(image + likelihood.in_data_units(operator.adjoint(residual)))
        return self.eta * _norm(residual) + self.gamma * _norm(glued)


def _norm(x: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Euclidean norm per item, whose gradient is 0 at 0."""
    return flat(x).square().sum(-1).clamp_min(1e-24).sqrt()


PRESETS: dict[str, PSLD] = {"published": PSLD()}
