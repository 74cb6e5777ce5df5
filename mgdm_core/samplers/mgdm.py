"""MGDM, the mixture-guided diffusion model (Janati et al. 2025, arXiv 2502.03332, algorithm 1)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from mgdm_core.array_types import Events
from mgdm_core.conditionals import CONDITIONALS, Conditional, Place, Tweedie, Variational
from mgdm_core.index_laws import INDEX_LAWS, IndexLaw, PublishedMix
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, first_level, first_state, require
from mgdm_core.settings import at_least, check, one_of, positive
from mgdm_core.steps.backward import METHODS, backward_chain
from mgdm_core.steps.bridge import between_sample, bridge_sample, noise_to
from mgdm_core.steps.grids import levels_even_in_log, ratio_of


class MGDMPlan(NamedTuple):
    """The outer levels that are run, and the two choices that may depend on the problem.

    ``closing`` holds the steps (above, t) that follow those of ``places``.
    """

    top: int
    places: tuple[Place, ...]
    closing: tuple[tuple[int, int], ...]
    steps: int
    conditional: Conditional
    index_law: IndexLaw


class MGDMState(NamedTuple):
    """x_0, x_t and the x_{t+} of the level before."""

    step: int
    x_0: Events
    x_t: Events
    x_above: Events


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
        How x_s is drawn; an object, or a name of :data:`mgdm_core.conditionals.CONDITIONALS`. None
        for :class:`~mgdm_core.Variational` with a rate that rises as the levels get fewer than the
        published 100, since Adam's steps have to carry x_s as far in all.
    index_law : IndexLaw or str or None
        How s is drawn; likewise, of :data:`mgdm_core.index_laws.INDEX_LAWS`; None for the published
        :class:`~mgdm_core.index_laws.PublishedMix`.
    renoise : {"between", "forward"}
        x_t from the bridge q(x_t | x_s, x_{t+}), or from q(x_t | x_s).
    transition : {"ddpm", "ddim", "heun", "dpmpp_2m"}
        Backward steps.
    last : float or None
        Noise-to-signal ratio of the last outer level; None for level 2, below which s is 1.
    closing : float or None
        Noise-to-signal ratio r = sigma_t / alpha_t, in units of the data, from which on x_0 is
        drawn given x_t and y in closed form, and x_t of the next level from the bridge through it;
        None for never. The Gibbs steps draw x_0 from x_s without y, so that it strays from the
        data by r_s: too far where that is above sigma_y and later levels have too little noise to
        mend it. The draw is :class:`~mgdm_core.conditionals.Tweedie`'s: exact where x_0 given x_t
        is Gaussian and its covariance a multiple of the identity, or as the prior says where that
        has variances. Asks for a Gaussian likelihood on a linear operator.
    closing_levels : int
        Levels from there, or from the start where it is lower, to level 1, even in log r, at most
        (no level twice), at two evaluations each; one where the prior has variances. The Gibbs
        levels above are those of ``levels`` and ``last`` without it.
    """

    name: ClassVar[str] = "mgdm"
    paper: ClassVar[str] = "Janati et al. 2025, arXiv 2502.03332"

    levels: int = at_least(2, 100)
    gibbs: int = at_least(1, 1)
    denoising_steps: int = at_least(1, 20)
    conditional: Conditional | str | None = None
    index_law: IndexLaw | str | None = None
    renoise: str = one_of(("between", "forward"), "between")
    transition: str = one_of(METHODS, "ddpm")
    last: float | None = positive(None)
    closing: float | None = positive(None)
    closing_levels: int = at_least(1, 12)

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = (("conditional", Conditional, CONDITIONALS), ("index_law", IndexLaw, INDEX_LAWS))
        for name, kind, known in kinds:
            value, rule = getattr(self, name), f"{name} is one of {', '.join(known)}"
            if isinstance(value, str):
                check(value in known, rule, value)
                object.__setattr__(self, name, known[value]())
            elif value is not None:
                fits = isinstance(value, kind) and not isinstance(value, type)
                check(fits, f"{rule}, or an object of your own", value)

    def chosen(self) -> tuple[Conditional, IndexLaw]:
        """Return the conditional and the index law, the defaults where None."""
        rate = 0.03 * max(1.0, 100 / (self.levels * self.gibbs))
        conditional = self.conditional or Variational(learning_rate=rate)
        return conditional, self.index_law or PublishedMix()  # type: ignore[return-value]

    def requires(self, problem: Problem) -> None:
        """What the conditional requires, and what an end in closed form does."""
        self.chosen()[0].requires(problem)
        if self.closing is not None:
            require(problem, f"{self.name} with closing", "gaussian", "linear")

    def plan(self, problem: Problem, start: Start | None = None) -> MGDMPlan:
        """Settle the outer levels."""
        schedule, top = problem.schedule, first_level(problem, start)
        stop = 2 if self.last is None else schedule.level_of_sigma(self.last)
        places = outer_places(schedule.spaced(self.levels, top, max(1, min(stop, top))))
        end: list[int] = []
        if self.closing is not None:
            highest = min(self.closing, ratio_of(schedule, min(top, schedule.top)))
            end = levels_even_in_log(schedule, highest, self.closing_levels)
            places = tuple(p for p in places if ratio_of(schedule, p.t) > self.closing)
        above = places[-1].t if places else top
        closing = tuple(itertools.pairwise([above, *end]))
        steps = self.gibbs * len(places) + len(closing)
        return MGDMPlan(top, places, closing, steps, *self.chosen())

    def init(
        self, problem: Problem, plan: MGDMPlan, noise: RandomStreams, start: Start | None = None
    ) -> MGDMState:
        """x_K ~ N(0, sigma_K^2 I); x_0 = D(x_K)."""
        x = first_state(problem, plan.top, noise, start)
        return MGDMState(0, problem.denoise(x, plan.top), x, x)

    def step(
        self, problem: Problem, plan: MGDMPlan, state: MGDMState, noise: RandomStreams
    ) -> tuple[MGDMState, Info]:
        """One Gibbs repetition, the first of a level comes down to it before; or a closing step."""
        schedule, (k, x_0, x_t, x_above) = problem.schedule, state
        if k >= self.gibbs * len(plan.places):
            above, t = plan.closing[k - self.gibbs * len(plan.places)]
            x_t = bridge_sample(schedule, x_0, x_t, t, above, noise)
            x_0 = Tweedie().condition(problem, x_t, t, noise)
            return MGDMState(k + 1, x_0, x_t, x_t), Info(t, x_t, x_0, t)

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
    # Not published: forty levels, of which an end in closed form replaces those of r <= 0.5, at
    # about the cost of 300 steps of DPS.
    "unseen-entries": MGDM(
        levels=40,
        denoising_steps=5,
        conditional=Variational(
            late_steps=15,
            early_learning_rate=0.05,
            early=0.7,
            learning_rate=0.007,
            begin="data",
        ),
        closing=0.5,
    ),
}
