"""What a call is going to do: inputs found, outputs named, all checked beforehand."""

from __future__ import annotations

import glob
import os
import shutil
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mgdm_audio.errors import AudioError, AudioReadError, AudioWriteError, display_name, os_reason
from mgdm_audio.io.encoders import OutputFormat
from mgdm_audio.io.reader import STDIN, AudioInfo, probe
from mgdm_core.errors import SettingsError

__all__ = [
    "DEFAULT_TEMPLATE",
    "RESIDUAL",
    "FileJob",
    "JobPlan",
    "OutputChoice",
    "Refused",
    "check_template",
    "estimated_bytes",
    "find_inputs",
    "plan_jobs",
]

DEFAULT_TEMPLATE = "{prior}/{track}/{stem}.{ext}"
RESIDUAL = "residual"
_FIELDS = ("prior", "track", "stem", "ext")
_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".m4b", ".mka"),
    *(".webm", ".wma", ".ac3", ".alac", ".mov", ".mkv"),
)


@dataclass(frozen=True)
class OutputChoice:
    """Which stems are written, and how.

    Parameters
    ----------
    stems : tuple of str
        The prior's stems that are written.
    complement : str or None
        For two-stem output: name of the file that holds the input minus the one stem.
    residual : bool
        Whether a residual file is written (the input minus everything else that is written).
    format : OutputFormat
    """

    stems: tuple[str, ...]
    complement: str | None = None
    residual: bool = True
    format: OutputFormat = field(default_factory=OutputFormat)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files of a track."""
        last = self.complement if self.complement is not None else RESIDUAL
        return (*self.stems, last) if self.residual or self.complement else self.stems

    @classmethod
    def of(
        cls,
        known: Sequence[str],
        *,
        stems: Sequence[str] | None = None,
        two_stems: str | None = None,
        residual: bool = True,
        format: OutputFormat | None = None,
    ) -> OutputChoice:
        """Check names against the prior's stems.

        Raises
        ------
        SettingsError
            For a stem that the prior does not have, listing those that it has.
        """
        output = format if format is not None else OutputFormat()
        if stems is not None and two_stems is not None:
            raise SettingsError("choose either some stems or one stem and its complement, not both")
        wanted = [two_stems] if two_stems is not None else list(known if stems is None else stems)
        for name in wanted:
            if name not in known:
                raise SettingsError(f"this prior has the stems {', '.join(known)}; found {name!r}")
        if not wanted or len(set(wanted)) != len(wanted):
            raise SettingsError(f"stems are named once each, at least one; found {wanted}")
        if two_stems is not None:
            return cls((two_stems,), f"no_{two_stems}", False, output)
        return cls(tuple(wanted), None, residual, output)


@dataclass(frozen=True)
class FileJob:
    """One input and the files that it becomes.

    Attributes
    ----------
    source : str
        Path, or ``"-"``.
    track : str
    info : AudioInfo
    outputs : dict of str to Path
        Stem name to file.
    record : Path
        The track's ``mgdm.json``.
    """

    source: str
    track: str
    info: AudioInfo
    outputs: dict[str, Path]
    record: Path


@dataclass(frozen=True)
class Refused:
    """An input that cannot be separated, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class JobPlan:
    """All inputs of a call."""

    jobs: tuple[FileJob, ...]
    refused: tuple[Refused, ...]


