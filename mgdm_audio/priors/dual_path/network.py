"""The spectral denoiser with room: a dual-path trunk beside the small U-Net.

All is as in `STFTUNet` but what the bands say. A second encoder gathers the same features into
bands and columns of many channels, layers of attention over time and over bands in turn (as in
dual-path and band-split networks: Luo et al. 2020, arXiv 1910.06379; Lu et al. 2023,
arXiv 2309.02612) run over the whole excerpt, and what they find is added to what the U-Net says:
to the first layer of the bin network, and by a map of every band to the outputs of its bins. Both
additions start at zero, so a network begins as the `STFTUNet` whose weights it is given.
"""

from __future__ import annotations

import torch
from torch import nn

from mgdm_audio.priors.dual_path.layers import DualPathLayer, last_rms_norm
from mgdm_audio.priors.dual_path.sizes import DualPathSizes
from mgdm_audio.priors.spectral_network import ChannelLayout
from mgdm_audio.priors.stft_unet.layers import BandDecoder, BandEncoder
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.array_types import Bool, Float, Tensor


class DualPath(STFTUNet):
    """Waveform denoiser of several stems on their short-time spectra, with a dual-path trunk.

    Parameters
    ----------
    config : DualPathSizes
        Sizes; ``DualPathConfig(...).build()`` makes the network of them.
    """

    config: DualPathSizes

    def __init__(self, config: DualPathSizes) -> None:
        super().__init__(config)
        bins, width = config.n_fft // 2, config.path_width
        bands = (bins, config.bands, config.min_band)
        self.path_features = nn.Conv2d(self.features, config.path_features, 1)
        self.path_encoder = BandEncoder(*bands, config.path_features, config.path_patch, width)
        self.path = nn.ModuleList(self._layer() for _ in range(config.path_layers))
        # Stems that are known to be silent, told to every layer.
        self.absence = nn.Linear(config.stems, config.embedding, bias=False)
        nn.init.zeros_(self.absence.weight)
        self.path_context = nn.Linear(width, config.hidden, bias=False)
        nn.init.zeros_(self.path_context.weight)
        self.path_rank = nn.Linear(width, config.path_rank, bias=False)
        self.path_decoder = BandDecoder(*bands, self.outputs, config.path_patch, config.path_rank)

    def _layer(self) -> nn.Module:
        """One layer of the trunk, called with values (batch, bands, columns, channels)."""
        c = self.config
        hidden = round(c.path_ratio * c.path_width)
        return DualPathLayer(c.path_width, c.path_heads, hidden, c.embedding)

    @property
    def channel_layout(self) -> ChannelLayout:
        """How its channels lie, for widening."""
        own = super().channel_layout
        return ChannelLayout(
            blocks={**own.blocks, "scales": 3, "inward": 2},
            axes={**own.axes, "path_encoder": (2, 1), "path_decoder": (2, 1)},
            head=own.head,
        )

    def _embed(
        self,
        sigma: Float[Tensor, " batch"],
        noise: Float[Tensor, " batch"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> Float[Tensor, "batch embedding"]:
        embedding = super()._embed(sigma, noise, absent)
        if absent is None:  # no stem is; said, so that every parameter has a part in every loss
            absent = torch.zeros(len(embedding), self.config.stems, device=embedding.device)
        return embedding + self.absence(absent.to(embedding.dtype))

    def _read(
        self,
        features: Float[Tensor, "batch features frames bins"],
        embedding: Float[Tensor, "batch embedding"],
    ) -> tuple[
        Float[Tensor, "batch hidden columns bands"], Float[Tensor, "batch outputs frames bins"]
    ]:
        context, outputs = super()._read(features, embedding)
        h = self.path_encoder(self.path_features(features)).permute(0, 2, 3, 1)
        for layer in self.path:
            h = layer(h, embedding)
        h = last_rms_norm(h)
        told = self.path_context(h).permute(0, 3, 2, 1)
        repeats = self.config.path_patch // self.config.frame_patch
        context = context + torch.repeat_interleave(told, repeats, 2)
        return context, outputs + self.path_decoder(self.path_rank(h).permute(0, 3, 1, 2))
