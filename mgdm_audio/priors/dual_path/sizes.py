"""Sizes of the dual-path denoiser, as they are stored beside its weights."""

from __future__ import annotations

from dataclasses import dataclass

from mgdm_audio.priors.stft_unet.sizes import MOST_LAYERS, STFTUNetSizes
from mgdm_core.errors import SettingsError


@dataclass(frozen=True)
class DualPathSizes(STFTUNetSizes):
    """Sizes of a `DualPath`: those of an `STFTUNet`, and of the trunk beside its U-Net.

    Parameters
    ----------
    path_width : int
        Channels of every band and column.
    path_layers : int
        Layers, each of attention over time, attention over bands and a gated perceptron.
    path_heads : int
        Attention heads; each has an even number of channels.
    path_patch : int
        Frames gathered into one column of the trunk; a multiple of ``frame_patch``.
    path_ratio : float
        Width of the gated perceptron over ``path_width``.
    path_features, path_rank : int
        Numbers that the features of a bin become before bands are gathered from them, and channels
        of a band that its bins' outputs are read from.
    """

    path_width: int = 128
    path_layers: int = 6
    path_heads: int = 4
    path_patch: int = 4
    path_ratio: float = 2.0
    path_features: int = 8
    path_rank: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = (self.path_width, self.path_layers, self.path_heads)
        if min(*counts, self.path_features, self.path_rank) < 1 or not self.path_ratio > 0:
            raise SettingsError(
                "path_width, path_layers, path_heads, path_ratio, path_features and path_rank "
                "must be positive"
            )
        if self.path_layers > MOST_LAYERS:
            raise SettingsError(f"path_layers goes up to {MOST_LAYERS}; found {self.path_layers}")
        if self.path_width % (2 * self.path_heads):
            raise SettingsError(
                f"path_width must be divisible by twice path_heads; "
                f"found {self.path_width} and {self.path_heads}"
            )
        if self.path_patch < 1 or self.path_patch % self.frame_patch:
            raise SettingsError(
                f"path_patch must be a multiple of frame_patch; "
                f"found {self.path_patch} and {self.frame_patch}"
            )

    @property
    def frame_multiple(self) -> int:
        """Frames are padded to a multiple of this inside the network."""
        # Not by super(), which torch.compile does not follow: it would cut the network in two.
        own = self.frame_patch << (len(self.widths) - 1)
        return own if own % self.path_patch == 0 else own * self.path_patch
