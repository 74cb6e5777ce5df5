"""A Gaussian-mixture prior whose denoiser is exact, and its exact posterior.

For a mixture sum_i w_i N(m_i, C_i) every quantity that a diffusion sampler approximates is known:
the denoiser, its Jacobian, and the posterior under a linear-Gaussian observation. It is what the
samplers are proven against.
"""

from __future__ import annotations

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.priors.protocol import level_vector
from mgdm_core.schedule import NoiseSchedule


class GaussianMixture:
    """sum_i w_i N(m_i, C_i) in any dimension, float64.

    Parameters
    ----------
    weights : Tensor, shape (components,)
        Positive; normalised here.
    means : Tensor, shape (components, dim)
    covariances : Tensor, shape (components, dim, dim)
    """

    def __init__(
        self,
        weights: Float[Tensor, " components"],
        means: Float[Tensor, "components dim"],
        covariances: Float[Tensor, "components dim dim"],
    ) -> None:
        if bool((weights < 0).any()) or not float(weights.sum()) > 0:
            raise SettingsError("mixture weights are non-negative with a positive sum")
        self.weights = weights.double() / weights.double().sum()
        self.means = means.double()
        self.covariances = covariances.double()

    @property
    def dim(self) -> int:
        """Dimension of the space."""
        return self.means.shape[1]

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count dim"], Int[Tensor, " count"]]:
        """Draw samples and the component that each came from."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        factors = torch.linalg.cholesky(self.covariances)
        return self.means[which] + torch.einsum("bij,bj->bi", factors[which], noise), which

    def log_prob(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """Log-density."""
        return torch.logsumexp(self.component_log_prob(x), -1)

    def component_log_prob(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch comps"]:
        """log w_i + log N(x; m_i, C_i)."""
        normal = torch.distributions.MultivariateNormal(self.means, self.covariances)
        return self.weights.log() + normal.log_prob(x.double()[:, None])

    def posterior(
        self,
        matrix: Float[Tensor, "observation dim"],
        y: Float[Tensor, " observation"],
        sigma_y: float,
    ) -> GaussianMixture:
        """Exact posterior given y = A x + sigma_y eps: again a mixture."""
        a, y = matrix.double(), y.double()
        eye = torch.eye(a.shape[0], dtype=torch.float64)
        ca = self.covariances @ a.T
        marginal = a @ ca + sigma_y**2 * eye
        residual = y - self.means @ a.T
        evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), marginal)
        log_weights = self.weights.log() + evidence.log_prob(residual)
        gain = torch.linalg.solve(marginal, ca.mT).mT
        means = self.means + torch.einsum("cij,cj->ci", gain, residual)
        covariances = self.covariances - gain @ ca.mT
        covariances = 0.5 * (covariances + covariances.mT)
        return GaussianMixture(torch.softmax(log_weights, 0), means, covariances)


def isotropic_mixture(
    weights: Float[Tensor, " components"],
    means: Float[Tensor, "components dim"],
    variance: float = 1.0,
) -> GaussianMixture:
    """Mixture with one covariance ``variance * I`` for all components."""
    dim = means.shape[1]
    eye = variance * torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(weights, means, eye.expand(len(weights), dim, dim).clone())


class GaussianMixturePrior:
    """The exact denoiser of a Gaussian mixture as a diffusion prior.

    Parameters
    ----------
    mixture : GaussianMixture
    schedule : NoiseSchedule
    """

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule) -> None:
        self.mixture, self.schedule = mixture, schedule
        # Noisy covariances alpha^2 C + sigma^2 I share C's eigenvectors at every level.
        values, vectors = torch.linalg.eigh(mixture.covariances)
        self._arrays = (mixture.means, mixture.weights.log(), values, vectors)
        self._moved: dict[tuple, tuple[Tensor, ...]] = {}
        scale = mixture.covariances[0, 0, 0]
        eye = scale * torch.eye(mixture.dim, dtype=torch.float64)
        self._isotropic = bool((mixture.covariances == eye).all())
        self._scale = float(scale)

    def _like(self, x: Tensor) -> tuple[Tensor, ...]:
        """Means, log weights, eigenvalues, eigenvectors in ``x``'s dtype and device, moved once."""
        key = (x.device, x.dtype)
        if key not in self._moved:
            self._moved[key] = tuple(a.to(*key) for a in self._arrays)
        return self._moved[key]

    def denoise(
        self, x: Float[Tensor, "batch dim"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """E[x_0 | x_t] in closed form, in x's dtype (float32 or float64 inside)."""
        if isinstance(t, int) and t == 0:
            return x
        index = level_vector(t, x.shape[0], x.device)
        inner = x if x.dtype in (torch.float32, torch.float64) else x.float()
        alpha, sigma = self.schedule.at(index, inner)
        means, log_w, values, vectors = self._like(inner)
        if self._isotropic:
            variance = alpha**2 * self._scale + sigma**2
            # ||x - alpha m||^2 expanded: the cross term is one matrix product.
            square = (
                inner.square().sum(-1, keepdim=True)
                - 2 * alpha * inner @ means.T
                + alpha**2 * means.square().sum(-1)
            )
            share = torch.softmax(log_w - 0.5 * square / variance, -1)
            mixed = share @ means
            gain = alpha * self._scale / variance
            out = mixed + gain * (inner - alpha * mixed)
        else:
            centred = inner[:, None] - alpha[:, :, None] * means
            turned = torch.einsum("cij,bci->bcj", vectors, centred)
            spread = alpha[:, :, None] ** 2 * values + sigma[:, :, None] ** 2
            logits = log_w - 0.5 * (turned**2 / spread + spread.log()).sum(-1)
            share = torch.softmax(logits, -1)
            shift = torch.einsum(
                "cij,bcj->bci", vectors, alpha[:, :, None] * values / spread * turned
            )
            out = torch.einsum("bc,bci->bi", share, means + shift)
        return torch.where((index == 0)[:, None], x, out.to(x.dtype))
