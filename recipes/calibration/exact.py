"""Tier 1: truth and observation simulated from the mixture prior, whose posterior is known."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

import mgdm_core
from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import LinearOperator, Matrix, SumOverChannels
from mgdm_core.priors import GaussianMixture, GaussianMixturePrior, Prior
from mgdm_core.schedule import NoiseSchedule
from recipes.calibration import statistics
from recipes.calibration.scores import NOMINAL, central_coverage, ranks
from recipes.exact_posterior.problems import ShapedPrior, mixture_of_25, stems_of
from recipes.exact_posterior.runner import digest, refused
from recipes.exact_posterior.streams import BatchStreams
from recipes.exact_posterior.variants import MAIN, Variant

__all__ = [
    "EXACT",
    "ExactCell",
    "Posteriors",
    "Setting",
    "Simulation",
    "measure",
    "run_cell",
    "simulate",
]

EXACT = "exact"
"""Name of the control: draws from the exact posterior."""

DIRECTIONS = 6
BINS = 10


@dataclass(frozen=True)
class Setting:
    """y = A x + noise eps: a random A, or the sums of stems of the mixing problem."""

    task: str
    dim: int
    observations: int
    noise: float = 0.05

    @property
    def title(self) -> str:
        """For tables and pictures."""
        seen = f"{self.observations} observed"
        return f"{self.task}, d = {self.dim}, {seen}, noise {self.noise:g}"


@dataclass(frozen=True)
class ExactCell:
    """One sampler on one setting."""

    sampler: str
    setting: Setting
    cases: int
    draws: int

    @property
    def key(self) -> str:
        """Short name of everything that the figures depend on."""
        told = "" if self.sampler == EXACT else digest(MAIN[self.sampler])
        return hashlib.sha256(f"{self!r} {told}".encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """For progress."""
        return f"{self.sampler}, {self.setting.title}"

    @property
    def told(self) -> dict[str, Any]:
        """What its record says of it."""
        return {"tier": 1, "key": self.key, **asdict(self)}


@dataclass(frozen=True)
class Posteriors:
    """The exact posteriors of many observations of one mixture: weights and means are each's own.

    Attributes
    ----------
    weights : Tensor, shape (cases, components)
    means : Tensor, shape (cases, components, dim)
    covariance : Tensor, shape (dim, dim)
        Of every component, since the prior's have one covariance.
    """

    weights: torch.Tensor
    means: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def of(
        cls, mixture: GaussianMixture, matrix: torch.Tensor, y: torch.Tensor, noise: float
    ) -> Posteriors:
        """Condition the mixture on every row of ``y``."""
        spread = mixture.covariances[0]
        if not bool((mixture.covariances == spread).all()):
            raise ValueError("the components of the mixture have one covariance")
        eye = torch.eye(len(matrix), dtype=torch.float64)
        marginal = matrix @ spread @ matrix.T + noise**2 * eye
        gain = torch.linalg.solve(marginal, matrix @ spread).T
        residual = y[:, None] - mixture.means @ matrix.T
        fit = (residual @ torch.linalg.inv(marginal) * residual).sum(-1)
        weights = torch.softmax(mixture.weights.log() - 0.5 * fit, -1)
        return cls(weights, mixture.means + residual @ gain.T, spread - gain @ matrix @ spread)

    def sample(self, draws: int, generator: torch.Generator) -> torch.Tensor:
        """``(cases, draws, dim)``."""
        which = torch.multinomial(self.weights, draws, replacement=True, generator=generator)
        rows = torch.arange(len(which))[:, None]
        factor = torch.linalg.cholesky(self.covariance)
        shape = (*which.shape, len(factor))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.means[rows, which] + noise @ factor.T

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Log-density of ``(cases, draws, dim)`` up to a constant, ``(cases, draws)``."""
        off = x[:, :, None] - self.means[:, None]
        fit = (off @ torch.linalg.inv(self.covariance) * off).sum(-1)
        return torch.logsumexp(self.weights.log()[:, None] - 0.5 * fit, -1)


@dataclass(frozen=True)
class Simulation:
    """Truths from the prior, an observation of each, and each exact posterior.

    Attributes
    ----------
    prior : Prior
    operator : LinearOperator
    matrix : Tensor, shape (observations, dim)
        The operator of flat vectors.
    shape : tuple of int
        Of one event.
    truth, y : Tensor, shapes (cases, dim) and (cases, observations)
    references : Tensor, shape (cases, dim)
        From the prior again: the random points of TARP.
    posteriors : Posteriors
    """

    setting: Setting
    prior: Prior
    operator: LinearOperator
    matrix: torch.Tensor
    shape: tuple[int, ...]
    truth: torch.Tensor
    y: torch.Tensor
    references: torch.Tensor
    posteriors: Posteriors

    def posed(self, draws: int) -> mgdm_core.Problem:
        """Every observation so many times, those of one case side by side."""
        y = self.y.repeat_interleave(draws, 0)
        likelihood = GaussianLikelihood(self.operator, y, self.setting.noise)
        return mgdm_core.Problem(self.prior, likelihood, self.shape)

    def exact(self, draws: int, seed: int) -> torch.Tensor:
        """Draws from every exact posterior, ``(cases, draws, dim)``."""
        generator = torch.Generator().manual_seed(seed)
        return self.posteriors.sample(draws, generator)


