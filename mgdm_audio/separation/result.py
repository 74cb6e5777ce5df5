"""What a separator returns, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mgdm_audio.io.atomic import AtomicOutput, abort_all, commit_all
from mgdm_audio.io.encoders import OutputFormat
from mgdm_audio.io.stem_writer import StemWriter, common_gain
from mgdm_audio.sampling.level import Level
from mgdm_audio.separation.confidence import Confidence
from mgdm_core.array_types import Array, Float
from mgdm_core.trace import Trace

if TYPE_CHECKING:
    from mgdm_audio.listening_page import PageOptions

RESIDUAL = "residual"
"""Name of what no stem takes; no prior may call a stem so."""


@dataclass(frozen=True, repr=False)
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
        Deviation between the posterior samples per stem and frame of 512 samples at the prior's
        rate, root mean square, at the mix's level; None with fewer than two samples. It says where
        samples differ, not how far they are from the truth.
    samples : dict of str to array, or None
        With ``keep_samples``: every posterior sample, ``(draws, ...)``.
    trace : Trace or None
        Sum of the chunks' traces; None for silence.
    level : Level
        What was measured of the mix.
    confidence : Confidence or None
        Expected SI-SDR improvement per stem and second, with an interval; None for silence and for
        a prior that nothing was fitted for.
    """

    stems: dict[str, Any]
    residual: Any
    rate: int
    uncertainty: dict[str, Float[Array, " frames"]] | None
    samples: dict[str, Any] | None
    trace: Trace | None
    level: Level
    confidence: Confidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers: numpy arrays, numbers and text, nothing of this package or of torch.

        Returns
        -------
        dict
            ``rate``, ``stems``, ``residual``, ``uncertainty``, ``samples``, ``trace``,
            ``confidence`` (or None) and ``level`` (offset and downmix per channel, gain, peak,
            silent).
        """
        return {
            "rate": self.rate,
            "stems": _arrays(self.stems),
            "residual": _array(self.residual),
            "uncertainty": None if self.uncertainty is None else dict(self.uncertainty),
            "samples": None if self.samples is None else _arrays(self.samples),
            "trace": None if self.trace is None else self.trace.to_dict(),
            "confidence": None if self.confidence is None else self.confidence.to_dict(),
            "level": {
                "offset": self.level.offset.tolist(),
                "downmix": self.level.downmix.tolist(),
                "gain": float(self.level.gain),
                "peak": float(self.level.peak),
                "silent": bool(self.level.silent),
            },
        }

    def save(
        self,
        folder: str | os.PathLike,
        format: str | OutputFormat = "wav",
        *,
        overwrite: bool = False,
        residual: bool = True,
    ) -> dict[str, Path]:
        """Write ``{stem}.{ext}`` for every stem; all of them appear or none.

        Integer formats lose what exceeds full scale: where a stem would, all are turned down
        together, so that they still sum to the (quieter) mix.

        Parameters
        ----------
        folder : path
            Made where it is missing.
        format : str or OutputFormat
            ``"wav"`` (32-bit float), ``"flac"`` (24-bit), ``"mp3"``, or the details.
        overwrite : bool
            Whether existing files may be replaced.
        residual : bool
            Whether ``residual`` is written too.

        Raises
        ------
        AudioWriteError, AudioFormatError, SettingsError
            Where they cannot be written; nothing is left behind.
        """
        output = format if isinstance(format, OutputFormat) else OutputFormat(format)
        tracks = _arrays(self.stems)
        if residual:
            tracks[RESIDUAL] = _array(self.residual)
        paths = {name: Path(folder) / f"{name}.{output.extension}" for name in tracks}
        writers: list[AtomicOutput] = []
        try:
            for name, track in tracks.items():
                block = np.atleast_2d(track)
                writer = StemWriter(paths[name], self.rate, len(block), output, overwrite)
                writers.append(writer)
                writer.write(block)
            commit_all(writers, common_gain(writers))
        except BaseException:
            abort_all(writers)
            raise
        return paths

    def page(
        self, path: str | os.PathLike, title: str = "Stems", options: PageOptions | None = None
    ) -> Path:
        """Write a page on which stems, residual and mixture are heard together in any browser.

        Parameters
        ----------
        path : path
            The HTML file to appear; a folder where ``options`` say so.
        options : PageOptions, optional
            See :class:`mgdm_audio.listening_page.PageOptions`.

        Raises
        ------
        AudioError
            Where it cannot be written, or exists and may not be replaced.
        """
        from mgdm_audio.listening_page import confidence as strips
        from mgdm_audio.listening_page import write_page  # with libraries that draw

        stems, residual = _arrays(self.stems), _array(self.residual)
        confidence = None
        if self.confidence is not None:
            confidence = strips.own_parts(self.confidence.to_dict())
        elif self.uncertainty is not None:
            # The rows cover the recording, the last frame perhaps in part.
            hop = residual.shape[-1] / self.rate / max(map(len, self.uncertainty.values()))
            rows = {
                name: strips.agreement(
                    strips.levels([np.atleast_2d(stems[name])], hop * self.rate, len(row)), row
                )
                for name, row in self.uncertainty.items()
            }
            confidence = strips.Confidence(rows, hop)
        mixture = np.sum([residual, *stems.values()], axis=0)
        return write_page(
            path,
            stems,
            mixture,
            self.rate,
            residual=residual,
            title=title,
            confidence=confidence,
            options=options,
        )

    def __repr__(self) -> str:
        shape = np.atleast_2d(_array(self.residual)).shape
        return (
            f"Separation({', '.join(self.stems)} and {RESIDUAL}: {shape[1] / self.rate:.2f} s, "
            f"{shape[0]} channel(s) at {self.rate} Hz)"
        )

    def _repr_html_(self) -> str:
        """Players and a picture, for notebooks."""
        from mgdm_audio.separation.result_html import players

        return players({**_arrays(self.stems), RESIDUAL: _array(self.residual)}, self.rate)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _arrays(tracks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: _array(value) for name, value in tracks.items()}
