"""Named ways to separate, from quick to as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_core.conditionals import Tweedie
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import Fraction
from mgdm_core.samplers import get_sampler
from mgdm_core.samplers.mgdm import PRESETS as MGDM_PRESETS
from mgdm_core.samplers.mgdm import MGDMSettings
from mgdm_core.settings_text import change_settings, setting_names

__all__ = ["DEFAULT_PRESET", "PRESETS", "sampling_settings"]

DEFAULT_PRESET = "balanced"


def _mgdm(levels: int) -> SamplingSettings:
    return SamplingSettings(
        sampler="mgdm",
        settings=MGDMSettings(
            levels=levels,
            gibbs=1,
            denoising_steps=0,
            index_law=Fraction(0.5),
            conditional=Tweedie(variance="auto", draw=False),
        ),
        temperature=0.01,
        variance="shares",
        variance_floor=0.03,
    )


PRESETS: dict[str, SamplingSettings] = {
    "fast": _mgdm(levels=2),
    "balanced": _mgdm(levels=3),
    "paper": SamplingSettings(
        sampler="mgdm", settings=MGDM_PRESETS["audio-published"], samples=1, start="noise"
    ),
}


def sampling_settings(
    preset: str = DEFAULT_PRESET,
    *,
    sampler: str | None = None,
    changes: Mapping[str, str] | None = None,
    **fields: object,
) -> SamplingSettings:
    """Settings of a preset, with another sampler or some settings changed.

    Parameters
    ----------
    preset : str
        One of :data:`PRESETS`.
    sampler : str, optional
        Another sampler; it runs with its own default settings.
    changes : mapping of str to str, optional
        ``name=value`` for the sampler's dataclass, or for :class:`SamplingSettings` itself where
        the sampler has no such name.
    **fields
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
        info = get_sampler(sampler)
        chosen = replace(chosen, sampler=sampler, settings=info.settings())
    given = {name: value for name, value in fields.items() if value is not None}
    chosen = replace(chosen, **given)  # type: ignore[arg-type]
    for name, text in (changes or {}).items():
        outer = [n for n in setting_names(chosen) if "." not in n and n not in _RESERVED]
        inner = setting_names(chosen.settings)
        if name in outer and name not in inner:
            chosen = change_settings(chosen, {name: text})
            continue
        if name not in inner:
            raise SettingsError(
                f"sampler {chosen.sampler!r} has no setting {name!r}; "
                f"valid names: {', '.join(inner + outer)}"
            )
        settings = change_settings(chosen.settings, {name: text})
        chosen = replace(chosen, settings=settings)
    return chosen


_RESERVED = ("sampler", "settings")
