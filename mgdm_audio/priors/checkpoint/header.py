"""What a checkpoint's header says about its prior, and the JSON that it is stored as."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.networks import read_config
from mgdm_core.errors import SettingsError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PriorHeader:
    """What a checkpoint says about its prior.

    Parameters
    ----------
    network : str
        Kind of network, see :func:`~mgdm_audio.priors.networks.network_kinds`.
    stems : tuple of str
        Names, in the order of the network's channels.
    rate : int
        Sampling rate in hertz.
    window : int
        Preferred length in samples.
    sigma_data : float
        Deviation of the data that the network's scaling assumes.
    licence : str
        Of the weights; never empty.
    training : dict
        Facts: data, steps, source file, ... as JSON values.
    name : str
        Short name; may be empty.
    tensors_sha256 : str
        Digest of the tensors, see ``hash_tensors``; empty only before saving.
    format_version : int
        1.

    Raises
    ------
    SettingsError
        If a value is outside its domain.
    CheckpointError
        If the kind is unknown or its configuration not valid.
    """

    network: str
    config: dict[str, Any]
    stems: tuple[str, ...]
    rate: int
    window: int
    sigma_data: float
    levels: Levels
    licence: str
    training: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    tensors_sha256: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.stems or len(set(self.stems)) != len(self.stems) or not all(self.stems):
            raise SettingsError(f"stems are different, non-empty names; found {list(self.stems)}")
        bad = [s for s in self.stems if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,63}", s)]
        if bad:  # the names become file names
            raise SettingsError(f"stems are named by letters, digits, _ . -; found {bad[0]!r}")
        if "residual" in self.stems:  # the file of what no stem takes has this name
            raise SettingsError("no stem may be called 'residual'; give it another name")
        if not 1000 <= self.rate <= 768_000:
            raise SettingsError(f"rate is within 1000..768000 Hz; found {self.rate}")
        if not 1 <= self.window <= 2**28:
            raise SettingsError(f"window is within 1..2^28 samples; found {self.window}")
        if not 0 < self.sigma_data < 1e3:
            raise SettingsError(f"sigma_data is positive; found {self.sigma_data}")
        config = read_config(self.network, self.config)
        if config.sigma_data != self.sigma_data:
            raise SettingsError(
                f"sigma_data is {self.sigma_data} in the header but {config.sigma_data} in the "
                f"network's configuration; they must be the same"
            )
        if config.stems != len(self.stems):
            raise SettingsError(
                f"the network has {config.stems} stem(s), the header names {len(self.stems)}"
            )
        if not self.licence.strip():
            raise SettingsError("licence must not be empty; write 'unknown' if it is")

    @property
    def checksum(self) -> str:
        """SHA-256 of all that the estimates depend on: the tensors, and what is made of them.

        The tensors alone do not tell two ensembles of the same members in other shares apart.
        """
        facts = self.to_dict()
        told = {key: facts[key] for key in _DECIDING}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self) | {"stems": list(self.stems)}

    def to_json(self) -> str:
        """Return the text stored under the metadata key ``mgdm``."""
        return json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PriorHeader:
        """Read and check that text.

        Raises
        ------
        CheckpointError
            If a key is missing, unknown or of the wrong type, or the version is newer.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the metadata 'mgdm' is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise CheckpointError("the metadata 'mgdm' must be a JSON object")
        version = content.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise CheckpointError(f"format_version must be a whole number; found {version!r}")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"written in format {version}, this version reads up to {FORMAT_VERSION}; "
                f"install a newer mgdm"
            )
        known = {item.name for item in fields(cls)}
        missing = sorted(known - {"name"} - set(content))
        if missing:
            raise CheckpointError(f"the header lacks {', '.join(missing)}")
        unknown = sorted(set(content) - known)
        if unknown:
            raise CheckpointError(f"the header has unknown keys: {', '.join(unknown)}")
        for key, kind in _KINDS.items():
            value = content.get(key, "")
            if not isinstance(value, kind) or isinstance(value, bool):
                raise CheckpointError(f"{key} in the header has the wrong type: {value!r:.60}")
        stems = content["stems"]
        if not all(isinstance(stem, str) for stem in stems):
            raise CheckpointError("stems in the header must be a list of names")
        if not re.fullmatch(r"[0-9a-f]{64}", content["tensors_sha256"]):
            raise CheckpointError("tensors_sha256 in the header must be 64 hexadecimal digits")
        try:
            levels = Levels(**content["levels"])
            sigma_data = float(content["sigma_data"])
            return cls(
                **content | {"stems": tuple(stems), "levels": levels, "sigma_data": sigma_data}
            )
        except (SettingsError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the header is not valid: {error}") from error


_DECIDING = ("network", "config", "stems", "rate", "window", "levels", "tensors_sha256")

_KINDS: dict[str, Any] = {
    "network": str,
    "config": dict,
    "stems": list,
    "rate": int,
    "window": int,
    "sigma_data": (int, float),
    "levels": dict,
    "licence": str,
    "training": dict,
    "name": str,
    "tensors_sha256": str,
}
