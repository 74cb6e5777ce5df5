"""The image degradations as operators of ``mgdm_core``, by what each can really do."""

from __future__ import annotations

from recipes.images.operators.convolution import (
    CircularBlur,
    ReflectBlur,
    gaussian_taps,
    motion_kernel,
)
from recipes.images.operators.jpeg import JPEG
from recipes.images.operators.kernel_network import KernelNetworkBlur, load_kernel_network
from recipes.images.operators.masks import centre_mask, expand_mask, half_mask
from recipes.images.operators.pointwise import (
    GammaBlur,
    HighDynamicRange,
    PhaseRetrieval,
)
from recipes.images.operators.separable import BlockMeans, Separable, SeparableBlur, reflect_matrix

__all__ = [
    "BlockMeans",
    "CircularBlur",
    "GammaBlur",
    "HighDynamicRange",
    "JPEG",
    "KernelNetworkBlur",
    "PhaseRetrieval",
    "ReflectBlur",
    "Separable",
    "SeparableBlur",
    "centre_mask",
    "expand_mask",
    "gaussian_taps",
    "half_mask",
    "load_kernel_network",
    "motion_kernel",
    "reflect_matrix",
]
