"""The configurations that build MSDM's networks, one for all stems or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mgdm_audio.priors.networks import NetworkConfig
from mgdm_audio.priors.unet1d.network import UNet1d
from mgdm_audio.priors.unet1d.sizes import UNet1dSizes
from mgdm_audio.priors.unet1d.stack import StackedNetwork
from mgdm_core.errors import SettingsError

_LARGEST_STACK = 64


@dataclass(frozen=True)
class UNet1dConfig(UNet1dSizes):
    """Sizes of a `UNet1d`, see `UNet1dSizes`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNet1dConfig:
        """Back from :meth:`to_dict`; a key that is not a setting is an error."""
        return super().from_dict(values)  # type: ignore[return-value]

    def build(self) -> UNet1d:
        """Return the network of these sizes."""
        return UNet1d(self)


@dataclass(frozen=True)
class UNet1dStackConfig(NetworkConfig):
    """Sizes of several single-source networks that form one prior of independent stems.

    Parameters
    ----------
    networks : tuple of UNet1dConfig
        One per stem, of one channel each and of one sigma_data.

    Raises
    ------
    SettingsError
        If they do not fit each other.
    """

    networks: tuple[UNet1dConfig, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.networks) <= _LARGEST_STACK:
            raise SettingsError(
                f"a unet1d_stack holds 1 to {_LARGEST_STACK} networks; found {len(self.networks)}"
            )
        if any(network.in_channels != 1 for network in self.networks):
            raise SettingsError("each network of a unet1d_stack has one channel")
        deviations = sorted({network.sigma_data for network in self.networks})
        if len(deviations) > 1:
            raise SettingsError(
                f"the networks of a unet1d_stack share one sigma_data; found {deviations}"
            )

    @property
    def stems(self) -> int:
        """Stems denoised side by side."""
        return len(self.networks)

    @property
    def sigma_data(self) -> float:
        """Deviation of the data, the same for all."""
        return self.networks[0].sigma_data

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {"networks": [network.to_dict() for network in self.networks]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNet1dStackConfig:
        """Back from :meth:`to_dict`; a key that is not a setting is an error."""
        members = values.get("networks")
        if set(values) != {"networks"} or not isinstance(members, list):
            raise SettingsError(f"it is one list 'networks'; found the keys {sorted(values)}")
        if not all(isinstance(member, Mapping) for member in members):
            raise SettingsError("each entry of 'networks' is a configuration")
        return cls(tuple(UNet1dConfig.from_dict(member) for member in members))

    def build(self) -> StackedNetwork:
        """Return the networks, stacked."""
        return StackedNetwork([network.build() for network in self.networks])
