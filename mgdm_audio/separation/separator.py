"""The product's Python interface: a recording in, its stems out.

>>> separator = Separator.from_pretrained()              # doctest: +SKIP
>>> result = separator("mix.wav")                        # doctest: +SKIP
>>> result.stems["bass"]                                 # doctest: +SKIP
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mgdm_audio.errors import AudioError
from mgdm_audio.io.reader import open_blocks, probe, read
from mgdm_audio.priors.catalogue import resolve
from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.level import Level, LevelMeter
from mgdm_audio.sampling.presets import DEFAULT_PRESET, sampling_settings
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.separation.stream import Piece, SeparationStream, StreamOptions
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.trace import Trace

__all__ = ["Separation", "Separator", "merged_trace", "resolve_device"]

_BLOCK = 1 << 16

Mix = np.ndarray | torch.Tensor | str | os.PathLike


@dataclass(frozen=True)
class Separation:
    """What a separator returns.

    Attributes
    ----------
    stems : dict of str to array
        As the mix was given: numpy or torch, ``(n,)`` or ``(channels, n)``, float32, at ``rate``.
    residual : array
        The mix minus the stems: stems and residual sum to the mix to 1e-6 of full scale.
    rate : int
        In hertz.
    uncertainty : dict of str to ndarray, or None
        Deviation between the posterior samples per stem and frame of ``uncertainty_hop`` prior-rate
        samples, root mean square, at the mix's level; None with fewer than two samples.
    samples : dict of str to array, or None
        With ``keep_samples``: every posterior sample, ``(draws, ...)``.
    trace : Trace or None
        Sum of the chunks' traces; None for silence.
    level : Level
        What was measured of the mix.
    """

    stems: dict[str, Any]
    residual: Any
    rate: int
    uncertainty: dict[str, Float[Array, " frames"]] | None
    samples: dict[str, Any] | None
    trace: Trace | None
    level: Level


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU; anything else is a torch device."""
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise SettingsError(
            f"a device is auto, cpu, cuda, cuda:0, ... or mps; found {device!r}"
        ) from None


def merged_trace(traces: list[Trace]) -> Trace | None:
    """Sum of the chunks' traces: evaluations and seconds add up, warnings are kept once each."""
    if not traces:
        return None
    total = Trace(traces[0].sampler)
    for trace in traces:
        total.records += trace.records
        total.evaluations += trace.evaluations
        total.vjps += trace.vjps
        total.seconds += trace.seconds
        total.peak_memory = max(total.peak_memory, trace.peak_memory)
        total.warnings += [w for w in trace.warnings if w not in total.warnings]
    return total


