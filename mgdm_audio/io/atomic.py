"""Outputs that appear whole or not at all.

Everything is written under a temporary name in the target folder and renamed at the end, so that
a crash, a full disk or Ctrl-C leaves no half stem behind, and `commit_all` renames a track's stems
together. `replacing` is the same for a single file or folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mgdm_audio.errors import AudioError, AudioWriteError, display_name, os_reason

_PREFIX = ".mgdm-"


class AtomicOutput(contextlib.AbstractContextManager["AtomicOutput"]):
    """A file that appears under its name only when it is complete.

    The target folder is created where it is missing, and removed again by `abort` if this created
    it. Use as a context manager: leaving it without `commit` aborts.

    Raises
    ------
    AudioWriteError
        If the folder cannot be made or written, the name is impossible, or the file exists.
    """

    def __init__(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.label = display_name(path)
        self.overwrite = overwrite
        self._temporaries: list[Path] = []
        self._made: list[Path] = []
        self.finished: Path | None = None  # the completed file under its temporary name
        self._closed = False
        self._committed = False
        self._check_target()
        with self._guard():
            self._make_folder()

    def _check_target(self) -> None:
        try:
            status = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return  # NotADirectoryError is said by _make_folder
        except (OSError, ValueError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else str(error)
            raise AudioWriteError(f"{self.label}: cannot be written ({reason})") from error
        if stat.S_ISDIR(status.st_mode):
            raise AudioWriteError(f"{self.label}: cannot be written (a folder has this name)")
        if not self.overwrite:
            raise AudioWriteError(f"{self.label}: exists already; allow overwriting or move it")

    def _make_folder(self) -> None:
        missing = []
        folder = self.path.parent
        while not folder.exists() and folder != folder.parent:
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:  # another writer of the same track was quicker
                continue
            self._made.append(folder)
        if not self.path.parent.is_dir():
            raise NotADirectoryError(20, "its folder's name belongs to a file")
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")

    def temporary(self) -> Path:
        """Return a new temporary name in the target folder; `abort` removes what is there."""
        path = _temporary(self.path.parent)
        self._temporaries.append(path)
        return path

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn an error of the operating system into ours; whatever the error, abort."""
        try:
            yield
        except OSError as error:
            self.abort()
            raise AudioWriteError(
                f"{self.label}: cannot be written ({os_reason(error)}); nothing is left behind"
            ) from error
        except BaseException:
            self.abort()
            raise

    def check_gain(self, gain: float) -> None:
        """Refuse a gain at which the output would lose something; see `StemWriter.check_gain`."""

    def _complete(self, gain: float) -> Path:
        """Write everything to a temporary file and return it."""
        raise NotImplementedError

    def _discard(self) -> None:
        """Let go of open files."""

    def finish(self, gain: float = 1.0) -> None:
        """Complete the temporary file, on disk and synced; only the rename is left to do.

        Raises
        ------
        AudioWriteError
            On a full disk and the like; nothing is left behind.
        AudioClipError
            If samples would clip at this gain; nothing is lost, another gain can be tried.
        """
        if self._closed:
            raise AudioWriteError(f"{self.label}: was committed or aborted before")
        if self.finished is None:
            self.check_gain(gain)
            with self._guard():
                done = self._complete(gain)
                _sync(done)
            self.finished = done

    def commit(self, gain: float = 1.0) -> None:
        """Finish and rename; see `commit_all`."""
        commit_all([self], gain)

    def abort(self) -> None:
        """Remove everything that this output has put on disk; harmless after `commit`."""
        if self._committed:
            return
        if not self._closed:
            self._closed = True
            self._discard()
            for path in self._temporaries:
                path.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # not empty: somebody else's files are in it
                folder.rmdir()

    def __exit__(self, *exc: object) -> None:
        self.abort()


