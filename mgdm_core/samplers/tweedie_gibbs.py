"""Gibbs steps whose draw of x_0 is in closed form: MGDM's chain without a backward chain.

Where the prior knows the variance of x_0 given x_s, or it is probed, conditioning x_0 on a linear
observation is a solve, for the mixing operator a Wiener filter: one evaluation a step, no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from mgdm_core.conditionals import Place, Tweedie
from mgdm_core.index_laws import INDEX_LAWS, Fraction, IndexLaw
from mgdm_core.noise import RandomStreams
from mgdm_core.problem import Problem
from mgdm_core.sampler import Info, Result, Sampler, Start, first_level, first_state
from mgdm_core.samplers.mgdm import MGDMState, outer_places
from mgdm_core.settings import at_least, check
from mgdm_core.steps.bridge import between_sample, bridge_sample


class TweediePlan(NamedTuple):
    """The outer levels that are run."""

    top: int
    places: tuple[Place, ...]
    steps: int


@dataclass(frozen=True)
class TweedieGibbs(Sampler):
    """At each level: x_s from the bridge, x_0 given x_s and y in closed form, x_s and x_t again.

    Parameters
    ----------
    levels : int
        Evaluations: outer noise levels, the first of which is where the run begins.
    index_law : IndexLaw or str
        How s is drawn; an object, or a name of :data:`mgdm_core.index_laws.INDEX_LAWS`.
    conditional : Tweedie
        How x_0 is conditioned, and with which variance.
    """

    name: ClassVar[str] = "tweedie_gibbs"
    paper: ClassVar[str] = "this library; x_0 | x_s, y by Tweedie's second-order formula"
    needs: ClassVar[frozenset[str]] = frozenset({"gaussian", "linear"})

    levels: int = at_least(1, 20)
    index_law: IndexLaw | str = field(default_factory=Fraction)
    conditional: Tweedie = field(default_factory=Tweedie)

    def __post_init__(self) -> None:
        super().__post_init__()
        law = self.index_law
        if isinstance(law, str):
            check(law in INDEX_LAWS, f"index_law is one of {', '.join(INDEX_LAWS)}", law)
            object.__setattr__(self, "index_law", INDEX_LAWS[law]())

    def requires(self, problem: Problem) -> None:
        """What the conditional requires."""
        super().requires(problem)
        self.conditional.requires(problem)

    def plan(self, problem: Problem, start: Start | None = None) -> TweediePlan:
        """Even levels from the first that has any signal to 1, where nothing is left to draw."""
        # Where alpha is 0 the variance of x_0 cannot be told from the denoiser's slope.
        top = min(first_level(problem, start), problem.schedule.top)
        places = outer_places(problem.schedule.spaced(self.levels + 1, top))
        return TweediePlan(top, places, len(places))

    def init(
        self, problem: Problem, plan: TweediePlan, noise: RandomStreams, start: Start | None = None
    ) -> MGDMState:
        """Noise, or the start, and x_0 conditioned on the data from there."""
        x = first_state(problem, plan.top, noise, start)
        return MGDMState(0, self.conditional.condition(problem, x, plan.top, noise), x, x)

    def step(
        self, problem: Problem, plan: TweediePlan, state: MGDMState, noise: RandomStreams
    ) -> tuple[MGDMState, Info]:
        """Come down to the level, meet the data at s, come back."""
        schedule, (k, x_0, x_above, _) = problem.schedule, state
        place = plan.places[k]
        t, above = place.t, place.above
        x_t = bridge_sample(schedule, x_0, x_above, t, above, noise)
        s = self.index_law(place, problem, x_0, noise)  # type: ignore[operator]
        x_s = bridge_sample(schedule, x_0, x_t, s, t, noise)
        x_0 = self.conditional.condition(problem, x_s, s, noise)
        x_s = bridge_sample(schedule, x_0, x_t, s, t, noise)
        x_t = between_sample(schedule, x_s, x_above, s, t, above, noise)
        return MGDMState(k + 1, x_0, x_t, x_above), Info(t, x_t, x_0, s)

    def finish(
        self, problem: Problem, plan: TweediePlan, state: MGDMState, noise: RandomStreams
    ) -> Result:
        """x_0."""
        return Result(state.x_0)


PRESETS: dict[str, TweedieGibbs] = {"default": TweedieGibbs()}
