"""Training batches: what is made of the segments of the pool."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from scipy import signal

from mgdm_audio.metrics.silence import ACTIVE_RMS
from mgdm_core.array_types import Array, Complex, Float, Tensor
from recipes.music_prior.training.data import INT16_SCALE, DataSettings, SegmentPool

__all__ = ["BatchStream", "draw_batch", "random_equaliser", "random_texture"]

# Rational speeds, as up over down of a resampling: a major third down to one up.
_SPEEDS = ((5, 4), (6, 5), (8, 7), (12, 11), (11, 12), (7, 8), (5, 6), (4, 5))

# What is left of a thinned song is not made louder than by this: 20 dB.
_MOST_GAIN = 10.0


class BatchStream:
    """Batches of the steps of a run; the next one is drawn while a step is computed.

    Parameters
    ----------
    pool, settings, seed, rank
        See `draw_batch`.
    """

    def __init__(self, pool: SegmentPool, settings: DataSettings, seed: int, rank: int = 0) -> None:
        self._arguments = (pool, settings)
        self._stream = (seed, rank)
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Array]] | None = None

    def draw(self, step: int) -> Float[Array, "batch stems crop"]:
        """Batch of a step (see `draw_batch`), whichever was drawn before."""
        number, batch = self._next or (-1, None)
        if batch is None or number != step:
            batch = self._submit(step)
        found = batch.result()
        self._next = step + 1, self._submit(step + 1)
        return found

    def close(self) -> None:
        """Draw no more."""
        self._thread.shutdown(cancel_futures=True)

    def _submit(self, step: int) -> Future[Array]:
        return self._thread.submit(draw_batch, *self._arguments, step, *self._stream)


def random_equaliser(
    items: int, stems: int, bins: int, settings: DataSettings, generator: torch.Generator
) -> Float[Tensor, "items stems bins 1"]:
    """Gains that vary smoothly over the logarithm of the frequency, one curve per stem and item.

    Rooms, microphones and equalisers colour instruments: with it, a timbre is known by more than
    its average spectrum.
    """
    device = generator.device
    knots = 7
    gains = settings.equaliser_db * torch.randn(
        items * stems, knots, generator=generator, device=device
    )
    place = torch.log1p(torch.arange(bins, device=device) / 4)
    place = place / place[-1] * (knots - 1)
    # A raised cosine between knots, so that no curve has corners.
    reach = (place - torch.arange(knots, device=device)[:, None]).abs().clamp(max=1)
    curve = gains @ (0.5 + 0.5 * torch.cos(torch.pi * reach))
    return 10 ** (curve.reshape(items, stems, bins, 1) / 20)


def random_texture(
    spectrum: Complex[Tensor, "items stems bins frames"],
    settings: DataSettings,
    generator: torch.Generator,
) -> Complex[Tensor, "items stems bins frames"]:
    """Raise the magnitudes of every stem to a random power near 1; its energy stays.

    Partials become more or less unlike in strength and notes die sooner or later, as if played
    on other instruments.
    """
    if not settings.texture:
        return spectrum
    power = spectrum.real.square() + spectrum.imag.square()
    exponents = settings.texture * torch.randn(
        *spectrum.shape[:2], 1, 1, generator=generator, device=generator.device
    )
    mean = power.mean((2, 3), keepdim=True).clamp_min(1e-20)
    # By logarithms, which take a tenth of the time of powers.
    gains = ((power / mean + 1e-8).log_() * (0.5 * (exponents.exp() - 1))).exp_()
    changed = (power * gains.square()).mean((2, 3), keepdim=True).clamp_min(1e-20)
    return spectrum * (gains * (mean / changed).sqrt())


def draw_batch(
    pool: SegmentPool, settings: DataSettings, step: int, seed: int, rank: int = 0
) -> Array:
    """Clean stems of one step.

    Returns
    -------
    Array, shape (batch, stems, crop)
        float32; a song's mixture has an RMS of about 0.1.
    """
    start, stop = settings.span(step)
    pool.need(start, stop)
    rng = np.random.default_rng([seed, rank, step])
    stems = pool.ring.shape[1]
    crop = settings.crop
    batch = np.empty((settings.batch, stems, crop), np.float32)
    for item in batch:
        remix = rng.random() < settings.remix
        numbers = rng.integers(start, stop, stems if remix else 1)
        for place, number in enumerate(numbers):
            rows = slice(place, place + 1) if remix else slice(None)
            up, down = 1, 1
            if rng.random() < settings.speed:
                up, down = _SPEEDS[int(rng.integers(len(_SPEEDS)))]
            length = -(-crop * down // up)
            if length > pool.ring.shape[2]:
                up, down, length = 1, 1, crop
            offset = int(rng.integers(0, pool.ring.shape[2] - length + 1))
            piece = pool.ring[int(number) % pool.slots, rows, offset : offset + length]
            piece = piece.astype(np.float32) / INT16_SCALE
            if up != down:
                piece = signal.resample_poly(piece, up, down, axis=-1)
            item[rows] = piece[:, :crop]
        gain = settings.stem_gain_db * rng.standard_normal(stems)
        gain = gain + settings.song_gain_db * rng.standard_normal()
        factor = 10 ** (gain / 20) * rng.choice([-1.0, 1.0], stems)
        factor = factor * (rng.random(stems) >= settings.drop)
        item *= factor.astype(np.float32)[:, None]
        if settings.sparse and rng.random() < settings.sparse:
            _thin(item, rng)
    return batch


def _thin(item: Float[Array, "stems crop"], rng: np.random.Generator) -> None:
    """Keep one to three of the stems that sound, at the loudness that all of them had."""
    loud = np.square(item.sum(0)).mean() ** 0.5
    sounding = np.flatnonzero(np.square(item).mean(1) >= ACTIVE_RMS**2)
    kept = rng.permutation(sounding)[: 1 + int(rng.integers(3))]
    item[np.setdiff1d(np.arange(len(item)), kept)] = 0
    left = np.square(item.sum(0)).mean() ** 0.5
    if left > 0:
        item *= min(loud / left, _MOST_GAIN)
