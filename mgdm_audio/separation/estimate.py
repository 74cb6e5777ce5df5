"""What a call is going to cost, from one window of this prior on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mgdm_audio.io.decoders import AudioInfo
from mgdm_audio.io.resampling import Resampler
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.sampling.chunk_stream import chunk_sizes
from mgdm_audio.sampling.cost import count_evaluations
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_audio.sampling.windowed_prior import windowed
from mgdm_audio.separation.full_band import FullBand
from mgdm_audio.separation.request import SeparateRequest
from mgdm_core.trace import peak_memory_bytes

_WHOLE_RUN = 4  # evaluations up to which the sampler itself is timed, not its evaluations
_ARRAYS = 20  # of a chunk that live at once: state, estimates, spectra and their sums
_HEAP = 1.5  # chunk after chunk, against one: freed blocks lie about in the C library's heap
_PROBE_SECONDS = 7.5  # one segment of the full-band stage and its cross-fade


@dataclass(frozen=True)
class Estimate:
    """Cost of a call once the prior is loaded; peak memory in bytes, a device's where it is one."""

    seconds: float
    seconds_of_audio: float
    memory: int


def estimate(request: SeparateRequest, files: Sequence[AudioInfo]) -> Estimate:
    """Measure one window and count the rest; files of unknown length count as nothing."""
    known = [info for info in files if info.seconds]
    audio = sum(info.seconds or 0.0 for info in known)
    prior = load_prior(
        request.prior, device=request.device, precision=request.precision, without=request.without
    )
    sampler = StemSampler(prior, request.sampling, batch_size=request.batch_size)
    sizes = [
        size
        for info in known
        for shift in sampler.shifts
        for size in chunk_sizes(sampler, round((info.seconds or 0.0) * prior.rate), shift)
    ]
    if not sizes:
        return Estimate(0.0, 0.0, peak_memory_bytes(prior.device))
    per_window = {
        size: _window_seconds(sampler, size) for size in {min(sampler.window, s) for s in sizes}
    }
    seconds = sum(
        per_window[min(sampler.window, s)] * (1 + max(0, s - sampler.window) / sampler.hop)
        for s in sizes
    )
    if not request.raw:
        draws = 1 + (sampler.settings.samples if request.save_samples else 0)
        shapes = {(info.rate, info.channels) for info in known}
        rest = {shape: draws * _full_band_speed(*shape, sampler) for shape in shapes}
        seconds += sum(rest[info.rate, info.channels] * (info.seconds or 0.0) for info in known)
    chunk = _ARRAYS * 4 * len(prior.stems) * sampler.settings.samples * max(sizes)
    heap = _HEAP if prior.device.type == "cpu" and len(sizes) > 1 else 1.0
    return Estimate(seconds, audio, round(heap * (peak_memory_bytes(prior.device) + chunk)))


def _window_seconds(sampler: StemSampler, size: int) -> float:
    """Seconds of all that is done to one window of this size."""
    settings, prior = sampler.settings, sampler.prior
    stems, count = len(prior.stems), settings.runs
    g = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(size, generator=g)
    evaluations, vjps = count_evaluations(settings, prior.schedule, stems)
    if evaluations + 2 * vjps <= _WHOLE_RUN:
        return _timed(lambda: sampler.sample(mixture, 0, 0), prior.device)
    long = windowed(prior, sampler.window, sampler.hop, batch_size=sampler.batch_size)
    x = 0.1 * torch.randn(1, stems, size, generator=g).to(prior.device)
    level = prior.schedule.level_of_sigma(min(0.1, prior.sigma_range[1]))

    def forward() -> None:
        with torch.no_grad():
            long.denoise(x, level)

    def with_gradient() -> None:
        y = x.clone().requires_grad_(True)
        torch.autograd.grad(long.denoise(y, level).square().sum(), y)

    plain = _timed(forward, prior.device)
    both = _timed(with_gradient, prior.device) if vjps else 0.0
    return count * (max(0.0, evaluations - vjps) * plain + vjps * both)


def _full_band_speed(rate: int, channels: int, sampler: StemSampler) -> float:
    """Seconds per second of sound of what follows the sampling."""
    prior_rate, stems = sampler.prior.rate, len(sampler.prior.stems)
    g = torch.Generator().manual_seed(0)
    mix = 0.1 * torch.randn(channels, round(_PROBE_SECONDS * rate), generator=g)
    wanted = -(-mix.shape[1] * prior_rate // rate)
    estimates = 0.05 * torch.randn(stems, wanted, generator=g)

    def run() -> None:
        Resampler(rate, prior_rate).push(mix[0])
        band = FullBand(rate, channels, stems, prior_rate)
        band.push(mix, estimates)
        band.finish()

    # Two segments of 6 s are treated where 7.5 s of sound come in.
    return _timed(run, torch.device("cpu")) / 12.0 * (6.0 / 5.0)


def _timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quicker of two calls: the first one warms up."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
