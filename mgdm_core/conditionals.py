"""How x_s is drawn given (x_0, x_t, y): the only step of MGDM that sees the observation.

The target is pi(x_s | x_0, x_t, y), proportional to g(y | D_s(x_s)) times the bridge
q(x_s | x_0, x_t). Each class is a frozen dataclass of settings whose call makes one draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.conditioning import condition_gaussian
from mgdm_core.errors import CapabilityError, SettingsError
from mgdm_core.kernels import bridge_moments, bridge_sample
from mgdm_core.likelihoods import GaussianLikelihood, ImageLikelihood
from mgdm_core.operators import flat
from mgdm_core.priors import VariancePrior
from mgdm_core.run import Run, check

__all__ = [
    "CONDITIONALS",
    "CleanConditional",
    "Conditional",
    "ConditionalDraw",
    "GibbsStep",
    "Linearisation",
    "Linearised",
    "Tweedie",
    "Variational",
]


class GibbsStep(NamedTuple):
    """Where in the run a conditional is called: level t, indices s, outer ``step`` of ``steps``."""

    t: int
    s: Int[Tensor, " batch"]
    step: int
    steps: int


class ConditionalDraw(NamedTuple):
    """x_s with -log g per item before and after (None where it costs an extra evaluation).

    ``x_0`` is the draw of x_0 given x_s and y of conditionals that make one on the way.
    """

    x_s: Tensor
    loss_before: Tensor | None
    loss_after: Tensor | None
    x_0: Tensor | None = None


class Linearisation(NamedTuple):
    """x_0 = D_s(x), ``image`` A(x_0) flattened, its ``jacobian`` in x (batch, rows, n), -log g.

    All but x_0 in float32 or wider, which factorisations need.
    """

    x_0: Tensor
    image: Tensor
    jacobian: Tensor
    loss: Tensor


@runtime_checkable
class Conditional(Protocol):
    """Draws x_s | x_0, x_t, y."""

    def __call__(
        self,
        run: Run,
        x_0: Float[Tensor, "batch *event"],
        x_t: Float[Tensor, "batch *event"],
        where: GibbsStep,
    ) -> ConditionalDraw:
        """Make one draw."""
        ...


@runtime_checkable
class CleanConditional(Protocol):
    """A conditional that can also draw x_0 | x_s, y, at one evaluation."""

    def condition(
        self, run: Run, x_s: Float[Tensor, "batch *event"], s: Int[Tensor, " batch"]
    ) -> Tensor:
        """Draw x_0 given x_s and y."""
        ...


def _wide(x: Tensor) -> Tensor:
    """The array in float32 or wider: torch factorises nothing narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _locally_gaussian(run: Run, who: str) -> ImageLikelihood:
    if not isinstance(run.likelihood, ImageLikelihood):
        raise CapabilityError(run.likelihood, "local_gaussian", who)
    return run.likelihood


def _gaussian(run: Run, who: str) -> GaussianLikelihood:
    if not isinstance(run.likelihood, GaussianLikelihood):
        raise CapabilityError(run.likelihood, "gaussian", who)
    return run.likelihood


