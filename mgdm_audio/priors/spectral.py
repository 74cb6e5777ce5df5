"""Short-time spectra in which white noise of unit deviation has unit variance in every bin."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mgdm_core.array_types import Complex, Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError


@dataclass(frozen=True)
class SpectralTransform:
    """Short-time Fourier transform (Hann window) and its exact inverse, for any length.

    The scale is that of noise: the spectrum of white noise of deviation sigma has variance
    sigma^2 in every bin (the real bins 0 and n_fft / 2 included), so a noise level of the
    waveform is a noise level of the spectrum. Frames are centred on the samples 0, hop, 2 hop...,
    and the signal counts as zero outside its ends.

    Parameters
    ----------
    n_fft : int
        Window length in samples; even.
    hop : int
        Samples between frames; it must divide ``n_fft`` and be at most half of it, so that the
        windows add up to something positive everywhere.

    Raises
    ------
    SettingsError
        If a rule above does not hold.
    """

    n_fft: int = 2048
    hop: int = 512

    def __post_init__(self) -> None:
        if self.n_fft < 4 or self.n_fft % 2:
            raise SettingsError(f"n_fft must be even and at least 4; found {self.n_fft}")
        if self.hop < 1 or self.n_fft % self.hop or 2 * self.hop > self.n_fft:
            raise SettingsError(
                f"hop must divide n_fft and be at most half of it; "
                f"found hop {self.hop} with n_fft {self.n_fft}"
            )

    @property
    def bins(self) -> int:
        """Number of frequency bins, n_fft / 2 + 1."""
        return self.n_fft // 2 + 1

    def frames(self, length: int) -> int:
        """Number of frames of a signal of ``length`` samples."""
        return length // self.hop + 1

    def _window(self, like: Tensor) -> Float[Tensor, " n_fft"]:
        # Made at every call: a stored window would tie this frozen class to a device and a dtype.
        window = torch.hann_window(self.n_fft, dtype=torch.float64, device="cpu")
        return window.to(device=like.device, dtype=like.dtype)

    @property
    def _scale(self) -> float:
        # A periodic Hann window of length n has the sum of squares 3 n / 8.
        return float((3 * self.n_fft / 8) ** 0.5)

    def forward(
        self, x: Float[Tensor, "*leading samples"]
    ) -> Complex[Tensor, "*leading bins frames"]:
        """Spectrum of a real signal of at least one sample, float32 or float64.

        Has ``bins = n_fft / 2 + 1`` and ``frames = samples // hop + 1``.
        """
        if x.ndim < 1 or x.shape[-1] < 1:
            raise ShapeError(f"a spectrum needs at least one sample; found shape {tuple(x.shape)}")
        flat = x.reshape(-1, x.shape[-1])
        spectrum = torch.stft(
            flat,
            self.n_fft,
            self.hop,
            window=self._window(x) / self._scale,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum.reshape(*x.shape[:-1], *spectrum.shape[-2:])

    def inverse(
        self, spectrum: Complex[Tensor, "*leading bins frames"], length: int
    ) -> Float[Tensor, "*leading samples"]:
        """Signal whose spectrum is nearest to the given one (least squares; exact round trip).

        Parameters
        ----------
        length : int
            Number of samples to return; it must agree with the number of frames.

        Raises
        ------
        ShapeError
            If the number of bins or frames does not belong to this transform and length.
        """
        expected = (self.bins, self.frames(length))
        if spectrum.ndim < 2 or tuple(spectrum.shape[-2:]) != expected:
            raise ShapeError(
                f"{length} samples at n_fft {self.n_fft} and hop {self.hop} have {expected} bins "
                f"and frames; found shape {tuple(spectrum.shape)}"
            )
        flat = spectrum.reshape(-1, *spectrum.shape[-2:])
        real = spectrum.real
        x = torch.istft(
            flat,
            self.n_fft,
            self.hop,
            window=self._window(real) / self._scale,
            center=True,
            length=length,
        )
        return x.reshape(*spectrum.shape[:-2], length)
