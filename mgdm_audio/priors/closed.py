"""A prior of some of its network's stems, the others being known to be silent."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mgdm_audio.priors.ensemble import Ensemble
from mgdm_audio.priors.spectral_network import SpectralNetwork
from mgdm_audio.priors.waveform_prior import SpectralWaveformPrior, WaveformPrior
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError

__all__ = ["OTHER", "ClosedNetwork", "closed_prior", "is_closed_over"]

OTHER = "other"  # the stem that holds what is none of the others


def is_closed_over(stems: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a prior has a stem for other sounds, and what is to be separated has none."""
    return OTHER in stems and OTHER not in wanted


class ClosedNetwork(nn.Module):
    """A network over some of another's stems: the rest are told to be silent, not trained away.

    The other is shared, not copied, and so is its transform; ``kept``, the stems that remain, are
    rising.
    """

    kept: Tensor
    average_power: Tensor

    def __init__(self, network: SpectralNetwork | Ensemble, kept: Int[Tensor, " kept"]) -> None:
        super().__init__()
        self.network, self.spectral = network, network.spectral
        self.register_buffer("kept", kept)
        self.register_buffer("average_power", network.average_power[kept])

    def denoise_with_mask(
        self, x: Float[Tensor, "batch kept samples"], sigma: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch kept samples"], Float[Tensor, "batch kept bins frames"]]:
        """Denoise the stems that remain, and give the gain of every bin on itself."""
        batch, _, samples = x.shape
        stems = self.network.config.stems
        full = x.new_zeros(batch, stems, samples).index_copy(1, self.kept, x)
        absent = torch.ones(batch, stems, dtype=torch.bool, device=x.device)
        absent[:, self.kept] = False
        clean, mask = self.network.denoise_with_mask(full, sigma, absent)
        return clean.index_select(1, self.kept), mask.index_select(1, self.kept)

    def forward(
        self, x: Float[Tensor, "batch kept samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch kept samples"]:
        """Denoise: the estimate of E[x_0 | x_0 + sigma eps = x, the other stems silent]."""
        return self.denoise_with_mask(x, sigma)[0]


def closed_prior(prior: WaveformPrior, silent: Sequence[str]) -> SpectralWaveformPrior:
    """Return a prior of the same network in which some stems are known to be silent.

    Parameters
    ----------
    silent : sequence of str
        Stems that the recordings do not hold; the prior that is returned does not have them.

    Raises
    ------
    SettingsError
        If the prior lacks one of them, none would remain, or its network cannot be told.
    """
    unknown = sorted(set(silent) - set(prior.stems))
    if unknown:
        raise SettingsError(
            f"only stems of the prior can be silent; it has {list(prior.stems)}, found {unknown}"
        )
    kept = [i for i, stem in enumerate(prior.stems) if stem not in silent]
    if not kept:
        raise SettingsError("at least one stem must not be silent; found all of them")
    network = prior.network
    if not isinstance(prior, SpectralWaveformPrior) or not isinstance(
        network, SpectralNetwork | Ensemble
    ):
        raise SettingsError(
            f"a network on spectra can be told which stems are silent; "
            f"{prior.name or 'this prior'} has a {type(network).__name__}"
        )
    closed = copy.copy(prior)
    closed.network = ClosedNetwork(network, torch.tensor(kept, device=prior.device)).eval()
    closed.stems = tuple(prior.stems[i] for i in kept)
    return closed
