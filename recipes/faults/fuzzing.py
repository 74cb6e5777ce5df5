"""The readers of files that strangers wrote, fed with what no program wrote.

``python -m recipes.faults.fuzzing TARGET SECONDS FOLDER`` feeds one reader in this process until
the time is over or something goes wrong; `python -m recipes.faults fuzz` calls it for each. With
atheris, inputs grow where they reach new code; without it, seeds are damaged at random.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LIMIT_MB", "TARGETS", "Target", "feed", "seeds_of"]

LIMIT_MB = 1024
"""Memory that a reader may take, the libraries it stands on included."""

TIMEOUT = 60
"""Seconds that a reader may take for one input."""

Target = Callable[[bytes, Path], object]
"""Reads bytes, with a folder for those that are read from a file; raises MGDMError alone."""

_EXTENSIONS = ("wav", "aiff", "flac", "ogg", "mp3", "w64", "caf", "au", "m4a", "mka")


def _audio(data: bytes, folder: Path) -> None:
    """The first byte chooses the name's ending, the rest is the file."""
    from mgdm_audio.io.reader import open_blocks, probe

    path = folder / f"sound.{_EXTENSIONS[data[0] % len(_EXTENSIONS)] if data else 'wav'}"
    path.write_bytes(data[1:])
    probe(path)
    for number, _ in enumerate(open_blocks(path, 4096)):
        if number == 20:
            break


def _checkpoint(data: bytes, folder: Path) -> None:
    from mgdm_audio.priors.checkpoint.store import verify

    path = folder / "prior.safetensors"
    path.write_bytes(data)
    verify(path)


def _metadata(data: bytes, folder: Path) -> None:
    """The bytes are what a checkpoint says of its prior; all else of the file is as it was."""
    from mgdm_audio.priors.checkpoint.store import verify

    whole = _tiny_prior()
    size = 8 + int.from_bytes(whole[:8], "little")
    layout = json.loads(whole[8:size])
    layout["__metadata__"]["mgdm"] = data.decode("utf-8", "replace")
    header = json.dumps(layout).encode()
    path = folder / "prior.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[size:])
    verify(path)


def _pickle(data: bytes, folder: Path) -> None:
    from mgdm_audio.priors.msdm.inert_pickle import read_inert

    read_inert(data, "a pickle")


def _archive(data: bytes, folder: Path) -> None:
    from mgdm_audio.priors.msdm.importer import read_msdm

    path = folder / "last.ckpt"
    path.write_bytes(data)
    read_msdm(path)


def _description(data: bytes, folder: Path) -> None:
    """The bytes are the pickle within an archive; all else of the file is as it was."""
    whole, buffer = zipfile.ZipFile(io.BytesIO(_tiny_lightning())), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, data if name.endswith("data.pkl") else whole.read(name))
    _archive(buffer.getvalue(), folder)


TARGETS: dict[str, Target] = {
    "audio": _audio,
    "checkpoint": _checkpoint,
    "metadata": _metadata,
    "pickle": _pickle,
    "archive": _archive,
    "description": _description,
}


@cache
def _tiny_prior() -> bytes:
    from recipes.faults.material import write_prior

    with tempfile.TemporaryDirectory() as folder:
        write_prior(Path(folder) / "prior.safetensors")
        return (Path(folder) / "prior.safetensors").read_bytes()


@cache
def _tiny_lightning() -> bytes:
    """A published network as small as it may be, in a file as Lightning writes them."""
    import torch

    from mgdm_audio.priors.msdm.keys import published_name, published_shape
    from mgdm_audio.priors.networks import build_network, expected_tensors

    config = {
        "in_channels": 1, "channels": 16, "patch_factor": 2, "patch_blocks": 1, "resnet_groups": 2,
        "kernel_multiplier_downsample": 2, "multipliers": [1, 1], "factors": [2], "num_blocks": [1],
        "attentions": [True], "attention_heads": 1, "attention_features": 4,
        "attention_multiplier": 1, "use_nearest_upsample": False, "use_skip_scale": True,
        "use_attention_bottleneck": False,
    }  # fmt: skip
    ours = expected_tensors(build_network("unet1d", config, meta=True))
    state = {
        f"model.unet.{published_name(key)}": torch.zeros(published_shape(key, shape))
        for key, (shape, _) in ours.items()
    }
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "hyper_parameters": config, "epoch": 3}, buffer)
    return buffer.getvalue()


def seeds_of(target: str) -> list[bytes]:
    """Inputs to begin with: what programs do write."""
    if target == "audio":
        from recipes.faults.bad_files import good_files

        found = []
        for extension, data in good_files().items():
            ending = extension.rsplit(".", maxsplit=1)[-1]
            number = _EXTENSIONS.index("ogg" if ending == "opus" else ending)
            found.append(bytes([number]) + data)
        return found
    if target == "checkpoint":
        return [_tiny_prior()]
    if target == "metadata":
        whole = _tiny_prior()
        layout = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        return [layout["__metadata__"]["mgdm"].encode()]
    if target == "archive":
        return [_tiny_lightning()]
    if target == "description":
        whole = zipfile.ZipFile(io.BytesIO(_tiny_lightning()))
        return [whole.read(name) for name in whole.namelist() if name.endswith("data.pkl")]
    values = {
        "state_dict": OrderedDict({"model.unet.to_in.weight": None, "step": 3}),
        "hyper_parameters": {"channels": 8, "factors": [4, 2], "rate": 1e-4, "names": ("a", {"b"})},
        "epoch": 2**40,
    }
    return [pickle.dumps(values, protocol) for protocol in range(6)]


