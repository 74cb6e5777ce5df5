"""Array types with named axes, such as ``Float[Tensor, "batch samples"]``.

The shapes in the signatures of this project are written with jaxtyping, which is a development
dependency: the library itself imports nothing beyond torch and numpy. So the real types are used
where jaxtyping has been imported already (the test-suite does, and checks every call with
beartype); elsewhere a stand-in keeps the annotation as text.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

__all__ = ["Array", "Bool", "Complex", "Events", "Float", "Int", "Num", "Shaped", "Tensor"]

Array = np.ndarray

if TYPE_CHECKING:
    from jaxtyping import Bool, Complex, Float, Int, Num, Shaped
elif "jaxtyping" in sys.modules:
    _jaxtyping = sys.modules["jaxtyping"]
    Bool, Complex, Float = _jaxtyping.Bool, _jaxtyping.Complex, _jaxtyping.Float
    Int, Num, Shaped = _jaxtyping.Int, _jaxtyping.Num, _jaxtyping.Shaped
else:

    class _Unchecked:
        """Stand-in for a jaxtyping dtype: ``X[Tensor, "axes"]`` is just ``Tensor``."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Complex = Float = Int = Num = Shaped = _Unchecked

Events = Float[Tensor, "batch *event"]
"""A batch of events, one per item."""
