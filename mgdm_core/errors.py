"""Exceptions of the library: each says the rule, the value found and what to do."""

from __future__ import annotations


class MGDMError(Exception):
    """Base class of every error that this project raises on purpose."""


class SettingsError(MGDMError, ValueError):
    """A setting is outside its domain, or its name is unknown."""


class ShapeError(MGDMError, ValueError):
    """An array has the wrong number of axes, the wrong length or the wrong dtype."""


class CapabilityError(MGDMError, TypeError):
    """An object was asked for something that it cannot do, such as an operator for its adjoint.

    Parameters
    ----------
    owner : object
        The object that was asked.
    capability : str
        Name of what it lacks, such as ``"adjoint"``.
    needed_by : str
        Who asked.
    """

    def __init__(self, owner: object, capability: str, needed_by: str = "this method") -> None:
        self.owner = owner
        self.capability = capability
        super().__init__(
            f"{needed_by} needs '{capability}', which {type(owner).__name__} does not have; "
            f"use one that declares it or choose a method that does not need it"
        )


class DivergenceError(MGDMError, ArithmeticError):
    """A sampler met NaN or infinity.

    Parameters
    ----------
    sampler : str
        Name of the sampler.
    level : int
        Noise level at which the value arose.
    items : list of int
        Which items of the batch it arose in.
    """

    def __init__(self, sampler: str, level: int, items: list[int]) -> None:
        self.level = level
        self.items = items
        super().__init__(
            f"{sampler}: NaN or infinity at level {level} in item(s) {items}; "
            f"lower the learning rate or step size, or use float32 or wider"
        )


class CancelledError(MGDMError):
    """The callback asked the sampler to stop.

    Parameters
    ----------
    message : str
    saved : object
        The :class:`~mgdm_core.SavedRun` to go on from.
    """

    def __init__(self, message: str, saved: object = None) -> None:
        super().__init__(message)
        self.saved = saved
