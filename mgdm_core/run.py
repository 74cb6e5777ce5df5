"""One run of a sampler: the signature all share, the bookkeeper, the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch

from mgdm_core.array_types import Int, Tensor
from mgdm_core.errors import CancelledError, DivergenceError, SettingsError, ShapeError
from mgdm_core.likelihoods import GaussianLikelihood, Likelihood
from mgdm_core.operators import flat
from mgdm_core.priors import Denoised, Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.trace import (
    Callback,
    Progress,
    StepRecord,
    Trace,
    failure_signatures,
    peak_memory_bytes,
)

__all__ = ["Run", "SampleResult", "Sampler", "SamplerInfo", "Start", "check", "settings_from"]


@dataclass(frozen=True)
class Start:
    """Where a run begins instead of at pure noise.

    Parameters
    ----------
    x_0 : Tensor, shape (batch, *event)
        A first estimate.
    level : int or None
        Level to noise it to; None for the sampler's own first level.
    """

    x_0: Tensor
    level: int | None = None


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returns.

    Attributes
    ----------
    x : Tensor, shape (batch, *event)
        One posterior sample per item.
    trace : Trace
    particles : Tensor or None, shape (batch, particles, *event)
        All particles, equally weighted, of methods that keep several per item.
    """

    x: Tensor
    trace: Trace
    particles: Tensor | None = None


class Sampler(Protocol):
    """The one signature of every sampler."""

    def __call__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        shape: Sequence[int],
        streams: RandomStreams,
        settings: Any = ...,
        *,
        start: Start | None = None,
        callback: Callback | None = None,
    ) -> SampleResult:
        """Draw one posterior sample per item (per random stream)."""
        ...


@dataclass(frozen=True)
class SamplerInfo:
    """Entry of the list of samplers.

    Attributes
    ----------
    name : str
    run : callable
        The sampler.
    settings : type
        Its settings dataclass.
    presets : mapping
        Named settings.
    needs : frozenset of str
        What it asks for: capabilities of the operator (``adjoint``, ``svd``, ``proximal``),
        ``gaussian`` likelihood, ``vjp`` through the denoiser, ``mixing`` operator.
    paper : str
        Source.
    particles : bool
        Whether it keeps several interacting particles per item.
    """

    name: str
    run: Callable[..., SampleResult]
    settings: type
    presets: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    paper: str = ""
    particles: bool = False


def check(condition: bool, rule: str, found: object) -> None:
    """Raise :class:`SettingsError` with the rule and the value found unless ``condition``."""
    if not condition:
        raise SettingsError(f"{rule}; found {found!r}")


def settings_from(base: Any, changes: Mapping[str, Any]) -> Any:
    """Copy of a settings dataclass with some fields changed, unknown names refused."""
    names = [f.name for f in fields(base)]
    for name in changes:
        if name not in names:
            raise SettingsError(
                f"{type(base).__name__} has no setting {name!r}; valid names: {', '.join(names)}"
            )
    return replace(base, **dict(changes))


