"""The layout of a safetensors file, checked before any of its tensors is touched.

safetensors itself refuses files that are truncated, too long, or whose tensors overlap, leave
holes or do not match their shapes. Added here: one line for each refusal, the dtypes that a prior
may have, and the digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from mgdm_audio.errors import CheckpointError, os_reason
from mgdm_core.array_types import Tensor

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StoredAs(NamedTuple):
    """A tensor's shape and dtype in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """A file's header: its metadata, its tensors, and the header's own SHA-256."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, StoredAs]
    header_sha256: str

    def read_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor as stored), sorted by name, each read from the file when asked for.

        Raises
        ------
        CheckpointError
            If the file was changed meanwhile, or cannot be read.
        """
        try:
            with safe_open(self.path, "pt") as file:
                for name in sorted(self.tensors):
                    yield name, file.get_tensor(name).clone()  # else it stays mapped to the file
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.path, error) from error


def compare_names(expected: Collection[str], found: Collection[str], where: str) -> None:
    """Refuse tensors that are missing or left over, by a CheckpointError that begins ``where``."""
    missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    for names, fault in ((missing, "tensor(s) missing"), (extra, "unexpected tensor(s)")):
        if names:
            raise CheckpointError(f"{where}: {len(names)} {fault}, the first is {names[0]!r}")


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors given in the order of their names.

    Raises
    ------
    CheckpointError
        For a dtype that the format, as used here, does not have.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if tensor.dtype not in names:
            raise CheckpointError(
                f"tensors of {tensor.dtype} cannot be stored; use one of {', '.join(DTYPES)}"
            )
        shape = ",".join(str(n) for n in tensor.shape)
        digest.update(f"{name} {names[tensor.dtype]} {shape}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if len(flat):
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_layout(path: str | Path) -> Layout:
    """Read and check the header of a safetensors file.

    Raises
    ------
    CheckpointError
        If the file is missing, is no safetensors file, is truncated or damaged, or holds a dtype
        that no prior has.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; check the path of the checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file; give the path of the checkpoint's file")
    tensors = {}
    try:
        with path.open("rb") as file:
            first = file.read(8)
            if first.startswith(b"PK\x03\x04"):
                raise CheckpointError(
                    f"{path}: not a safetensors file; a .ckpt or .pt file must be imported "
                    f"first: mgdm-models import msdm"
                )
            with safe_open(path, "pt") as checked:
                metadata = checked.metadata() or {}
                for name in checked.keys():  # noqa: SIM118 - it is no dict
                    place = checked.get_slice(name)
                    kind = place.get_dtype()
                    if kind not in DTYPES:
                        raise CheckpointError(
                            f"{path}: tensor {name!r} has the dtype {kind!r}, which is not "
                            f"supported"
                        )
                    tensors[name] = StoredAs(tuple(place.get_shape()), DTYPES[kind])
            header = file.read(int.from_bytes(first, "little"))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return Layout(path, metadata, tensors, hashlib.sha256(first + header).hexdigest())


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, OSError):
        return CheckpointError(f"{path}: cannot be read ({os_reason(error)})")
    reason = str(error).removeprefix("Error while deserializing header: ")
    return CheckpointError(
        f"{path}: not a safetensors file, or truncated or damaged ({reason:.120}); fetch or "
        f"export it again"
    )