class FileOutput(AtomicOutput):
    """A file that a function writes, such as the settings beside the stems."""

    def __init__(
        self, path: str | os.PathLike, write: Callable[[Path], object], overwrite: bool = False
    ) -> None:
        super().__init__(path, overwrite)
        self._write = write

    def _complete(self, gain: float) -> Path:
        path = self.temporary()
        self._write(path)
        return path


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, folder: bool = False, refused: type[AudioError] = AudioWriteError
) -> Iterator[Path]:
    """Yield a name beside ``path``; what the body has written there then takes its place.

    If the body raises, nothing is left behind and what was at ``path`` stays. What a killed process
    left beside it is removed; see `remove_stale`.

    Parameters
    ----------
    path : str or path
        The file or folder to appear or to be replaced; its parents are made.
    folder : bool
        A folder instead of a file.
    refused : type of AudioError
        What an error of the operating system becomes.

    Raises
    ------
    AudioError
        Of the type given, if it cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        if folder:
            temporary.mkdir()
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
        else:
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            temporary.chmod(mode)  # some libraries make files that only their owner can read
            _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise refused(f"{display_name(path)}: cannot be written ({os_reason(error)})") from error
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears whole, or stays what it was; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _temporary(folder: Path) -> Path:
    # Short and fixed, so that a target name of the longest possible length still works; whose it
    # is, so that what a killed process left can be told from what is being written.
    return folder / f"{_PREFIX}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove what processes of this machine left unfinished in a folder when they were killed."""
    if sys.platform == "win32" or not folder.is_dir():  # there a process cannot be asked after
        return
    for path in folder.glob(f"{_PREFIX}{_host()}-*.part"):
        owner = path.name.removeprefix(_PREFIX).split("-")[1]
        if owner.isdigit() and not _is_alive(int(owner)):
            _remove(path)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # PermissionError: somebody else's, so it is there
        return not isinstance(error, ProcessLookupError)
    return True


def abort_all(outputs: Sequence[AtomicOutput]) -> None:
    """Abort all outputs; the one that made a folder comes after those that wrote into it."""
    for output in reversed(outputs):
        output.abort()


def commit_all(outputs: Sequence[AtomicOutput], gain: float = 1.0) -> None:
    """Make all outputs appear, or none.

    All are completed and synced under temporary names first: whatever can fail for want of space
    or by clipping fails there. Then they are renamed one after the other; if a rename fails, those
    before it are taken back and what they replaced is restored.

    Parameters
    ----------
    gain : float
        Applied to the stems; other than 1 only where their format clips (see `common_gain`).

    Raises
    ------
    AudioWriteError
        If any cannot be completed or renamed; all are aborted.
    AudioClipError
        If a stem clips at this gain; nothing is aborted, the caller may try another gain.
    """
    for output in outputs:
        output.check_gain(gain)
    renamed: list[tuple[AtomicOutput, Path | None]] = []
    try:
        for output in outputs:
            output.finish(gain)
        for output in outputs:
            output._check_target()
            renamed.append((output, _replace(output)))
    except BaseException as error:
        for output, backup in reversed(renamed):
            with contextlib.suppress(OSError):
                _take_back(output, backup)
        abort_all(outputs)
        if isinstance(error, OSError):
            raise AudioWriteError(
                f"the stems cannot be given their names ({os_reason(error)}); nothing is left "
                f"behind"
            ) from error
        raise
    for output, backup in renamed:
        output._closed = output._committed = True
        if backup is not None:
            backup.unlink(missing_ok=True)
    for folder in {output.path.parent for output in outputs}:
        _sync(folder)


def _take_back(output: AtomicOutput, backup: Path | None) -> None:
    if backup is None:
        output.path.unlink(missing_ok=True)
        return
    # From here on it is the user's file again and not one for abort to remove, come what may.
    output._temporaries.remove(backup)
    os.replace(backup, output.path)


def _replace(output: AtomicOutput) -> Path | None:
    """Rename into place; what was there before is kept under the returned name."""
    assert output.finished is not None
    backup = None
    if output.path.exists() or output.path.is_symlink():
        backup = output.temporary()
        os.replace(output.path, backup)
    try:
        os.replace(output.finished, output.path)
    except OSError:
        if backup is not None:
            _take_back(output, backup)
        raise
    return backup


def _sync(path: Path) -> None:
    """Ask the operating system to put a file or folder on disk; not all systems can for folders."""
    is_folder = path.is_dir()
    try:
        # Windows syncs only what is open for writing, and opens no folders.
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not is_folder:
            raise
