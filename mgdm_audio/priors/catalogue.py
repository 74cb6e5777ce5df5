"""Names of priors and the files behind them: the bundled one, imported ones, the hub's.

Names resolve without any network access; only an ``hf://`` address, which somebody has to write,
fetches a file. Everything the registry keeps lies in one folder, see :func:`home`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch

from mgdm_audio.compute.device import resolve_device
from mgdm_audio.errors import PriorError, UnknownPriorError, display_name
from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors import hub
from mgdm_audio.priors.checkpoint import store
from mgdm_audio.priors.checkpoint.layout import read_layout
from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.priors.waveform_prior import WaveformPrior

DEFAULT_PRIOR = "music-stems"
_INDEX_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class PriorEntry:
    """One known prior.

    Parameters
    ----------
    source : str
        ``"bundled"``, ``"imported"`` or ``"hub"``.
    header_sha256 : str
        SHA-256 of the file's header as it was registered; "" for bundled priors. The header holds
        the digest of the tensors, so that it stands for the whole file.
    """

    name: str
    path: Path
    source: str
    header_sha256: str = ""

    @property
    def available(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()


def home() -> Path:
    """Folder of the registry: ``MGDM_HOME`` if it is set, else ``mgdm`` in the user's cache."""
    if os.environ.get("MGDM_HOME"):
        return Path(os.environ["MGDM_HOME"]).expanduser()
    return platformdirs.user_cache_path("mgdm", appauthor=False)


def bundled_priors() -> dict[str, Path]:
    """Return the checkpoints that come with the package, by name."""
    weights = Path(__file__).resolve().parents[1] / "weights"
    found = {path.stem.replace("_", "-"): path for path in sorted(weights.glob("*.safetensors"))}
    return {DEFAULT_PRIOR: weights / "music_stems.safetensors"} | found


def default_path(name: str) -> Path:
    """Return where an imported prior of this name is kept unless the user says where.

    Raises
    ------
    PriorError
        If the name has characters other than letters, digits, ``_``, ``.`` and ``-``.
    """
    return home() / "priors" / f"{_checked_name(name)}.safetensors"


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PriorError(f"a prior's name is made of letters, digits, _ . and -; found {name!r}")
    return name


# -- the index ------------------------------------------------------------------------------------


def _index_path() -> Path:
    return home() / "priors.json"


def _read_index() -> dict[str, PriorEntry]:
    path = _index_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PriorError(
            f"{path}: the list of imported priors cannot be read ({error}); "
            f"mend or delete it and import the priors again"
        ) from error
    entries = content.get("priors") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or content.get("version") != _INDEX_VERSION:
        raise PriorError(f"{path}: not a list of priors that this version can read; delete it")
    found = {}
    for name, entry in entries.items():
        texts = isinstance(entry, dict) and all(isinstance(v, str) for v in entry.values())
        if not texts or set(entry) != {"path", "header_sha256", "source"}:
            raise PriorError(f"{path}: the entry {name!r} is damaged; mend or delete the file")
        found[name] = PriorEntry(name, Path(entry["path"]), entry["source"], entry["header_sha256"])
    return found


def register(
    name: str, path: str | Path, *, source: str = "imported", replace: bool = False
) -> PriorEntry:
    """Give a checkpoint a name; the file stays where it is.

    Parameters
    ----------
    name : str
        Letters, digits, ``_``, ``.`` and ``-``.
    source : str
        ``"imported"`` or ``"hub"``.
    replace : bool
        Whether the name may have been another file's until now.

    Raises
    ------
    PriorError
        If the name is taken or not allowed, or the file is no safetensors file.
    """
    if source != "hub":
        _checked_name(name)
    path = Path(path).absolute()
    entry = PriorEntry(name, path, source, read_layout(path).header_sha256)
    check_name_free(name, path, replace=replace)
    _write_index(_read_index() | {name: entry})
    return entry


def forget(name: str) -> PriorEntry:
    """Take a registered prior off the list; its file stays.

    Raises
    ------
    PriorError
        If no prior was registered under this name.
    """
    if name in bundled_priors():
        raise PriorError(f"{name!r} comes with the package and stays on the list")
    entries = _read_index()
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise PriorError(f"no imported prior is called {name!r}; imported are: {known}")
    entry = entries.pop(name)
    _write_index(entries)
    return entry


def _write_index(entries: Mapping[str, PriorEntry]) -> None:
    priors = {
        name: {"path": str(e.path), "header_sha256": e.header_sha256, "source": e.source}
        for name, e in entries.items()
    }
    text = json.dumps({"version": _INDEX_VERSION, "priors": priors}, indent=1, sort_keys=True)
    with replacing(_index_path(), refused=PriorError) as path:
        path.write_text(text + "\n", encoding="utf-8")


