"""Posterior samplers, one file per method; the fields of each are its settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mgdm_core.errors import SettingsError
from mgdm_core.sampler import Sampler
from mgdm_core.samplers.calibrated_guidance import CalibratedGuidance
from mgdm_core.samplers.daps import DAPS
from mgdm_core.samplers.ddnm import DDNM
from mgdm_core.samplers.ddrm import DDRM
from mgdm_core.samplers.default import default_sampler
from mgdm_core.samplers.diffpir import DiffPIR
from mgdm_core.samplers.diffusion_gibbs import DiffusionGibbs
from mgdm_core.samplers.ding import DInG
from mgdm_core.samplers.dps import DPS
from mgdm_core.samplers.flow_dps import FlowDPS
from mgdm_core.samplers.guess_and_guide import GuessAndGuide
from mgdm_core.samplers.mcg_diff import MCGDiff
from mgdm_core.samplers.mgdm import MGDM
from mgdm_core.samplers.mgdm_marginal import MGDMMarginal
from mgdm_core.samplers.msdm_dirac import MSDMDirac
from mgdm_core.samplers.msdm_gaussian import MSDMGaussian
from mgdm_core.samplers.pgdm import PGDM
from mgdm_core.samplers.pnp_dm import PnPDM
from mgdm_core.samplers.psld import PSLD
from mgdm_core.samplers.red_diff import REDDiff
from mgdm_core.samplers.resample import ReSample
from mgdm_core.samplers.smc_diff import SMCDiff
from mgdm_core.samplers.tweedie_gibbs import TweedieGibbs
from mgdm_core.samplers.twisted_smc import TwistedSMC

__all__ = [
    "MGDM",
    "MGDMMarginal",
    "TweedieGibbs",
    "CalibratedGuidance",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "DiffPIR",
    "DiffusionGibbs",
    "DInG",
    "FlowDPS",
    "GuessAndGuide",
    "MCGDiff",
    "MSDMDirac",
    "MSDMGaussian",
    "PGDM",
    "PSLD",
    "PnPDM",
    "REDDiff",
    "ReSample",
    "SMCDiff",
    "TwistedSMC",
    "PRESETS",
    "SAMPLERS",
    "default_sampler",
    "get_sampler",
]

_KINDS = [kind for name in __all__ if isinstance(kind := globals().get(name), type)]

SAMPLERS: dict[str, type[Sampler]] = {kind.name: kind for kind in _KINDS}
"""Every sampler by name, for command lines and tables."""

PRESETS: dict[str, Mapping[str, Sampler]] = {
    kind.name: sys.modules[kind.__module__].PRESETS for kind in _KINDS
}
"""Named settings of each sampler, from its own file."""


def get_sampler(name: str) -> type[Sampler]:
    """Sampler by name.

    Raises
    ------
    SettingsError
        With the valid names, if there is none.
    """
    if name not in SAMPLERS:
        raise SettingsError(f"no sampler {name!r}; valid names: {', '.join(sorted(SAMPLERS))}")
    return SAMPLERS[name]
