"""Blurs with any kernel: reflecting borders (by FFT on the padded image) and circular ones.

Correlation, not convolution: the kernel is not flipped, as in the networks of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError
from mgdm_core.operators.base import SVD, LinearOperator, SpectralOperator, folded


def gaussian_taps(sigma: float, truncate: float = 4.0) -> Float[Tensor, " taps"]:
    """Samples of a Gaussian out to ``truncate`` deviations, normalised to sum one.

    The published kernel (sigma 3) is the outer product of these with themselves, framed by zeros
    to 61 x 61.
    """
    if not sigma > 0:
        raise SettingsError(f"a Gaussian blur has a positive deviation; found {sigma}")
    radius = int(truncate * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    return taps / taps.sum()


def motion_kernel(
    size: int, generator: torch.Generator, intensity: float = 0.5
) -> Float[Tensor, "size size"]:
    """Random camera-shake kernel: the trace of a damped random walk, drawn once from a generator.

    A point starts at a random heading and moves in small steps; its turning rate is a random walk
    whose strength is ``intensity`` (0: a straight line, 1: a scribble). The trace is centred on its
    centroid, scaled to span about three quarters of the kernel, spread bilinearly and smoothed by
    half a pixel.

    Parameters
    ----------
    size : int
        Odd side.
    generator : torch.Generator
    intensity : float
        In [0, 1].
    """
    if size < 3 or size % 2 == 0:
        raise SettingsError(f"a motion kernel has an odd side of at least 3; found {size}")
    if not 0 <= intensity <= 1:
        raise SettingsError(f"intensity lies in [0, 1]; found {intensity}")
    steps = 400
    turn = torch.randn(steps, generator=generator, dtype=torch.float64)
    pace = torch.rand(steps, generator=generator, dtype=torch.float64) + 0.5
    start = 2 * math.pi * torch.rand(1, generator=generator, dtype=torch.float64)
    heading = start + (intensity * turn * 8 / steps**0.5).cumsum(0)
    path = torch.stack([torch.sin(heading) * pace, torch.cos(heading) * pace], 1).cumsum(0)
    path = path - path.mean(0)
    path = path * (0.375 * size / path.abs().max().clamp_min(1e-9)) + size // 2

    kernel = torch.zeros(size, size, dtype=torch.float64)
    corner = path.floor().long()
    share = path - corner
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (share[:, 0] if dy else 1 - share[:, 0]) * (
                share[:, 1] if dx else 1 - share[:, 1]
            )
            place = (corner + torch.tensor([dy, dx])).clamp(0, size - 1)
            kernel.index_put_((place[:, 0], place[:, 1]), weight, accumulate=True)
    taps = gaussian_taps(0.5)
    half = len(taps) // 2
    padded = torch.nn.functional.pad(kernel[None, None], (half,) * 4)
    kernel = torch.nn.functional.conv2d(padded, torch.outer(taps, taps)[None, None])[0, 0]
    return kernel / kernel.sum()


def _odd(kernel: Tensor) -> Tensor:
    """A kernel in float64, which has a middle."""
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise SettingsError(f"a blur kernel has two odd sides; found {tuple(kernel.shape)}")
    return kernel.double()


def _wide(x: Tensor) -> Tensor:
    """float32 at least: Fourier transforms know no narrower numbers."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _fold_index(length: int, pad: int) -> Tensor:
    """For each padded position, the pixel that reflection reads."""
    period = 2 * (length - 1)
    index = torch.arange(-pad, length + pad).remainder(period)
    return torch.where(index >= length, period - index, index)


