"""What was fitted on validation data for priors, by their checksum: shares and error bars.

Fitted by ``python -m recipes.calibration fit`` and kept beside the bundled weights; a prior without
a fit has none, and what it says is then called uncalibrated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.sampling.share_recalibration import ShareFit, between_knots, recalibrate_shares
from mgdm_core.array_types import Array, Float, Tensor

PATH = Path(__file__).parents[1] / "weights" / "recalibration.json"

UNFITTED_SPREAD = 1.5
"""Deviation of the logarithm of a share for a prior that has no fit."""


@dataclass(frozen=True)
class PlaneFit:
    """From what shares say of an improvement to what it is, or the SI-SDR, in dB.

    Attributes
    ----------
    slope, level, intercept : float
        expected = slope x said + level x level of the stem over the rest + intercept.
    low, high : float
        Between them, true less expected, are 80 % of the seconds of every set fitted on.
    """

    slope: float
    level: float
    intercept: float
    low: float
    high: float

    def expected(
        self, said: Float[Array, " seconds"], level: Float[Array, " seconds"]
    ) -> Float[Array, " seconds"]:
        """Expected dB, from what the shares say and the level over the rest."""
        return self.slope * said + self.level * level + self.intercept


@dataclass(frozen=True)
class Recalibration:
    """What was fitted for a prior.

    Attributes
    ----------
    fitted_on : str
        Identity of the validation data, and the day.
    spread : dict of str to float
        Deviation of the logarithm of each stem's share.
    improvement, si_sdr : dict of str to PlaneFit
        Of the SI-SDR also in seconds in which the stem does not play at all.
    shares : ShareFit or None
        How shares are corrected before anything is said of them.
    """

    fitted_on: str
    spread: dict[str, float]
    improvement: dict[str, PlaneFit]
    si_sdr: dict[str, PlaneFit]
    shares: ShareFit | None = None


@lru_cache(1)
def _fits() -> dict[str, Any]:
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}


def recalibration(checksum: str) -> Recalibration | None:
    """What was fitted for the prior with this checksum, or None."""
    found = _fits().get(checksum)
    if found is None:
        return None
    improvement, quality = (
        {stem: PlaneFit(**fit) for stem, fit in found[name].items()}
        for name in ("improvement", "si_sdr")
    )
    shares = ShareFit(**found["shares"]) if "shares" in found else None
    return Recalibration(found["fitted_on"], dict(found["spread"]), improvement, quality, shares)


def spread_of(checksum: str, stems: Sequence[str]) -> list[float]:
    """Deviation of the logarithm of each stem's share, fitted or not."""
    fit = recalibration(checksum)
    known = {} if fit is None else fit.spread
    return [known.get(stem, UNFITTED_SPREAD) for stem in stems]


def recalibrated(
    stems: Float[Tensor, "stems samples"], prior: SpectralPrior, checksum: str
) -> Float[Tensor, "stems samples"]:
    """A separation by a prior with its shares corrected as was fitted; as it is without a fit."""
    fit = recalibration(checksum)
    if fit is None or fit.shares is None:
        return stems
    knots = between_knots(fit.shares.hz, prior.spectral, prior.rate)
    return recalibrate_shares(stems, prior.spectral, fit.shares.values(prior.stems) @ knots)
