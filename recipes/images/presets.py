"""Settings of each sampler for each task and prior, and changes to them from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import torch

from mgdm_core.conditionals import Variational
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import PublishedMix
from mgdm_core.samplers import MGDM, PRESETS, default_sampler, get_sampler
from mgdm_core.settings_text import settings_from
from recipes.images.priors import ImagePrior
from recipes.images.restore import posed
from recipes.images.tasks import Degradation

__all__ = [
    "DEFAULT",
    "apply_changes",
    "checked",
    "describe",
    "published_for",
    "settings_for",
    "with_gibbs",
]

DEFAULT = "default"
"""Among the samplers' names: what the library chooses for the problem."""

# DPS's published steps by task; the masks and what is not listed there take 1.
_DPS = {
    "sr4": "super-resolution",
    "sr16": "super-resolution",
    "phase_retrieval": "phase-retrieval",
    "blur": "blur",
    "motion_blur": "blur",
    "nonlinear_blur": "blur",
    "gamma_blur": "blur",
    "high_dynamic_range": "high-dynamic-range",
    "jpeg2": "jpeg",
    "jpeg10": "jpeg",
}
_MASKS = ("inpainting_center", "outpainting_half", "outpainting_expand")

# The embedded prior is small and its images simple: fewer levels and steps than published. Adam
# moves a pixel by about its learning rate, so once s is the next level, and the bridge narrow, a
# large one would leave that much noise. Chosen on digits that docs/images.md does not score.
_DIGITS = {
    "mgdm": {
        "levels": 30,
        "denoising_steps": 5,
        "conditional": Variational(
            steps=5,
            late_steps=15,
            early_learning_rate=0.05,
            early=0.7,
            learning_rate=0.007,
        ),
        "index_law": PublishedMix(),
    },
    "dps": {"steps": 300},
    "pgdm": {"steps": 300},
    "ddnm": {"steps": 300},
    "ddrm": {"steps": 300},
    "diffpir": {"steps": 300},
    "red_diff": {"steps": 300},
    "daps": {"levels": 100, "ode_steps": 5},
    "pnp_dm": {"iterations": 50, "prior_steps": 10},
}


def checked(sampler: str) -> str:
    """The name of a sampler; unknown ones are refused with the valid names."""
    return sampler if sampler == DEFAULT else get_sampler(sampler).name


def settings_for(sampler: str, degradation: Degradation, prior: ImagePrior) -> Any:
    """What a sampler runs with: :func:`published_for`, or by ``default`` what the library chooses.

    Where that is MGDM by itself, it has the settings for the prior.
    """
    if sampler == DEFAULT:
        y = degradation.operator.forward(torch.zeros(1, *degradation.event_shape))
        chosen = default_sampler(posed(prior, degradation, y))
        if chosen != MGDM():
            return chosen
        sampler = chosen.name
    return published_for(sampler, degradation.name, prior.preset)


def published_for(sampler: str, task: str, prior_preset: str) -> Any:
    """Published settings of a sampler for a task, or the smaller ones of the embedded prior.

    Parameters
    ----------
    sampler : str
        Name; unknown ones are refused with the valid names.
    task : str
    prior_preset : str
        ``digits``, or the name of MGDM's published settings.
    """
    kind = get_sampler(sampler)
    presets = PRESETS[sampler]
    name = None
    if sampler == "mgdm":
        name = prior_preset
    elif sampler == "dps":
        name = _DPS.get(task)
    elif sampler == "diffpir":
        name = "masks" if task in _MASKS else "other"
    elif "images" in presets:
        name = "images"
    base = kind() if name is None or name not in presets else presets[name]
    if prior_preset == "digits" and sampler in _DIGITS:
        base = settings_from(base, _DIGITS[sampler])
    return base


def _parse(text: str) -> Any:
    """JSON value, or the text itself: numbers, true, false and null need no quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _with(settings: Any, path: Sequence[str], value: Any) -> Any:
    if len(path) == 1:
        return settings_from(settings, {path[0]: value})
    inner = getattr(settings, path[0], None)
    if not is_dataclass(inner):
        raise SettingsError(
            f"{type(settings).__name__} has no group of settings {path[0]!r}; found "
            f"{'.'.join(path)!r}"
        )
    return replace(settings, **{path[0]: _with(inner, path[1:], value)})


def apply_changes(settings: Any, changes: Sequence[str]) -> Any:
    """Settings with ``name=value`` changes; ``conditional.steps=10`` reaches inner ones.

    Raises
    ------
    SettingsError
        With the valid names, if one is unknown, or for a value outside its domain.
    """
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise SettingsError(f"--set takes NAME=VALUE; found {change!r}")
        try:
            settings = _with(settings, name.strip().split("."), _parse(text.strip()))
        except TypeError as error:
            raise SettingsError(f"--set {change}: the value has the wrong type") from error
    return settings


def describe(settings: Any) -> dict[str, Any]:
    """Plain containers for JSON, with the class of each group of settings."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            inner = {k: plain(getattr(value, k)) for k in asdict(value)}
            return {"class": type(value).__name__, **inner}
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)

    return plain(settings)


def with_gibbs(settings: Any, gibbs: int) -> Any:
    """MGDM's settings with R repetitions per level."""
    if not isinstance(settings, MGDM):
        raise SettingsError("--gibbs varies MGDM's R; give the sampler mgdm")
    return settings_from(settings, {"gibbs": gibbs})