class Separator:
    """Separates recordings with one prior and one way of sampling.

    Safe to call from several threads: a call changes nothing of the separator but the batch size,
    which an exhausted device may halve.

    Parameters
    ----------
    prior : WaveformPrior
    sampling : SamplingSettings, optional
        The default preset's by default.
    batch_size : int
        Windows evaluated at once.
    on_note : callable, optional
        Receives one line when something worth saying happens, such as a smaller batch.
    """

    def __init__(
        self,
        prior: WaveformPrior,
        sampling: SamplingSettings | None = None,
        *,
        batch_size: int = 4,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size is at least 1; found {batch_size}")
        self.prior = prior
        self.sampling = sampling_settings() if sampling is None else sampling
        self.batch_size = batch_size
        self.on_note = on_note
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike = "music-stems",
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        preset: str = DEFAULT_PRESET,
        sampler: str | None = None,
        settings: Mapping[str, Any] | None = None,
        batch_size: int = 4,
        **fields: Any,
    ) -> Separator:
        """Load a prior by name (``mgdm-models list``) or path.

        Parameters
        ----------
        name_or_path
            Name, checkpoint, or ``hf://owner/name/file``.
        device, precision
            Where and in what arithmetic the network runs.
        preset, sampler, settings
            See :func:`mgdm_audio.sampling.presets.sampling_settings`; values of ``settings`` may be
            text or numbers.
        **fields
            Fields of :class:`~mgdm_audio.sampling.stem_sampler.SamplingSettings`, such as
            ``samples=4``.
        """
        changes = {name: str(value) for name, value in (settings or {}).items()}
        sampling = sampling_settings(preset, sampler=sampler, changes=changes, **fields)
        path = resolve(os.fspath(name_or_path))
        prior = load_prior(path, device=resolve_device(device), precision=precision)
        return cls(prior, sampling, batch_size=batch_size)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems."""
        return self.prior.stems

    def open_stream(
        self,
        level: Level,
        rate: int,
        channels: int,
        frames: int,
        *,
        seed: int = 0,
        options: StreamOptions | None = None,
        on_progress: Callable[[float], object] | None = None,
    ) -> SeparationStream:
        """Separate a recording block by block; see :class:`SeparationStream`.

        Parameters
        ----------
        level : Level
            Of the whole recording, from a first pass with
            :class:`~mgdm_audio.sampling.level.LevelMeter`.
        rate, channels, frames : int
            Of the recording.
        seed : int
            Posterior sample j draws from seed + j.
        on_progress : callable, optional
            Receives the fraction done; return False to cancel.
        """
        sampler = StemSampler(self.prior, self.sampling, self.batch_size, self._note)
        return SeparationStream(
            sampler,
            level,
            rate,
            channels,
            frames,
            seed=seed,
            options=options or StreamOptions(),
            on_progress=on_progress,
        )

    def _note(self, text: str) -> None:
        if self.on_note is not None:
            self.on_note(text)

    def __call__(
        self,
        mix: Mix,
        rate: int | None = None,
        *,
        seed: int = 0,
        on_progress: Callable[[float], object] | None = None,
        share_residual: bool = False,
        keep_samples: bool = False,
    ) -> Separation:
        """Separate a recording that fits in memory.

        Parameters
        ----------
        mix : array or path
            ``(n,)`` or ``(channels, n)``, numpy or torch, floating point with full scale 1; or a
            sound file. It is not changed.
        rate : int
            In hertz; for a path it is the file's own.
        seed : int
        on_progress : callable, optional
            Receives the fraction done, may return False to cancel (CancelledError).
        share_residual : bool
            Share the residual among the stems, so that they alone sum to the mix.
        keep_samples : bool
            Keep every posterior sample as well as their mean.

        Raises
        ------
        AudioError, ShapeError, SettingsError
            For a mix that cannot be separated, in one line.
        """
        if isinstance(mix, str | os.PathLike):
            array, file_rate = read(mix)
            if rate is not None and rate != file_rate:
                raise SettingsError(
                    f"a file has a rate of its own, {file_rate} Hz; found rate {rate}; leave it out"
                )
            return self._separate(array, file_rate, mix, seed, on_progress, share_residual,
                                  keep_samples)  # fmt: skip
        if rate is None:
            raise SettingsError("an array needs its rate in hertz; found none")
        data = mix.detach().cpu().numpy() if isinstance(mix, torch.Tensor) else np.asarray(mix)
        if data.ndim not in (1, 2) or data.shape[-1] < 1:
            raise ShapeError(
                f"a mix is (n,) or (channels, n) with at least one sample; found {data.shape}"
            )
        if not np.issubdtype(data.dtype, np.floating):
            raise ShapeError(
                f"a mix is floating point with full scale 1; found {data.dtype}; "
                f"divide integers by their full scale"
            )
        if not np.isfinite(data).all():
            raise AudioError("the mix holds NaN or infinity; replace them by numbers")
        return self._separate(data, rate, mix, seed, on_progress, share_residual, keep_samples)

    def _separate(
        self,
        data: np.ndarray,
        rate: int,
        given: Mix,
        seed: int,
        on_progress: Callable[[float], object] | None,
        share_residual: bool,
        keep_samples: bool,
    ) -> Separation:
        matrix = np.atleast_2d(data).astype(np.float32, copy=False)
        channels, frames = matrix.shape
        level = measure(lambda: _blocks(matrix), rate, channels)
        options = StreamOptions(share_residual=share_residual, keep_samples=keep_samples)
        stream = self.open_stream(
            level, rate, channels, frames, seed=seed, options=options, on_progress=on_progress
        )
        pieces: list[Piece] = []
        for block in _blocks(matrix):
            pieces += stream.push(block)
        pieces += stream.finish()
        names = self.stems

        def shaped(parts: list[Tensor]) -> Any:
            whole = torch.cat(parts, -1)
            whole = whole[..., 0, :] if data.ndim == 1 else whole
            return whole.to(given.device) if isinstance(given, torch.Tensor) else whole.numpy()

        stems = {n: shaped([p.stems[k] for p in pieces]) for k, n in enumerate(names)}
        draws = None
        if keep_samples:
            draws = {
                n: shaped([p.samples[:, k] for p in pieces if p.samples is not None])
                for k, n in enumerate(names)
            }
        return Separation(
            stems=stems,
            residual=shaped([p.residual for p in pieces]),
            rate=rate,
            uncertainty=stream.uncertainty(),
            samples=draws,
            trace=merged_trace(stream.traces),
            level=level,
        )

    def with_sampling(self, **changes: Any) -> Separator:
        """Return a separator on the same loaded prior with other sampling settings."""
        return Separator(
            self.prior,
            replace(self.sampling, **changes),
            batch_size=self.batch_size,
            on_note=self.on_note,
        )


def measure(
    blocks: Callable[[], Iterable[Float[Array, "channels frames"]]], rate: int, channels: int
) -> Level:
    """First pass over a recording: its level."""
    meter = LevelMeter(rate, channels)
    for block in blocks():
        meter.add(torch.from_numpy(np.ascontiguousarray(block)))
    return meter.result()


def measure_file(path: str | os.PathLike) -> tuple[Level, int]:
    """First pass over a file: its level and its exact number of frames."""
    info = probe(path)
    meter = LevelMeter(info.rate, info.channels)
    frames = 0
    for block in open_blocks(path, _BLOCK):
        meter.add(torch.from_numpy(block))
        frames += block.shape[-1]
    return meter.result(), frames


def _blocks(matrix: np.ndarray) -> Iterable[np.ndarray]:
    for start in range(0, matrix.shape[1], _BLOCK):
        yield matrix[:, start : start + _BLOCK]
