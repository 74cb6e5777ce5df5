"""Priors on the Hugging Face hub: fetched by address, pushed with a card.

Needs ``pip install 'mgdm[hub]'``. Nothing is fetched or sent unless somebody writes an ``hf://``
address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgdm_audio.errors import PriorError, UnknownPriorError
from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.checkpoint.store import verify

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/([\w./-]+))?")
_FILE = "prior.safetensors"


@dataclass(frozen=True)
class HubAddress:
    """``hf://owner/name[@revision][/file]``; the file is ``prior.safetensors`` by default.

    A revision is a branch, a tag or a commit.
    """

    repository: str
    file: str = _FILE
    revision: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repository}{revision}/{self.file}"

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read an address.

        Raises
        ------
        UnknownPriorError
            If it has another form, or names a file that is no safetensors file.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in (match.group(3) or "").split("/"):
            raise UnknownPriorError(f"{text}: an address is hf://owner/name[@revision][/file]")
        repository, revision, file = match.groups()
        if file is not None and not file.endswith(".safetensors"):
            raise UnknownPriorError(
                f"{text}: only .safetensors files are read from the hub; "
                f"download other checkpoints yourself and import them"
            )
        return cls(repository, file or _FILE, revision)


def fetch(address: HubAddress, cache: Path) -> Path:
    """Return the file behind an address, fetched into ``cache`` unless it is there.

    Raises
    ------
    PriorError
        If the hub's client is not installed, or the file cannot be had.
    """
    client = _client(address)
    options: dict[str, Any] = {"cache_dir": str(cache)}
    if address.revision is not None:
        options["revision"] = address.revision
    with _asking(f"{address}: could not be fetched", "check the address and the network"):
        return Path(client.hf_hub_download(address.repository, address.file, **options))


def push(path: str | Path, address: HubAddress, private: bool = False) -> str:
    """Put a checkpoint, checked wholly first, into a repository of the hub; returns its page.

    The repository is made where it is missing. One without a README.md gets one: a card with the
    licence, the stems and how to use it.

    Parameters
    ----------
    address : HubAddress
        Its revision is the branch, by default the main one.
    private : bool
        Whether a new repository is private.

    Raises
    ------
    CheckpointError
        If the file is no sound checkpoint.
    PriorError
        If the hub's client is not installed, or the hub does not take the file.
    """
    header = verify(path)
    client = _client(address)
    advice = "log in with 'hf auth login', check the address and the network"
    with _asking(f"{address}: could not be pushed", advice):
        api = client.HfApi()
        url = api.create_repo(address.repository, private=private, exist_ok=True)
        branch = {"repo_id": address.repository, "revision": address.revision}
        api.upload_file(path_or_fileobj=str(path), path_in_repo=address.file, **branch)
        if not api.file_exists(filename="README.md", **branch):
            card = _card(address, header).encode()
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", **branch)
        return str(url)


def _client(address: HubAddress) -> Any:
    try:
        import huggingface_hub  # type: ignore[import-not-found]
    except ImportError as error:
        raise PriorError(
            f"{address}: needs huggingface_hub; install it with: pip install 'mgdm[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _asking(failure: str, advice: str) -> Iterator[None]:
    # It warns of every new try; what fails is said below. The level of the parent it sets itself.
    logger = logging.getLogger("huggingface_hub.utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:  # the hub's client raises what its HTTP library raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PriorError(f"{failure} ({reason}); {advice}") from error
    finally:
        logger.setLevel(before)


def _card(address: HubAddress, header: PriorHeader) -> str:
    licence = re.sub(r"[^\w.-]+", "-", header.licence.lower()).strip("-")
    short = str(address) if address.file != _FILE else f"hf://{address.repository}"
    return f"""---
library_name: mgdm
license: other
license_name: {licence or "unknown"}
tags: [music-source-separation, diffusion]
---
# {header.name or address.repository}

A diffusion prior over {", ".join(header.stems)} at {header.rate} Hz, for music source separation
with mgdm. Licence of the weights: {header.licence}.

    pip install 'mgdm[hub]'
    mgdm-separate -n {short} mix.wav
"""
