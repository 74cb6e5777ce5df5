"""Separate one file: two passes over it, stems that appear whole or not at all, a record beside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgdm_audio.compute.machine import describe_machine, describe_versions
from mgdm_audio.errors import AudioClipError, AudioReadError, display_name, os_reason
from mgdm_audio.io.atomic import AtomicOutput, FileOutput, abort_all, commit_all, remove_stale
from mgdm_audio.io.encoders import OutputFormat
from mgdm_audio.io.json_text import json_text
from mgdm_audio.io.reader import open_blocks, probe, spooled
from mgdm_audio.io.stem_writer import StemWriter, clipping, common_gain
from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.sampling.level import SILENCE, Level
from mgdm_audio.sampling.presets import DEFAULT_PRESET
from mgdm_audio.separation.confidence import Confidence
from mgdm_audio.separation.file_plan import FileJob, output_path, plan_jobs
from mgdm_audio.separation.record import describe_file, identity, outputs_of, settings_as_json
from mgdm_audio.separation.request import OutputChoice, SeparateRequest
from mgdm_audio.separation.separator import Separator, measure, merged_trace
from mgdm_audio.separation.stream import UNCERTAINTY_HOP, Piece, StreamOptions
from mgdm_audio.separation.uncertainty import draw_uncertainty, uncertainty_note
from mgdm_core.array_types import Array, Float
from mgdm_core.errors import SettingsError

BLOCK = 1 << 17
"""Samples per channel that are read at once."""


def separate_file(
    source: str | os.PathLike,
    out: str | os.PathLike = "separated",
    *,
    separator: Separator | None = None,
    preset: str | None = None,
    stems: Sequence[str] | None = None,
    two_stems: str | None = None,
    without: Sequence[str] = (),
    format: str | OutputFormat = "wav",
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[float], object] | None = None,
) -> dict[str, Path]:
    """Separate a file of any length as ``mgdm-separate`` does, in constant memory.

    Parameters
    ----------
    out : path
        The stems go to ``out/PRIOR/TRACK/STEM.EXT``, their record beside them.
    separator : Separator, optional
        Loaded before; by default the bundled prior's with ``preset`` (``balanced``).
    stems, two_stems
        Only these stems, or one stem and the input minus it.
    without
        Stems of the prior that the recording is known not to hold: the prior is told so, and they
        are not written. Also where the separator was told of others before.
    format : str or OutputFormat
        ``"wav"`` (32-bit float), ``"flac"`` (24-bit), ``"mp3"``, or the details.
    overwrite : bool
        Replace files that exist.
    on_progress : callable, optional
        Receives the fraction done; return False to cancel.

    Raises
    ------
    AudioError, SettingsError
        In one line; nothing is left behind.
    """
    if not isinstance(source, str | os.PathLike):
        raise SettingsError(f"the source is the path of a sound file; found {source!r}")
    if separator is None:
        used = Separator.from_pretrained(preset=preset or DEFAULT_PRESET)
    elif not isinstance(separator, Separator):
        raise SettingsError(f"the separator is a Separator; found {separator!r}")
    elif preset is not None:
        raise SettingsError(f"a separator has its settings; found preset {preset!r}; leave it out")
    else:
        used = separator
    if without:
        used = Separator(
            closed_prior(used.prior, without),
            used.sampling,
            batch_size=used.batch_size,
            on_note=used.on_note,
        )
    request = SeparateRequest(
        inputs=(os.fspath(source),),
        out=Path(out),
        prior=Path(),
        prior_name=(used.prior.name or "prior").replace("_", "-"),
        sampling=used.sampling,
        choice=OutputChoice.of(
            used.stems,
            without=used.prior.without,
            stems=(stems,) if isinstance(stems, str) else stems and tuple(stems),
            two_stems=two_stems,
            format=format if isinstance(format, OutputFormat) else OutputFormat(format),
        ),
        without=used.prior.without,
        seed=seed,
        existing="overwrite" if overwrite else "refuse",
    )
    plan = plan_jobs(request)
    if len(plan.jobs) != 1:
        reason = next(iter(plan.refused.values()), "one file at a time")
        raise AudioReadError(reason)
    if not overwrite:
        refuse_existing(plan.jobs[0])
    run_job(used, plan.jobs[0], request, on_progress)
    return plan.jobs[0].outputs


def run_job(
    separator: Separator,
    job: FileJob,
    request: SeparateRequest,
    on_progress: Callable[[float], object] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Separate one file, write its stems and its record, and return the record."""
    began = time.perf_counter()
    note = on_note or (lambda text: None)
    label = display_name(job.source)
    outputs: list[AtomicOutput] = []
    for folder in {path.parent for path in (*job.outputs.values(), job.record)}:
        remove_stale(folder)
    try:
        with spooled(job.source) as source:
            info = probe(source)
            level, frames = measure(open_blocks(source), info.rate, info.channels)
            if level.silent:
                note(f"{label}: {_silence(level)}: the stems are silence, the residual holds it")
            stream = separator.open_stream(
                level,
                info.rate,
                info.channels,
                frames,
                seed=request.seed,
                options=StreamOptions(
                    share_residual=not (request.choice.residual or request.choice.complement),
                    keep_samples=request.save_samples,
                    raw=request.raw,
                ),
                on_progress=on_progress,
            )
            channels = 1 if request.raw else info.channels
            sink = _Sink(separator, job, request, stream.out_rate, channels)
            outputs += sink.outputs
            for block in open_blocks(source, BLOCK):
                for piece in stream.push(block):
                    sink.write(piece)
            for piece in stream.finish():
                sink.write(piece)
            facts = identity(
                request, separator.prior.checksum, separator.prior.precision, Path(source)
            )
        gain = _gain(sink, request, lambda text: note(f"{label}: {text}"))
        confidence = stream.confidence() if request.uncertainty else None
        if request.uncertainty:
            rows = stream.uncertainty()
            if rows is not None:
                outputs += _uncertainty_outputs(job, separator, rows, request.overwrite, confidence)
        trace = merged_trace(stream.traces)
        for output in outputs:
            output.finish(gain)
        record = {
            "identity": facts,
            "outputs": {o.path.name: describe_file(o.finished) for o in outputs if o.finished},
            "source": job.source,
            "track": job.track,
            "rate": stream.out_rate,
            "channels": channels,
            "frames": sink.frames,
            "seconds_of_audio": frames / info.rate,
            "stems": list(request.choice.names),
            "files": {name: path.name for name, path in job.outputs.items()},
            "seed": request.seed,
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
            "evaluations_per_window": (
                0 if trace is None else trace.evaluations / len(stream.traces)
            ),
            "vjps": 0 if trace is None else trace.vjps,
            "seconds": time.perf_counter() - began,
            "uncertainty_note": uncertainty_note(request, stream.fitted),
            "confidence": None if confidence is None else confidence.to_dict(),
            "warnings": [] if trace is None else trace.warnings,
            "versions": describe_versions(),
            "machine": describe_machine([str(separator.prior.device)]),
        }
        text = json_text(record) + "\n"
        outputs.append(
            FileOutput(
                job.record, lambda part: part.write_text(text, encoding="utf-8"), request.overwrite
            )
        )
        # The record first: killed between two renames, a run leaves a record of which files are
        # missing, and --resume makes them; files without a record would be nobody's.
        before: list[Path] = []
        if request.overwrite:  # the page is written after this, where one was asked for
            page = output_path(request, job.source, "listen", "html")
            before = [*outputs_of(job.record), page]
        commit_all([outputs[-1], *outputs[:-1]], gain)
        _remove_older(before, {output.path for output in outputs}, note)
        return record
    except BaseException:
        abort_all(outputs)
        raise


