"""A prior on signals of any length, out of a prior that is evaluated on windows.

The sampler's variable is the whole chunk. At every evaluation the network sees overlapping
windows, and what it says of a sample is cross-faded between the windows that hold it: the windows
are sampled jointly, so neighbours agree by construction and no seam can be heard.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.crossfade import fade_in
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.priors import Denoised, level_vector

VARIANCES = ("tweedie", "shares")


class Pinned:
    """Samples that are known already: the end of the chunk before.

    Parameters
    ----------
    estimate : Tensor, shape (batch, stems, overlap)
        What the chunk before said about this chunk's first samples.
    """

    def __init__(self, estimate: Float[Tensor, "batch stems overlap"]) -> None:
        self.estimate = estimate
        length = estimate.shape[-1]
        # Fully pinned at the beginning, free at the end, without a corner at either.
        ramp = torch.linspace(0, torch.pi, length, dtype=torch.float64)
        self.weight = (0.5 + 0.5 * ramp.cos()).to(estimate)

    def apply(
        self, x_0: Float[Tensor, "batch stems samples"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Blend the known samples into an estimate."""
        length = self.weight.shape[-1]
        head = x_0[..., :length]
        head = head + self.weight * (self.estimate - head)
        return torch.cat([head, x_0[..., length:]], -1)


