"""Checking and separating an upload, by the code of ``mgdm-separate``."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mgdm_audio.errors import AudioError, display_name
from mgdm_audio.io.decoders import AudioInfo
from mgdm_audio.listening_page import PageOptions
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.closed import OTHER, closed_prior
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.separation.file_plan import check_output_folder, estimated_bytes, plan_jobs
from mgdm_audio.separation.files import run_job
from mgdm_audio.separation.request import OutputChoice, SeparateRequest
from mgdm_audio.separation.separator import Separator
from mgdm_audio.separation.track_page import write_track_page
from mgdm_audio.web.jobs import Job
from mgdm_audio.web.settings import WebSettings


def check_upload(path: Path, name: str, settings: WebSettings, stems: tuple[str, ...]) -> AudioInfo:
    """Look at an upload as the command looks at its inputs, and hold it to the limits.

    Raises
    ------
    AudioError
        With the name the user gave, in one line.
    """
    request = _request(path, stems, "balanced")
    plan = plan_jobs(request)
    if plan.refused:
        reason = next(iter(plan.refused.values())).replace(display_name(path), display_name(name))
        raise AudioError(reason)
    job = plan.jobs[0]
    seconds = job.info.seconds or 0.0
    if seconds > settings.max_seconds:
        raise AudioError(
            f"{display_name(name)}: recordings here are at most {settings.minutes_words} "
            f"long; found {seconds / 60:.2g}; cut it, or use mgdm-separate"
        )
    # Stems, their zip and the page, which is small beside them.
    check_output_folder(path.parent, 2 * estimated_bytes(job, request))
    return job.info


def _request(
    source: Path,
    known: tuple[str, ...],
    preset: str,
    stems: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> SeparateRequest:
    return SeparateRequest(
        inputs=(str(source),),
        out=source.parent / "out",
        prior=Path(),  # loaded already
        prior_name="stems",
        sampling=sampling_settings(preset),
        choice=OutputChoice.of(known, without=without, stems=list(stems) or None),
        template="{stem}.{ext}",
        without=without,
        existing="overwrite",
    )


def separating(
    settings: WebSettings,
) -> Callable[[str], Callable[[Job, Callable[[float], bool]], None]]:
    """Return the work of a queue: the prior is loaded once per worker."""

    def on_device(device: str) -> Callable[[Job, Callable[[float], bool]], None]:
        prior = load_prior(settings.prior, device=device, precision=settings.precision)

        def separate(job: Job, progress: Callable[[float], bool]) -> None:
            job.notes.clear()
            out = job.folder / "out"
            used = closed_prior(prior, [OTHER]) if job.closed else prior
            request = _request(job.source, used.stems, job.preset, job.stems, used.without)
            planned = plan_jobs(request).jobs[0]
            planned = replace(planned, track=Path(job.name).stem or job.name)
            separator = Separator(used, request.sampling, on_note=job.notes.append)
            run_job(separator, planned, request, progress, job.notes.append)
            page = write_track_page(
                out / "listen.html", planned.record, job.source, PageOptions(overwrite=True)
            )
            files = {path.name: path for path in planned.outputs.values()}
            files |= {"listen.html": page, "mgdm.json": planned.record}
            files["stems.zip"] = _zipped(job.folder / "stems.zip", files)
            job.files = files

        return separate

    return on_device


def _zipped(path: Path, files: dict[str, Path]) -> Path:
    # Sound hardly gets smaller, and storing it takes no time.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, file in files.items():
            archive.write(file, name)
    return path
