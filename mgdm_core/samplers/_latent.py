"""What a problem on latent codes is on the data that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import NamedTuple

from mgdm_core.array_types import Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators import Composition, Operator, Scaled, compose, scaled
from mgdm_core.priors import LatentPrior
from mgdm_core.problem import Problem


class OnData(NamedTuple):
    """Maps between latents and data, and the problem whose likelihood is of data."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    problem: Problem


def on_data(problem: Problem) -> OnData:
    """Take the decoder out of the likelihood; without a latent prior nothing is to be done."""
    prior = problem.prior
    if not isinstance(prior, LatentPrior):
        return OnData(lambda x: x, lambda z: z, problem)
    operator = getattr(problem.likelihood, "operator", None)
    outer = _after_decoder(operator)
    if outer is None:
        raise SettingsError(
            "a latent prior observes through compose(operator, prior.decoder_operator()); "
            f"found {type(operator).__name__}"
        )
    likelihood = copy(problem.likelihood)
    likelihood.operator = outer  # type: ignore[attr-defined]
    return OnData(prior.encode, prior.decode, replace(problem, likelihood=likelihood))


def _after_decoder(operator: object) -> Operator | None:
    """What comes after the innermost operator, the decoder; None where nothing does."""
    if isinstance(operator, Scaled):
        outer = _after_decoder(operator.operator)
        return None if outer is None else scaled(outer, operator.factors)
    if not isinstance(operator, Composition):
        return None
    between = _after_decoder(operator.inner)
    return operator.outer if between is None else compose(operator.outer, between)