class WindowedPrior:
    """Evaluates a waveform prior on overlapping windows of a longer signal.

    Parameters
    ----------
    window, hop : int
        Window length and step in samples. A signal no longer than ``window`` is one window;
        otherwise its length must be ``window + k * hop``.
    batch_size : int
        Windows evaluated at once. Does not change the result beyond rounding.
    on_windows : callable, optional
        Called after every evaluation of the network with the number of windows that it took; may
        raise to stop.
    """

    def __init__(
        self,
        prior: WaveformPrior,
        window: int,
        hop: int,
        *,
        batch_size: int = 4,
        pinned: Pinned | None = None,
        on_windows: Callable[[int], None] | None = None,
    ) -> None:
        if not 0 < hop <= window:
            raise SettingsError(f"windows need 0 < hop <= window; found {hop} and {window}")
        if batch_size < 1:
            raise SettingsError(f"batch_size is at least 1; found {batch_size}")
        self.prior, self.schedule = prior, prior.schedule
        self.window, self.hop, self.batch_size, self.pinned = window, hop, batch_size, pinned
        self._on_windows = on_windows

    def _tell(self, windows: int) -> None:
        if self._on_windows is not None:
            self._on_windows(windows)

    def _starts(self, length: int) -> list[int]:
        if length <= self.window:
            return [0]
        if (length - self.window) % self.hop:
            raise SettingsError(
                f"a windowed signal has window + k hop samples ({self.window} + k {self.hop}); "
                f"found {length}"
            )
        return list(range(0, length - self.window + 1, self.hop))

    def _fade(self, size: int, overlap: int, start: int, starts: list[int], like: Tensor) -> Tensor:
        """Weight of one window: ramps over the overlaps, flat at the ends of the signal."""
        weight = torch.ones(size, dtype=like.dtype, device=like.device)
        if overlap > 0:
            ramp = fade_in(overlap, like.dtype, like.device)
            if start != starts[0]:
                weight[:overlap] = ramp
            if start != starts[-1]:
                weight[-overlap:] = ramp.flip(0)
        return weight

    def _evaluate(
        self,
        x: Tensor,
        t: Tensor,
        call: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
        grids: tuple[int, ...],
    ) -> list[Tensor]:
        """Evaluate all windows and cross-fade each output on its own grid.

        ``grids``: samples per step of each output's last axis (1 for waveforms, the transform's
        hop for spectra, whose frames sit at the step's multiples, both ends included).
        """
        length, batch = x.shape[-1], x.shape[0]
        starts = self._starts(length)
        if len(starts) == 1 and batch <= self.batch_size:
            whole = list(call(x, t))
            self._tell(batch)
            return whole
        size = min(self.window, length)
        jobs = [(item, start) for start in starts for item in range(batch)]
        sums: list[Tensor] = []
        totals: list[Tensor] = []
        for k in range(0, len(jobs), self.batch_size):
            some = jobs[k : k + self.batch_size]
            pieces = torch.stack([x[i, :, s : s + size] for i, s in some])
            outputs = call(pieces, t[[i for i, _ in some]])
            self._tell(len(some))
            if not sums:
                for out, grid in zip(outputs, grids):
                    steps = length if grid == 1 else length // grid + 1
                    shape = (batch, *out.shape[1:-1], steps)
                    sums.append(torch.zeros(shape, dtype=out.dtype, device=out.device))
                    totals.append(torch.zeros(steps, dtype=out.dtype, device=out.device))
            for j, (item, start) in enumerate(some):
                for out, grid, total, norm in zip(outputs, grids, sums, totals):
                    steps = out.shape[-1]
                    weight = self._fade(steps, (size - self.hop) // grid, start, starts, out)
                    at = slice(start // grid, start // grid + steps)
                    total[item, ..., at] += weight * out[j]
                    if item == 0:
                        norm[at] += weight
        return [total / norm.clamp_min(1e-8) for total, norm in zip(sums, totals)]

    def denoise(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Estimate E[x_0 | x_t = x] over the whole signal."""
        index = level_vector(t, len(x), x.device)
        (x_0,) = self._evaluate(x, index, lambda p, s: (self.prior.denoise(p, s),), (1,))
        return x_0 if self.pinned is None else self.pinned.apply(x_0)


class SpectralWindowedPrior(WindowedPrior):
    """A windowed prior that also gives the variance per time-frequency bin.

    Parameters
    ----------
    variance : {"tweedie", "shares"}
        ``tweedie``: sigma^2 times the network's mask, its second-order formula where the state
        holds white noise. ``shares``: where it holds other stems, what is uncertain is whose a
        sound is. In a bin of magnitude M (the sum of the stems' magnitudes) stem k has variance
        M^2 q_k, q_k being its share of M, so that what was removed from all stems goes to each by
        its share.
    variance_floor : float
        Share in [0, 1] of the average-spectrum Wiener gain, times sigma^2, below which no variance
        falls: sound that the network removed from every stem still goes where it is likeliest.
    """

    prior: SpectralPrior

    def __init__(
        self,
        prior: SpectralPrior,
        window: int,
        hop: int,
        *,
        variance: str = "tweedie",
        variance_floor: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(prior, window, hop, **options)  # type: ignore[arg-type]
        if variance not in VARIANCES:
            raise SettingsError(f"variance is one of {', '.join(VARIANCES)}; found {variance!r}")
        if not 0 <= variance_floor <= 1:
            raise SettingsError(f"variance_floor lies in [0, 1]; found {variance_floor}")
        for value in (window, hop):
            if value % prior.spectral.hop:
                raise SettingsError(
                    f"window and hop are multiples of the spectrum's hop {prior.spectral.hop}; "
                    f"found {window} and {hop}"
                )
        self.variance, self.variance_floor = variance, variance_floor

    def denoise_with_variance(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Denoised:
        """Posterior mean and diagonal variance in the prior's own spectrum."""
        index = level_vector(t, len(x), x.device)
        spectral = self.prior.spectral
        x_0, mask = self._evaluate(x, index, self.prior.denoise_with_mask, (1, spectral.hop))
        power = self.prior.average_power
        noise = self.schedule.at(index, mask)[1] ** 2
        if self.variance == "tweedie":
            variance = noise * mask
        else:
            magnitude = spectral.forward(x_0).abs()
            variance = magnitude * magnitude.sum(1, keepdim=True)
        if self.variance_floor > 0:
            p = power.to(mask)[None, :, :, None]
            variance = torch.maximum(variance, self.variance_floor * noise * p / (p + noise))
        if self.pinned is not None:
            x_0 = self.pinned.apply(x_0)
        return Denoised(x_0, variance, spectral)


def windowed(
    prior: WaveformPrior,
    window: int,
    hop: int,
    *,
    variance: str = "tweedie",
    variance_floor: float = 0.0,
    **options: Any,
) -> WindowedPrior:
    """Return the windowed prior that the prior's capabilities allow."""
    if isinstance(prior, SpectralPrior):
        options |= {"variance": variance, "variance_floor": variance_floor}
        return SpectralWindowedPrior(prior, window, hop, **options)
    return WindowedPrior(prior, window, hop, **options)
