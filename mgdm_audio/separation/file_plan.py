"""What a call is going to do: inputs found, outputs named, all checked beforehand."""

from __future__ import annotations

import glob
import os
import shutil
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from mgdm_audio.errors import AudioError, AudioReadError, AudioWriteError, display_name, os_reason
from mgdm_audio.io.decoders import AudioInfo
from mgdm_audio.io.encoders import OutputFormat
from mgdm_audio.io.reader import STDIN, probe
from mgdm_audio.separation.request import SeparateRequest
from mgdm_core.errors import SettingsError

_FIELDS = ("prior", "track", "stem", "ext", "source_dir", "source_ext")
_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".m4b", ".mka"),
    *(".webm", ".wma", ".ac3", ".alac", ".mov", ".mkv"),
)
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))}


@dataclass(frozen=True)
class FileJob:
    """One input (a path or ``"-"``) and the files that it becomes: stems, and ``mgdm.json``."""

    source: str
    track: str
    info: AudioInfo
    outputs: dict[str, Path]
    record: Path


@dataclass(frozen=True)
class JobPlan:
    """All inputs of a call; of those that cannot be separated why not, by their names."""

    jobs: tuple[FileJob, ...]
    refused: dict[str, str]
    notes: tuple[str, ...] = ()


def check_template(template: str, format: OutputFormat | None = None) -> str:
    """Check a file name template and return it.

    Parameters
    ----------
    template : str
        Fields in braces: prior, track, stem, ext, source_dir (the input's folder), source_ext (its
        ending).
    format : OutputFormat, optional
        What an ending that is written out must agree with.

    Raises
    ------
    SettingsError
        If it lacks ``{stem}``, has an unknown field, leaves the output folder or names an ending
        that the format does not have.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise SettingsError(
            f"the file name template is malformed ({error}): {template!r}"
        ) from None
    unknown = [name for name in names if name not in _FIELDS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise SettingsError(f"a file name template has the fields {known}; found {{{unknown[0]}}}")
    if "stem" not in names:
        raise SettingsError(f"a file name template needs {{stem}}; found {template!r}")
    # Rules of Windows everywhere: a template is written once and used on any machine.
    windows = PureWindowsPath(template)
    if os.path.isabs(template) or windows.drive or windows.root or ".." in windows.parts:
        raise SettingsError(
            f"a file name template stays inside the output folder; found {template!r}"
        )
    try:
        shown = template.format(**dict.fromkeys(_FIELDS, "x"))
    except (ValueError, AttributeError, IndexError, TypeError) as error:
        raise SettingsError(
            f"the file name template is malformed ({error}): {template!r}"
        ) from None
    ending = Path(shown).suffix.lower().lstrip(".")
    if format is not None and ending not in ("x", format.extension) and "ext" not in names:
        raise SettingsError(
            f"a file name template ends in .{{ext}}, here .{format.extension}; found {template!r}"
        )
    return template


def safe_name(name: str, windows: bool = os.name == "nt") -> str:
    """Name of a file or folder that the system allows; changed on Windows only.

    Examples
    --------
    >>> safe_name("what?", windows=True), safe_name("Aux", windows=True), safe_name("a?")
    ('what_', 'Aux_', 'a?')
    """
    if not windows:
        return name
    clean = "".join("_" if c in '<>:"/\\|?*' or ord(c) < 32 else c for c in name).rstrip(" .")
    return f"{clean}_" if not clean or clean.split(".")[0].upper() in _RESERVED else clean


def find_inputs(
    inputs: tuple[str, ...] | list[str], recursive: bool = False
) -> tuple[list[str], dict[str, str], list[str]]:
    """Expand files, folders (of recognised sound files, sorted) and glob patterns.

    Returns
    -------
    found : list of str
        Each path once, in the order given.
    refused : dict of str to str
        What does not exist or holds no sound, and why.
    notes : list of str
        What was left out of folders.
    """
    found: list[str] = []
    refused: dict[str, str] = {}
    notes: list[str] = []
    for text in inputs:
        label = display_name(text)
        if text == STDIN:
            found.append(text)
        elif os.path.isdir(text):
            try:
                inside, hidden, deeper = _sound_files(Path(text), recursive)
            except OSError as error:
                refused[text] = f"{label}: the folder cannot be read ({os_reason(error)})"
                continue
            found += inside
            if hidden:
                notes.append(f"{label}: {hidden} hidden file(s) left out (names that begin with .)")
            if not inside:
                hint = "; its subfolders do: add -r" if deeper else ""
                refused[text] = f"{label}: the folder holds no sound files{hint}"
        elif os.path.lexists(text):
            found.append(text)
        elif glob.has_magic(text):
            matches = sorted(m for m in glob.glob(text, recursive=True) if os.path.isfile(m))
            found += matches
            if not matches:
                refused[text] = f"{label}: no file matches this pattern"
        else:
            refused[text] = f"{label}: no such file or folder; check the path"
    unique: dict[str, str] = {}
    for path in found:
        unique.setdefault(path if path == STDIN else os.path.realpath(path), path)
    return list(unique.values()), refused, notes


def _sound_files(folder: Path, recursive: bool) -> tuple[list[str], int, bool]:
    """Sound files, how many hidden ones were left out, and whether only subfolders hold some."""
    found: list[str] = []
    hidden, folders = 0, []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith(".") and not path.is_symlink():
                folders.append(path)
        elif path.suffix.lower() in _SUFFIXES and path.is_file():
            if path.name.startswith("."):
                hidden += 1
            else:
                found.append(str(path))
    if recursive:
        for path in folders:
            inside, more, _ = _sound_files(path, True)
            found, hidden = found + inside, hidden + more
        return found, hidden, False
    return found, hidden, not found and any(map(_holds_sound, folders))


def _holds_sound(folder: Path) -> bool:
    try:
        return any(f.suffix.lower() in _SUFFIXES for f in folder.rglob("*"))
    except OSError:
        return False


def plan_jobs(request: SeparateRequest) -> JobPlan:
    """Name every output and look at every input, before anything is loaded.

    Inputs that would write the same files are refused, all of them, so that what is separated does
    not depend on their order; the others go ahead.

    Raises
    ------
    SettingsError
        For a file name template that is wrong.
    """
    check_template(request.template, request.choice.format)
    paths, refused, notes = find_inputs(request.inputs, request.recursive)
    notes = [*request.notes, *notes]
    named = [(path, *_names(path, request)) for path in paths]
    written = Counter(key for _, _, outputs, record in named for key, _ in _keys(outputs, record))
    sources = {os.path.realpath(p) for p in paths if p != STDIN}
    jobs: list[FileJob] = []
    for path, track, outputs, record in named:
        keys = dict(_keys(outputs, record))
        shared = [target for key, target in keys.items() if written[key] > 1]
        taken = [target for key, target in keys.items() if key in sources]
        try:
            if shared:
                raise AudioWriteError(
                    f"{display_name(path)}: another input would write "
                    f"{display_name(shared[0])} too; tell them apart with --filename "
                    f"'{_telling(path, named, request)}'"
                )
            if taken:
                raise AudioWriteError(
                    f"{display_name(path)}: would overwrite {display_name(taken[0])}, which is an "
                    f"input; choose another --out"
                )
            info = AudioInfo(STDIN, 44_100, 2, None, "", "") if path == STDIN else probe(path)
        except AudioError as error:
            refused[path] = str(error)
        except Exception as error:  # whatever a decoder raises is this file's, not the batch's
            reason = f"{display_name(path)}: cannot be read ({type(error).__name__}: {error})"
            refused[path] = " ".join(reason.split())
        else:
            jobs.append(FileJob(path, track, info, outputs, record))
    return JobPlan(tuple(jobs), refused, tuple(notes))


def output_path(
    request: SeparateRequest, source: str, stem: str, ending: str | None = None
) -> Path:
    """Path of one of the files that an input becomes.

    Parameters
    ----------
    ending : str, optional
        For a file that holds no sound: its ending, "" for a folder, whatever the template says.
    """
    path = Path("stdin" if source == STDIN else source)
    name = request.template.format(
        prior=safe_name(request.prior_name),
        track=safe_name(path.stem or path.name),
        stem=stem,
        ext=request.choice.format.extension,
        source_dir=safe_name(path.absolute().parent.name or "root"),
        source_ext=path.suffix.lstrip(".").lower() or "none",
    )
    target = request.out / name
    return target if ending is None else target.with_suffix(f".{ending}" if ending else "")


def _names(path: str, request: SeparateRequest) -> tuple[str, dict[str, Path], Path]:
    source = Path("stdin" if path == STDIN else path)
    outputs = {stem: output_path(request, path, stem) for stem in request.choice.names}
    return source.stem or source.name, outputs, output_path(request, path, "mgdm", "json")


def _keys(outputs: dict[str, Path], record: Path) -> Iterator[tuple[str, Path]]:
    for target in (*outputs.values(), record):
        yield os.path.realpath(target), target


def _telling(path: str, named: list, request: SeparateRequest) -> str:
    """A template that tells an input apart from the others, also from those with its name."""
    own, template = Path(path), request.template
    others = [Path(p) for p, track, *_ in named if p != path and track == (own.stem or own.name)]
    if "{track}" not in template:
        template = f"{{track}}/{template}"
        if not others:
            return template
    field = "{source_dir}" if any(o.parent != own.parent for o in others) else "{source_ext}"
    return template.replace("{track}", f"{{track}}_{field}")


def estimated_bytes(job: FileJob, request: SeparateRequest) -> int:
    """Disk that a job needs at its peak: its files, and the float32 spools of integer formats."""
    frames = job.info.frames if job.info.frames is not None else (job.info.approx_frames or 0)
    files = len(request.choice.names)
    if request.save_samples:
        files += request.sampling.samples * len(request.choice.stems)
    return files * request.choice.format.disk_bytes(job.info.rate, job.info.channels, frames)


def check_output_folder(out: str | os.PathLike, needed: int) -> None:
    """Refuse a folder that cannot be written to, or a disk without room, before any work."""
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
