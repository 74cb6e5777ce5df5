"""Read a file of ``torch.save`` without running anything in it.

Such a file is a zip archive: ``<top>/data.pkl`` describes the object, ``<top>/data/<key>`` holds
the bytes of each storage, uncompressed. The description is read as inert data (`inert_pickle`);
the few calls that make tensors are recognised by name and carried out by the code here.
"""

from __future__ import annotations

import math
import struct
import zipfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgdm_audio.errors import CheckpointError, os_reason
from mgdm_audio.priors.msdm.inert_pickle import Call, Name, Reference, read_inert
from mgdm_core.array_types import Tensor

_LARGEST_DESCRIPTION = 32 * 2**20
_MOST_ENTRIES = 100_000
# What zipfile raises over a directory that lies: names that are no text, sizes that do not fit.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
_STORAGES = {
    Name("torch", f"{kind}Storage"): dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_REBUILD_TENSOR = {
    Name("torch._utils", "_rebuild_tensor"),
    Name("torch._utils", "_rebuild_tensor_v2"),
}
_REBUILD_PARAMETER = {
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch._utils", "_rebuild_parameter_with_state"),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's numbers are: a view of a storage in the archive.

    ``storage`` is the storage's key and ``numel`` how many numbers it has; the view begins at
    number ``offset`` of them.
    """

    storage: str
    dtype: torch.dtype
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchArchive(AbstractContextManager["TorchArchive"]):
    """An open file of ``torch.save``.

    Attributes
    ----------
    content : object
        What was saved, as inert data; tensors are `Call` records for :meth:`stored`.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, damaged, no zip archive, or not one of ``torch.save``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; check the path of the checkpoint")
        if not path.is_file():
            raise CheckpointError(f"{path}: not a file; give the path of the checkpoint's file")
        try:
            with path.open("rb") as file:
                first = file.read(16)
            self.size = path.stat().st_size
            if not first.startswith(b"PK\x03\x04"):
                raise CheckpointError(f"{path}: {_what_it_is(first)}")
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({os_reason(error)})") from error
        except _DAMAGE as error:
            raise CheckpointError(
                f"{path}: truncated or damaged ({error}); fetch it again"
            ) from error
        try:
            self._top = self._check_entries()
            self.content = read_inert(self._bytes("data.pkl", _LARGEST_DESCRIPTION), str(path))
        except BaseException:
            self._zip.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _check_entries(self) -> str:
        entries = self._zip.infolist()
        if len(entries) > _MOST_ENTRIES:
            raise CheckpointError(f"{self.path}: {len(entries)} entries; no checkpoint has so many")
        tops = {
            name.removesuffix("data.pkl")
            for name in self._zip.namelist()
            if name.count("/") <= 1 and name.endswith("data.pkl")
        }
        if len(tops) != 1:
            raise CheckpointError(f"{self.path}: a zip archive, but not one of torch.save")
        if len({entry.filename for entry in entries}) != len(entries):
            raise CheckpointError(f"{self.path}: an entry occurs twice")
        for entry in entries:
            # torch.save never compresses: what unpacks to more than it takes is a bomb.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{self.path}: the entry {entry.filename!r} is compressed, which torch.save "
                    f"never does"
                )
        if sum(entry.file_size for entry in entries) > self.size:
            raise CheckpointError(f"{self.path}: its entries overlap")
        (top,) = tops
        if f"{top}byteorder" in self._zip.namelist():
            self._top = top
            if self._bytes("byteorder", 16).strip() != b"little":
                raise CheckpointError(f"{self.path}: written on a big-endian machine")
        return top

    def _bytes(self, name: str, largest: int) -> bytes:
        try:
            entry = self._zip.getinfo(f"{self._top}{name}")
            if entry.file_size > largest:
                raise CheckpointError(
                    f"{self.path}: the entry {name!r} has {entry.file_size} bytes, "
                    f"over the limit of {largest}"
                )
            return self._zip.read(entry)
        except KeyError as error:
            raise CheckpointError(f"{self.path}: the entry {name!r} is missing") from error
        except (OSError, *_DAMAGE) as error:
            raise CheckpointError(
                f"{self.path}: the entry {name!r} is damaged ({error}); fetch the file again"
            ) from error

    # -- tensors ----------------------------------------------------------------------------------

    def stored(self, value: Any) -> StoredTensor | None:
        """Recognise a tensor or parameter in the content; None for anything else.

        Raises
        ------
        CheckpointError
            If it is a tensor whose description does not fit its storage.
        """
        for _ in range(4):  # a parameter around a tensor, perhaps around another parameter
            if not isinstance(value, Call) or not isinstance(value.arguments, tuple):
                return None
            if value.function not in _REBUILD_PARAMETER or not value.arguments:
                break
            value = value.arguments[0]
        if not isinstance(value, Call) or not isinstance(value.function, Name):
            return None
        if value.function not in _REBUILD_TENSOR or not isinstance(value.arguments, tuple):
            return None
        return self._describe(value.arguments)

    def _describe(self, arguments: tuple[Any, ...]) -> StoredTensor:
        bad = CheckpointError(f"{self.path}: a tensor's description is damaged")
        if len(arguments) < 4 or not isinstance(arguments[0], Reference):
            raise bad
        identity, (offset, shape, stride) = arguments[0].identity, arguments[1:4]
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise bad
        kind, key, numel = identity[1], identity[2], identity[4]
        if not isinstance(kind, Name) or kind not in _STORAGES or not isinstance(key, str):
            raise bad
        if not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise bad
        numbers = [numel, offset, *shape, *stride]
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise bad
        if max(numbers) > self.size:
            raise CheckpointError(f"{self.path}: a tensor larger than the file")
        if len(shape) != len(stride) or len(shape) > 16:
            raise bad
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if 0 not in shape and last >= numel:
            raise CheckpointError(f"{self.path}: a tensor reaches beyond its storage {key[:40]!r}")
        return StoredTensor(key, _STORAGES[kind], numel, offset, shape, stride)

    def read(self, tensor: StoredTensor) -> Tensor:
        """Read a tensor's numbers, contiguous.

        Raises
        ------
        CheckpointError
            If the storage is missing, too short or damaged, or the view is larger than the
            storage (numbers used more than once).
        """
        count = math.prod(tensor.shape)
        if count > tensor.numel:
            raise CheckpointError(
                f"{self.path}: a tensor of {count} numbers over a storage of {tensor.numel}"
            )
        raw = self._bytes(f"data/{tensor.storage}", self.size)
        if len(raw) != tensor.numel * tensor.dtype.itemsize:
            raise CheckpointError(
                f"{self.path}: the storage {tensor.storage[:40]!r} has {len(raw)} bytes; "
                f"expected {tensor.numel * tensor.dtype.itemsize}"
            )
        if count == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        flat = flat.bool() if tensor.dtype == torch.bool else flat.view(tensor.dtype)
        return flat.as_strided(tensor.shape, tensor.stride, tensor.offset).clone(
            memory_format=torch.contiguous_format
        )


def _what_it_is(first: bytes) -> str:
    if first[:1] == b"\x80" or b"ustar" in first:
        return (
            "written in the format before PyTorch 1.6, which is not read; load it with the "
            "program that made it and save it again"
        )
    if len(first) < 16:
        return "truncated: shorter than any checkpoint"
    return "not a PyTorch checkpoint (no zip archive)"


def plain_value(value: Any, depth: int = 4, budget: list[int] | None = None) -> Any:
    """Plain JSON value of inert data; classes and calls become a text that names them.

    Parameters
    ----------
    depth : int
        Containers nested deeper become ``"..."``.
    budget : list of int, optional
        Number of values that may still be given; shared structures could otherwise grow.
    """
    left = [2000] if budget is None else budget
    left[0] -= 1
    if left[0] < 0:
        return "..."
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        # JSON has no infinity, and Python writes no integer of over 4300 digits.
        return value if abs(value) < 1e300 else "..."
    if isinstance(value, str):
        return value[:500]
    if isinstance(value, Name):
        return f"<{value.module[:100]}.{value.name[:100]}>"
    if isinstance(value, Call):
        return plain_value(value.function, 0, left) if isinstance(value.function, Name) else "..."
    if depth <= 0:
        return "..."
    if isinstance(value, list | tuple):
        return [plain_value(item, depth - 1, left) for item in value[:100]]
    if isinstance(value, dict):
        pairs = list(value.items())[:100]
        return {
            str(k)[:100]: plain_value(v, depth - 1, left) for k, v in pairs if isinstance(k, str)
        }
    return "..."
