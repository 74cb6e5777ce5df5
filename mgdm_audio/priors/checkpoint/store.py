"""Prior checkpoints: safetensors files whose header says everything needed to build the prior.

The metadata key ``mgdm`` holds JSON with the fields of :class:`PriorHeader`. Reading one never
runs anything: the header and every tensor's shape are checked before the network is built, and
the tensors' SHA-256 before the prior is handed out. docs/checkpoints.md describes the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from mgdm_audio.errors import CheckpointError
from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.checkpoint.layout import (
    Layout,
    compare_names,
    hash_tensors,
    read_layout,
)
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.networks import build_network, expected_tensors
from mgdm_audio.priors.waveform_prior import WaveformPrior, make_prior
from mgdm_core.array_types import Tensor
from mgdm_core.errors import SettingsError

_STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _header_of(layout: Layout) -> PriorHeader:
    if "mgdm" not in layout.metadata:
        raise CheckpointError(
            f"{layout.path}: a safetensors file, but not one of a prior (no 'mgdm' metadata); "
            f"export it with mgdm_audio.priors.save_prior"
        )
    try:
        header = PriorHeader.from_json(layout.metadata["mgdm"])
        network = build_network(header.network, header.config, meta=True)
    except CheckpointError as error:
        raise CheckpointError(f"{layout.path}: {error}") from error
    _compare(expected_tensors(network), layout.tensors, str(layout.path))
    return header


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    compare_names(expected, found, where)
    for key, (shape, dtype) in expected.items():
        if found[key][0] != shape:
            raise CheckpointError(
                f"{where}: tensor {key!r} must have the shape {shape}; found {found[key][0]}"
            )
        if found[key][1].is_floating_point != dtype.is_floating_point:
            raise CheckpointError(
                f"{where}: tensor {key!r} must be like {dtype}; found {found[key][1]}"
            )


def read_header(path: str | Path) -> PriorHeader:
    """Read what a checkpoint says, after checking its layout, keys and shapes (not its digest).

    Raises
    ------
    CheckpointError
        One line that says what is wrong with the file.
    """
    return _header_of(read_layout(path))


def verify(path: str | Path) -> PriorHeader:
    """Check a checkpoint wholly, its tensors' digest and finiteness included.

    Raises
    ------
    CheckpointError
        One line that says what is wrong with the file.
    """
    layout = read_layout(path)
    header = _header_of(layout)
    digest = hash_tensors(_finite(layout))
    _check_digest(layout.path, header, digest)
    return header


def _finite(layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in layout.read_tensors():
        if not _is_finite(tensor):
            raise CheckpointError(f"{layout.path}: tensor {name!r} holds NaN or infinity")
        yield name, tensor


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # NaN and infinity survive a sum, which is several times faster than looking at each number;
    # a sum of finite numbers may overflow too, so that only then each is looked at.
    total = tensor.sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def _check_digest(path: Path, header: PriorHeader, digest: str) -> None:
    if digest != header.tensors_sha256:
        raise CheckpointError(
            f"{path}: corrupted: the tensors' SHA-256 is {digest[:12]}..., the header says "
            f"{header.tensors_sha256[:12]}...; fetch or export it again"
        )


def load_prior(
    path: str | Path, device: str | torch.device = "cpu", precision: str = "auto"
) -> WaveformPrior:
    """Build the prior of a checkpoint.

    Parameters
    ----------
    path : str or Path
        A safetensors file as :func:`save_prior` writes them; see ``catalogue.resolve`` for names.
    precision : str
        ``"auto"``, ``"float32"`` or ``"bfloat16"``: arithmetic inside the network.

    Returns
    -------
    WaveformPrior
        Half-precision weights are widened to float32 first.

    Raises
    ------
    CheckpointError
        One line that says what is wrong with the file.
    """
    layout = read_layout(path)
    header = _header_of(layout)
    state: dict[str, Tensor] = {}

    def widened() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in _finite(layout):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
            yield name, tensor

    _check_digest(layout.path, header, hash_tensors(widened()))
    network = build_network(header.network, header.config, meta=True)
    network.load_state_dict(state, assign=True)
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        # Tensors that the network makes itself and does not store need a real construction.
        network = build_network(header.network, header.config)
        network.load_state_dict(state)
    return make_prior(
        network,
        stems=header.stems,
        rate=header.rate,
        window=header.window,
        levels=header.levels,
        name=header.name or layout.path.stem,
        licence=header.licence,
        training=header.training,
        checksum=header.checksum,
        config=header.config,
        kind=header.network,
        device=device,
        precision=precision,
    )


def _stored(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    learned = {name for name, _ in network.named_parameters()}
    state = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().to("cpu")
        # Statistics such as average powers span more octaves than half precision has.
        if tensor.is_floating_point():
            tensor = tensor.to(dtype if name in learned else torch.float32)
            if not _is_finite(tensor):
                raise CheckpointError(f"tensor {name!r} holds NaN or infinity as {dtype}")
        state[name] = tensor.contiguous()
    return state


def save_prior(
    path: str | Path,
    network: nn.Module,
    *,
    kind: str,
    config: Mapping[str, Any],
    stems: Sequence[str],
    rate: int,
    window: int,
    sigma_data: float,
    levels: Levels | Mapping[str, Any],
    licence: str,
    training: Mapping[str, Any] | None = None,
    name: str = "",
    dtype: torch.dtype = torch.float32,
) -> PriorHeader:
    """Write a network and everything that is to be known about it; whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends in ``.safetensors``; replaced if it exists.
    network : nn.Module
        A network of this kind and configuration, with its weights.
    kind, config, stems, rate, window, sigma_data, levels, licence, training, name
        The header's fields, see :class:`PriorHeader`; ``kind`` is its ``network``.
    dtype : torch.dtype
        How learned weights are stored: float32, float16 or bfloat16; buffers stay float32.

    Raises
    ------
    CheckpointError
        If the network is not of that configuration, has values that are not finite, or the file
        cannot be written.
    SettingsError
        If a field of the header is outside its domain.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a checkpoint's name ends in .safetensors")
    if dtype not in _STORED_DTYPES:
        raise SettingsError(f"weights are stored as float32, float16 or bfloat16; found {dtype}")
    state = _stored(network, dtype)
    plain = json.loads(json.dumps(dict(config)))  # tuples become lists, as after a round trip
    expected = expected_tensors(build_network(kind, plain, meta=True))
    found = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
    _compare(expected, found, f"the network does not have the configuration given for {path.name}")
    header = PriorHeader(
        network=kind,
        config=plain,
        stems=tuple(stems),
        rate=rate,
        window=window,
        sigma_data=float(sigma_data),
        levels=levels if isinstance(levels, Levels) else Levels(**levels),
        licence=licence,
        training=dict(training or {}),
        name=name,
        tensors_sha256=hash_tensors(sorted(state.items())),
    )
    try:
        metadata = {"mgdm": header.to_json()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"training facts must be finite JSON values ({error})") from error

    with replacing(path, refused=CheckpointError) as temporary:
        try:
            save_file(state, temporary, metadata=metadata)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error
    return header