@dataclass(frozen=True)
class Variational:
    """The paper's draw: a diagonal Gaussian fitted by Adam (Janati et al. 2025, Gauss_VI).

    Starts at the bridge's mean and deviation; each Adam step takes one reparameterised sample of
    -log g(y | D_s(x_s)) plus the closed-form KL divergence to the bridge.

    Parameters
    ----------
    steps : int
        Adam steps.
    late_steps : int
        Adam steps once ``late_from`` of the run is done, and at every ``every``-th step if that is
        positive.
    late_from : float
        Share of the run after which ``late_steps`` are taken.
    every : int
        Period of extra ``late_steps``; 0 for none.
    learning_rate : float
    early_learning_rate : float or None
        Used for the first ``early`` outer steps.
    early : int
    """

    steps: int = 5
    late_steps: int = 20
    late_from: float = 0.7
    every: int = 0
    learning_rate: float = 0.03
    early_learning_rate: float | None = None
    early: int = 11

    def __post_init__(self) -> None:
        check(self.steps >= 1 and self.late_steps >= 1, "Adam steps are at least 1", self.steps)
        check(self.learning_rate > 0, "learning_rate is positive", self.learning_rate)
        check(0 <= self.late_from <= 1, "late_from lies in [0, 1]", self.late_from)

    def plan(self, where: GibbsStep) -> tuple[int, float]:
        """Number of Adam steps and learning rate at this place of the run."""
        late = where.step >= round(self.late_from * where.steps)
        extra = self.every > 0 and where.step % self.every == 0
        rate = self.learning_rate
        if self.early_learning_rate is not None and where.step < self.early:
            rate = self.early_learning_rate
        return (self.late_steps if late or extra else self.steps), rate

    def fit(
        self,
        run: Run,
        mean: Float[Tensor, "batch *event"],
        dev: Float[Tensor, "..."],
        s: Int[Tensor, " batch"],
        steps: int,
        rate: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fit N(m, exp(2 rho)) to g_s times N(mean, dev^2); return m, rho, first and last loss."""
        dev = dev.expand_as(mean)
        m, rho = mean.clone(), dev.log()
        prior_precision = dev.square().reciprocal()
        first, second = (
            [torch.zeros_like(mean) for _ in range(2)],
            [torch.zeros_like(mean) for _ in range(2)],
        )
        beta1, beta2, eps = 0.9, 0.999, 1e-8
        losses: list[Tensor] = []
        for k in range(1, steps + 1):
            z = run.streams.normal_like(mean)
            spread = rho.exp()
            _, loss, grad = run.loss_and_grad(
                m + spread * z, s, lambda x_0: -run.likelihood.log_prob(x_0)
            )
            losses.append(loss)
            gradients = (
                grad + (m - mean) * prior_precision,
                grad * z * spread + spread**2 * prior_precision - 1,
            )
            updates = []
            for j, g in enumerate(gradients):
                first[j] = beta1 * first[j] + (1 - beta1) * g
                second[j] = beta2 * second[j] + (1 - beta2) * g**2
                scale = (second[j] / (1 - beta2**k)).sqrt() + eps
                updates.append(rate * first[j] / (1 - beta1**k) / scale)
            m, rho = m - updates[0], rho - updates[1]
        return m, rho, losses[0], losses[-1]

    def __call__(
        self,
        run: Run,
        x_0: Float[Tensor, "batch *event"],
        x_t: Float[Tensor, "batch *event"],
        where: GibbsStep,
    ) -> ConditionalDraw:
        """Fit and draw once."""
        mean, dev = bridge_moments(run.schedule, x_0, x_t, where.s, where.t)
        steps, rate = self.plan(where)
        m, rho, before, after = self.fit(run, mean, dev, where.s, steps, rate)
        return ConditionalDraw(m + rho.exp() * run.streams.normal_like(m), before, after)


@dataclass(frozen=True)
class Linearised:
    """Gauss-Newton passes on x -> A(D_s(x)), then an exact draw of the Gaussian that results.

    Each pass costs one evaluation and one vector-Jacobian product per number observed, so it is
    meant for few of them. A likelihood that is not Gaussian is replaced at every pass by the
    Gaussian that it looks like at A(D_s(x)) (Fisher scoring).

    Parameters
    ----------
    passes : int
        Times that the map is linearised anew.
    inflate : float
        Share of the posterior covariance of x_0 given x_s (Tweedie: sigma^2 J / alpha) that is
        added, seen through A, to the observation's variance.
    max_rows : int
        Largest number of observed values accepted.
    """

    passes: int = 3
    inflate: float = 0.0
    max_rows: int = 256

    def __post_init__(self) -> None:
        check(self.passes >= 1, "passes is at least 1", self.passes)
        check(self.inflate >= 0, "inflate is not negative", self.inflate)

    def linearise(
        self, run: Run, x: Float[Tensor, "batch *event"], s: Int[Tensor, " batch"]
    ) -> Linearisation:
        """Linearise x -> A(D_s(x)): one evaluation and one vector-Jacobian product per row.

        Raises
        ------
        DivergenceError
            On NaN or infinity, which the algebra that follows would not survive.
        """
        likelihood = _locally_gaussian(run, "the linearised conditional")
        with torch.enable_grad():
            x = x.detach().to(run.dtype).requires_grad_(True)
            x_0 = run.denoise_differentiably(x, s)
            image = flat(likelihood.operator.forward(x_0))
            rows = image.shape[1]
            if rows > self.max_rows:
                raise SettingsError(
                    f"the linearised conditional takes one Jacobian product per observed value, at "
                    f"most {self.max_rows}; found {rows}; use 'variational' or 'tweedie'"
                )
            jacobian = torch.stack(
                [flat(run.vjp(image[:, j].sum(), x, retain=j + 1 < rows)) for j in range(rows)], 1
            )
        image, jacobian = (_wide(v.detach()) for v in (image, jacobian))
        run.require_finite(s, image, jacobian)
        return Linearisation(x_0.detach(), image, jacobian, -likelihood.image_log_prob(image))

    def __call__(
        self,
        run: Run,
        x_0: Float[Tensor, "batch *event"],
        x_t: Float[Tensor, "batch *event"],
        where: GibbsStep,
    ) -> ConditionalDraw:
        """Linearise, solve, draw."""
        likelihood = _locally_gaussian(run, "the linearised conditional")
        shape = x_0.shape
        mean, dev = bridge_moments(run.schedule, x_0, x_t, where.s, where.t)
        mean, dev = _wide(flat(mean)), _wide(dev.reshape(-1, 1))
        x, losses = mean, []
        prior_draw = mean + dev * flat(run.streams.normal_like(x_0))
        y_noise = _wide(flat(run.streams.normal_like(likelihood.observation)))
        for k in range(self.passes):
            x_0, image, jac, loss = self.linearise(run, x.reshape(shape), where.s)
            losses.append(loss)
            seen, noise_var = likelihood.local_gaussian(image)
            target = seen - image + torch.einsum("bmn,bn->bm", jac, x)
            cov_y = torch.diag_embed(noise_var)
            if self.inflate > 0:
                cov_y = cov_y + self.inflate * self.seen_covariance(run, x_0, jac, where.s)
            gram = dev[:, :, None] ** 2 * jac @ jac.mT + cov_y
            last = k + 1 == self.passes
            base = prior_draw if last else mean
            misfit = target - torch.einsum("bmn,bn->bm", jac, base)
            if last:
                factor = torch.linalg.cholesky(cov_y)
                misfit = misfit + torch.einsum("bij,bj->bi", factor, y_noise)
            solved = torch.linalg.solve(gram, misfit[:, :, None])
            x = base + dev**2 * (jac.mT @ solved)[:, :, 0]
        return ConditionalDraw(x.reshape(shape).to(run.dtype), losses[0], losses[-1])

    def seen_covariance(
        self,
        run: Run,
        x_0: Float[Tensor, "batch *event"],
        jac: Float[Tensor, "batch rows size"],
        s: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch rows rows"]:
        """Covariance of A(x_0) given x_s: J_A C J_A^T with C = sigma_s^2 / alpha_s J_D.

        The rows of J_A J_D are at hand; a nonlinear A is differentiated once more, forwards, at
        the cost of A alone.
        """
        operator = _locally_gaussian(run, "the covariance seen by the observation").operator

        def image(row: Tensor) -> Tensor:
            tangent = row.reshape(x_0.shape).to(x_0.dtype)
            if "adjoint" in operator.capabilities:
                return flat(operator.forward(tangent))
            return flat(torch.func.jvp(operator.forward, (x_0,), (tangent,))[1])  # type: ignore

        seen = torch.stack([image(row) for row in jac.unbind(1)], 1).to(jac.dtype)
        alpha, sigma = run.schedule.at(s, seen)
        cov = sigma**2 / alpha * 0.5 * (seen + seen.mT)
        values, vectors = torch.linalg.eigh(cov)
        return vectors @ (values.clamp_min(0)[:, :, None] * vectors.mT)


@dataclass(frozen=True)
class Tweedie:
    """No vector-Jacobian product: condition x_0 given x_s by its Tweedie variance.

    x_s is drawn from the bridge without y; D_s(x_s) and Var[x_0 | x_s] = sigma_s^2 / alpha_s J
    (Tweedie's second-order formula) give a Gaussian on x_0, which is conditioned on y exactly;
    x_s is then drawn from the bridge again through the new x_0. One evaluation.

    Parameters
    ----------
    variance : {"auto", "prior", "probe", "isotropic"}
        ``prior``: the prior's own diagonal (a :class:`~mgdm_core.priors.VariancePrior`);
        ``probe``: one value per item, mean of J's diagonal by one finite difference (one more
        evaluation); ``isotropic``: sigma^2 / (sigma^2 + alpha^2 data_variance) data_variance;
        ``auto``: ``prior`` where it can, else ``probe``.
    draw : bool
        Draw x_0 | x_s, y; otherwise take its mean.
    data_variance : float
        Variance of the data for ``isotropic``.
    floor : float
        Share of sigma_s^2 below which no variance falls, so that no coefficient is ever certain.
    """

    variance: str = "auto"
    draw: bool = True
    data_variance: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        kinds = ("auto", "prior", "probe", "isotropic")
        check(self.variance in kinds, f"variance is one of {', '.join(kinds)}", self.variance)
        check(self.data_variance > 0, "data_variance is positive", self.data_variance)
        check(self.floor >= 0, "floor is not negative", self.floor)

    def condition(
        self, run: Run, x_s: Float[Tensor, "batch *event"], s: Int[Tensor, " batch"]
    ) -> Tensor:
        """Draw (or the mean of) x_0 given x_s and y."""
        likelihood = _gaussian(run, "the Tweedie conditional")
        kind = self.variance
        if kind == "auto":
            kind = "prior" if isinstance(run.prior, VariancePrior) else "probe"
        alpha, sigma = (v.reshape(-1) for v in run.schedule.at(s, x_s))
        basis = None
        if kind == "prior":
            if not isinstance(run.prior, VariancePrior):
                raise CapabilityError(run.prior, "denoise_with_variance", "variance='prior'")
            mean, variance, basis = run.denoise_with_variance(x_s, s)
        else:
            mean = run.denoise(x_s, s)
            if kind == "isotropic":
                d = self.data_variance
                variance = sigma**2 * d / (sigma**2 + alpha**2 * d)
            else:
                z = run.streams.normal_like(x_s)
                step = 1e-2 * sigma.reshape((-1,) + (1,) * (x_s.ndim - 1))
                slope = (run.denoise(x_s + step * z, s) - mean) / step
                # Over z's own energy: exact where J is a multiple of the identity.
                gain = (flat(z * slope).sum(-1) / flat(z * z).sum(-1)).clamp_min(0)
                variance = (sigma**2 / alpha * gain).clamp_max(1e6)
        low = self.floor * sigma**2
        variance = torch.maximum(variance, low.reshape((-1,) + (1,) * (variance.ndim - 1)))
        return condition_gaussian(
            mean,
            variance,
            likelihood.operator,
            likelihood.observation,
            likelihood.sigma_y,
            basis=basis,  # type: ignore[arg-type]
            streams=run.streams if self.draw else None,
        )

    def __call__(
        self,
        run: Run,
        x_0: Float[Tensor, "batch *event"],
        x_t: Float[Tensor, "batch *event"],
        where: GibbsStep,
    ) -> ConditionalDraw:
        """Bridge, condition, bridge."""
        x_s = bridge_sample(run.schedule, x_0, x_t, where.s, where.t, run.streams)
        x_0 = self.condition(run, x_s, where.s)
        x_s = bridge_sample(run.schedule, x_0, x_t, where.s, where.t, run.streams)
        return ConditionalDraw(x_s, None, None, x_0)


CONDITIONALS: dict[str, type] = {
    "variational": Variational,
    "linearised": Linearised,
    "tweedie": Tweedie,
}
