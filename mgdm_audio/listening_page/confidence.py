"""How far a stem can be trusted over time, for the strip below its waveform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgdm_core.array_types import Array, Float
from mgdm_core.errors import SettingsError

UNKNOWN = 255
_CELLS = 1000


@dataclass(frozen=True)
class Confidence:
    """Confidence per stem and frame.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (frames,)
        0 (no idea) to 1 (certain); NaN where nothing is known, as where the stem is silent. Stems
        without a row get no strip.
    meaning : str
        What is the case where it is high, to complete "solid where ...".

    Raises
    ------
    SettingsError
        For values outside 0..1.
    """

    rows: Mapping[str, Float[Array, " frames"]]
    seconds_per_frame: float
    meaning: str = "the draws agree"

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            known = row[~np.isnan(row)]
            if len(known) and not (known.min() >= 0 and known.max() <= 1):
                raise SettingsError(
                    f"confidence lies in 0..1; found {known.min():.3g} to {known.max():.3g} "
                    f"in the row of {name!r}"
                )

    def cells(self, name: str, seconds: float) -> np.ndarray | None:
        """Row of a stem in at most 1000 cells over ``seconds``: 0..254, or ``UNKNOWN``."""
        row = self.rows.get(name)
        if row is None or len(row) == 0:
            return None
        count = int(min(_CELLS, len(row)))
        at = np.minimum(
            (np.arange(len(row)) * self.seconds_per_frame * count / seconds).astype(int), count - 1
        )
        known = ~np.isnan(row)
        weight = np.bincount(at[known], minlength=count)
        total = np.bincount(at[known], weights=row[known], minlength=count)
        with np.errstate(invalid="ignore"):
            mean = total / weight
        return np.where(weight > 0, np.rint(mean * 254), UNKNOWN).astype(np.uint8)

    def mean(self, name: str) -> float:
        """Mean of a row where it is known; NaN where it nowhere is."""
        row = self.rows[name]
        known = row[~np.isnan(row)]
        return float(known.mean()) if len(known) else float("nan")


def own_parts(said: Mapping[str, Any]) -> Confidence:
    """How much of a stem is expected to be its own: r / (1 + r) of the SI-SDR's ratio r.

    Parameters
    ----------
    said : mapping
        What a separation is confident of, as ``mgdm.json`` has it under ``confidence``.
    """
    rows = {
        stem: np.array([np.nan if v is None else 1 / (1 + 10 ** (-v / 10)) for v in row["si_sdr"]])
        for stem, row in said["stems"].items()
    }
    meaning = "what is heard is expected to be the stem's own"
    return Confidence(rows, float(said["seconds"]), meaning)


def levels(
    blocks: Iterable[Float[Array, "channels samples"]], hop: float, count: int
) -> Float[Array, " frames"]:
    """Root mean square of a sound in ``count`` frames of ``hop`` samples, all channels together."""
    power, weight, at = np.zeros(count), np.zeros(count), 0
    for block in blocks:
        place = ((at + np.arange(block.shape[1])) / hop).astype(int)
        place = np.minimum(place, count - 1)
        power += np.bincount(place, (block.astype(np.float64) ** 2).mean(axis=0), count)
        weight += np.bincount(place, minlength=count)
        at += block.shape[1]
    return np.sqrt(power / np.maximum(weight, 1))


def agreement(
    level: Float[Array, " frames"], deviation: Float[Array, " frames"]
) -> Float[Array, " frames"]:
    """Share of a stem's energy on which the draws agree: m^2 / (m^2 + d^2).

    Of root mean squares per frame: ``level`` m of the stem, ``deviation`` d between the samples.
    NaN, for silence, where both together are below -60 dB of full scale.
    """
    power = level**2 + deviation**2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = level**2 / power
    return np.where(power < 1e-6, np.nan, share)
