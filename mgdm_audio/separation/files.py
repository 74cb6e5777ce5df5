"""Separate one file: two passes over it, stems that appear whole or not at all, a record beside."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.compute.machine import describe_machine, describe_versions
from mgdm_audio.errors import AudioClipError, AudioReadError
from mgdm_audio.io.atomic import AtomicOutput, TextOutput, abort_all, commit_all
from mgdm_audio.io.reader import STDIN, open_blocks, probe, spooled
from mgdm_audio.io.stem_writer import StemWriter, clip_reports, common_gain
from mgdm_audio.separation.file_plan import FileJob, OutputChoice
from mgdm_audio.separation.separator import Separator, measure_file, merged_trace
from mgdm_audio.separation.stream import UNCERTAINTY_HOP, Piece, StreamOptions
from mgdm_core.array_types import Array, Float

__all__ = ["FileOptions", "is_done", "run_job", "run_key", "settings_as_json"]

_BLOCK = 1 << 17


@dataclass(frozen=True)
class FileOptions:
    """How a file's stems are written.

    Parameters
    ----------
    seed : int
    overwrite : bool
        Replace files that exist.
    on_clip : {"gain", "error"}
        When integer output would clip: turn all stems down together, or write nothing.
    share_residual, raw : bool
        See :class:`~mgdm_audio.separation.stream.StreamOptions`.
    save_samples : bool
        Write every posterior sample beside the mean.
    uncertainty : bool
        Write the deviation between the samples as npz and as a picture.
    """

    seed: int = 0
    overwrite: bool = False
    on_clip: str = "gain"
    share_residual: bool = False
    raw: bool = False
    save_samples: bool = False
    uncertainty: bool = False


def settings_as_json(value: Any) -> Any:
    """Settings as plain JSON values; an object is named by its class."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {k: settings_as_json(getattr(value, k)) for k in value.__dataclass_fields__}
        return {"type": type(value).__name__, **inner}
    if isinstance(value, list | tuple):
        return [settings_as_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def run_key(separator: Separator, job: FileJob, choice: OutputChoice, options: FileOptions) -> str:
    """Digest of everything that the stems depend on; equal keys mean equal stems."""
    if job.source == STDIN:
        source: Any = STDIN
    else:
        status = os.stat(job.source)
        source = [os.path.realpath(job.source), status.st_size, status.st_mtime_ns]
    facts = {
        "source": source,
        "prior": separator.prior.checksum,
        "precision": separator.prior.precision,
        "sampling": settings_as_json(separator.sampling),
        "choice": settings_as_json(choice),
        "options": {k: v for k, v in asdict(options).items() if k != "overwrite"},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_done(job: FileJob, key: str) -> bool:
    """Whether a run with this key has written all its files."""
    if job.source == STDIN or not all(path.is_file() for path in job.outputs.values()):
        return False
    try:
        return json.loads(job.record.read_text(encoding="utf-8")).get("key") == key
    except (OSError, ValueError, AttributeError):
        return False


def run_job(
    separator: Separator,
    job: FileJob,
    choice: OutputChoice,
    options: FileOptions,
    on_progress: Callable[[float], object] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Separate one file and write its stems and its record.

    Parameters
    ----------
    on_progress : callable, optional
        Receives the fraction done; return False to cancel.
    on_note : callable, optional
        Receives one line for what the user should know, such as a common gain.

    Returns
    -------
    dict
        The record that was written as ``mgdm.json``.
    """
    began = time.perf_counter()
    outputs: list[AtomicOutput] = []
    try:
        with spooled(job.source) as source:
            info = probe(source)
            level, frames = measure_file(source)
            stream = separator.open_stream(
                level,
                info.rate,
                info.channels,
                frames,
                seed=options.seed,
                options=StreamOptions(
                    share_residual=options.share_residual,
                    keep_samples=options.save_samples,
                    raw=options.raw,
                ),
                on_progress=on_progress,
            )
            channels = 1 if options.raw else info.channels
            sink = _Sink(separator, job, choice, options, stream.out_rate, channels)
            outputs += sink.outputs
            for block in open_blocks(source, _BLOCK):
                for piece in stream.push(block):
                    sink.write(piece)
            for piece in stream.finish():
                sink.write(piece)
        gain = _gain(sink, options, on_note)
        trace = merged_trace(stream.traces)
        written = [*job.outputs, *sink.extra]
        if options.uncertainty:
            rows = stream.uncertainty()
            if rows is not None:
                extra = _uncertainty_outputs(job, separator, rows, options.overwrite)
                outputs += extra
                written += [output.path.name for output in extra]
        record = {
            "key": run_key(separator, job, choice, options),
            "source": job.source,
            "track": job.track,
            "rate": stream.out_rate,
            "channels": channels,
            "frames": sink.frames,
            "seconds_of_audio": frames / info.rate,
            "stems": list(choice.names),
            "files": {name: path.name for name, path in job.outputs.items()},
            "seed": options.seed,
            "prior": {
                "name": separator.prior.name,
                "checksum": separator.prior.checksum,
                "precision": separator.prior.precision,
                "device": str(separator.prior.device),
            },
            "settings": settings_as_json(separator.sampling),
            "common_gain": gain,
            "silent": level.silent,
            "evaluations": 0 if trace is None else trace.evaluations,
            "vjps": 0 if trace is None else trace.vjps,
            "seconds": time.perf_counter() - began,
            "warnings": [] if trace is None else trace.warnings,
            "versions": describe_versions(),
            "machine": describe_machine([str(separator.prior.device)]),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        outputs.append(TextOutput(job.record, text, overwrite=options.overwrite))
        commit_all(outputs, gain)
        return record
    except BaseException:
        abort_all(outputs)
        raise


class _Sink:
    """Writers of a track, fed piece by piece."""

    def __init__(
        self,
        separator: Separator,
        job: FileJob,
        choice: OutputChoice,
        options: FileOptions,
        rate: int,
        channels: int,
    ) -> None:
        self._index = [separator.stems.index(name) for name in choice.stems]
        self._choice = choice
        self.frames = 0
        self.extra: list[str] = []
        self._main: list[StemWriter] = []
        self._draws: list[list[StemWriter]] = []
        self.outputs: list[AtomicOutput] = []

        def writer(path: Path) -> StemWriter:
            made = StemWriter(path, rate, channels, choice.format, options.overwrite)
            self.outputs.append(made)
            return made

        try:
            self._main = [writer(path) for path in job.outputs.values()]
            if options.save_samples:
                for j in range(separator.sampling.samples):
                    paths = [
                        p.with_name(f"{p.stem}.sample{j:02d}{p.suffix}")
                        for p in (job.outputs[name] for name in choice.stems)
                    ]
                    self._draws.append([writer(p) for p in paths])
                    self.extra += [p.name for p in paths]
        except BaseException:
            abort_all(self.outputs)
            raise

    def write(self, piece: Piece) -> None:
        """Write a piece: the chosen stems, and what completes them to the input."""
        chosen = piece.stems[self._index].numpy()
        for writer, stem in zip(self._main, chosen):
            writer.write(stem)
        if len(self._main) > len(chosen):
            mix = piece.stems.double().sum(0) + piece.residual.double()
            rest = mix.numpy() - chosen.astype(np.float64).sum(0)
            self._main[-1].write(rest.astype(np.float32))
        if piece.samples is not None:
            for draw, writers in zip(piece.samples.numpy(), self._draws):
                for k, writer in zip(self._index, writers):
                    writer.write(draw[k])
        self.frames += piece.stems.shape[-1]


def _gain(sink: _Sink, options: FileOptions, on_note: Callable[[str], None] | None) -> float:
    reports = clip_reports(sink.outputs)
    if not reports:
        return 1.0
    worst = max(reports, key=lambda report: report.peak)
    decibel = 20 * np.log10(worst.peak)
    if options.on_clip == "error":
        raise AudioClipError(
            f"{Path(worst.path).name}: would clip by {decibel:.2f} dB in integer output; "
            f"write --float32, or let --on-clip gain turn all stems down together"
        )
    gain = common_gain(sink.outputs)
    if on_note is not None:
        on_note(
            f"{Path(worst.path).name} would clip by {decibel:.2f} dB: all stems are turned down by "
            f"{-20 * np.log10(gain):.2f} dB together; --float32 keeps the level"
        )
    return gain


class _FileOutput(AtomicOutput):
    """A file that a function writes, whole or not at all."""

    def __init__(self, path: Path, write: Callable[[Path], None], overwrite: bool) -> None:
        super().__init__(path, overwrite)
        self._write = write

    def _complete(self, gain: float) -> Path:
        path = self.temporary()
        self._write(path)
        return path


def _uncertainty_outputs(
    job: FileJob,
    separator: Separator,
    rows: dict[str, Float[Array, " frames"]],
    overwrite: bool,
) -> list[AtomicOutput]:
    seconds_per_frame = UNCERTAINTY_HOP / separator.prior.rate

    def write_numbers(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, seconds_per_frame=seconds_per_frame, **rows)  # type: ignore

    def write_picture(path: Path) -> None:
        from mgdm_audio.separation.uncertainty import draw_uncertainty

        draw_uncertainty(path, job.track, rows, seconds_per_frame)

    base = job.record
    return [
        _FileOutput(base.with_name(f"{base.stem}_uncertainty.npz"), write_numbers, overwrite),
        _FileOutput(base.with_name(f"{base.stem}_uncertainty.png"), write_picture, overwrite),
    ]


def refuse_existing(job: FileJob) -> None:
    """Refuse to touch outputs that exist.

    Raises
    ------
    AudioReadError
        Naming the first one.
    """
    for path in (*job.outputs.values(), job.record):
        if os.path.lexists(path):
            raise AudioReadError(
                f"{path}: exists already; use --overwrite to replace it, --resume to keep "
                f"finished tracks, or another --out"
            )
