"""A prior of some of its network's stems, the others being known to be silent."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from mgdm_audio.priors.checkpoint.header import PriorHeader
from mgdm_audio.priors.ensemble import Ensemble
from mgdm_audio.priors.networks import read_config
from mgdm_audio.priors.spectral_network import SpectralConfig, SpectralNetwork
from mgdm_audio.priors.waveform_prior import SpectralWaveformPrior, WaveformPrior
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError

OTHER = "other"  # the stem that holds what is none of the others


def is_closed_over(stems: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a prior has a stem for other sounds, and what is to be separated has none."""
    return OTHER in stems and OTHER not in wanted


def stems_told(header: PriorHeader, without: Sequence[str]) -> tuple[str, ...]:
    """Stems that the prior of this file has once it is told, by :func:`closed_prior`'s rules.

    Raises
    ------
    SettingsError
        As there, before anything is loaded.
    """
    left = _left(header.stems, without)
    config = read_config(header.network, header.config)
    if without and not isinstance(config, SpectralConfig):
        raise _cannot_be_told(header.name, header.network)
    return left


def _left(stems: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """Stems that recordings may hold, in their order."""
    if isinstance(without, str):
        raise SettingsError(
            f"stems that recordings lack are a tuple of names, such as ({OTHER!r},); "
            f"found {without!r}"
        )
    unknown = [stem for stem in dict.fromkeys(without) if stem not in stems]
    if unknown:
        raise SettingsError(
            f"recordings can be without stems of the prior, which are {', '.join(stems)}; "
            f"found {', '.join(map(repr, unknown))}"
        )
    left = tuple(stem for stem in stems if stem not in without)
    if without and len(left) < 2:
        raise SettingsError(
            f"at least two stems must remain, to be told apart; "
            f"found {f'{left[0]} alone' if left else 'none'}; name fewer that recordings lack"
        )
    return left


def _cannot_be_told(name: str, kind: str) -> SettingsError:
    return SettingsError(
        f"a network on spectra can be told which stems are silent; {name or 'this prior'} has a "
        f"{kind}; separate all its stems"
    )


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


def closed_prior(prior: WaveformPrior, without: Sequence[str]) -> SpectralWaveformPrior:
    """Return a prior of the same network in which some stems are known to be silent.

    Parameters
    ----------
    without : sequence of str
        Stems that the recordings do not hold; the prior that is returned does not have them, and
        keeps their names in its own ``without``. Naming one twice says no more.

    Raises
    ------
    SettingsError
        If the prior lacks one of them, fewer than two would remain, or its network cannot be told.
    """
    left = _left(prior.stems, without)
    network = prior.network
    kept = torch.tensor([prior.stems.index(stem) for stem in left], device=prior.device)
    if isinstance(network, ClosedNetwork):  # told of some before
        network, kept = network.network, network.kept[kept]
    if not isinstance(prior, SpectralWaveformPrior) or not isinstance(
        network, SpectralNetwork | Ensemble
    ):
        raise _cannot_be_told(prior.name, prior.kind or type(network).__name__)
    closed = copy.copy(prior)
    closed.network = ClosedNetwork(network, kept).eval()
    closed.without = (*prior.without, *(stem for stem in prior.stems if stem in without))
    closed.stems = left
    return closed
