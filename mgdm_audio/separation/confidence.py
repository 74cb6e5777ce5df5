"""How much a stem has probably gained, second by second, and what it may be confused with.

A bin of magnitude M that is stem k's with probability q_k, its share, is wrong by M^2 q_k (1 - q_k)
on average. Summed over a second and set against what was removed from the mixture, this says an
improvement in SI-SDR. With the stem's level over the rest, since a quiet stem has more to gain, two
planes fitted on validation data turn it into the expected improvement and the expected SI-SDR
(:mod:`mgdm_audio.sampling.recalibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.recalibration import Recalibration
from mgdm_core.array_types import Array, Float, Int, Tensor

PIECE_SECONDS = 1.0

RELIABLE_DB = 0.0
"""Expected SI-SDR below which a stem is not reliable: more of it is wrong than is the stem.

A quiet stem can gain much and still be mostly what others left in it.
"""

_TINY = 1e-9


class Said(NamedTuple):
    """What the shares of a separation say: improvement and level over the rest in dB.

    ``confused_with`` is the stem that shares most with each.
    """

    improvement: Float[Tensor, " stems"]
    level: Float[Tensor, " stems"]
    confused_with: Int[Tensor, " stems"]


def said_by_shares(stems: Float[Tensor, "stems samples"], spectral: SpectralTransform) -> Said:
    """What the stems' shares say of their improvement, and who shares most with each."""
    spectrum = spectral.forward(stems)
    magnitude = spectrum.abs()
    together = torch.einsum("abc,dbc->ad", magnitude, magnitude)
    own = together.diagonal().clone()
    together.fill_diagonal_(0)
    rest = (spectrum.sum(0) - spectrum).abs().square().sum((1, 2)) + _TINY
    said = 10 * torch.log10(rest / (together.sum(1) + _TINY))
    return Said(said, 10 * torch.log10((own + _TINY) / rest), together.argmax(1))


@dataclass(frozen=True)
class Stretch:
    """Seconds in which a stem is not reliable; ``si_sdr``, what is expected, in dB."""

    stem: str
    start: float
    end: float
    si_sdr: float
    confused_with: str

    def __str__(self) -> str:
        return (
            f"{self.stem} {self.start:.0f} to {self.end:.0f} s: not reliable "
            f"(SI-SDR {self.si_sdr:.1f} dB), confused with {self.confused_with}"
        )


@dataclass(frozen=True)
class Confidence:
    """Expected SI-SDR improvement, and SI-SDR, per stem and second.

    Attributes
    ----------
    seconds : float
        Length of a piece.
    expected, low, high : ndarray, shape (stems, pieces)
        Improvement in dB, and the interval that held 80 % of the seconds of the validation data;
        NaN where the estimate is silent.
    si_sdr : ndarray, shape (stems, pieces)
        In dB; low as well where a stem sounds that probably does not play.
    confused_with : ndarray of int, shape (stems, pieces)
        The stem that shares most with it.
    fitted_on : str
        Validation data of the fit.
    """

    stems: tuple[str, ...]
    seconds: float
    expected: Float[Array, "stems pieces"]
    low: Float[Array, "stems pieces"]
    high: Float[Array, "stems pieces"]
    si_sdr: Float[Array, "stems pieces"]
    confused_with: Int[Array, "stems pieces"]
    fitted_on: str

    def mean(self, stem: str) -> float:
        """Expected improvement over the seconds in which a stem sounds; NaN if it never does."""
        row = self.expected[self.stems.index(stem)]
        return float(row[~np.isnan(row)].mean()) if (~np.isnan(row)).any() else float("nan")

    def unreliable(self, shortest: float = 2.0) -> list[Stretch]:
        """Stretches of at least ``shortest`` seconds that are expected to be not reliable."""
        found = []
        for k, stem in enumerate(self.stems):
            poor = np.nan_to_num(self.si_sdr[k], nan=np.inf) < RELIABLE_DB
            edges = np.flatnonzero(np.diff(np.concatenate([[0], poor.astype(int), [0]])))
            for start, end in zip(edges[::2], edges[1::2]):
                if (end - start) * self.seconds < shortest:
                    continue
                others = np.bincount(self.confused_with[k, start:end], minlength=len(self.stems))
                found.append(
                    Stretch(
                        stem,
                        start * self.seconds,
                        end * self.seconds,
                        float(self.si_sdr[k, start:end].mean()),
                        self.stems[int(others.argmax())],
                    )
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain containers; dB to one decimal, None where the stem is silent."""

        def row(values: np.ndarray) -> list[float | None]:
            return [None if np.isnan(v) else round(float(v), 1) for v in values]

        return {
            "seconds": self.seconds,
            "fitted_on": self.fitted_on,
            "stems": {
                stem: {
                    "expected": row(self.expected[k]),
                    "low": row(self.low[k]),
                    "high": row(self.high[k]),
                    "si_sdr": row(self.si_sdr[k]),
                    "confused_with": [self.stems[int(i)] for i in self.confused_with[k]],
                }
                for k, stem in enumerate(self.stems)
            },
            "not_reliable": [str(stretch) for stretch in self.unreliable()],
        }


class ConfidenceMeter:
    """Takes a separation at the prior's rate and level piece by piece."""

    def __init__(
        self, stems: Sequence[str], rate: int, spectral: SpectralTransform, fit: Recalibration
    ) -> None:
        self._stems, self._spectral, self._fit = tuple(stems), spectral, fit
        self._size = round(PIECE_SECONDS * rate)
        self._held = torch.zeros(len(self._stems), 0)
        self._said: list[Said] = []

    def add(self, stems: Float[Tensor, "stems samples"]) -> None:
        """Take the next samples."""
        self._held = torch.cat([self._held, stems], -1)
        while self._held.shape[-1] >= self._size:
            self._measure(self._held[:, : self._size])
            self._held = self._held[:, self._size :]

    def _measure(self, piece: Tensor) -> None:
        said = said_by_shares(piece, self._spectral)
        silent = piece.square().mean(1).sqrt() < ACTIVE_RMS
        self._said.append(
            said._replace(improvement=torch.where(silent, torch.nan, said.improvement))
        )

    def result(self) -> Confidence:
        """Of all pieces; a rest of more than half a piece is one."""
        if self._held.shape[-1] > self._size // 2:
            self._measure(self._held)
            self._held = self._held[:, :0]
        nothing = torch.zeros(len(self._stems), 0)
        rows = [torch.stack(row, 1) for row in zip(*self._said)] or [nothing] * 2 + [nothing.long()]
        said, level = (row.double().numpy() for row in rows[:2])
        fits = [self._fit.improvement[stem] for stem in self._stems]
        expected, quality = (
            np.stack([planes[n].expected(s, p) for n, s, p in zip(self._stems, said, level)])
            for planes in (self._fit.improvement, self._fit.si_sdr)
        )
        return Confidence(
            self._stems,
            PIECE_SECONDS,
            expected,
            expected + np.array([[f.low] for f in fits]),
            expected + np.array([[f.high] for f in fits]),
            quality,
            rows[2].numpy(),
            self._fit.fitted_on,
        )
