"""The kinds of network that a checkpoint may name, and how each is built from its configuration.

A kind is a name and a configuration class (:class:`NetworkConfig`). Checkpoints, training, export,
validation and separation ask for nothing else, so another package adds an architecture by
:func:`register_network`, or by an entry point in the group ``mgdm.networks`` whose name is the kind
and whose value is the class: then files that name it load wherever that package is installed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from mgdm_audio.errors import CheckpointError
from mgdm_core.array_types import Tensor
from mgdm_core.errors import MGDMError, SettingsError, ShapeError

ENTRY_POINTS = "mgdm.networks"


class NetworkConfig(ABC):
    """Sizes of a network; a subclass is a frozen dataclass of plain values that builds it.

    What :meth:`build` returns maps ``(x[batch, stems, samples], sigma[batch])`` to the denoised
    stems. One that works on short-time spectra is a
    :class:`~mgdm_audio.priors.spectral_network.SpectralNetwork`, and can be trained by the recipe.

    Attributes
    ----------
    stems : int
        Stems denoised jointly.
    sigma_data : float
        Deviation of the data that the network's scaling assumes.
    """

    stems: int
    sigma_data: float

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a network of these sizes with its initial weights."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Back from :meth:`to_dict`; a key that is not a setting is an error."""
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(
                f"{cls.__name__} has no settings {unknown}; known are {sorted(known)}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# By name, so that a reader of headers imports no network, and one kind does not import the others.
_KINDS: dict[str, str | type[NetworkConfig]] = {
    "dual_path": "mgdm_audio.priors.dual_path.config:DualPathConfig",
    "ensemble": "mgdm_audio.priors.ensemble:EnsembleConfig",
    "stft_unet": "mgdm_audio.priors.stft_unet.config:STFTUNetConfig",
    "unet1d": "mgdm_audio.priors.unet1d.config:UNet1dConfig",
    "unet1d_stack": "mgdm_audio.priors.unet1d.config:UNet1dStackConfig",
}


def register_network(kind: str, config: type[NetworkConfig]) -> None:
    """Make a kind of network known to this process; checkpoints carry the name.

    Raises
    ------
    SettingsError
        If the kind is another class's.
    """
    if kind in network_kinds() and _config_class(kind) is not config:
        raise SettingsError(f"the network kind {kind!r} is taken; choose another name")
    _KINDS[kind] = config


def network_kinds() -> tuple[str, ...]:
    """Names of the kinds that are known, those of installed packages included."""
    return tuple(sorted({*_KINDS, *entry_points(group=ENTRY_POINTS).names}))


def _config_class(kind: str) -> type[NetworkConfig]:
    known = _KINDS.get(kind)
    if isinstance(known, str):
        module, _, name = known.partition(":")
        return getattr(import_module(module), name)
    if known is not None:
        return known
    for entry in entry_points(group=ENTRY_POINTS, name=kind):
        try:
            return entry.load()
        except Exception as error:  # whatever that package raises at its import
            raise CheckpointError(
                f"the network kind {kind!r} comes from {entry.value}, which cannot be imported "
                f"({error}); mend or remove that package"
            ) from error
    raise CheckpointError(
        f"unknown network {kind!r}; this version knows {', '.join(network_kinds())}; "
        f"another package may add it (docs/add_a_prior.md)"
    )


def kind_of(config: NetworkConfig) -> str:
    """Return the name that this configuration's class is known by.

    Raises
    ------
    SettingsError
        If it is not registered.
    """
    for kind in [*_KINDS, *network_kinds()]:
        if _config_class(kind) is type(config):
            return kind
    raise SettingsError(
        f"{type(config).__name__} is no registered network; call register_network first"
    )


def read_config(kind: str, values: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration of a network from what :meth:`NetworkConfig.to_dict` gives.

    Raises
    ------
    CheckpointError
        If the kind is unknown or the values are not valid.
    """
    config_class = _config_class(kind)
    try:
        return config_class.from_dict(values)
    except (MGDMError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the configuration of the {kind} is not valid: {error}") from error


def build_network(kind: str, config: Mapping[str, Any], *, meta: bool = False) -> nn.Module:
    """Build a network of one of :func:`network_kinds`.

    Parameters
    ----------
    config : mapping
        Checked by the kind's own configuration class.
    meta : bool
        Build shapes without memory and without drawing any initial value.

    Raises
    ------
    CheckpointError
        If the kind is unknown or the configuration is not valid.
    """
    found = read_config(kind, config)
    try:
        if meta:
            with torch.device("meta"):
                try:
                    return found.build()
                except (RuntimeError, OverflowError) as error:  # numbers that cannot be counted
                    line = str(error).splitlines()[0]
                    raise SettingsError(f"it cannot be built ({line})") from error
        # Initial values come from torch's global generator; it is put back as it was.
        with torch.random.fork_rng(devices=[]):
            return found.build()
    except (MGDMError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the configuration of the {kind} is not valid: {error}") from error


def check_noisy(x: Tensor, sigma: Tensor, stems: int) -> None:
    """Refuse what no network of so many stems denoises, by a ShapeError."""
    if x.ndim != 3 or x.shape[1] != stems or x.shape[2] < 1:
        raise ShapeError(
            f"this network denoises (batch, {stems}, samples); found shape {tuple(x.shape)}"
        )
    if sigma.shape != x.shape[:1]:
        raise ShapeError(
            f"sigma must have one value per item, shape {tuple(x.shape[:1])}; "
            f"found {tuple(sigma.shape)}"
        )


def expected_tensors(network: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor that a checkpoint of this network must hold."""
    state = network.state_dict()
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
