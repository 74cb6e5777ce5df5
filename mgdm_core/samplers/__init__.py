"""Posterior samplers, one file per method, all with one signature, listed by name."""

from __future__ import annotations

from mgdm_core.errors import SettingsError
from mgdm_core.run import SamplerInfo
from mgdm_core.samplers import daps as _daps
from mgdm_core.samplers import ddnm as _ddnm
from mgdm_core.samplers import ddrm as _ddrm
from mgdm_core.samplers import diffpir as _diffpir
from mgdm_core.samplers import dps as _dps
from mgdm_core.samplers import guess_and_guide as _guess_and_guide
from mgdm_core.samplers import mcg_diff as _mcg_diff
from mgdm_core.samplers import mgdm as _mgdm
from mgdm_core.samplers import msdm_dirac as _msdm_dirac
from mgdm_core.samplers import msdm_gaussian as _msdm_gaussian
from mgdm_core.samplers import pgdm as _pgdm
from mgdm_core.samplers import pnp_dm as _pnp_dm
from mgdm_core.samplers import red_diff as _red_diff
from mgdm_core.samplers import smc_diff as _smc_diff
from mgdm_core.samplers import twisted_smc as _twisted_smc

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
        SamplerInfo(
            "dps",
            _dps.dps,
            _dps.DPSSettings,
            presets=_dps.PRESETS,
            needs=frozenset({"vjp"}),
            paper="Chung et al. 2023, arXiv 2209.14687",
        ),
        SamplerInfo(
            "pgdm",
            _pgdm.pgdm,
            _pgdm.PGDMSettings,
            presets=_pgdm.PRESETS,
            needs=frozenset({"gaussian", "proximal", "vjp"}),
            paper="Song et al. 2023, ICLR, openreview 9_gsMA8MRKQ",
        ),
        SamplerInfo(
            "ddnm",
            _ddnm.ddnm,
            _ddnm.DDNMSettings,
            presets=_ddnm.PRESETS,
            needs=frozenset({"gaussian", "svd"}),
            paper="Wang et al. 2023, arXiv 2212.00490",
        ),
        SamplerInfo(
            "ddrm",
            _ddrm.ddrm,
            _ddrm.DDRMSettings,
            presets=_ddrm.PRESETS,
            needs=frozenset({"gaussian", "svd"}),
            paper="Kawar et al. 2022, arXiv 2201.11793",
        ),
        SamplerInfo(
            "diffpir",
            _diffpir.diffpir,
            _diffpir.DiffPIRSettings,
            presets=_diffpir.PRESETS,
            needs=frozenset({"gaussian", "proximal"}),
            paper="Zhu et al. 2023, arXiv 2305.08995",
        ),
        SamplerInfo(
            "daps",
            _daps.daps,
            _daps.DAPSSettings,
            presets=_daps.PRESETS,
            paper="Zhang et al. 2024, arXiv 2407.01521",
        ),
        SamplerInfo(
            "pnp_dm",
            _pnp_dm.pnp_dm,
            _pnp_dm.PnPDMSettings,
            presets=_pnp_dm.PRESETS,
            paper="Wu et al. 2024, arXiv 2405.18782",
        ),
        SamplerInfo(
            "red_diff",
            _red_diff.red_diff,
            _red_diff.REDDiffSettings,
            presets=_red_diff.PRESETS,
            paper="Mardani et al. 2023, arXiv 2305.04391",
        ),
        SamplerInfo(
            "guess_and_guide",
            _guess_and_guide.guess_and_guide,
            _guess_and_guide.GuessAndGuideSettings,
            presets=_guess_and_guide.PRESETS,
            paper="Shtanchaev et al. 2026, arXiv 2603.07860",
        ),
        SamplerInfo(
            "twisted_smc",
            _twisted_smc.twisted_smc,
            _twisted_smc.TwistedSMCSettings,
            presets=_twisted_smc.PRESETS,
            needs=frozenset({"vjp"}),
            paper="Wu et al. 2023, arXiv 2306.17775",
            particles=True,
        ),
        SamplerInfo(
            "mcg_diff",
            _mcg_diff.mcg_diff,
            _mcg_diff.MCGDiffSettings,
            presets=_mcg_diff.PRESETS,
            needs=frozenset({"gaussian", "svd"}),
            paper="Cardoso et al. 2023, arXiv 2308.07983",
            particles=True,
        ),
        SamplerInfo(
            "smc_diff",
            _smc_diff.smc_diff,
            _smc_diff.SMCDiffSettings,
            presets=_smc_diff.PRESETS,
            needs=frozenset({"gaussian", "svd"}),
            paper="Trippe et al. 2022, arXiv 2206.04119",
            particles=True,
        ),
        SamplerInfo(
            "msdm_dirac",
            _msdm_dirac.msdm_dirac,
            _msdm_dirac.MSDMDiracSettings,
            presets=_msdm_dirac.PRESETS,
            needs=frozenset({"gaussian", "mixing"}),
            paper="Mariani et al. 2024, arXiv 2302.02257",
        ),
        SamplerInfo(
            "msdm_gaussian",
            _msdm_gaussian.msdm_gaussian,
            _msdm_gaussian.MSDMGaussianSettings,
            presets=_msdm_gaussian.PRESETS,
            needs=frozenset({"gaussian", "mixing"}),
            paper="Mariani et al. 2024, arXiv 2302.02257",
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
