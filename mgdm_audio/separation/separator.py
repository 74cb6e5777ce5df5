"""The product's Python interface: a recording in, its stems out.

>>> separator = Separator.from_pretrained()              # doctest: +SKIP
>>> result = separator("mix.wav")                        # doctest: +SKIP
>>> result.stems["bass"]                                 # doctest: +SKIP
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mgdm_audio.errors import AudioError
from mgdm_audio.io.reader import MAX_CHANNELS, check_supported, read
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.level import Level, LevelMeter
from mgdm_audio.sampling.presets import DEFAULT_PRESET, sampling_settings
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.separation.result import Separation
from mgdm_audio.separation.stream import Piece, SeparationStream, StreamOptions
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.trace import Trace

_BLOCK = 1 << 16

LOUDEST = 1e12
"""Largest sample that float32 can be computed with: powers of it are summed."""

Mix = np.ndarray | torch.Tensor | str | os.PathLike


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
        if isinstance(prior, str | os.PathLike):
            raise SettingsError(
                f"a Separator takes a loaded prior; for a name or a path write "
                f"Separator.from_pretrained({os.fspath(prior)!r})"
            )
        self.prior = prior
        self.sampling = sampling_settings() if sampling is None else sampling
        self.batch_size = _whole("batch_size", batch_size, 1, 4096)
        self.on_note = on_note

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
        without: Sequence[str] = (),
        **fields: Any,
    ) -> Separator:
        """Load a prior by name (``mgdm-models list``) or path.

        Parameters
        ----------
        name_or_path
            Name, checkpoint, or ``hf://owner/name[@revision][/file]``.
        device, precision
            Where and in what arithmetic the network runs.
        preset, sampler, settings
            See :func:`mgdm_audio.sampling.presets.sampling_settings`, ``settings`` being its
            ``changes``: Python values stay what they are, text is read as on the command line.
        without
            Stems of the prior that recordings are known not to hold: it is told so, and
            :attr:`stems` are the others.
        **fields
            Fields of :class:`~mgdm_audio.sampling.stem_sampler.SamplingSettings`, such as
            ``samples=4``.
        """
        sampling = sampling_settings(preset, sampler=sampler, changes=settings, **fields)
        name = os.fspath(name_or_path)
        prior = load_prior(name, device=device, precision=precision, without=without)
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
        sampler = StemSampler(self.prior, self.sampling, self.batch_size, self.on_note)
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

    def __call__(
        self,
        mix: Mix,
        rate: int | float | np.integer | np.floating | None = None,
        *,
        seed: int | np.integer = 0,
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
        seed = _whole("seed", seed, 0, 2**62)
        if isinstance(mix, str | os.PathLike):
            data, hertz = read(mix)
            if rate is not None and rate != hertz:
                raise SettingsError(
                    f"a file has a rate of its own, {hertz} Hz; found rate {rate}; leave it out"
                )
        else:
            data, hertz = _as_array(mix), _checked_rate(rate)
            _check_array(data, hertz)
        matrix = np.atleast_2d(data).astype(np.float32, copy=False)
        level, frames = measure(_blocks(matrix), hertz, len(matrix))
        options = StreamOptions(share_residual=share_residual, keep_samples=keep_samples)
        stream = self.open_stream(
            level, hertz, len(matrix), frames, seed=seed, options=options, on_progress=on_progress
        )
        pieces: list[Piece] = []
        for block in _blocks(matrix):
            pieces += stream.push(block)
        pieces += stream.finish()

        def shaped(parts: list[Tensor]) -> Any:
            whole = torch.cat(parts, -1)
            whole = whole[..., 0, :] if data.ndim == 1 else whole
            return whole.to(mix.device) if isinstance(mix, torch.Tensor) else whole.numpy()

        draws = None
        if keep_samples:
            draws = {
                n: shaped([p.samples[:, k] for p in pieces if p.samples is not None])
                for k, n in enumerate(self.stems)
            }
        return Separation(
            stems={n: shaped([p.stems[k] for p in pieces]) for k, n in enumerate(self.stems)},
            residual=shaped([p.residual for p in pieces]),
            rate=hertz,
            uncertainty=stream.uncertainty(),
            samples=draws,
            trace=merged_trace(stream.traces),
            level=level,
            confidence=stream.confidence(),
        )


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number within bounds, of whatever type says that it is one."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise SettingsError(f"{name} is a whole number; found {value!r}")
    if not low <= int(value) <= high:
        raise SettingsError(f"{name} lies in {low}..{high}; found {value}")
    return int(value)


def _checked_rate(rate: Any) -> int:
    if rate is None:
        raise SettingsError("an array needs its rate in hertz; found none")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or float(rate) % 1 != 0:
        raise SettingsError(f"rate is a whole number of hertz, such as 44100; found {rate!r}")
    return int(float(rate))


def _as_array(mix: Any) -> np.ndarray:
    if isinstance(mix, torch.Tensor):
        return mix.detach().cpu().numpy()
    try:
        return np.asarray(mix)
    except ValueError as error:  # lists of different lengths
        raise ShapeError(
            f"a mix is an array (channels, n); numpy makes none of what was found ({error})"
        ) from error


def _check_array(data: np.ndarray, rate: int) -> None:
    """Refuse what is no recording; frames first, as soundfile reads them, above all."""
    if data.ndim not in (1, 2) or data.shape[-1] < 1 or data.shape[0] < 1:
        raise ShapeError(
            f"a mix is (n,) or (channels, n) with at least one sample; found {data.shape}"
        )
    if data.ndim == 2 and (len(data) > MAX_CHANNELS or len(data) > data.shape[1]):
        raise ShapeError(
            f"a mix is (channels, n) with 1 to {MAX_CHANNELS} channels and no more channels than "
            f"samples; found {data.shape}; frames first, as soundfile.read gives them, "
            f"are transposed by mix.T"
        )
    if not np.issubdtype(data.dtype, np.floating):
        raise ShapeError(
            f"a mix is floating point with full scale 1; found {data.dtype}; "
            f"divide integers by their full scale"
        )
    if not np.isfinite(data).all():
        raise AudioError("the mix holds NaN or infinity; replace them by numbers")
    check_supported(rate, 1 if data.ndim == 1 else len(data), "the mix")


def measure(
    blocks: Iterable[Float[Array, "channels frames"]], rate: int, channels: int
) -> tuple[Level, int]:
    """First pass over a recording: its level and its exact number of frames."""
    meter = LevelMeter(rate, channels)
    frames = 0
    for block in blocks:
        meter.add(torch.from_numpy(np.ascontiguousarray(block)))
        frames += block.shape[-1]
    level = meter.result()
    if not level.peak <= LOUDEST:
        raise AudioError(
            f"the sound reaches {level.peak:.3g}, where full scale is 1; scale it below {LOUDEST:g}"
        )
    return level, frames


def _blocks(matrix: np.ndarray) -> Iterable[np.ndarray]:
    for start in range(0, matrix.shape[1], _BLOCK):
        yield matrix[:, start : start + _BLOCK]
