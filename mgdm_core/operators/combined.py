"""Operators made of operators; what comes of linear ones is linear."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators.base import LinearOperator, Operator, flat, size_of


class Composition(Operator):
    """outer after inner."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        self.outer, self.inner = outer, inner

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply inner, then outer."""
        return self.outer.forward(self.inner.forward(x))


class _LinearComposition(Composition, LinearOperator):
    outer: LinearOperator
    inner: LinearOperator

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        return self.inner.adjoint(self.outer.adjoint(y))


def compose(outer: Operator, inner: Operator) -> Composition:
    """Outer after inner: linear where both are."""
    linear = isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator)
    return (_LinearComposition if linear else Composition)(outer, inner)


class Stack(Operator):
    """Several observations of one event, flattened and joined in order.

    Parameters
    ----------
    operators : sequence of Operator
    observation_shapes : sequence of shapes
        Shape of each operator's observation, to split what the adjoint receives.
    """

    def __init__(
        self, operators: Sequence[Operator], observation_shapes: Sequence[Sequence[int]]
    ) -> None:
        if len(operators) == 0 or len(operators) != len(observation_shapes):
            raise SettingsError(
                f"a stack needs operators and one observation shape for each; "
                f"found {len(operators)} and {len(observation_shapes)}"
            )
        self.operators = tuple(operators)
        self.observation_shapes = tuple(tuple(s) for s in observation_shapes)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch joined"]:
        """Apply every operator and join the flattened observations."""
        return torch.cat([flat(op.forward(x)) for op in self.operators], dim=1)


class _LinearStack(Stack, LinearOperator):
    operators: tuple[LinearOperator, ...]

    def adjoint(self, y: Float[Tensor, "batch joined"]) -> Float[Tensor, "batch ..."]:
        parts = y.split([size_of(s) for s in self.observation_shapes], dim=1)
        images = [
            op.adjoint(part.reshape(len(y), *shape))
            for op, part, shape in zip(self.operators, parts, self.observation_shapes)
        ]
        return torch.stack(images).sum(0)


def stack(operators: Sequence[Operator], observation_shapes: Sequence[Sequence[int]]) -> Stack:
    """Several observations of one event: linear where all operators are."""
    linear = all(isinstance(op, LinearOperator) for op in operators)
    return (_LinearStack if linear else Stack)(operators, observation_shapes)


class Scaled(Operator):
    """Every number of an observation times a factor of its own.

    Parameters
    ----------
    operator : Operator
    factors : Tensor
        Broadcasts with the observation, batch axis included: of length one there, or one per item.
    """

    def __init__(self, operator: Operator, factors: Float[Tensor, "..."]) -> None:
        self.operator, self.factors = operator, factors

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Apply the operator, then the factors."""
        y = self.operator.forward(x)
        return self.factors.to(y) * y

    def select(self, items: Int[Tensor, " chosen"]) -> Scaled:
        """Return the operator with the factors of the chosen items."""
        if len(self.factors) == 1:
            return self
        return type(self)(self.operator, self.factors[items.to(self.factors.device)])


class _LinearScaled(Scaled, LinearOperator):
    operator: LinearOperator

    def adjoint(self, y: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        return self.operator.adjoint(self.factors.to(y) * y)


def scaled(operator: Operator, factors: Float[Tensor, "..."]) -> Scaled:
    """Numbers of an observation times a factor each: linear where the operator is."""
    kind = _LinearScaled if isinstance(operator, LinearOperator) else Scaled
    return kind(operator, factors)