@lru_cache(2)
def simulate(setting: Setting, cases: int) -> Simulation:
    """Draw the truths and observations of a setting; the same for the same arguments."""
    generator = torch.Generator().manual_seed(77_000 + setting.dim)
    mixture = mixture_of_25(setting.dim, generator)
    prior: Prior = GaussianMixturePrior(mixture, NoiseSchedule.vp_linear())
    shape: tuple[int, ...] = (setting.dim,)
    if setting.task == "mixing":
        stems = stems_of(setting.dim)
        shape = (stems, setting.dim // stems)
        prior = ShapedPrior(prior)
        operator: LinearOperator = SumOverChannels(stems)
        matrix = torch.eye(shape[1], dtype=torch.float64).repeat(1, stems)
    else:
        size = (setting.observations, setting.dim)
        matrix = torch.randn(size, generator=generator, dtype=torch.float64)
        operator = Matrix(matrix)
    truth, _ = mixture.sample(cases, generator)
    eps = torch.randn(cases, len(matrix), generator=generator, dtype=torch.float64)
    y = truth @ matrix.T + setting.noise * eps
    references, _ = mixture.sample(cases, generator)
    posteriors = Posteriors.of(mixture, matrix, y, setting.noise)
    return Simulation(setting, prior, operator, matrix, shape, truth, y, references, posteriors)


def run_cell(cell: ExactCell) -> dict[str, Any]:
    """Draw and measure; what a sampler lacks is under ``error``."""
    simulation = simulate(cell.setting, cell.cases)
    began, processor = time.perf_counter(), time.process_time()
    drawn, facts = _draw(simulation, cell)
    facts["seconds"] = time.perf_counter() - began
    facts["processor_seconds"] = time.process_time() - processor
    return facts | measure(simulation, drawn)


def _draw(simulation: Simulation, cell: ExactCell) -> tuple[torch.Tensor, dict[str, Any]]:
    """Draws ``(cases, draws, dim)`` and what they cost each."""
    if cell.sampler == EXACT:
        return simulation.exact(cell.draws, 1), {"evaluations": 0.0, "vjps": 0.0}
    variant: Variant = MAIN[cell.sampler]
    one = simulation.posed(1)
    reason = refused(variant, one)
    if reason:
        return torch.empty(0), {"error": reason}
    sampler = variant or mgdm_core.default_sampler(one)
    many = sampler.interacting
    if many and getattr(sampler, "particles") < cell.draws:  # noqa: B009 (not of all samplers)
        sampler = replace(sampler, particles=cell.draws)  # type: ignore[type-var]
    posed = one if many else simulation.posed(cell.draws)
    streams = BatchStreams(10**9, posed.items)
    result = mgdm_core.sample(posed, sampler, noise=streams)
    per_draw = 1.0
    if result.particles is None:
        x = result.x.reshape(cell.cases, cell.draws, -1)
    else:  # some of the particles, which are equally weighted but not independent
        x = result.particles.flatten(2)
        per_draw = 1 / x.shape[1]
        rng = np.random.default_rng(2)
        x = x[:, rng.choice(x.shape[1], cell.draws, replace=False)]
    facts = {
        "evaluations": result.trace.evaluations * per_draw,
        "vjps": result.trace.vjps * per_draw,
        "warnings": [line.split(":")[0] for line in result.trace.warnings],
    }
    return x.double(), facts


def measure(simulation: Simulation, drawn: torch.Tensor) -> dict[str, Any]:
    """All figures of tier 1 of draws ``(cases, draws, dim)``.

    Ranks are taken along random directions and of the log-likelihood, which sees a wrong distance
    from the data that no direction does.
    """
    if not len(drawn):
        return {}
    truth, draws = simulation.truth.numpy(), drawn.shape[1]
    points = drawn.transpose(0, 1).numpy()
    found = statistics.projected_ranks(truth, points, DIRECTIONS)
    misfit = [_misfit(simulation, x) for x in (simulation.truth, drawn.transpose(0, 1))]
    likelihood = ranks(misfit[0].numpy(), misfit[1].numpy())
    bins = BINS if (draws + 1) % BINS == 0 else draws + 1
    tests = [statistics.rank_test(row, draws, bins) for row in (*found, likelihood)]
    near = statistics.tarp_ranks(truth, points, simulation.references.numpy())
    places = statistics.uniform_places(near, draws)
    levels = statistics.LEVELS
    exact = simulation.exact(draws, 99)
    return {
        "rank_counts": np.sum([statistics.rank_counts(row, draws, bins) for row in found], 0),
        "likelihood_rank_counts": statistics.rank_counts(likelihood, draws, bins),
        # Bonferroni: one of so many tests.
        "rank_p": min(1.0, len(tests) * min(tests)),
        "coverage": dict(zip(map(str, NOMINAL), central_coverage(found, draws))),
        "coverage_z": statistics.coverage_z(found, draws),
        "coverage_curve": central_coverage(found, draws, levels),
        "tarp_p": statistics.uniform_test(places),
        "tarp_curve": statistics.coverage_curve(places),
        "c2st": statistics.classifier_two_sample(
            _features(simulation, exact), _features(simulation, drawn)
        ),
    }


def _misfit(simulation: Simulation, x: torch.Tensor) -> torch.Tensor:
    """Minus twice the log-likelihood of points ``(..., cases, dim)``."""
    residual = simulation.y - x @ simulation.matrix.T
    return (residual / simulation.setting.noise).square().sum(-1)


def _features(simulation: Simulation, x: torch.Tensor) -> np.ndarray:
    """What the classifier sees of ``(cases, draws, dim)``: points, data, fit, exact density."""
    density = simulation.posteriors.log_prob(x)
    misfit = _misfit(simulation, x.transpose(0, 1)).T
    y = simulation.y[:, None].expand(-1, x.shape[1], -1)
    parts = [x, y, misfit[..., None], density[..., None].clamp_min(-1e12)]
    return torch.cat(parts, -1).numpy()
