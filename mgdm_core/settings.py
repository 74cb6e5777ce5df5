"""Settings that know their domain: a field says once which values it takes.

>>> @dataclass(frozen=True)
... class Walk(Settings):
...     steps: int = at_least(1, 100)
...     eta: float = share(1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

from mgdm_core.errors import SettingsError


def check(condition: bool, rule: str, found: object) -> None:
    """Raise :class:`SettingsError` with the rule and the value found unless ``condition``."""
    if not condition:
        raise SettingsError(f"{rule}; found {found!r}")


class Settings:
    """Base of settings dataclasses; checks every field that was given a domain, or is a bool.

    None passes where the field's type has it.
    """

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            if one.type in (bool, "bool"):
                value = getattr(self, one.name)
                check(isinstance(value, bool), f"{one.name} is True or False", value)
            if "fits" not in one.metadata:
                continue
            value, optional = getattr(self, one.name), "None" in str(one.type)
            if not (value is None and optional):
                rule = f"{one.name} {one.metadata['rule']}" + (", or None" if optional else "")
                check(value is not None and bool(one.metadata["fits"](value)), rule, value)


def _domain(default: Any, fits: Callable[[Any], bool], rule: str, kw_only: bool = False) -> Any:
    return field(default=default, metadata={"fits": fits, "rule": rule}, kw_only=kw_only)


def at_least(least: int, default: int | None, kw_only: bool = False) -> Any:
    """A whole number from ``least`` on."""

    def fits(value: Any) -> bool:
        return isinstance(value, Integral) and int(value) >= least

    return _domain(default, fits, f"is a whole number, at least {least}", kw_only)


def _number(default: float | None, fits: Callable[[Any], bool], rule: str) -> Any:
    return _domain(default, lambda value: isinstance(value, Real) and fits(value), rule)


def positive(default: float | None) -> Any:
    """A number above 0."""
    return _number(default, lambda value: value > 0, "is positive")


def not_negative(default: float | None) -> Any:
    """A number from 0 on."""
    return _number(default, lambda value: value >= 0, "is not negative")


def share(default: float | None) -> Any:
    """A number in [0, 1]."""
    return _number(default, lambda value: 0 <= value <= 1, "lies in [0, 1]")


def above_0(default: float | None) -> Any:
    """A number in (0, 1]."""
    return _number(default, lambda value: 0 < value <= 1, "lies in (0, 1]")


def within(
    low: int | float,
    high: int | float,
    default: int | float | None,
    *,
    whole: bool = False,
    unit: str = "",
) -> Any:
    """A number in [low, high]; with ``whole`` a whole one."""
    kind: Any = Integral if whole else Real

    def fits(value: Any) -> bool:
        number = isinstance(value, kind) and not isinstance(value, bool)
        return number and bool(low <= value <= high)

    what = "is a whole number in" if whole else "lies in"
    return _domain(default, fits, f"{what} {low:g}..{high:g} {unit}".rstrip())


def one_of(choices: Sequence[str], default: str) -> Any:
    """One of some words."""
    return _domain(default, lambda value: value in choices, f"is one of {', '.join(choices)}")
