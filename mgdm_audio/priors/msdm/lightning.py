"""What a Lightning checkpoint of MSDM holds, read without running anything in it.

The file is read as inert data (`archive`), and one copy of the network is chosen and checked
against our network key by key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgdm_audio.errors import CheckpointError, os_reason
from mgdm_audio.priors.msdm.archive import StoredTensor, TorchArchive, plain_value
from mgdm_audio.priors.msdm.inert_pickle import Call, Name
from mgdm_audio.priors.msdm.infer_config import infer_config
from mgdm_audio.priors.msdm.keys import from_published
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_core.array_types import Tensor

_LANDMARK = "to_time.0.0.weights"


@dataclass(frozen=True)
class MSDMNetwork:
    """What a Lightning checkpoint of MSDM holds.

    Parameters
    ----------
    state : dict
        Tensors by our names, float32.
    prefix : str
        Which copy of the network was taken, such as ``"model.unet."``.
    assumed : dict
        Settings that neither the tensors nor the hyper-parameters say.
    facts : dict
        Plain facts about the training, for the header.
    """

    config: UNet1dConfig
    state: dict[str, Tensor]
    prefix: str
    assumed: dict[str, Any]
    facts: dict[str, Any]


def read_msdm(path: str | Path) -> MSDMNetwork:
    """Read the network of a Lightning checkpoint, a ``.ckpt`` file in PyTorch's zip format.

    A file holds the same network several times (``model.unet.*`` and ``model.diffusion.net.*``);
    copies must agree. If there are exponential moving averages of the weights (a prefix with
    ``ema``), those are taken. A bare state dict is read too.

    Raises
    ------
    CheckpointError
        One line that says what is wrong with the file.
    """
    with TorchArchive(path) as archive:
        where = str(archive.path)
        content = archive.content
        if not isinstance(content, dict):
            raise CheckpointError(f"{where}: no checkpoint (it holds no mapping)")
        state = _items(content.get("state_dict", content))
        networks = _networks(archive, state)
        prefix = _choose(archive, networks)
        chosen = networks[prefix]
        hyper = _hyper_parameters(content)
        shapes = {name: tensor.shape for name, tensor in chosen.items()}
        config, assumed = infer_config(shapes, hyper, where)
        # Shapes are checked on what the file says, before gigabytes are read.
        promised = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in chosen.items()
        }
        from_published(promised, config.to_dict(), where)
        tensors = {name: archive.read(tensor) for name, tensor in chosen.items()}
        ours = from_published(tensors, config.to_dict(), where)
    facts = {
        "source": archive.path.name,
        "source_sha256": _file_sha256(archive.path),
        "weights_from": prefix or "the file's top level",
        "hyper_parameters": plain_value(hyper) if hyper is not None else None,
    }
    for key in ("epoch", "global_step", "pytorch-lightning_version"):
        if isinstance(content.get(key), int | str):
            facts[key.replace("-", "_")] = plain_value(content[key])
    return MSDMNetwork(config, ours, prefix, assumed, facts)


def _items(value: Any) -> dict[Any, Any]:
    """Items of a dict, or of an object that was filled like one."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Call):
        pairs = [item for item in value.items if isinstance(item, tuple) and len(item) == 2]
        return {key: entry for key, entry in pairs if isinstance(key, str)}
    return {}


def _networks(
    archive: TorchArchive, state: Mapping[Any, Any]
) -> dict[str, dict[str, StoredTensor]]:
    """Return the networks in a state dict, by the prefix of their keys."""
    names = [name for name in state if isinstance(name, str)]
    prefixes = sorted(
        name.removesuffix(_LANDMARK)
        for name in names
        if name == _LANDMARK or name.endswith(f".{_LANDMARK}")
    )
    if not prefixes:
        raise CheckpointError(
            f"{archive.path}: holds no MSDM network (no tensor named ...{_LANDMARK})"
        )
    networks: dict[str, dict[str, StoredTensor]] = {}
    for prefix in prefixes[:16]:
        found = {}
        for name in names:
            if name.startswith(prefix) and (
                prefix or not name.startswith(("model.", "model_ema."))
            ):
                stored = archive.stored(state[name])
                if stored is None:
                    raise CheckpointError(f"{archive.path}: {name!r:.100} is not a tensor")
                found[name.removeprefix(prefix)] = stored
        networks[prefix] = found
    return networks


def _choose(archive: TorchArchive, networks: Mapping[str, Mapping[str, StoredTensor]]) -> str:
    averaged = [prefix for prefix in networks if re.search(r"(^|[._])ema", prefix)]
    # Beside the averages an EMA module keeps the weights that training continues from.
    averaged = [prefix for prefix in averaged if "online_model" not in prefix] or averaged
    candidates = averaged or list(networks)
    best = min(candidates, key=lambda prefix: (not prefix.endswith("unet."), len(prefix), prefix))
    for prefix in candidates:
        if prefix != best and not _agree(archive, networks[best], networks[prefix]):
            raise CheckpointError(
                f"{archive.path}: its copies of the network, {best}* and {prefix}*, differ; "
                f"it is not clear which one is meant"
            )
    return best


def _agree(
    archive: TorchArchive, a: Mapping[str, StoredTensor], b: Mapping[str, StoredTensor]
) -> bool:
    if set(a) != set(b):
        return False
    # The copies share their storages as a rule, and nothing has to be read.
    return all(
        a[name] == b[name]
        or (
            a[name].shape == b[name].shape
            and torch.equal(archive.read(a[name]), archive.read(b[name]))
        )
        for name in a
    )


def _hyper_parameters(content: Mapping[str, Any]) -> dict[str, Any] | None:
    value = content.get("hyper_parameters")
    if value is None:
        return None
    plain = {}
    for key, entry in _items(value).items():
        if not isinstance(key, str):
            continue
        if isinstance(entry, Call) and isinstance(entry.function, Name):
            # Such as the distribution of training noise: its class's name and its settings.
            state = entry.state if isinstance(entry.state, dict) else {}
            plain[key] = {"class": plain_value(_class_of(entry))} | plain_value(state, 2)
        else:
            plain[key] = plain_value(entry)
    return plain


def _class_of(call: Call) -> Any:
    """Class of a recorded object, also when it was made by ``copyreg``'s reconstructor."""
    arguments = call.arguments
    if call.function == Name("copyreg", "_reconstructor") and isinstance(arguments, tuple):
        return arguments[0] if arguments else call.function
    return call.function


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({os_reason(error)})") from error
    return digest.hexdigest()
