"""The record beside a track's stems: what made them, and whether they are still that.

``mgdm.json`` holds an identity (everything that the stems depend on) and the size and digest of
every output. A run goes on only where both agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from mgdm_audio.errors import AudioWriteError, display_name
from mgdm_audio.separation.request import SeparateRequest


def settings_as_json(value: Any) -> Any:
    """Settings as plain JSON values, the same in every process; an object is named by its class.

    The order of a set differs from process to process, so sets are sorted.
    """
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: settings_as_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **inner}
    if isinstance(value, Mapping):
        return {str(k): settings_as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [settings_as_json(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((settings_as_json(v) for v in value), key=repr)
    if isinstance(value, str | int | float | bool | None):
        return value
    told = repr(value)
    return type(value).__name__ if " at 0x" in told else told


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def identity(
    request: SeparateRequest, checksum: str, precision: str, source: Path
) -> dict[str, Any]:
    """Everything that a track's outputs depend on; where the input lies does not matter."""
    return {
        "input": describe_file(source),
        "prior": {"checksum": checksum, "precision": precision},
        "sampling": settings_as_json(request.sampling),
        "seed": request.seed,
        "stems": list(request.choice.names),
        "without": sorted(request.without),
        "format": settings_as_json(request.choice.format),
        "raw": request.raw,
        "save_samples": request.save_samples,
        "uncertainty": request.uncertainty,
        "on_clip": request.on_clip,
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            out |= flat(inner, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = inner
    return out


def is_finished(record: Path, outputs: Iterable[Path], wanted: Mapping[str, Any]) -> bool:
    """Whether a run with this identity has written all files of a track, and they are still there.

    Returns
    -------
    bool
        False where nothing is there yet, or files of the very same run are missing.

    Raises
    ------
    AudioWriteError
        If what is there was made otherwise or has been replaced since, saying by what.
    """
    label = display_name(record.parent)
    advice = "use --overwrite to replace it, or another --out"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        known, files = dict(found["identity"]), dict(found["outputs"])
    except FileNotFoundError:
        there = [path for path in outputs if path.exists()]
        if there:
            raise AudioWriteError(
                f"{display_name(there[0])}: is there without a record of its run; {advice}"
            ) from None
        return False
    except (OSError, ValueError, KeyError, TypeError):
        raise AudioWriteError(
            f"{display_name(record)}: is no record that can be read; {advice}"
        ) from None
    old, new = flat(known), flat(wanted)
    for key in (*new, *(key for key in old if key not in new)):
        if old.get(key) != new.get(key):
            what = "the input" if key.startswith("input.") else key
            change = f" ({_short(old.get(key))}, now {_short(new.get(key))})"
            raise AudioWriteError(
                f"{label}: was separated with other settings: {what} differs{change}; {advice}"
            )
    complete = True
    for name, facts in files.items():
        path = record.parent / name
        if not path.exists():
            complete = False
        elif describe_file(path) != facts:
            raise AudioWriteError(
                f"{display_name(path)}: has been changed since it was written; {advice}"
            )
    return complete


def outputs_of(record: Path) -> list[Path]:
    """Files that a record names as its outputs, beside it; none where it cannot be read."""
    try:
        names = [Path(name) for name in json.loads(record.read_text(encoding="utf-8"))["outputs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    # A record is no reason to touch a file anywhere else.
    return [record.parent / name for name in names if name.name == str(name)]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
