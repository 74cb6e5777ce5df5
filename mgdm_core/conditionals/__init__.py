"""How x_s is drawn given (x_0, x_t, y): the only step of MGDM that sees the observation.

The target is pi(x_s | x_0, x_t, y), proportional to g(y | D_s(x_s)) times the bridge
q(x_s | x_0, x_t). Each class is a frozen dataclass of settings whose call makes one draw.
"""

from mgdm_core.conditionals.linearised import Linearised
from mgdm_core.conditionals.protocol import Conditional, ConditionalDraw, Place
from mgdm_core.conditionals.tweedie import Tweedie
from mgdm_core.conditionals.variational import Variational

__all__ = [
    "CONDITIONALS",
    "Conditional",
    "ConditionalDraw",
    "Linearised",
    "Place",
    "Tweedie",
    "Variational",
]

CONDITIONALS: dict[str, type] = {
    "variational": Variational,
    "linearised": Linearised,
    "tweedie": Tweedie,
}
"""By name, for command lines."""