def feed(target: str, data: bytes, folder: Path) -> None:
    """Let a reader read; its own errors are what it should say."""
    from mgdm_core.errors import MGDMError

    with contextlib.suppress(MGDMError):
        TARGETS[target](data, folder)


_NUMBERS = (0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def _damaged(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """A seed with up to eight things done to it, mostly near its beginning."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 9)):
        size = max(1, len(data))
        at = int(size * rng.random() ** rng.integers(1, 6))
        run = int(2 ** rng.uniform(0, 6))
        match rng.integers(6):
            case 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            case 1:
                data[at : at + run] = rng.bytes(run)
            case 2:
                del data[at : at + run]
            case 3:
                data[at:at] = rng.bytes(run)
            case 4:
                number = _NUMBERS[rng.integers(len(_NUMBERS))]
                data[at : at + 8] = number.to_bytes(8, "little")
            case _:
                first = int(rng.integers(size))
                data[at:at] = data[first : first + run]
    return bytes(data)


_ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 3, 7, 255, 2**20, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e300,
    float("nan"), float("inf"), "", "a", "/", "a" * 300, [], [0], [1, -1], [2] * 500, {}, {"a": 1},
)  # fmt: skip


def _odd_json(data: bytes, rng: np.random.Generator) -> bytes | None:
    """The JSON object with some of its values replaced by odd ones; None if it is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.integers(1, 4)):
        place = content
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[int(rng.integers(len(keys)))]
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.2:
                place[key] = deepcopy(_ODD[int(rng.integers(len(_ODD)))])
                break
            place = inner
    return json.dumps(content).encode()


def _changed(target: str, seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """A new input: of metadata mostly one that is JSON still."""
    if target == "metadata" and rng.random() < 0.8:
        odd = _odd_json(seeds[int(rng.integers(len(seeds)))], rng)
        if odd is not None:
            return odd
    return _damaged(seeds, rng)


def _at_random(target: str, seconds: float, folder: Path, seed: int) -> int:
    """Feed damaged seeds; what goes wrong ends the process, the last input stays in a file."""
    seeds, rng = seeds_of(target), np.random.default_rng(seed)
    ends, count = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < ends:
            data = _changed(target, seeds, rng)
            (folder / "last").write_bytes(data)
            signal.alarm(TIMEOUT)  # ends the process
            try:
                feed(target, data, Path(scratch))
            finally:
                signal.alarm(0)
            count += 1
    return count


def _with_atheris(target: str, seconds: float, folder: Path, seed: int) -> None:
    """Let atheris choose the inputs; it ends the process, and keeps an input that went wrong."""
    atheris: Any = import_module("atheris")

    with atheris.instrument_imports(include=["mgdm_audio"]):
        import mgdm_audio.io.reader
        import mgdm_audio.priors.checkpoint.store
        import mgdm_audio.priors.msdm.importer  # noqa: F401

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    seeds = seeds_of(target)
    for number, data in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(data)
    scratch = Path(tempfile.mkdtemp(prefix="mgdm-fuzz-"))
    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-rss_limit_mb={LIMIT_MB}",
        f"-artifact_prefix={folder}/",
        f"-seed={seed + 1}",
        f"-max_len={2 * max(map(len, seeds))}",  # a seed that is cut off opens no door
        f"-timeout={TIMEOUT}",
        "-print_final_stats=1",
        "-verbosity=0",
    ]

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        odd = _odd_json(data, rng) if rng.random() < 0.8 else None
        return odd[:max_size] if odd else atheris.Mutate(data, max_size)

    own = {"custom_mutator": mutated} if target == "metadata" else {}
    words = [sys.argv[0], *options, str(corpus)]
    atheris.Setup(words, lambda data: feed(target, data, scratch), **own)
    atheris.Fuzz()


def main(arguments: list[str]) -> None:
    """Feed one reader; prints how many inputs it read and how much memory it took."""
    target, seconds, folder, seed = arguments[0], float(arguments[1]), Path(arguments[2]), 0
    if len(arguments) > 3:
        seed = int(arguments[3])
    folder.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(1)
    try:
        import atheris  # noqa: F401
    except ImportError:
        count = _at_random(target, seconds, folder, seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"stat::number_of_executed_units: {count}\nstat::peak_rss_mb: {peak}")
        if peak > LIMIT_MB:
            raise SystemExit(f"it took {peak} MB of memory; {LIMIT_MB} are allowed") from None
        return
    _with_atheris(target, seconds, folder, seed)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