def check_name_free(name: str, path: Path, *, replace: bool = False) -> None:
    """Refuse a name that stands for another file.

    Raises
    ------
    PriorError
        If it does, and ``replace`` is not set or the name is a bundled prior's.
    """
    if name in bundled_priors():
        raise PriorError(f"{name!r} is the name of a bundled prior; choose another with --name")
    entry = _read_index().get(name)
    if entry is not None and not replace and entry.path != path.absolute():
        raise PriorError(
            f"the name {name!r} stands for {display_name(entry.path)} already; "
            f"choose another with --name, or replace it with --force"
        )


def list_priors() -> list[PriorEntry]:
    """Every known prior: bundled ones first, then by name."""
    entries = [PriorEntry(name, path, "bundled") for name, path in bundled_priors().items()]
    return [*entries, *(entry for _, entry in sorted(_read_index().items()))]


def canonical_name(name: str) -> str | None:
    """Name on the list that this stands for: ``-`` and ``_`` are one; None if there is none."""
    names = [*bundled_priors(), *_read_index()]
    if name in names:
        return name
    same = [known for known in names if known.replace("_", "-") == name.replace("_", "-")]
    return same[0] if len(same) == 1 else None


# -- resolving ------------------------------------------------------------------------------------


def resolve(name_or_path: str | Path = DEFAULT_PRIOR) -> Path:
    """Return the checkpoint behind a name, a path or an ``hf://owner/name`` address.

    A name wins over a file of the same name in the working directory; write ``./name`` for the
    file. The header's checksum of a registered prior is compared with the one kept; the tensors'
    digest, which the header holds, is compared by ``load_prior``.

    Parameters
    ----------
    name_or_path : str or Path
        ``"music-stems"``, ``"./my.safetensors"``, ``"hf://owner/name[@revision][/file]"``.

    Raises
    ------
    UnknownPriorError
        If the name is unknown (the valid ones are listed) or there is no such file.
    PriorError
        If the file is gone, or is not the one that was registered.
    """
    text = str(name_or_path)
    if not text.strip():
        raise UnknownPriorError(
            f"a prior has a name; found {text!r}; 'mgdm-models list' shows the names; or give the "
            f"path of a .safetensors file, or hf://owner/name"
        )
    if text.startswith("hf://"):
        return _from_hub(text)
    if isinstance(name_or_path, str) and (name := canonical_name(text)) is not None:
        bundled = bundled_priors()
        if name not in bundled:
            return _checked(_read_index()[name])
        if not bundled[name].is_file():
            raise PriorError(
                f"the bundled prior {name!r} is not in this installation "
                f"({bundled[name]}); reinstall mgdm, or give a checkpoint's path"
            )
        return bundled[name]
    path = Path(text).expanduser()
    shown = display_name(text)
    if path.suffix in {".ckpt", ".pt", ".pth", ".bin"}:
        raise UnknownPriorError(
            f"{shown}: a Lightning or PyTorch file must be imported first: "
            f"mgdm-models import msdm {shown} -o OUT.safetensors"
        )
    if path.is_file():
        return path
    if path.is_dir():
        raise UnknownPriorError(f"{shown}: a folder; give the checkpoint's file")
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise UnknownPriorError(
            f"{shown}: no such file; check the path, or give a name of 'mgdm-models list'"
        )
    known = ", ".join(entry.name for entry in list_priors())
    raise UnknownPriorError(
        f"unknown prior {text!r}; known are: {known}; or give the path of a .safetensors file, "
        f"or hf://owner/name"
    )


def load_prior(
    name_or_path: str | Path = DEFAULT_PRIOR,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    without: Sequence[str] = (),
) -> WaveformPrior:
    """Load a prior by name, path or address.

    Parameters
    ----------
    name_or_path
        As for :func:`resolve`.
    device, precision
        As for :class:`~mgdm_audio.priors.waveform_prior.WaveformPrior`; ``"auto"`` takes CUDA,
        then MPS, then the CPU.
    without : sequence of str
        Stems that recordings are known not to hold, such as ``("other",)`` where nothing but the
        named classes plays: the prior is told so, and is one of the stems that remain.

    Raises
    ------
    PriorError, CheckpointError, SettingsError
        In one line.
    """
    where = resolve_device(device)
    prior = store.load_prior(resolve(name_or_path), device=where, precision=precision)
    return closed_prior(prior, without) if without else prior


def _checked(entry: PriorEntry) -> Path:
    if not entry.available:
        raise PriorError(
            f"the prior {entry.name!r} was imported to {display_name(entry.path)}, which is gone; "
            f"import it again"
        )
    if read_layout(entry.path).header_sha256 != entry.header_sha256:
        raise PriorError(
            f"{display_name(entry.path)} is not the file that was registered as {entry.name!r} "
            f"(its checksum differs); import it again with --force"
        )
    return entry.path


def _from_hub(text: str) -> Path:
    address = hub.HubAddress.parse(text)
    path = hub.fetch(address, home() / "hub")
    entry = _read_index().get(str(address))
    if entry is None:
        register(str(address), path, source="hub")
    elif read_layout(path).header_sha256 != entry.header_sha256:
        raise PriorError(
            f"{address}: the file on the hub is not the one fetched before (its checksum "
            f"differs); if that is expected, name the revision (hf://owner/name@revision/file)"
        )
    return path
