"""MGDM, the mixture-guided diffusion model (Janati et al. 2025, arXiv 2502.03332, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mgdm_core.conditionals import (
    CONDITIONALS,
    CleanConditional,
    Conditional,
    GibbsStep,
    Linearised,
    Variational,
)
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import (
    INDEX_LAWS,
    IndexContext,
    IndexLaw,
    PublishedMix,
    UniformFraction,
)
from mgdm_core.jumps import MarginalJumps
from mgdm_core.kernels import backward_chain, between_sample, bridge_sample, noise_to
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior, level_vector
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.trace import Callback

__all__ = ["MGDMSettings", "PRESETS", "default_settings", "mgdm"]


@dataclass(frozen=True)
class MGDMSettings:
    """Settings of MGDM, in the paper's letters.

    Parameters
    ----------
    levels : int
        K, outer noise levels.
    gibbs : int
        R, Gibbs repetitions per level.
    denoising_steps : int
        M, backward steps from x_s to level 0; 0 takes the x_0 that the conditional drew on its
        way (``tweedie`` does), at no further evaluation, from the first estimate on.
    index_law : IndexLaw or str
        How s is drawn; a name of :data:`mgdm_core.index_laws.INDEX_LAWS` or an object.
    conditional : Conditional or str
        How x_s is drawn; a name of :data:`mgdm_core.conditionals.CONDITIONALS` or an object.
    renoise : {"between", "forward"}
        x_t from the bridge q(x_t | x_s, x_{t+}), or from q(x_t | x_s).
    transition : {"ddpm", "ddim", "heun", "dpmpp_2m"}
        Backward steps.
    jumps : MarginalJumps or None
        Metropolis-Hastings moves over the high noise levels, before the levels below; only for
        few observed values, and not after a ``start``.
    """

    levels: int = 100
    gibbs: int = 1
    denoising_steps: int = 20
    index_law: IndexLaw | str = field(default_factory=PublishedMix)
    conditional: Conditional | str = field(default_factory=Variational)
    renoise: str = "between"
    transition: str = "ddpm"
    jumps: MarginalJumps | None = None

    def __post_init__(self) -> None:
        check(self.levels >= 2, "levels is at least 2", self.levels)
        check(self.gibbs >= 1, "gibbs is at least 1", self.gibbs)
        check(self.denoising_steps >= 0, "denoising_steps is not negative", self.denoising_steps)
        check(
            self.renoise in ("between", "forward"),
            "renoise is 'between' or 'forward'",
            self.renoise,
        )
        methods = ("ddpm", "ddim", "heun", "dpmpp_2m")
        check(
            self.transition in methods,
            f"transition is one of {', '.join(methods)}",
            self.transition,
        )
        for name, known in (("conditional", CONDITIONALS), ("index_law", INDEX_LAWS)):
            value = getattr(self, name)
            if isinstance(value, str):
                check(value in known, f"{name} is one of {', '.join(known)}", value)
                object.__setattr__(self, name, known[value]())


def mgdm(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: MGDMSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Draw one posterior sample per item by Gibbs steps over (x_0, x_s, x_t).

    Parameters
    ----------
    prior, likelihood
        p(x_0) as a denoiser, and g(y | x_0).
    shape : sequence of int
        Shape of one event.
    streams : RandomStreams
        One per item.
    settings : MGDMSettings, optional
        :func:`default_settings` of the likelihood by default.
    start : Start, optional
        First estimate and level; pure noise at level T by default.
    callback : callable, optional
        Receives a :class:`~mgdm_core.trace.Progress` per level; return False to cancel.
    """
    cfg = settings or default_settings(likelihood)
    conditional: Conditional = cfg.conditional  # type: ignore[assignment]
    index_law: IndexLaw = cfg.index_law  # type: ignore[assignment]
    jumps = cfg.jumps if start is None else None
    run = Run("mgdm", prior, likelihood, shape, streams, callback, 1)
    schedule = run.schedule
    x_t, above = run.first_state(schedule.last, start)
    levels = schedule.spaced(cfg.levels, jumps.level(schedule) if jumps else above)
    # The last level is 1, where nothing lies between it and the data.
    run.steps = (len(levels) - 2) * cfg.gibbs + (jumps.count if jumps else 0)
    if jumps is not None:
        x_t, above = jumps(run, x_t)
    if cfg.denoising_steps == 0 and isinstance(conditional, CleanConditional):
        x_0 = conditional.condition(run, x_t, level_vector(above, len(x_t), x_t.device))
    else:
        x_0 = run.denoise(x_t, above)

    for step, t in enumerate(levels[1:]):
        x_t = bridge_sample(schedule, x_0, x_t_above := x_t, t, above, streams)
        below = levels[step + 2] if step + 2 < len(levels) else 1
        if t < 2:  # no level lies between this one and the data
            break
        for _ in range(cfg.gibbs):
            s = index_law(
                IndexContext(
                    t=t,
                    next_level=below,
                    step=step,
                    steps=cfg.levels,
                    schedule=schedule,
                    streams=streams,
                    residual=run.residual(x_0),
                    sigma_y=getattr(likelihood, "sigma_y", None),
                )
            )
            where = GibbsStep(t, s, step, cfg.levels)
            x_s, before, after, drawn = conditional(run, x_0, x_t, where)
            if cfg.denoising_steps > 0:
                x_0 = backward_chain(
                    schedule, run.denoise, x_s, s, cfg.denoising_steps, streams, cfg.transition
                )
            elif drawn is not None:
                x_0 = drawn
            else:
                raise SettingsError(
                    f"denoising_steps is at least 1 with {type(conditional).__name__}, "
                    f"which draws no x_0 of its own; found 0"
                )
            if cfg.renoise == "forward":
                x_t = noise_to(schedule, x_s, s, t, streams)
            else:
                x_t = between_sample(schedule, x_s, x_t_above, s, t, above, streams)
            run.step(t, x_t, x_0, index=s, loss_before=before, loss_after=after)
        above = t
    return run.finish(x_0)


PRESETS: dict[str, MGDMSettings] = {
    "ffhq-pixel": MGDMSettings(
        conditional=Variational(learning_rate=0.03, early_learning_rate=0.01, early=11)
    ),
    "imagenet-pixel": MGDMSettings(conditional=Variational(learning_rate=0.03)),
    "ffhq-latent": MGDMSettings(
        conditional=Variational(
            steps=3, every=10, learning_rate=0.03, early_learning_rate=0.01, early=11
        )
    ),
    "audio-published": MGDMSettings(
        levels=20,
        gibbs=6,
        denoising_steps=15,
        index_law=PublishedMix(floor=10, threshold=0.65),
        conditional=Variational(steps=3, late_steps=20, late_from=0.5, learning_rate=0.005),
    ),
    # Not published: what the exact-posterior benchmark found best (docs/exact_posterior.md).
    "best": MGDMSettings(
        levels=40,
        denoising_steps=8,
        index_law=UniformFraction(0.5),
        conditional=Linearised(),
        jumps=MarginalJumps(),
    ),
}


def default_settings(likelihood: Likelihood) -> MGDMSettings:
    """``best`` for few observed values, Gaussian or counts, else ``imagenet-pixel``.

    What counts as few, and which likelihoods, is for :meth:`MarginalJumps.applies_to` to say.
    """
    best = PRESETS["best"]
    if best.jumps is not None and best.jumps.applies_to(likelihood):
        return best
    return PRESETS["imagenet-pixel"]