def check_template(template: str) -> str:
    """Check a file name template and return it.

    Raises
    ------
    SettingsError
        If it lacks ``{stem}``, has an unknown field or leaves the output folder.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise SettingsError(
            f"the file name template is malformed ({error}): {template!r}"
        ) from None
    unknown = [name for name in names if name not in _FIELDS]
    if unknown:
        raise SettingsError(
            f"a file name template has the fields {{prior}}, {{track}}, {{stem}}, {{ext}}; "
            f"found {{{unknown[0]}}}"
        )
    if "stem" not in names:
        raise SettingsError(f"a file name template needs {{stem}}; found {template!r}")
    if os.path.isabs(template) or ".." in Path(template).parts:
        raise SettingsError(
            f"a file name template stays inside the output folder; found {template!r}"
        )
    return template


def find_inputs(inputs: Sequence[str]) -> tuple[list[str], list[Refused]]:
    """Expand files, folders (one level of recognised sound files, sorted) and glob patterns.

    Returns
    -------
    found : list of str
        Each path once, in the order given.
    refused : list of Refused
        What does not exist or holds no sound.
    """
    found: list[str] = []
    refused: list[Refused] = []
    for text in inputs:
        label = display_name(text)
        if text == STDIN:
            found.append(text)
        elif os.path.isdir(text):
            inside = _sound_files(Path(text))
            if inside is None:
                refused.append(Refused(text, f"{label}: the folder cannot be read"))
            elif not inside:
                refused.append(Refused(text, f"{label}: the folder holds no sound files"))
            else:
                found += inside
        elif os.path.lexists(text):
            found.append(text)
        elif glob.has_magic(text):
            matches = sorted(m for m in glob.glob(text, recursive=True) if os.path.isfile(m))
            found += matches
            if not matches:
                refused.append(Refused(text, f"{label}: no file matches this pattern"))
        else:
            refused.append(Refused(text, f"{label}: no such file or folder"))
    seen: set[str] = set()
    unique: list[str] = []
    for path in found:
        key = path if path == STDIN else os.path.realpath(path)
        if key not in seen:
            seen.add(key)
            unique.append(path)
    return unique, refused


def _sound_files(folder: Path) -> list[str] | None:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return [str(p) for p in entries if p.suffix.lower() in _SUFFIXES and p.is_file()]


def plan_jobs(
    inputs: Sequence[str],
    out: str | os.PathLike,
    prior_name: str,
    choice: OutputChoice,
    *,
    template: str = DEFAULT_TEMPLATE,
    track_name: str | None = None,
) -> JobPlan:
    """Name every output and look at every input, before anything is loaded.

    Parameters
    ----------
    inputs : sequence of str
        As :func:`find_inputs` takes them.
    out : path
        Folder that the template's names are below.
    prior_name : str
        For ``{prior}``.
    choice : OutputChoice
    template : str
        Checked by :func:`check_template`.
    track_name : str, optional
        For ``{track}`` of standard input; "stdin" by default.

    Raises
    ------
    SettingsError
        If two inputs would write the same file, or an output is one of the inputs.
    """
    check_template(template)
    paths, refused = find_inputs(inputs)
    jobs: list[FileJob] = []
    owner: dict[str, str] = {}
    sources = {os.path.realpath(p) for p in paths if p != STDIN}
    for path in paths:
        track = (track_name or "stdin") if path == STDIN else Path(path).stem or Path(path).name
        fields = {"prior": prior_name, "track": track}
        root, extension = Path(out), choice.format.container
        outputs = {
            stem: root / template.format(**fields, stem=stem, ext=extension)
            for stem in choice.names
        }
        record = root / template.format(**fields, stem="mgdm", ext="json")
        for target in (*outputs.values(), record):
            key = os.path.realpath(target)
            if key in owner:
                raise SettingsError(
                    f"{display_name(owner[key])} and {display_name(path)} would both write "
                    f"{display_name(target)}; rename one, or use --filename or --out to tell them "
                    f"apart"
                )
            if key in sources:
                raise SettingsError(
                    f"{display_name(target)} is an input and would be overwritten; "
                    f"choose another --out"
                )
        for target in (*outputs.values(), record):
            owner[os.path.realpath(target)] = path
        if path == STDIN:
            info = AudioInfo(STDIN, 44_100, 2, None, "", "")
        else:
            try:
                info = probe(path)
            except AudioError as error:
                refused.append(Refused(path, str(error)))
                continue
        jobs.append(FileJob(path, track, info, outputs, record))
    return JobPlan(tuple(jobs), tuple(refused))


def estimated_bytes(job: FileJob, choice: OutputChoice) -> int:
    """Disk that a job needs at its peak: its files, and the float32 spools of integer formats."""
    frames = job.info.frames if job.info.frames is not None else (job.info.approx_frames or 0)
    per_frame = 4 * job.info.channels
    copies = 2 if choice.format.clips else 1
    return frames * per_frame * len(choice.names) * copies


def check_output_folder(out: str | os.PathLike, needed: int) -> None:
    """Refuse a folder that cannot be written to, or a disk without room, before any work.

    Raises
    ------
    AudioWriteError
    """
    folder = Path(out)
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise AudioWriteError(
            f"{display_name(existing)}: is a file, so no folder can be made there; "
            f"choose another --out"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise AudioWriteError(
            f"{display_name(existing)}: cannot be written to; choose another --out"
        )
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise AudioReadError(f"{display_name(existing)}: {os_reason(error)}") from error
    if free < needed:
        raise AudioWriteError(
            f"{display_name(existing)}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB "
            f"free; make room, choose another --out, or write --flac or fewer --stems"
        )
