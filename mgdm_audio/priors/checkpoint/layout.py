"""The layout of a safetensors file, read and checked before any of its tensors is touched.

The format: eight bytes with the length n of a header (little endian), n bytes of JSON that map
each tensor's name to its dtype, shape and place, then the tensors' bytes without holes. The
JSON's ``__metadata__`` maps text to text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mgdm_audio.errors import CheckpointError
from mgdm_core.array_types import Tensor

__all__ = ["DTYPES", "Layout", "TensorPlace", "dtype_name", "hash_tensors", "read_layout"]

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
_LARGEST_HEADER = 16 * 2**20


@dataclass(frozen=True)
class TensorPlace:
    """Where one tensor lies in a file: ``start`` and ``end`` are offsets from the file's begin."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """A file's header: its metadata, its tensors' places, and the header's own SHA-256."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorPlace]
    header_sha256: str
    size: int = field(default=0)

    def read_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor as stored), sorted by name, each read from the file when asked for.

        Raises
        ------
        CheckpointError
            If the file became shorter meanwhile, or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for name in sorted(self.tensors):
                    place = self.tensors[name]
                    file.seek(place.start)
                    raw = bytearray(place.end - place.start)
                    if file.readinto(raw) != len(raw):
                        raise CheckpointError(f"{self.path}: tensor {name!r} is cut short")
                    if not raw:
                        yield name, torch.empty(place.shape, dtype=place.dtype)
                        continue
                    flat = torch.frombuffer(raw, dtype=torch.uint8)
                    if place.dtype == torch.bool:
                        yield name, flat.bool().reshape(place.shape)
                    else:
                        yield name, flat.view(place.dtype).reshape(place.shape)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from error


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype in the format.

    Raises
    ------
    CheckpointError
        If the format, as used here, does not have it.
    """
    for name, candidate in DTYPES.items():
        if candidate == dtype:
            return name
    raise CheckpointError(f"tensors of {dtype} cannot be stored; use one of {', '.join(DTYPES)}")


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors given in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        shape = ",".join(str(n) for n in tensor.shape)
        digest.update(f"{name} {dtype_name(tensor.dtype)} {shape}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if len(flat):
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _place(path: Path, name: str, entry: Any, data_start: int) -> TensorPlace:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} has no dtype, shape and data_offsets; the file is damaged")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(f"{where} has the dtype {entry['dtype']!r}, which is not supported")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise CheckpointError(f"{where} has a shape or offsets that are not whole numbers")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{where}: its bytes do not match its shape {shape}")
    return TensorPlace(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def read_layout(path: str | Path) -> Layout:
    """Read and check the header of a safetensors file.

    Raises
    ------
    CheckpointError
        If the file is missing, is no safetensors file, is truncated, or its tensors overlap,
        leave holes or reach beyond its end.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or first[:4] == b"PK\x03\x04":
                raise CheckpointError(
                    f"{path}: not a safetensors file"
                    + (
                        "; a .ckpt or .pt file must be imported first: mgdm-models import msdm"
                        if first[:4] == b"PK\x03\x04"
                        else " (shorter than 8 bytes)"
                    )
                )
            if length > _LARGEST_HEADER:
                raise CheckpointError(f"{path}: not a safetensors file (header of {length} bytes)")
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if len(header) < length:
        raise CheckpointError(f"{path}: truncated inside its header; fetch or export it again")
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file (its header is no JSON)") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: not a safetensors file (its header is no JSON object)")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: the metadata of a safetensors file maps text to text")
    start = 8 + length
    tensors = {name: _place(path, name, entry, start) for name, entry in entries.items()}
    end = start
    for name, place in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != end:
            raise CheckpointError(f"{path}: tensor {name!r} leaves a hole or overlaps another")
        end = place.end
    if end > size:
        raise CheckpointError(f"{path}: truncated: {size} bytes of {end}; fetch or export it again")
    if end < size:
        raise CheckpointError(f"{path}: {size - end} bytes too long; the file is damaged")
    digest = hashlib.sha256(first + header).hexdigest()
    return Layout(path, metadata, tensors, digest, size)
