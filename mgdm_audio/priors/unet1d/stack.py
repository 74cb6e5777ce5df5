"""Single-source networks side by side, as one network over all stems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mgdm_audio.priors.protocols import CastsWeights
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError


class StackedNetwork(nn.Module):
    """One single-source network per stem, run side by side as one network over all stems.

    This is how the weakly supervised models of MSDM (ISDM in Mariani et al. 2023, section 3)
    form a joint prior: the stems are independent. The networks come in the stems' order, each of
    one channel.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise SettingsError("a stack needs at least one network; found none")
        self.networks = nn.ModuleList(networks)

    def forward(
        self, x: Float[Tensor, "batch stems samples"], sigma: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Denoise stem i with network i."""
        if x.shape[1] != len(self.networks):
            raise ShapeError(
                f"a stack of {len(self.networks)} networks takes as many stems; found {x.shape[1]}"
            )
        pairs = zip(self.networks, x.split(1, dim=1), strict=True)
        return torch.cat([network(stem, sigma) for network, stem in pairs], dim=1)

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Pass on to the networks (see ``UNet1d.cast_weights``)."""
        for network in self.networks:
            if isinstance(network, CastsWeights):
                network.cast_weights(dtype)
