"""Forward operators, by what each can do: Operator > LinearOperator > SpectralOperator."""

from mgdm_core.operators.base import (
    SVD,
    LinearOperator,
    Operator,
    SpectralOperator,
    conjugate_gradient,
    flat,
)
from mgdm_core.operators.combined import Composition, Stack, compose, stack
from mgdm_core.operators.elementary import (
    FunctionOperator,
    Identity,
    Mask,
    Matrix,
    SumOverChannels,
)

__all__ = [
    "SVD",
    "Composition",
    "FunctionOperator",
    "Identity",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Operator",
    "SpectralOperator",
    "Stack",
    "SumOverChannels",
    "compose",
    "conjugate_gradient",
    "flat",
    "stack",
]
