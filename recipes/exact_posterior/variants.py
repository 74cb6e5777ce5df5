"""The table's rows: a name, and the sampler with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mgdm_core.conditionals import Linearised, Tweedie
from mgdm_core.index_laws import (
    Fraction,
    NearZero,
    NextLevel,
    ResidualLaw,
    UniformFraction,
    UniformLaw,
)
from mgdm_core.sampler import Sampler
from mgdm_core.samplers import MGDM, PRESETS, SAMPLERS, MGDMMarginal, TweedieGibbs
from mgdm_core.settings_text import settings_from

__all__ = ["ABLATIONS", "MAIN", "VARIANTS", "Variant", "chosen"]

Variant = Sampler | None
"""One row of the table; None leaves the choice to the library, which looks at the problem."""

PUBLISHED: MGDM = PRESETS["mgdm"]["imagenet-pixel"]  # type: ignore[assignment]
LINEARISED = replace(PUBLISHED, conditional=Linearised())

# Which of a sampler's presets is the published setting that fits this benchmark; others run with
# the defaults of their settings.
_PRESET_OF = {
    "dps": "super-resolution",
    "pgdm": "published",
    "ddnm": "published",
    "ddrm": "published",
    "diffpir": "other",
    "pnp_dm": "images",
    "red_diff": "published",
    "ding": "published",
    "flow_dps": "published",
}


# Methods whose levels are stated for data of another scale than the 11 here: MSDM's for waveforms
# of deviation 0.2, up to sigma 1.
_SCALED: dict[str, dict[str, Any]] = {
    "msdm_dirac": {"sigma_max": 60.0, "sigma_min": 6e-3},
    "msdm_gaussian": {"sigma_max": 60.0, "sigma_min": 6e-3},
    "diffusion_gibbs": {"rho": 60.0},
}


def _others() -> dict[str, Variant]:
    """Every other sampler with its published settings."""
    rows: dict[str, Variant] = {}
    for name, kind in SAMPLERS.items():
        if name in ("mgdm", "mgdm_marginal"):
            continue
        settings = PRESETS[name].get(_PRESET_OF.get(name, ""), kind())
        rows[name] = settings_from(settings, _SCALED.get(name, {}))
    return rows


MAIN: dict[str, Variant] = {
    "mgdm": None,
    "mgdm-published": PUBLISHED,
    "mgdm-published-r4": replace(PUBLISHED, gibbs=4),
    **_others(),
}


def _ablations() -> dict[str, Variant]:
    rows: dict[str, Variant] = {
        # R, with the published conditional and with the closed form
        **{f"mgdm-published-r{r}": replace(PUBLISHED, gibbs=r) for r in (2, 8)},
        **{f"mgdm-linearised-r{r}": replace(LINEARISED, gibbs=r) for r in (2, 4, 8)},
        # K
        **{f"mgdm-published-k{k}": replace(PUBLISHED, levels=k) for k in (25, 50, 200)},
        **{f"mgdm-linearised-k{k}": replace(LINEARISED, levels=k) for k in (25, 50, 200)},
        # the last line of the loop
        "mgdm-published-forward": replace(PUBLISHED, renoise="forward"),
        "mgdm-linearised-forward": replace(LINEARISED, renoise="forward"),
        # deterministic transitions
        **{
            f"mgdm-linearised-{method.replace('_', '-')}": replace(LINEARISED, transition=method)
            for method in ("ddim", "heun", "dpmpp_2m")
        },
        # the conditional
        "mgdm-linearised": LINEARISED,
        "mgdm-tweedie": replace(PUBLISHED, conditional=Tweedie()),
        "mgdm-tweedie-isotropic": replace(
            PUBLISHED, conditional=Tweedie("isotropic", data_variance=129.0)
        ),
        "tweedie_gibbs-100": TweedieGibbs(100),
    }
    # the index law, under the closed-form conditional
    laws = {
        "uniform": UniformLaw(),
        "upper": UniformFraction(0.5),
        "near-zero": NearZero(),
        "half": Fraction(0.5),
        "next": NextLevel(),
        "residual": ResidualLaw(),
    }
    for name, law in laws.items():
        rows[f"mgdm-index-{name}"] = replace(LINEARISED, index_law=law)
    # marginalised x_0: what the paths bring, and what they cost
    rows["mgdm-marginal-no-paths"] = MGDMMarginal(budget=0)
    for budget in (700, 1400, 5600):
        rows[f"mgdm-marginal-budget{budget}"] = MGDMMarginal(budget=budget, most_paths=100)
    for sampler, preset in (
        ("pgdm", "score"),
        ("ddrm", "hundred-steps"),
        ("ding", "many-steps"),
        ("calibrated_guidance", "gradient"),
        ("daps", "images"),
        ("twisted_smc", "published-twist"),
    ):
        if preset in PRESETS.get(sampler, {}):
            rows[f"{sampler}-{preset}"] = PRESETS[sampler][preset]
    return rows


ABLATIONS: dict[str, Variant] = _ablations()
VARIANTS: dict[str, Variant] = {**MAIN, **ABLATIONS}


def chosen(names: Sequence[str]) -> dict[str, Variant]:
    """Rows by name, by sampler group ``main``, ``ablations`` or ``all``, in the order asked for.

    Raises
    ------
    KeyError
        With the valid names, for an unknown one.
    """
    groups = {"main": MAIN, "ablations": ABLATIONS, "all": VARIANTS}
    rows: dict[str, Variant] = {}
    for name in names:
        if name in groups:
            rows.update(groups[name])
        elif name in VARIANTS:
            rows[name] = VARIANTS[name]
        else:
            raise KeyError(
                f"no sampler {name!r}; groups: {', '.join(groups)}; "
                f"names: {', '.join(sorted(VARIANTS))}"
            )
    return rows
