"""Named ways to separate, from quick to as published."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.networks import read_config
from mgdm_audio.priors.spectral_network import SpectralConfig
from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_core.conditionals import Tweedie
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import Fraction
from mgdm_core.samplers import PRESETS as SAMPLER_PRESETS
from mgdm_core.samplers import TweedieGibbs, get_sampler
from mgdm_core.settings_text import change_settings, setting_names

DEFAULT_PRESET = "balanced"

UNCERTAINTY_PRESET = "posterior"
"""Whose samples are as far apart as they are wrong; for priors on spectra."""


# One evaluation: under the bundled prior more of them gain nothing (docs/separation_samplers.md).
_BALANCED = SamplingSettings(
    sampler="tweedie_gibbs",
    settings=TweedieGibbs(
        levels=1, index_law=Fraction(0.5), conditional=Tweedie(variance="auto", draw=False)
    ),
    temperature=0.01,
    variance="shares",
    variance_floor=0.03,
    # Chosen on every fourth piece of set B and on C (docs/separation_samplers.md).
    pooling=0.04,
    recalibrated=True,
)

PRESETS: dict[str, SamplingSettings] = {
    "fast": replace(_BALANCED, pooling=0.0),
    "balanced": _BALANCED,
    # Where samples are to say how sure the separation is: the quick presets' own hardly differ.
    "posterior": replace(_BALANCED, samples=8, draws="shares"),
    "paper": SamplingSettings(
        sampler="mgdm",
        settings=SAMPLER_PRESETS["mgdm"]["audio-published"],
        samples=1,
        start="noise",
    ),
}


def sampling_settings(
    preset: str = DEFAULT_PRESET,
    *,
    sampler: str | None = None,
    changes: Mapping[str, Any] | None = None,
    **outer: object,
) -> SamplingSettings:
    """Settings of a preset, with another sampler or some settings changed.

    Parameters
    ----------
    preset : str
        One of :data:`PRESETS`.
    sampler : str, optional
        Another sampler; it runs with its own default settings.
    changes : mapping, optional
        Values for the sampler's dataclass, or for :class:`SamplingSettings` itself where the
        sampler has no such name; ``"conditional.draw"`` is field ``draw`` of the object in field
        ``conditional``. Text is read as on the command line, other values are taken as they are.
    **outer
        Fields of :class:`SamplingSettings`; None leaves the preset's value.

    Raises
    ------
    SettingsError
        For unknown names, listing the valid ones.
    """
    if preset not in PRESETS:
        raise SettingsError(f"no preset {preset!r}; valid names: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    if sampler is not None and sampler != chosen.sampler:
        chosen = replace(chosen, sampler=sampler, settings=get_sampler(sampler)())
    for name, value in outer.items():
        if name not in setting_names(chosen) or name in _RESERVED:
            raise SettingsError(
                f"there is no setting {name!r}; valid names: "
                f"{', '.join(n for n in setting_names(chosen) if '.' not in n)}"
            )
        if value is not None:
            chosen = _changed(chosen, name, value)
    for name, value in (changes or {}).items():
        own = [n for n in setting_names(chosen) if "." not in n and n not in _RESERVED]
        inner = setting_names(chosen.settings)
        if name in own and name not in inner:
            chosen = _changed(chosen, name, value)
            continue
        if name not in inner:
            raise SettingsError(
                f"sampler {chosen.sampler!r} has no setting {name!r}; "
                f"valid names: {', '.join(inner + own)}"
            )
        chosen = replace(chosen, settings=_changed(chosen.settings, name, value))
    return chosen


def usual_preset(header: PriorHeader, uncertainty: bool = False) -> str:
    """Where no preset is named: what gives error bars, if they are asked for and the prior can."""
    if not uncertainty:
        return DEFAULT_PRESET
    spectral = isinstance(read_config(header.network, header.config), SpectralConfig)
    return UNCERTAINTY_PRESET if spectral else DEFAULT_PRESET


def _changed(settings: Any, name: str, value: Any) -> Any:
    """Copy of a settings dataclass with one field changed, ``a.b`` for field b of field a."""
    if isinstance(value, str):
        return change_settings(settings, {name: value})
    head, _, rest = name.partition(".")
    if rest:
        value = _changed(getattr(settings, head), rest, value)
    else:
        kinds = {f.name: str(f.type) for f in fields(settings)}[head].split(" | ")
        usual = getattr(settings, head)
        if is_dataclass(usual) and not (is_dataclass(value) or f"{value}" in kinds):
            raise SettingsError(f"{name} is an object, such as {usual!r}; found {value!r}")
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            value = int(value) if "int" in kinds else float(value) if "float" in kinds else value
        elif isinstance(value, numbers.Real) and "float" in kinds:
            value = float(value)
        elif isinstance(value, float) and "int" in kinds:
            raise SettingsError(f"{name} is a whole number; found {value!r}")
    try:
        return replace(settings, **{head: value})
    except TypeError:  # a rule met a value that it cannot compare
        raise SettingsError(f"setting {name!r} cannot be {value!r}") from None


_RESERVED = ("sampler", "settings")
