"""Fit what makes error bars hold: spreads of shares, and planes to true improvements."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgdm_audio.io.atomic import write_text
from mgdm_audio.io.json_text import json_text
from mgdm_audio.metrics.si_sdr import si_sdr
from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.recalibration import PlaneFit
from mgdm_audio.sampling.share_draws import draw_shares
from mgdm_audio.separation.confidence import PIECE_SECONDS, said_by_shares
from mgdm_core.array_types import Array, Bool, Float
from recipes.calibration import scores

__all__ = ["Gains", "fit_plane", "fit_spread", "gains", "share_coverage", "store"]

DRAWS = 9
SHARE = 0.9
WORST_DB = -20.0
"""SI-SDR of a stem that does not play at all: a hundred times as much is wrong as is right."""


def share_coverage(
    estimate: Float[Array, "stems samples"],
    truth: Float[Array, "stems samples"],
    spread: Sequence[float],
    spectral: SpectralTransform,
    rate: int,
    seed: int,
) -> Float[Array, "stems 2"]:
    """Cells whose truth is in the central 90 % interval of drawn shares, and cells asked about."""
    noise = torch.Generator().manual_seed(seed)
    stems = torch.from_numpy(estimate)
    white = torch.randn(DRAWS, *stems.shape, generator=noise)
    drawn = draw_shares(stems, white, torch.tensor(spread, dtype=torch.float32), spectral)
    mixture = truth.sum(0)
    levels, sounding = scores.band_levels(drawn.numpy(), mixture, rate)
    true, _ = scores.band_levels(truth, mixture, rate)
    found = scores.dithered_ranks(true, levels, np.random.default_rng(seed))
    asked = sounding & ~((true == scores.FLOOR_DB) & (levels == scores.FLOOR_DB).all(0))
    inside = scores.shares_covered(found, DRAWS, (SHARE,))[0]
    return np.array([[inside[k][asked[k]].sum(), asked[k].sum()] for k in range(len(truth))])


def fit_spread(
    coverage: Callable[[list[float]], Float[Array, " stems"]],
    stems: int,
    rounds: int = 3,
    first: float = 3.0,
) -> list[float]:
    """Spreads with which every stem's 90 % interval holds 90 %.

    By secant steps: in terms of the normal law's quantiles a coverage is a ratio of deviations,
    which grows as a power of the spread, 0.3 at first guess since shares saturate.

    Parameters
    ----------
    coverage : callable
        From one spread per stem to the share covered per stem.
    """
    from scipy.stats import norm

    wanted = np.log(norm.ppf((1 + SHARE) / 2))
    spread, power = np.full(stems, np.log(first)), np.full(stems, 0.3)
    before: tuple[np.ndarray, np.ndarray] | None = None
    for _ in range(rounds):
        held = np.clip(coverage(np.exp(spread).tolist()), 0.02, 0.995)
        place = np.log(norm.ppf((1 + held) / 2))
        if before is not None:
            moved = spread - before[0]
            far = np.abs(moved) > 0.02
            slope = (place - before[1]) / np.where(far, moved, 1.0)
            power = np.where(far, np.clip(slope, 0.15, 1.5), power)
        before = spread, place
        step = np.clip((wanted - place) / power, -np.log(2), np.log(2))
        spread = np.clip(spread + step, np.log(0.05), np.log(8.0))
    return np.exp(spread).tolist()


class Gains:
    """True improvements of stems by the second, their SI-SDR, and what their shares say.

    Attributes
    ----------
    true, said, level : ndarray, shape (stems, pieces)
        In dB.
    si_sdr : ndarray, shape (stems, pieces)
        In dB, :data:`WORST_DB` at the least, and that where the stem does not play.
    counts : ndarray of bool
        Where stem, rest and estimate all sound.
    heard : ndarray of bool
        Where rest and estimate sound, whether the stem does or not.
    """

    def __init__(
        self,
        true: Float[Array, "stems pieces"],
        said: Float[Array, "stems pieces"],
        level: Float[Array, "stems pieces"],
        si_sdr: Float[Array, "stems pieces"],
        counts: Bool[Array, "stems pieces"],
        heard: Bool[Array, "stems pieces"],
    ) -> None:
        self.true, self.said, self.level, self.si_sdr = true, said, level, si_sdr
        self.counts, self.heard = counts, heard

    def of(self, stem: int) -> Float[Array, "3 seconds"]:
        """True, said and level of a stem in the seconds that count."""
        return np.stack([self.true[stem], self.said[stem], self.level[stem]])[:, self.counts[stem]]

    def quality(self, stem: int) -> Float[Array, "3 seconds"]:
        """SI-SDR, said and level of a stem in the seconds in which its estimate is heard."""
        return np.stack([self.si_sdr[stem], self.said[stem], self.level[stem]])[:, self.heard[stem]]


def gains(
    estimate: Float[Array, "stems samples"],
    truth: Float[Array, "stems samples"],
    rate: int,
    spectral: SpectralTransform,
) -> Gains:
    """Of one song, second by second."""
    size = round(PIECE_SECONDS * rate)
    true, said, level, quality, counts, heard = [], [], [], [], [], []
    for start in range(0, truth.shape[-1] - size + 1, size):
        e, r = (torch.from_numpy(x[:, start : start + size]) for x in (estimate, truth))
        mixture = r.sum(0).expand_as(r)
        own = si_sdr(e, r)
        true.append(own - si_sdr(mixture, r))
        shares = said_by_shares(e, spectral)
        said.append(shares.improvement)
        level.append(shares.level)
        loud = [x.square().mean(1).sqrt() >= ACTIVE_RMS for x in (r, mixture - r, e)]
        counts.append(loud[0] & loud[1] & loud[2])
        heard.append(loud[1] & loud[2])
        quality.append(torch.where(loud[0], own, WORST_DB).clamp_min(WORST_DB))
    rows = (true, said, level, quality, counts, heard)
    return Gains(*(torch.stack(row, 1).numpy() for row in rows))


def fit_plane(sets: Sequence[Float[Array, "3 _"]]) -> PlaneFit:
    """A plane by least squares, and the interval that holds 80 % of the seconds of every set.

    Music from elsewhere is off by other amounts: of what is left over, the tenth is the lowest and
    the ninth tenth the highest that any of the sets has, not those of all their seconds together.

    Parameters
    ----------
    sets : sequence of ndarray
        Per validation set, the rows of :meth:`Gains.of`; one without a second does not count.
    """
    sets = [rows for rows in sets if rows.size]
    true, said, level = np.concatenate(sets, 1)
    design = np.stack([said, level, np.ones_like(said)], 1)
    slope, tilt, constant = np.linalg.lstsq(design, true, rcond=None)[0]
    left = [t - slope * s - tilt * v - constant for t, s, v in sets]
    low, high = np.array([np.quantile(rest, [0.1, 0.9]) for rest in left]).T
    values = (slope, tilt, constant, low.min(), high.max())
    return PlaneFit(*(round(float(v), 3) for v in values))


def store(path: Path, checksum: str, entry: dict[str, Any]) -> None:
    """Put a prior's fit beside those of others."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json_text({**known, checksum: entry}) + "\n")
