"""Fit how the shares of a prior are corrected: towards better stems, and strangers in `other`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mgdm_audio.metrics.si_sdr import si_sdr
from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_audio.priors.closed import OTHER
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.share_recalibration import ShareFit, between_knots, recalibrate_shares
from mgdm_core.array_types import Array, Float, Tensor
from recipes.calibration.separations import Separations

HZ = (40.0, 100.0, 250.0, 600.0, 1500.0, 4000.0, 9000.0)
"""Frequencies at which values are fitted, in ratios of about 2.5."""

_BATCH = 6


@dataclass(frozen=True)
class Separated:
    """A separation and what it should have been.

    Attributes
    ----------
    stems : tuple of str
    estimate, truth : Tensor, shape (stems, samples)
    """

    stems: tuple[str, ...]
    estimate: Float[Tensor, "stems samples"]
    truth: Float[Tensor, "stems samples"]

    @property
    def heard(self) -> tuple[str, ...]:
        """The stems that sound at all."""
        return tuple(stem for stem, true in zip(self.stems, self.truth) if true.any())

    def corrected(self, fit: ShareFit, spectral: SpectralTransform, rate: int) -> Separated:
        """The same with its shares corrected."""
        values = fit.values(self.stems) @ between_knots(fit.hz, spectral, rate)
        return replace(self, estimate=recalibrate_shares(self.estimate, spectral, values))

    def gain(
        self, estimate: Float[Tensor, "stems samples"], unknown_db: float
    ) -> Float[Tensor, ""]:
        """Mean SI-SDR of what sounds, and the part of strange sounds that is in their stem."""
        sounds = self.truth.square().mean(1).sqrt() >= ACTIVE_RMS
        gain = si_sdr(estimate[sounds], self.truth[sounds]).sum() / max(1, int(sounds.sum()))
        if OTHER in self.stems and sounds[self.stems.index(OTHER)]:
            found, true = (x[self.stems.index(OTHER)] for x in (estimate, self.truth))
            gain = gain + unknown_db * (found * true).sum() / true.square().sum()
        return gain


def separated(kept: Separations, truth: Float[Array, "stems samples"]) -> Separated:
    """The stems of a piece as a prior separates their sum."""
    estimate = torch.from_numpy(kept.of(truth)[0])
    return Separated(kept.prior.stems, estimate, torch.from_numpy(truth))


def fit_shares(
    pieces: Sequence[Separated],
    spectral: SpectralTransform,
    rate: int,
    *,
    unknown_db: float = 4.5,
    epochs: int = 4,
    on_epoch: Callable[[int, float], object] = lambda epoch, gain: None,
) -> ShareFit:
    """Find the correction under which separations are best.

    That of `other` is found on the pieces that were separated with it, that of the stems on those
    without, so that what strangers are worth costs a closed separation nothing.

    Parameters
    ----------
    pieces : sequence of Separated
        Not corrected yet. A piece may come twice, to count twice.
    unknown_db : float
        What it is worth that a strange sound ends in `other` as a whole, in dB of the mean SI-SDR.
    epochs : int
        Passes over the pieces; the rate of learning falls to 0 over them.
    on_epoch : callable, optional
        Receives the pass and the mean of what is maximised over it.
    """
    stems = max((piece.stems for piece in pieces), key=len)
    knots = between_knots(HZ, spectral, rate)
    values = torch.zeros(3, len(stems), len(HZ))
    values[0] = 1
    free = torch.ones_like(values)
    # Whether they are heard says something of strangers alone: half of the items had none.
    free[2, [stem != OTHER for stem in stems]] = 0
    change = torch.zeros_like(values, requires_grad=True)
    rule = torch.optim.Adam([change], lr=0.05)
    steps = epochs * math.ceil(len(pieces) / _BATCH)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(rule, steps)
    order = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(pieces), generator=order).split(_BATCH):
            for index in batch.tolist():
                piece = pieces[index]
                own = [stems.index(stem) for stem in piece.stems]
                moved = (free * change)[:, own]
                if OTHER in piece.stems:  # the others are fitted where they are all that plays
                    strange = torch.tensor([stem == OTHER for stem in piece.stems])[:, None]
                    moved = torch.where(strange, moved, moved.detach())
                bins = (values[:, own] + moved) @ knots
                corrected = recalibrate_shares(piece.estimate, spectral, bins)
                gain = piece.gain(corrected, unknown_db)
                (-gain / len(batch)).backward()
                total += float(gain.detach())
            rule.step()
            rule.zero_grad()
            falling.step()
        on_epoch(epoch, total / len(pieces))
    power, weight, present = (
        {stem: [round(v, 3) for v in row] for stem, row in zip(stems, table)}
        for table in (values + free * change).tolist()
    )
    return ShareFit(list(HZ), power, weight, {OTHER: present[OTHER]} if OTHER in stems else {})
