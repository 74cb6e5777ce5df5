"""What is seen of a sound on a page: its peaks and its spectrogram, from one pass over it."""

from __future__ import annotations

import functools
import io

import numpy as np

from mgdm_audio.listening_page.sounds import PAGE_RATE
from mgdm_core.array_types import Array, Float

POINTS = 1600
COLUMNS = 1200
BANDS = 96
RANGE_DB = 75.0
_FFT = 2048
_HOP = 1024


class Portrait:
    """Peaks and mel spectrogram of a sound of known length at the page's rate, fed in blocks."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._at = 0
        self._peaks = np.zeros(POINTS, np.float32)
        self._power = np.zeros((BANDS, COLUMNS), np.float32)
        self._held = np.zeros(_FFT // 2, np.float32)
        self._spectra = 0
        self._filled = np.zeros(COLUMNS, bool)

    def add(self, block: Float[Array, "channels n"]) -> None:
        """Take the next samples."""
        if block.shape[1] == 0:
            return
        loudest = np.abs(block).max(axis=0)
        places = (self._at + np.arange(len(loudest))) * POINTS // self._frames
        np.maximum.at(self._peaks, np.minimum(places, POINTS - 1), loudest)
        self._at += len(loudest)
        self._add_spectra(block.mean(axis=0))

    def _add_spectra(self, mono: np.ndarray) -> None:
        held = np.concatenate([self._held, mono])
        count = max(0, (len(held) - _FFT) // _HOP + 1)
        if count:
            windows = np.lib.stride_tricks.sliding_window_view(held, _FFT)[::_HOP][:count]
            spectra = np.abs(np.fft.rfft(windows * np.hanning(_FFT).astype(np.float32))) ** 2
            power = (_mel() @ spectra.T).astype(np.float32)
            centres = (self._spectra + np.arange(count)) * _HOP
            for column, values in zip(centres * COLUMNS // self._frames, power.T):
                place = min(int(column), COLUMNS - 1)
                self._filled[place] = True
                np.maximum(self._power[:, place], values, out=self._power[:, place])
            self._spectra += count
        self._held = held[count * _HOP :]

    def peaks(self) -> np.ndarray:
        """Largest magnitude in each of equal stretches of the song; 255 is full scale."""
        return np.rint(np.clip(self._peaks, 0, 1) * 255).astype(np.uint8)

    def power(self) -> Float[Array, "bands columns"]:
        """Mel power, the loudest spectrum of each column."""
        self._add_spectra(np.zeros(_FFT, np.float32))
        # A song with fewer spectra than columns shows each of them in several.
        filled = np.flatnonzero(self._filled)
        nearest = np.abs(np.arange(COLUMNS)[:, None] - filled).argmin(axis=1)
        return self._power[:, filled[nearest]]


@functools.cache
def _mel() -> np.ndarray:
    from torchaudio.functional import melscale_fbanks  # librosa's would load numba and scipy

    bank = melscale_fbanks(_FFT // 2 + 1, 0, 16_000, BANDS, PAGE_RATE, "slaney", "slaney")
    return bank.T.numpy()


def spectrogram_webp(power: Float[Array, "bands columns"], loudest: float) -> bytes:
    """Draw a spectrogram; ``loudest`` is the power that is white on all pictures of a page."""
    import matplotlib
    from PIL import Image

    decibels = 10 * np.log10(np.maximum(power, 1e-20) / max(loudest, 1e-20))
    shade = np.clip(1 + decibels / RANGE_DB, 0, 1)
    colours = matplotlib.colormaps["magma"](shade[::-1], bytes=True)[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()
