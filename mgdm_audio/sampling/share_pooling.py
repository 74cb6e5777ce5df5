"""What sounds alike is shared out alike: non-local means of the shares over a recording.

A prior decides anew whose a sound is whenever it is heard, and not always rightly. Music repeats
itself: a held note fills many frames, and a stroke, a note or a chord comes back. So the logarithms
of the shares are averaged, band by band, over the frames whose mixture looks like this one's
(non-local means: Buades, Coll and Morel 2005, "A non-local algorithm for image denoising"; of
frames of music for masks: Rafii and Pardo 2012, "Music/voice separation using the similarity
matrix"). One decision is noisy, the mean of many less so, and what occurs once stays as it is.
"""

from __future__ import annotations

import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.shares import shares_of, with_shares
from mgdm_core.array_types import Float, Tensor

# Levels are log(1 + magnitude / this): some 20 dB below a bin of noise of the RMS of a mixture.
_FLOOR = 0.01
# Frames that are compared at a time, and how far before and after them others are looked for.
_ROWS, _REACH = 256, 2048


def _bands(bins: int) -> list[tuple[int, int]]:
    """First bin and width of bands that overlap by half: 6 bins wide, four times as wide above."""
    found: list[tuple[int, int]] = []
    first = 0
    while True:
        width = 6 if first < 0.3 * bins else 12 if first < 0.6 * bins else 24
        if first + width >= bins:
            return [*found, (max(0, bins - width), min(bins, width))]
        found.append((first, width))
        first += width // 2


def pool_shares(
    stems: Float[Tensor, "stems samples"],
    spectral: SpectralTransform,
    bandwidth: float,
    heard: slice = slice(None),
) -> Float[Tensor, "stems samples"]:
    """Average the shares of frames that sound alike.

    Parameters
    ----------
    stems : Tensor, shape (stems, samples)
        A separation of a mixture of RMS about 0.1; what is returned has its sum.
    spectral : SpectralTransform
        Where the shares are.
    bandwidth : float
        Mean squared difference of the levels of two frames in a band, in natural logarithms, at
        which the one counts 1/e in the other's mean; positive.
    heard : slice
        Samples of the recording itself. What lies outside is its reflection, which looks like it
        and was decided upon played backwards: such frames have no say.

    Notes
    -----
    Time grows with the square of the frames up to some 4000 of them (95 s at 512 samples and
    22 050 Hz), from where on in proportion; memory in proportion.
    """
    # Frames come one after the other in memory from the STFT; here whole bands are gone through.
    spectrum = spectral.forward(stems).contiguous()
    share = shares_of(spectrum)
    begin, end, _ = heard.indices(stems.shape[-1])
    known = -(-begin // spectral.hop), end // spectral.hop
    level = torch.log1p(spectrum.sum(0).abs() / _FLOOR)
    # A caller's own autocast would round differences of levels until everything looks alike.
    with torch.autocast(stems.device.type, enabled=False):
        pooled = _averaged(share.log(), level, bandwidth, *known).softmax(0)
    return spectral.inverse(with_shares(spectrum, share, pooled), stems.shape[-1])


def _averaged(
    logs: Float[Tensor, "stems bins frames"],
    level: Float[Tensor, "bins frames"],
    bandwidth: float,
    first_heard: int,
    last_heard: int,
) -> Float[Tensor, "stems bins frames"]:
    """Mean of the logarithms over the frames that were heard, both ends included."""
    bins, frames = level.shape
    total, norm = torch.zeros_like(logs), torch.zeros_like(level[:, :1])
    for first, width in _bands(bins):
        band = slice(first, first + width)
        weight = torch.hann_window(
            width + 2, periodic=False, dtype=level.dtype, device=level.device
        )[1:-1, None]
        norm[band] += weight
        near, values = level[band], logs[:, band].flatten(0, 1)
        # About their mean, so that squares are small and little of the differences is rounded off.
        near = near - near.mean(1, keepdim=True)
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a b, of which |a|^2 is the same in a whole row.
        scale = 1 / (width * bandwidth)
        square = near.square().sum(0) * -scale
        for start in range(0, frames, _ROWS):
            rows = slice(start, start + _ROWS)
            before = min(max(first_heard, start - _REACH), last_heard)
            others = slice(before, min(last_heard, start + _ROWS + _REACH) + 1)
            alike = torch.addmm(square[others], near[:, rows].mT, near[:, others], alpha=2 * scale)
            mean = values[:, others] @ alike.softmax(1).mT
            total[:, band, rows] += weight * mean.unflatten(0, (len(logs), width))
    return total / norm
