"""Settings from text: ``name=value`` pairs against a settings dataclass, for command lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from mgdm_core.errors import SettingsError


def setting_names(settings: Any) -> list[str]:
    """Names that :func:`change_settings` accepts, nested ones with a dot."""
    names: list[str] = []
    for f in fields(settings):
        names.append(f.name)
        value = getattr(settings, f.name)
        if is_dataclass(value):
            names += [f"{f.name}.{inner}" for inner in setting_names(value)]
    return names


def settings_from(base: Any, changes: Mapping[str, Any]) -> Any:
    """Copy of a settings dataclass with some fields changed, unknown names refused."""
    names = [f.name for f in fields(base)]
    for name in changes:
        if name not in names:
            raise SettingsError(
                f"{type(base).__name__} has no setting {name!r}; valid names: {', '.join(names)}"
            )
    return replace(base, **dict(changes))


def change_settings(settings: Any, changes: Mapping[str, str]) -> Any:
    """Copy of a settings dataclass with some fields read from text.

    ``a.b=value`` changes field b of the dataclass in field a. Whole numbers, numbers, ``true`` /
    ``false``, ``none`` and words are told apart by the field's declared type; a field that holds an
    object takes the name of one where the dataclass knows names for it.

    Parameters
    ----------
    settings : dataclass instance
    changes : mapping of str to str
        Applied in order: ``conditional=tweedie`` may come before ``conditional.draw=false``.

    Raises
    ------
    SettingsError
        For an unknown name (listing the valid ones) or a value that does not fit.
    """
    for name, text in changes.items():
        head, _, rest = name.partition(".")
        known = {f.name: f for f in fields(settings)}
        if head not in known:
            raise SettingsError(
                f"{type(settings).__name__} has no setting {name!r}; "
                f"valid names: {', '.join(setting_names(settings))}"
            )
        if rest:
            inner = getattr(settings, head)
            if not is_dataclass(inner):
                raise SettingsError(
                    f"setting {head!r} is {inner!r} and has no parts; found {name!r}"
                )
            value = change_settings(inner, {rest: text})
        else:
            value = _parse(name, text, str(known[head].type))
        settings = replace(settings, **{head: value})
    return settings


def _parse(name: str, text: str, declared: str) -> Any:
    kinds = [part.strip() for part in declared.split("|")]
    lowered = text.strip().lower()
    if "None" in kinds and lowered == "none":
        return None
    if "bool" in kinds:
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise SettingsError(f"{name} is true or false; found {text!r}")
    for kind, convert in (("int", int), ("float", float)):
        if kind in kinds:
            try:
                return convert(text)
            except ValueError:
                if kind == "float" or "float" not in kinds:
                    what = "a whole number" if kind == "int" else "a number"
                    raise SettingsError(f"{name} is {what}; found {text!r}") from None
    if "str" in kinds:
        return text.strip()
    raise SettingsError(f"{name} ({declared}) cannot be given as text; set it from Python")
