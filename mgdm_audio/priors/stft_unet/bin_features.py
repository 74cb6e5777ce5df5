"""What a single time-frequency bin of a mixture can know about its surroundings.

All features are differences and averages of a compressed magnitude L over time, frequency and
harmonically related bins, so that a small network shared by all bins can tell a struck drum (level
over frequency, short) from a held note (level over time, narrow), an attack from a decay, and a
partial of a low note from a fundamental. Averages come from cumulative sums, whatever their width.
"""

from __future__ import annotations

import torch

from mgdm_core.array_types import Float, Tensor

# Harmonic relations: what lies at these multiples of a bin's frequency.
_RATIOS = (1 / 4, 1 / 3, 1 / 2, 2.0, 3.0)
TREND_FEATURES = 5
DETAIL_FEATURES = 11 + 2 * len(_RATIOS)
_TINY = 1e-8
# Magnitudes on a fixed scale count from here: some 30 dB below a stem of a song of RMS 0.1.
_FLOOR = 0.003


def stem_features(
    re: Float[Tensor, "batch stems frames bins"],
    im: Float[Tensor, "batch stems frames bins"],
    noise: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch features frames bins"]:
    """What a bin says of every stem, and last the trends of the sum (`trend_features`).

    Of every stem its compressed magnitude, by that the cosine of its phase against that of the sum,
    and its share of the sum.
    """
    sum_re, sum_im = re.sum(1, keepdim=True), im.sum(1, keepdim=True)
    sum_power = sum_re.square() + sum_im.square()
    floor = (_FLOOR**2 + re.shape[1] * noise.square()).sqrt()
    trends = trend_features(torch.log1p((sum_power + _TINY**2).sqrt() / floor))
    magnitude = (re.square() + im.square() + _TINY**2).sqrt()
    compressed = torch.log1p(magnitude / noise)
    along = re * sum_re + im * sum_im
    cosine = along / (magnitude * (sum_power + _TINY**2).sqrt())
    share = (along / (sum_power + floor.square())).clamp(-1, 2)
    return torch.cat([compressed, compressed * cosine, share, trends], 1)


def window_mean(x: Tensor, first: int, last: int, dim: int) -> Tensor:
    """Mean of positions i + first to i + last along an axis, as many of them as there are.

    Where all of them lie outside, the position at that end counts.

    Parameters
    ----------
    x : Tensor
        Any shape.
    first, last : int
        Ends of the window relative to each position, first <= last.
    dim : int
        Axis.
    """
    length = x.shape[dim]
    place = torch.arange(length, device=x.device)
    low = (place + first).clamp(0, length - 1)
    high = (place + last + 1).clamp(1, length)
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    total = torch.cat([zero, x.cumsum(dim)], dim)
    shape = [1] * x.ndim
    shape[dim] = length
    count = (high - low).to(x.dtype).reshape(shape)
    return (total.index_select(dim, high) - total.index_select(dim, low)) / count


def trend_features(
    level: Float[Tensor, "batch 1 frames bins"],
) -> Float[Tensor, "batch 5 frames bins"]:
    """L, and against it: its mean over 9 frames, over 9 bins, before and after.

    Parameters
    ----------
    level : Tensor, shape (batch, 1, frames, bins)
        Compressed magnitude L.
    """
    held = window_mean(level, -4, 4, 2) - level
    narrow = window_mean(level, -4, 4, 3) - level
    before = window_mean(level, -8, -2, 2) - level
    after = window_mean(level, 2, 8, 2) - level
    return torch.cat([level, held, narrow, before, after], 1)


def wide_features(
    trends: Float[Tensor, "batch 5 frames bins"],
) -> Float[Tensor, "batch 3 frames bins"]:
    """Means over neighbouring bins against L: 33 of them, 33 and 9 frames, 3 of them.

    Every bin is in the means of others, so these are computed for all bins at once.

    Parameters
    ----------
    trends : Tensor, shape (batch, 5, frames, bins)
        Of :func:`trend_features`.
    """
    level, held = trends[:, :1], trends[:, 1:2]
    wide = window_mean(torch.cat([level, level + held], 1), -16, 16, 3)
    return torch.cat([wide, window_mean(level, -1, 1, 3)], 1) - level


def detail_features(
    trends: Float[Tensor, "batch 5 frames bins"],
    wide: Float[Tensor, "batch 3 frames bins"],
    chosen: Tensor,
) -> Float[Tensor, "batch 21 frames chosen"]:
    """Further surroundings of the chosen bins.

    Wider and narrower means over time and frequency, the loudness of the frame (all of it, its
    lowest and its upper bins), the bin's mean over the whole excerpt, and how far bins at harmonic
    ratios stand out of theirs: beside the bins next to them, and as held against as short.

    Parameters
    ----------
    trends : Tensor, shape (batch, 5, frames, bins)
        Of :func:`trend_features`.
    wide : Tensor, shape (batch, 3, frames, bins)
        Of :func:`wide_features`.
    chosen : Tensor of int
        Bins to compute.
    """
    level, held, narrow = trends[:, :1], trends[:, 1:2], trends[:, 2:3]
    bins = level.shape[3]
    here = level.index_select(3, chosen)
    broad, smooth, near = wide.index_select(3, chosen).split(1, 1)
    lowest, upper = max(1, bins * 12 // 1024), bins * 3 // 10
    loudness = level, level[..., :lowest], level[..., upper:]
    whole = here.mean(2, keepdim=True).expand_as(here)
    found = [
        window_mean(here, -16, 16, 2) - here,
        broad,
        smooth,
        window_mean(here, -1, 1, 2) - here,
        near,
        window_mean(narrow.index_select(3, chosen), -4, 4, 2),
        *(part.mean(3, keepdim=True).expand_as(here) for part in loudness),
        whole,
        whole - here,
    ]
    tonal = held - narrow
    for ratio in _RATIOS:
        place = chosen * ratio
        below = place.floor().long()
        weight = (place - below).to(level.dtype)
        inside = (below + 1 < bins).to(level.dtype)
        below, above = below.clamp(max=bins - 1), (below + 1).clamp(max=bins - 1)
        for feature in (narrow, tonal):
            low, high = feature.index_select(3, below), feature.index_select(3, above)
            found.append(torch.lerp(low, high, weight) * inside)
    return torch.cat(found, 1)
