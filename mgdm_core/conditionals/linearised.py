"""The exact draw of a linearised problem, one vector-Jacobian product per number observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from mgdm_core.array_types import Events, Tensor
from mgdm_core.conditionals.protocol import ConditionalDraw, Place
from mgdm_core.errors import SettingsError
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import flat
from mgdm_core.problem import Problem
from mgdm_core.sampler import locally_gaussian
from mgdm_core.schedule import Level
from mgdm_core.settings import Settings, at_least
from mgdm_core.steps.bridge import bridge_moments


class Linearisation(NamedTuple):
    """``image`` A(D_s(x)) flattened, its ``jacobian`` in x (batch, rows, n), -log g."""

    image: Tensor
    jacobian: Tensor
    loss: Tensor


def linearise(problem: Problem, x: Events, s: Level) -> Linearisation:
    """Linearise x -> A(D_s(x)): one evaluation and one vector-Jacobian product per row."""
    likelihood = locally_gaussian(problem, "the linearised conditional")
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x_0 = problem.denoise_differentiably(x, s)
        image = flat(likelihood.operator.forward(x_0))
        rows = image.shape[1]
        gradients = [
            torch.autograd.grad(image[:, j].sum(), x, retain_graph=j + 1 < rows)[0]
            for j in range(rows)
        ]
    image = image.detach()
    jacobian = torch.stack([flat(g) for g in gradients], 1)
    return Linearisation(image, jacobian, -likelihood.image_log_prob(image))


@dataclass(frozen=True)
class Linearised(Settings):
    """Gauss-Newton passes on x -> A(D_s(x)), then an exact draw of the Gaussian that results.

    Each pass costs one evaluation and one vector-Jacobian product per number observed, so it is
    meant for few of them. A likelihood that is not Gaussian is replaced at every pass by the
    Gaussian that it looks like at A(D_s(x)) (Fisher scoring).

    Parameters
    ----------
    passes : int
        Times that the map is linearised anew.
    max_rows : int
        Largest number of observed values accepted.
    """

    passes: int = at_least(1, 3)
    max_rows: int = at_least(1, 256)

    def requires(self, problem: Problem) -> None:
        """A likelihood that looks Gaussian near a point, and few observed values."""
        locally_gaussian(problem, "the linearised conditional")
        if problem.rows > self.max_rows:
            raise SettingsError(
                f"the linearised conditional takes one Jacobian product per observed value, at "
                f"most {self.max_rows}; found {problem.rows}; use 'variational' or 'tweedie'"
            )

    def __call__(
        self,
        problem: Problem,
        x_0: Events,
        x_t: Events,
        s: Level,
        place: Place,
        noise: RandomStreams,
    ) -> ConditionalDraw:
        """Linearise, solve, draw."""
        likelihood = locally_gaussian(problem, "the linearised conditional")
        shape = x_0.shape
        mean, dev = bridge_moments(problem.schedule, x_0, x_t, s, place.t)
        mean, dev = flat(mean), dev.reshape(-1, 1)
        x, losses = mean, []
        prior_draw = mean + dev * flat(noise.normal_like(x_0))
        y_noise = flat(noise.normal_like(likelihood.observation))
        for k in range(self.passes):
            at = linearise(problem, x.reshape(shape), s)
            losses.append(at.loss)
            jac = at.jacobian
            seen, noise_var = likelihood.local_gaussian(at.image)
            target = seen - at.image + torch.einsum("bmn,bn->bm", jac, x)
            gram = dev[:, :, None] ** 2 * jac @ jac.mT + torch.diag_embed(noise_var)
            last = k + 1 == self.passes
            base = prior_draw if last else mean
            misfit = target - torch.einsum("bmn,bn->bm", jac, base)
            if last:
                misfit = misfit + noise_var.sqrt() * y_noise
            solved = torch.linalg.solve_ex(gram, misfit[:, :, None])[0]
            x = base + dev**2 * (jac.mT @ solved)[:, :, 0]
        return ConditionalDraw(x.reshape(shape), losses[0], losses[-1])
