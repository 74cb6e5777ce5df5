"""Forward operators, by what each can do: Operator > LinearOperator > SpectralOperator."""

from mgdm_core.operators.base import (
    SVD,
    LinearOperator,
    Operator,
    SpectralOperator,
    conjugate_gradient,
    flat,
)
from mgdm_core.operators.combined import Composition, Scaled, Stack, compose, scaled, stack
from mgdm_core.operators.convolution import CircularBlur, ReflectBlur, gaussian_taps, motion_kernel
from mgdm_core.operators.elementary import FunctionOperator, Identity, Mask, Matrix, SumOverChannels
from mgdm_core.operators.jpeg import JPEG
from mgdm_core.operators.masks import centre_mask, expand_mask, half_mask
from mgdm_core.operators.pointwise import GammaBlur, HighDynamicRange, PhaseRetrieval
from mgdm_core.operators.separable import BlockMeans, Separable, SeparableBlur, reflect_matrix

__all__ = [
    "JPEG",
    "SVD",
    "BlockMeans",
    "CircularBlur",
    "Composition",
    "FunctionOperator",
    "GammaBlur",
    "HighDynamicRange",
    "Identity",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Operator",
    "PhaseRetrieval",
    "ReflectBlur",
    "Scaled",
    "Separable",
    "SeparableBlur",
    "SpectralOperator",
    "Stack",
    "SumOverChannels",
    "centre_mask",
    "compose",
    "conjugate_gradient",
    "expand_mask",
    "flat",
    "gaussian_taps",
    "half_mask",
    "motion_kernel",
    "reflect_matrix",
    "scaled",
    "stack",
]