class Run:
    """Bookkeeper of one run: counts, records, checks for NaN, reports, finishes.

    Parameters
    ----------
    name : str
        Sampler's name.
    prior, likelihood, shape, streams
        As the sampler received them.
    callback : callable or None
    steps : int
        Number of outer steps, for progress.
    """

    def __init__(
        self,
        name: str,
        prior: Prior,
        likelihood: Likelihood,
        shape: Sequence[int],
        streams: RandomStreams,
        callback: Callback | None,
        steps: int,
    ) -> None:
        y = likelihood.observation
        if len(y) != len(streams):
            raise ShapeError(
                f"{name}: one observation and one random stream per item; "
                f"found {len(y)} observations and {len(streams)} streams"
            )
        self.prior, self.likelihood, self.streams = prior, likelihood, streams
        self.shape, self.steps, self._callback = tuple(shape), steps, callback
        self.schedule = prior.schedule
        self.dtype = y.dtype if y.dtype.is_floating_point else torch.float32
        self.device = y.device
        self.trace = Trace(name)
        self.batch = len(streams)
        self._done = 0
        self._began = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    # -- the prior, counted --------------------------------------------------------------------

    def denoise(self, x: Tensor, t: int | Int[Tensor, "..."]) -> Tensor:
        """D_t(x) without a graph."""
        with torch.no_grad():
            self.trace.evaluations += len(x) / self.batch
            return self.prior.denoise(x, t)

    def denoise_with_variance(self, x: Tensor, t: int | Int[Tensor, "..."]) -> Denoised:
        """D_t(x) with its diagonal posterior variance, without a graph."""
        with torch.no_grad():
            self.trace.evaluations += len(x) / self.batch
            return self.prior.denoise_with_variance(x, t)  # type: ignore[attr-defined]

    def denoise_differentiably(self, x: Tensor, t: int | Int[Tensor, "..."]) -> Tensor:
        """D_t(x) with a graph; count every product with its Jacobian by :meth:`vjp`."""
        self.trace.evaluations += len(x) / self.batch
        return self.prior.denoise(x, t)

    def vjp(
        self, output: Tensor, x: Tensor, vector: Tensor | None = None, retain: bool = False
    ) -> Tensor:
        """Gradient of sum(output * vector) with respect to ``x``, counted as one product."""
        self.trace.vjps += len(x) / self.batch
        (grad,) = torch.autograd.grad(output, x, vector, retain_graph=retain)
        return grad

    def loss_and_grad(
        self, x: Tensor, t: int | Int[Tensor, "..."], loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return D_t(x), loss(D_t(x)) per item and the gradient of the loss in ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            x_0 = self.denoise_differentiably(x, t)
            value = loss(x_0)
            grad = self.vjp(value.sum(), x)
        return x_0.detach(), value.detach(), grad

    # -- start, steps, end ---------------------------------------------------------------------

    def noise(self) -> Tensor:
        """Standard normal numbers in the run's shape, dtype and device."""
        return self.streams.normal(self.shape, self.dtype, self.device)

    def first_state(self, level: int, start: Start | None) -> tuple[Tensor, int]:
        """x at the first level: pure noise, or the start's estimate noised to its level."""
        if start is not None and start.level is not None:
            level = start.level
        sigma = float(self.schedule.sigma[level])
        if start is None:
            return sigma * self.noise(), level
        if start.x_0.shape != (self.batch, *self.shape):
            raise ShapeError(
                f"the start has shape (batch, *shape) = {(self.batch, *self.shape)}; "
                f"found {tuple(start.x_0.shape)}"
            )
        x_0 = start.x_0.to(self.device, self.dtype)
        return float(self.schedule.alpha[level]) * x_0 + sigma * self.noise(), level

    def residual(self, x_0: Tensor) -> Tensor | None:
        """Root mean square of y - A(x_0) per item, where the likelihood has a residual."""
        if not isinstance(self.likelihood, GaussianLikelihood) or len(x_0) != self.batch:
            return None
        with torch.no_grad():
            return flat(self.likelihood.residual(x_0)).square().mean(-1).sqrt()

    def require_finite(self, level: int | Int[Tensor, " batch"], *arrays: Tensor) -> None:
        """Stop the run on NaN or infinity in any of the arrays, which have the items first.

        Raises
        ------
        DivergenceError
            With the level (of the first such item) and the items.
        """
        bad = ~torch.stack([torch.isfinite(flat(x)).all(-1) for x in arrays]).all(0)
        if bool(bad.any()):
            items = bad.nonzero()[:, 0].tolist()
            at = level if isinstance(level, int) else int(level.reshape(-1)[items[0]])
            raise DivergenceError(self.trace.sampler, at, items)

    def step(
        self,
        level: int,
        x: Tensor,
        x_0: Tensor,
        *,
        index: Tensor | None = None,
        loss_before: Tensor | None = None,
        loss_after: Tensor | None = None,
    ) -> None:
        """Record one outer step, stop on NaN, report to the callback.

        Raises
        ------
        DivergenceError
            At the level where NaN or infinity arose.
        CancelledError
            If the callback returned False.
        """
        self.require_finite(level, x, x_0)
        residual = self.residual(x_0)

        def mean(value: Tensor | None) -> float | None:
            return None if value is None else float(value.double().mean())

        self.trace.records.append(
            StepRecord(
                level=level,
                index=mean(index),
                loss_before=mean(loss_before),
                loss_after=mean(loss_after),
                residual=mean(residual),
                magnitude=float(x.abs().max()),
            )
        )
        self._done += 1
        if self._callback is not None:
            progress = Progress(
                self.trace.sampler, min(self._done, self.steps), self.steps, level, x_0
            )
            if self._callback(progress) is False:
                raise CancelledError(f"{self.trace.sampler} was cancelled at level {level}")

    def finish(self, x: Tensor, particles: Tensor | None = None) -> SampleResult:
        """Close the trace and name the failure signatures."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.trace.seconds = time.perf_counter() - self._began
        self.trace.peak_memory = peak_memory_bytes(self.device)
        sigma_y = getattr(self.likelihood, "sigma_y", None)
        y = self.likelihood.observation
        observed = float(y.double().square().mean().sqrt())
        self.trace.warnings = failure_signatures(
            self.trace.records, self.schedule.last, sigma_y, observed
        )
        return SampleResult(x.detach(), self.trace, particles)
