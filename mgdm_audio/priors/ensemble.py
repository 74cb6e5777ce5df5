"""Several denoisers as one: the mean of what they estimate.

Networks that see the same sound through spectra of different windows err in different places, and
their mean errs less than they do on average: whether less than the best of them, a validation tells
(docs/music_prior_training.md, the eleventh round). Of denoisers of the same posterior mean
E[x_0 | x_t] any mean with weights that sum to one is another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from mgdm_audio.priors.networks import NetworkConfig, kind_of, read_config
from mgdm_audio.priors.spectral_network import SpectralConfig, SpectralNetwork, build_spectral
from mgdm_core.array_types import Bool, Float, Tensor
from mgdm_core.errors import SettingsError

_KIND = "ensemble"
_MOST_MEMBERS = 16


@dataclass(frozen=True)
class EnsembleConfig(SpectralConfig):
    """Members of an `Ensemble` and what each counts.

    Parameters
    ----------
    members : tuple of mapping
        Per member, two to 16, the settings of its configuration and its ``kind``; all work on
        spectra (and none is an ensemble) of the same stems at the same ``sigma_data``.
    weights : tuple of float
        Positive, one per member; they sum to 1.

    Raises
    ------
    SettingsError
        If the members do not fit each other or their weights.
    """

    members: tuple[Mapping[str, Any], ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        members = tuple(self.members)
        if not all(isinstance(member, Mapping) for member in members):
            raise SettingsError(
                f"members of an ensemble are settings by name; found {self.members!r:.60}"
            )
        object.__setattr__(self, "members", tuple(dict(member) for member in members))
        object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        if not 2 <= len(members) <= _MOST_MEMBERS or len(self.weights) != len(members):
            raise SettingsError(
                f"an ensemble has two members or more, up to {_MOST_MEMBERS}, and a weight for "
                f"each; found {len(members)} and {len(self.weights)}"
            )
        # Before any is read: ensembles within ensembles might go on for ever.
        if any(member.get("kind") == _KIND for member in members):
            raise SettingsError("a member of an ensemble cannot be an ensemble; name its members")
        total = math.fsum(self.weights)
        if not all(weight > 0 for weight in self.weights) or abs(total - 1) > 1e-6:
            raise SettingsError(
                f"weights of an ensemble are positive and sum to 1; found {list(self.weights)}"
            )
        found = self._read()
        odd = [config for config in found if not isinstance(config, SpectralConfig)]
        if odd:
            raise SettingsError(
                f"members of an ensemble work on spectra; found a {type(odd[0]).__name__}"
            )
        for name in ("stems", "sigma_data"):
            values = [getattr(config, name) for config in found]
            if len(set(values)) > 1:
                raise SettingsError(f"members of an ensemble have one {name}; found {values}")
        for name in ("stems", "sigma_data", "n_fft", "hop"):  # spectra are those of the first
            object.__setattr__(self, name, getattr(found[0], name))

    def _read(self) -> list[NetworkConfig]:
        given = [dict(member) for member in self.members]
        return [read_config(member.pop("kind", ""), member) for member in given]

    @cached_property
    def configs(self) -> tuple[SpectralConfig, ...]:
        """Configuration of every member."""
        return tuple(config for config in self._read() if isinstance(config, SpectralConfig))

    @classmethod
    def of(cls, configs: Sequence[NetworkConfig], weights: Sequence[float]) -> EnsembleConfig:
        """Members of these configurations."""
        members = tuple({"kind": kind_of(config), **config.to_dict()} for config in configs)
        return cls(members, tuple(weights))

    def build(self) -> nn.Module:
        """Return the members, each as it is made."""
        return Ensemble(self)


class Ensemble(nn.Module):
    """Waveform denoiser of several stems: a weighted mean of the estimates of its members.

    Spectrum, average spectra and the gain of every bin are those of the first member.

    Parameters
    ----------
    config : EnsembleConfig
    """

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(build_spectral(member) for member in config.configs)

        self.spectral = self._networks()[0].spectral

    def _networks(self) -> list[SpectralNetwork]:
        return [member for member in self.members if isinstance(member, SpectralNetwork)]

    @property
    def average_power(self) -> Float[Tensor, "stems bins"]:
        """Average power spectra of the first member."""
        return self._networks()[0].average_power

    def denoise_with_mask(
        self,
        x: Float[Tensor, "batch stems samples"],
        sigma: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None = None,
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """Denoise, and give the first member's gain of every bin on itself.

        Stems that are ``absent`` are known to be silent, as in
        :meth:`~mgdm_audio.priors.spectral_network.SpectralNetwork.denoise_with_mask`.
        """
        first, *others = self._networks()
        clean, mask = first.denoise_with_mask(x, sigma, absent)
        mean = self.config.weights[0] * clean
        for member, weight in zip(others, self.config.weights[1:], strict=True):
            mean = mean + weight * member.denoise_with_mask(x, sigma, absent)[0]
        return mean, mask

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Denoise: the estimate of E[x_0 | x_0 + sigma eps = x], in the dtype of ``x``."""
        return self.denoise_with_mask(x, sigma)[0]