def _remove_older(before: Sequence[Path], written: set[Path], note: Callable[[str], None]) -> None:
    """Remove outputs of the run that was overwritten which this one does not have.

    They would stand beside stems that they do not add up with.
    """
    for path in before:
        if path in written or not path.is_file():
            continue
        try:
            path.unlink()
            note(f"{display_name(path)}: removed, it was of the run before")
        except OSError as error:  # the stems are written: that is no failure of theirs
            note(f"{display_name(path)}: is of the run before, not removed ({os_reason(error)})")


def _silence(level: Level) -> str:
    if level.peak > SILENCE:
        return "nothing but a constant offset"
    peak = 20 * np.log10(level.peak) if level.peak > 0 else -np.inf
    return f"silent or nearly so (peak {peak:.0f} dBFS without its offset)"


class _Sink:
    """Writers of a track, fed piece by piece."""

    def __init__(
        self,
        separator: Separator,
        job: FileJob,
        request: SeparateRequest,
        rate: int,
        channels: int,
    ) -> None:
        choice = request.choice
        self._index = [separator.stems.index(name) for name in choice.stems]
        self.frames = 0
        self._main: list[StemWriter] = []
        self._draws: list[list[StemWriter]] = []
        self.outputs: list[AtomicOutput] = []

        def writer(path: Path) -> StemWriter:
            made = StemWriter(path, rate, channels, choice.format, request.overwrite)
            self.outputs.append(made)
            return made

        try:
            self._main = [writer(path) for path in job.outputs.values()]
            if request.save_samples:
                for j in range(separator.sampling.samples):
                    paths = [
                        p.with_name(f"{p.stem}.sample{j:02d}{p.suffix}")
                        for p in (job.outputs[name] for name in choice.stems)
                    ]
                    self._draws.append([writer(p) for p in paths])
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


def _gain(sink: _Sink, request: SeparateRequest, note: Callable[[str], None]) -> float:
    loud = clipping(sink.outputs)
    if not loud:
        return 1.0
    worst = max(loud, key=lambda writer: writer.peak)
    decibel = 20 * np.log10(worst.peak)
    if request.on_clip == "error":
        raise AudioClipError(
            f"{worst.path.name}: would clip by {decibel:.2f} dB in integer output; "
            f"write --float32, or let --on-clip gain turn all stems down together"
        )
    gain = common_gain(sink.outputs)
    note(
        f"{worst.path.name} would clip by {decibel:.2f} dB: all stems are turned down by "
        f"{-20 * np.log10(gain):.2f} dB together; --float32 keeps the level"
    )
    return gain


def _uncertainty_outputs(
    job: FileJob,
    separator: Separator,
    rows: dict[str, Float[Array, " frames"]],
    overwrite: bool,
    confidence: Confidence | None,
) -> list[AtomicOutput]:
    seconds_per_frame = UNCERTAINTY_HOP / separator.prior.rate

    def write_numbers(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, seconds_per_frame=seconds_per_frame, **rows)  # type: ignore

    def write_picture(path: Path) -> None:
        draw_uncertainty(path, job.track, rows, seconds_per_frame, confidence)

    base = job.record
    return [
        FileOutput(base.with_name(f"{base.stem}_uncertainty.npz"), write_numbers, overwrite),
        FileOutput(base.with_name(f"{base.stem}_uncertainty.png"), write_picture, overwrite),
    ]


def refuse_existing(job: FileJob) -> None:
    """Refuse to touch outputs that exist."""
    for path in (*job.outputs.values(), job.record):
        if os.path.lexists(path):
            raise AudioReadError(
                f"{display_name(path)}: exists already; use --overwrite to replace it, "
                f"--resume to keep finished tracks, or another --out"
            )
