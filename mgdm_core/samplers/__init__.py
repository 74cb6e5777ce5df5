"""Posterior samplers, one file per method, all with one signature, listed by name."""

from __future__ import annotations

from mgdm_core.errors import SettingsError
from mgdm_core.run import SamplerInfo
from mgdm_core.samplers import mgdm as _mgdm

__all__ = ["SAMPLERS", "get_sampler"]

SAMPLERS: dict[str, SamplerInfo] = {
    info.name: info
    for info in (
        SamplerInfo(
            "mgdm",
            _mgdm.mgdm,
            _mgdm.MGDMSettings,
            presets=_mgdm.PRESETS,
            paper="Janati et al. 2025, arXiv 2502.03332",
        ),
    )
}


def get_sampler(name: str) -> SamplerInfo:
    """Entry of the list by name.

    Raises
    ------
    SettingsError
        With the valid names, if there is none.
    """
    if name not in SAMPLERS:
        raise SettingsError(f"no sampler {name!r}; valid names: {', '.join(sorted(SAMPLERS))}")
    return SAMPLERS[name]