class ReflectBlur(LinearOperator):
    """Correlation with a 2-D kernel, borders reflected without repeating the edge.

    Linear with an exact adjoint. Reflecting borders leave no cheap singular values for a kernel
    that is not symmetric and separable, so it has none; the proximal map is by conjugate gradients.

    Parameters
    ----------
    kernel : Tensor, shape (side, side)
        Odd sides.
    """

    def __init__(self, kernel: Float[Tensor, "rows columns"]) -> None:
        self.kernel = _odd(kernel)

    def _geometry(self, shape: Sequence[int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        height, width = int(shape[-2]), int(shape[-1])
        if min(height, width) < 2:
            raise SettingsError(
                f"reflecting borders need at least 2 x 2 pixels; found {tuple(shape)}"
            )
        pads = (self.kernel.shape[0] // 2, self.kernel.shape[1] // 2)
        rows, columns = _fold_index(height, pads[0]), _fold_index(width, pads[1])
        return rows, columns, (len(rows), len(columns))

    def _spectrum(self, size: tuple[int, int], like: Tensor) -> Tensor:
        return torch.fft.rfft2(self.kernel.to(like), s=size)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Pad, correlate by FFT, keep the part where the kernel lies inside."""
        kind, x = x.dtype, _wide(x)
        rows, columns, size = self._geometry(x.shape)
        padded = x[..., rows, :][..., columns]
        # On the padded grid the circular correlation is exact wherever nothing wraps around.
        image = torch.fft.irfft2(torch.fft.rfft2(padded) * self._spectrum(size, x).conj(), s=size)
        return image[..., : x.shape[-2], : x.shape[-1]].to(kind)

    def adjoint(
        self, y: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Zero-pad, convolve, and add every reflected pixel back to its source."""
        kind, y = y.dtype, _wide(y)
        rows, columns, size = self._geometry(y.shape)
        spread = torch.fft.irfft2(torch.fft.rfft2(y, s=size) * self._spectrum(size, y), s=size)
        by_row = torch.zeros(*y.shape[:-1], size[1], dtype=y.dtype, device=y.device)
        by_row.index_add_(-2, rows.to(y.device), spread)
        out = torch.zeros_like(y)
        return out.index_add_(-1, columns.to(y.device), by_row).to(kind)


def _cas(x: Tensor) -> Tensor:
    """Orthonormal 2-D Hartley transform: its own inverse, and diagonal for even circulants."""
    f = torch.fft.fft2(_wide(x), norm="ortho")
    return (f.real - f.imag).to(x.dtype)


class CircularBlur(SpectralOperator):
    """Correlation with a 2-D kernel on a torus: singular values by FFT.

    A = P |A| with |A| an even circulant, which the Hartley basis diagonalises, and P the circulant
    of the kernel's phases; both are real.

    Parameters
    ----------
    kernel : Tensor, shape (rows, columns)
        Odd sides; larger kernels than the image wrap around.
    """

    def __init__(self, kernel: Float[Tensor, "rows columns"]) -> None:
        self.kernel = _odd(kernel)

    def _spectrum(self, shape: Sequence[int]) -> Tensor:
        height, width = int(shape[-2]), int(shape[-1])
        wrapped = torch.zeros(height, width, dtype=torch.float64)
        rows = torch.arange(self.kernel.shape[0]) - self.kernel.shape[0] // 2
        columns = torch.arange(self.kernel.shape[1]) - self.kernel.shape[1] // 2
        place = (rows.remainder(height)[:, None], columns.remainder(width)[None])
        wrapped.index_put_(place, self.kernel, accumulate=True)
        return torch.fft.fft2(wrapped).conj()

    def _filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        wide = _wide(x)
        kind = torch.complex64 if wide.dtype == torch.float32 else torch.complex128
        return torch.fft.ifft2(torch.fft.fft2(wide) * spectrum.to(x.device, kind)).real.to(x.dtype)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Correlate on the torus."""
        return self._filter(x, self._spectrum(x.shape))

    def adjoint(
        self, y: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Convolve on the torus."""
        return self._filter(y, self._spectrum(y.shape).conj())

    def svd(self, shape: Sequence[int], like: Tensor) -> SVD:
        """Moduli of the kernel's spectrum, in the Hartley basis."""
        shape = tuple(int(n) for n in shape)
        spectrum = self._spectrum(shape)
        modulus = spectrum.abs()
        modulus = torch.where(modulus > 1e-6 * modulus.max(), modulus, 0.0 * modulus)
        phase = torch.where(modulus > 0, spectrum / modulus.clamp_min(1e-300), 0.0 * spectrum)
        values = modulus.to(like.device, like.dtype).expand(shape).reshape(-1)
        return SVD(
            values,
            lambda x: _cas(x).reshape(len(x), -1),
            lambda c: _cas(folded(c, shape)),
            lambda y: _cas(self._filter(y, phase.conj())).reshape(len(y), -1),
            lambda c: self._filter(_cas(folded(c, shape)), phase),
        )
