"""MGDM, the mixture-guided diffusion model (Janati et al. 2025, arXiv 2502.03332, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Float, Tensor
from mgdm_core.conditionals import CONDITIONALS, Conditional, Linearised, Place, Variational
from mgdm_core.index_laws import INDEX_LAWS, IndexLaw, PublishedMix, UniformFraction
from mgdm_core.likelihoods import ImageLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, check, first_level, first_state
from mgdm_core.steps.backward import METHODS, backward_chain
from mgdm_core.steps.bridge import between_sample, bridge_sample, noise_to

__all__ = ["MGDM", "PRESETS", "MGDMPlan", "MGDMState", "outer_places"]

FEW_ROWS = 16


class MGDMPlan(NamedTuple):
    """The outer levels that are run, and the two choices that may depend on the problem."""

    top: int
    places: tuple[Place, ...]
    steps: int
    conditional: Conditional
    index_law: IndexLaw


class MGDMState(NamedTuple):
    """x_0, x_t and the x_{t+} of the level before."""

    step: int
    x_0: Float[Tensor, "batch *event"]
    x_t: Float[Tensor, "batch *event"]
    x_above: Float[Tensor, "batch *event"]


@dataclass(frozen=True)
class MGDM(Sampler):
    """Gibbs steps over (x_0, x_s, x_t), in the paper's letters.

    Parameters
    ----------
    levels : int
        K, outer noise levels, the first of which is pure noise.
    gibbs : int
        R, Gibbs repetitions per level.
    denoising_steps : int
        M, backward steps from x_s to level 0.
    conditional : Conditional or str or None
        How x_s is drawn; an object, a name of :data:`mgdm_core.conditionals.CONDITIONALS`, or None
        to choose by the problem.
    index_law : IndexLaw or str or None
        How s is drawn; likewise, of :data:`mgdm_core.index_laws.INDEX_LAWS`.
    renoise : {"between", "forward"}
        x_t from the bridge q(x_t | x_s, x_{t+}), or from q(x_t | x_s).
    transition : {"ddpm", "ddim", "heun", "dpmpp_2m"}
        Backward steps.
    last : float or None
        Noise-to-signal ratio of the last outer level; None for level 2, below which s is 1.
    approach : float or None
        Before the last level, each further level is this share of the one above it: an even grid
        leaps from some 25 to the last, and a law that keeps s near t then leaves the data unmet.
        None for the even grid alone.
    """

    name: ClassVar[str] = "mgdm"
    paper: ClassVar[str] = "Janati et al. 2025, arXiv 2502.03332"

    levels: int = 100
    gibbs: int = 1
    denoising_steps: int = 20
    conditional: Conditional | str | None = None
    index_law: IndexLaw | str | None = None
    renoise: str = "between"
    transition: str = "ddpm"
    last: float | None = None
    approach: float | None = None

    def __post_init__(self) -> None:
        check(self.levels >= 2, "levels is at least 2", self.levels)
        check(self.gibbs >= 1, "gibbs is at least 1", self.gibbs)
        check(self.denoising_steps >= 1, "denoising_steps is at least 1", self.denoising_steps)
        kinds = ("between", "forward")
        check(self.renoise in kinds, "renoise is 'between' or 'forward'", self.renoise)
        names = ", ".join(METHODS)
        check(self.transition in METHODS, f"transition is one of {names}", self.transition)
        check(self.last is None or self.last > 0, "last is a positive ratio or None", self.last)
        share = self.approach
        check(share is None or 0 < share < 1, "approach lies in (0, 1) or is None", share)
        for name, known in (("conditional", CONDITIONALS), ("index_law", INDEX_LAWS)):
            value = getattr(self, name)
            if isinstance(value, str):
                check(value in known, f"{name} is one of {', '.join(known)}", value)
                object.__setattr__(self, name, known[value]())

    def chosen(self, problem: Problem) -> tuple[Conditional, IndexLaw]:
        """Return the conditional and the index law, chosen by the problem where None."""
        few = isinstance(problem.likelihood, ImageLikelihood) and problem.rows <= FEW_ROWS
        conditional = self.conditional or (Linearised() if few else Variational())
        index_law = self.index_law or (UniformFraction(0.5) if few else PublishedMix())
        return conditional, index_law  # type: ignore[return-value]

    def requires(self, problem: Problem) -> None:
        """What the conditional requires."""
        self.chosen(problem)[0].requires(problem)

    def plan(self, problem: Problem, start: Start | None = None) -> MGDMPlan:
        """Settle the outer levels."""
        return self.plan_from(problem, first_level(problem, start))

    def plan_from(self, problem: Problem, top: int) -> MGDMPlan:
        """Settle the outer levels below ``top``."""
        stop = 2 if self.last is None else problem.schedule.level_of_sigma(self.last)
        levels = problem.schedule.spaced(self.levels, top, max(1, min(stop, top)))
        if self.approach is not None and len(levels) > 1:
            final, t = levels.pop(), int(self.approach * levels[-1])
            while t > final:
                levels.append(t)
                t = min(t - 1, int(self.approach * t))
            levels.append(final)
        places = outer_places(levels)
        return MGDMPlan(top, places, self.gibbs * len(places), *self.chosen(problem))

    def init(
        self,
        problem: Problem,
        plan: MGDMPlan,
        noise: RandomStreams,
        start: Start | None = None,
    ) -> MGDMState:
        """x_K ~ N(0, sigma_K^2 I); x_0 = D(x_K)."""
        x = first_state(problem, plan.top, noise, start)
        return MGDMState(0, problem.denoise(x, plan.top), x, x)

    def step(
        self, problem: Problem, plan: MGDMPlan, state: MGDMState, noise: RandomStreams
    ) -> tuple[MGDMState, Info]:
        """One Gibbs repetition; the first of a level comes down to it before."""
        schedule, (k, x_0, x_t, x_above) = problem.schedule, state
        place = plan.places[k // self.gibbs]
        t, above = place.t, place.above
        if k % self.gibbs == 0:
            x_t, x_above = bridge_sample(schedule, x_0, x_t, t, above, noise), x_t

        s = plan.index_law(place, problem, x_0, noise)
        x_s, before, after = plan.conditional(problem, x_0, x_t, s, place, noise)
        x_0 = backward_chain(
            schedule, problem.denoise, x_s, s, self.denoising_steps, noise, self.transition, t - 1
        )
        if self.renoise == "forward":
            x_t = noise_to(schedule, x_s, s, t, noise)
        else:
            x_t = between_sample(schedule, x_s, x_above, s, t, above, noise)

        return MGDMState(k + 1, x_0, x_t, x_above), Info(t, x_t, x_0, s, before, after)

    def finish(
        self, problem: Problem, plan: MGDMPlan, state: MGDMState, noise: RandomStreams
    ) -> Result:
        """x_0."""
        return Result(state.x_0)


def outer_places(levels: list[int]) -> tuple[Place, ...]:
    """Levels below the first, each with its neighbours; nothing lies between level 1 and the data.

    The level after the last is half of it, as in the published code (20 and 10).
    """
    used = [levels[0], *(t for t in levels[1:] if t >= 2)]
    below = [*used[2:], used[-1] // 2]
    count = len(used) - 1
    return tuple(
        Place(t, above, low, k, count)
        for k, (above, t, low) in enumerate(zip(used[:-1], used[1:], below))
    )


_PIXEL = MGDM(denoising_steps=19, conditional=Variational(), index_law=PublishedMix(), last=0.0762)
_FFHQ = Variational(early_learning_rate=0.01, early=0.11)
# The published settings; 0.0762 is the noise-to-signal ratio of DDPM's level 20, where the
# published loop ends, and of the audio levels' 20 for audio. M = 20 is 19 steps in the published
# code. Its K counts one level more than ours near the data, where its steps are cut short.
PRESETS: dict[str, MGDM] = {
    "ffhq-pixel": replace(_PIXEL, conditional=_FFHQ),
    "imagenet-pixel": _PIXEL,
    "ffhq-latent": replace(_PIXEL, conditional=replace(_FFHQ, steps=3, every=10)),
    "audio-published": MGDM(
        levels=20,
        gibbs=6,
        denoising_steps=14,
        conditional=Variational(steps=3, late_from=0.5, learning_rate=0.005, stated_for="ve"),
        index_law=PublishedMix(floor=0.0011, threshold=0.65),
        last=0.00217,
    ),
    # Not published: what the exact-posterior benchmark found best for few observed values.
    "best": MGDM(
        levels=40,
        denoising_steps=8,
        conditional=Linearised(),
        index_law=UniformFraction(0.5),
        approach=0.8,
    ),
}
