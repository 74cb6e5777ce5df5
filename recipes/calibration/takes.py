"""What draws are good for besides error bars: means, medians, and the choice of one of them."""

from __future__ import annotations

import torch

from mgdm_audio.metrics.silence import active_stem_improvement
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.separation.confidence import said_by_shares
from mgdm_core.array_types import Float, Tensor

__all__ = ["TAKES", "gains_of_takes", "takes"]

TAKES = (
    "separation",
    "one draw",
    "mean",
    "unit mean",
    "median mask",
    "nearest to the others",
    "best by its shares",
    "best draw",
)
"""Rows of the table: what is written, and what else can be made of the draws."""


def takes(
    draws: Float[Tensor, "draws stems samples"], spectral: SpectralTransform
) -> dict[str, Float[Tensor, "stems samples"]]:
    """One separation out of many, in several ways that do not look at the truth.

    ``unit mean`` sums the draws scaled to norm one, which has the largest mean cosine with them:
    least expected loss where the loss is SI-SDR's angle. ``nearest to the others`` is the draw
    with the largest mean SI-SDR with respect to the others, ``best by its shares`` the one whose
    shares promise most, both per stem. ``median mask`` shares the mixture by the median of the
    draws' magnitudes, bin by bin.

    Parameters
    ----------
    draws : Tensor, shape (draws, stems, samples)
        Each sums to the mixture.
    spectral : SpectralTransform
        Where masks and shares are.
    """
    count, stems, length = draws.shape
    unit = draws / draws.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    scale = (draws.mean(0) * unit.mean(0)).sum(-1) / unit.mean(0).square().sum(-1).clamp_min(1e-12)
    middle = torch.stack([spectral.forward(one).abs() for one in draws]).median(0).values
    share = middle / middle.sum(0).clamp_min(1e-20)
    masked = spectral.inverse(share * spectral.forward(draws[0].sum(0))[None], length)
    cosine = torch.einsum("dkn,ekn->dek", unit, unit).square().clamp_max(1 - 1e-9)
    among = (cosine / (1 - cosine)).log()  # SI-SDR of one where another is true, but for a factor
    among[range(count), range(count)] = 0
    said = torch.stack([said_by_shares(one, spectral).improvement for one in draws])

    def pick(score: Float[Tensor, "draws stems"]) -> Float[Tensor, "stems samples"]:
        return draws[score.argmax(0), torch.arange(stems)]

    return {
        "one draw": draws[0],
        "mean": draws.mean(0),
        "unit mean": scale[:, None] * unit.mean(0),
        "median mask": masked,
        "nearest to the others": pick(among.sum(1)),
        "best by its shares": pick(said),
    }


def gains_of_takes(
    separation: Float[Tensor, "stems samples"],
    draws: Float[Tensor, "draws stems samples"],
    truth: Float[Tensor, "stems samples"],
    rate: int,
    spectral: SpectralTransform,
) -> dict[str, list[list[float]]]:
    """SI-SDR improvement in dB of every take, per stem in the windows in which it is active.

    ``one draw`` is the mean over the draws, each on its own, and ``best draw`` the one that the
    truth would have chosen: what no choice can beat.
    """
    mixture = truth.sum(0)

    def gain(estimate: Tensor) -> Float[Tensor, "stems windows"]:
        return active_stem_improvement(estimate, truth, mixture, rate).improvement

    active = active_stem_improvement(separation, truth, mixture, rate).active
    each = torch.stack([gain(one) for one in draws])
    rows = {"separation": gain(separation)}
    rows |= {name: gain(one) for name, one in takes(draws, spectral).items()}
    rows["one draw"] = each.mean(0)
    best = torch.where(active, each, 0.0).mean(-1).argmax(0)
    rows["best draw"] = each[best, torch.arange(len(truth))]
    return {
        name: [row[k][active[k]].tolist() for k in range(len(truth))] for name, row in rows.items()
    }
