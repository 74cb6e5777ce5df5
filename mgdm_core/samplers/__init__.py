"""Posterior samplers, one file per method; the fields of each are its settings."""

from __future__ import annotations

from collections.abc import Mapping

from mgdm_core.errors import SettingsError
from mgdm_core.sampler import Sampler
from mgdm_core.samplers import daps as _daps
from mgdm_core.samplers import ddnm as _ddnm
from mgdm_core.samplers import ddrm as _ddrm
from mgdm_core.samplers import diffpir as _diffpir
from mgdm_core.samplers import diffusion_gibbs as _diffusion_gibbs
from mgdm_core.samplers import ding as _ding
from mgdm_core.samplers import dps as _dps
from mgdm_core.samplers import flow_dps as _flow_dps
from mgdm_core.samplers import guess_and_guide as _guess_and_guide
from mgdm_core.samplers import mcg_diff as _mcg_diff
from mgdm_core.samplers import mgdm as _mgdm
from mgdm_core.samplers import mgdm_jumps as _mgdm_jumps
from mgdm_core.samplers import mgdm_marginal as _mgdm_marginal
from mgdm_core.samplers import msdm_dirac as _msdm_dirac
from mgdm_core.samplers import msdm_gaussian as _msdm_gaussian
from mgdm_core.samplers import pgdm as _pgdm
from mgdm_core.samplers import pnp_dm as _pnp_dm
from mgdm_core.samplers import red_diff as _red_diff
from mgdm_core.samplers import smc_diff as _smc_diff
from mgdm_core.samplers import tweedie_gibbs as _tweedie_gibbs
from mgdm_core.samplers import twisted_smc as _twisted_smc
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
from mgdm_core.samplers.mgdm_jumps import MGDMJumps
from mgdm_core.samplers.mgdm_marginal import MGDMMarginal
from mgdm_core.samplers.msdm_dirac import MSDMDirac
from mgdm_core.samplers.msdm_gaussian import MSDMGaussian
from mgdm_core.samplers.pgdm import PGDM
from mgdm_core.samplers.pnp_dm import PnPDM
from mgdm_core.samplers.red_diff import REDDiff
from mgdm_core.samplers.smc_diff import SMCDiff
from mgdm_core.samplers.tweedie_gibbs import TweedieGibbs
from mgdm_core.samplers.twisted_smc import TwistedSMC

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DiffPIR",
    "DiffusionGibbs",
    "DInG",
    "FlowDPS",
    "GuessAndGuide",
    "MCGDiff",
    "MSDMDirac",
    "MSDMGaussian",
    "PGDM",
    "PnPDM",
    "REDDiff",
    "SMCDiff",
    "TwistedSMC",
    "DPS",
    "MGDM",
    "MGDMJumps",
    "MGDMMarginal",
    "TweedieGibbs",
    "PRESETS",
    "SAMPLERS",
    "default_sampler",
    "get_sampler",
]

_MODULES = {
    MGDM: _mgdm,
    MGDMJumps: _mgdm_jumps,
    MGDMMarginal: _mgdm_marginal,
    TweedieGibbs: _tweedie_gibbs,
    DPS: _dps,
    DAPS: _daps,
    DDNM: _ddnm,
    DDRM: _ddrm,
    DiffPIR: _diffpir,
    DiffusionGibbs: _diffusion_gibbs,
    DInG: _ding,
    FlowDPS: _flow_dps,
    GuessAndGuide: _guess_and_guide,
    MCGDiff: _mcg_diff,
    MSDMDirac: _msdm_dirac,
    MSDMGaussian: _msdm_gaussian,
    PGDM: _pgdm,
    PnPDM: _pnp_dm,
    REDDiff: _red_diff,
    SMCDiff: _smc_diff,
    TwistedSMC: _twisted_smc,
}

SAMPLERS: dict[str, type[Sampler]] = {kind.name: kind for kind in _MODULES}
"""Every sampler by name, for command lines and tables."""

PRESETS: dict[str, Mapping[str, Sampler]] = {
    kind.name: module.PRESETS for kind, module in _MODULES.items()
}
"""Named settings of each sampler."""


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
