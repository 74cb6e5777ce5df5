"""The table's rows: a name, the sampler, its settings and what they ask of the problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mgdm_core.conditionals import Linearised, Tweedie
from mgdm_core.index_laws import (
    Fraction,
    NearZero,
    NextLevel,
    ResidualLaw,
    UniformFraction,
    UniformLaw,
)
from mgdm_core.run import settings_from
from mgdm_core.samplers import SAMPLERS
from mgdm_core.samplers.mgdm import PRESETS, MGDMSettings

__all__ = ["ABLATIONS", "MAIN", "VARIANTS", "Variant", "chosen"]


class Variant(NamedTuple):
    """One row of the table.

    ``settings`` None leaves the choice to the sampler, which may look at the likelihood. ``needs``
    are capabilities of the operator (``adjoint``, ``svd``, ``proximal``), ``gaussian`` for a
    Gaussian likelihood, ``mixing`` for the sum over stems, ``vjp`` for gradients through the
    denoiser.
    """

    sampler: str
    settings: Any
    needs: frozenset[str]


PUBLISHED = PRESETS["imagenet-pixel"]
LINEARISED = replace(PUBLISHED, conditional=Linearised())
GAUSSIAN, VJP = frozenset({"gaussian"}), frozenset({"vjp"})

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
}


def _others() -> dict[str, Variant]:
    """Every other sampler with its published settings.

    Those of MSDM have their levels made for waveforms of deviation 0.2, up to sigma 1; here the
    data's is 11, and the levels are as much higher.
    """
    rows = {}
    for name, info in SAMPLERS.items():
        if name == "mgdm":
            continue
        if "mixing" in info.needs:
            settings = settings_from(info.settings(), {"sigma_max": 60.0, "sigma_min": 6e-3})
            rows[name] = Variant(name, settings, info.needs)
            continue
        preset = _PRESET_OF.get(name, "")
        settings = info.presets[preset] if preset in info.presets else info.settings()
        rows[name] = Variant(name, settings, info.needs)
    return rows


MAIN: dict[str, Variant] = {
    "mgdm": Variant("mgdm", None, frozenset()),
    "mgdm-published": Variant("mgdm", PUBLISHED, VJP),
    "mgdm-published-r4": Variant("mgdm", replace(PUBLISHED, gibbs=4), VJP),
    **_others(),
}


def _mgdm(settings: MGDMSettings) -> Variant:
    conditional = settings.conditional
    if isinstance(conditional, Tweedie):
        return Variant("mgdm", settings, GAUSSIAN | {"adjoint"})
    return Variant("mgdm", settings, VJP)


def _jumping(settings: MGDMSettings, **changes: Any) -> Variant:
    """Same settings with other jumps."""
    assert settings.jumps is not None
    return _mgdm(replace(settings, jumps=replace(settings.jumps, **changes)))


def _preset(sampler: str, name: str) -> Variant:
    info = SAMPLERS[sampler]
    return Variant(sampler, info.presets[name], info.needs)


def _ablations() -> dict[str, Variant]:
    best = PRESETS.get("best", MGDMSettings())
    rows = {
        # R, with the published conditional and with the closed form
        **{f"mgdm-published-r{r}": _mgdm(replace(PUBLISHED, gibbs=r)) for r in (2, 8)},
        **{f"mgdm-linearised-r{r}": _mgdm(replace(LINEARISED, gibbs=r)) for r in (2, 4, 8)},
        # K
        **{f"mgdm-published-k{k}": _mgdm(replace(PUBLISHED, levels=k)) for k in (25, 50, 200)},
        **{f"mgdm-linearised-k{k}": _mgdm(replace(LINEARISED, levels=k)) for k in (25, 50, 200)},
        # the last line of the loop
        "mgdm-published-forward": _mgdm(replace(PUBLISHED, renoise="forward")),
        "mgdm-linearised-forward": _mgdm(replace(LINEARISED, renoise="forward")),
        # deterministic transitions
        **{
            f"mgdm-linearised-{method.replace('_', '-')}": _mgdm(
                replace(LINEARISED, transition=method)
            )
            for method in ("ddim", "heun", "dpmpp_2m")
        },
        # the conditional
        "mgdm-linearised": _mgdm(LINEARISED),
        "mgdm-linearised-inflated": _mgdm(replace(LINEARISED, conditional=Linearised(inflate=1.0))),
        "mgdm-tweedie": _mgdm(replace(PUBLISHED, conditional=Tweedie())),
        "mgdm-tweedie-isotropic": _mgdm(
            replace(PUBLISHED, conditional=Tweedie("isotropic", data_variance=129.0))
        ),
        "mgdm-tweedie-x0": _mgdm(replace(PUBLISHED, conditional=Tweedie(), denoising_steps=0)),
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
        rows[f"mgdm-index-{name}"] = _mgdm(replace(LINEARISED, index_law=law))
    # marginalised x_0: how much the jumps bring, and what they cost
    rows["mgdm-best-without-jumps"] = _mgdm(replace(best, jumps=None))
    if best.jumps is not None:
        for count in (40, 80, 320):
            rows[f"mgdm-best-jumps{count}"] = _jumping(best, count=count)
        for index in (20, 35, 50):  # one level s all along
            share = index / 100
            rows[f"mgdm-best-jumps-at{index}"] = _jumping(
                best, stages=1, first_index=share, index=share
            )
    # the rest of the loop after the jumps
    for method in ("ddim", "heun", "dpmpp_2m"):
        rows[f"mgdm-best-{method.replace('_', '-')}"] = _mgdm(replace(best, transition=method))
    rows["mgdm-best-tweedie"] = _mgdm(replace(best, conditional=Tweedie()))
    rows["mgdm-best-residual"] = _mgdm(replace(best, index_law=ResidualLaw()))
    rows["mgdm-best-r4"] = _mgdm(replace(best, gibbs=4))
    for sampler, preset in (
        ("pgdm", "score"),
        ("ddrm", "hundred-steps"),
        ("daps", "images"),
        ("twisted_smc", "published-twist"),
    ):
        if sampler in SAMPLERS and preset in SAMPLERS[sampler].presets:
            rows[f"{sampler}-{preset}"] = _preset(sampler, preset)
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
