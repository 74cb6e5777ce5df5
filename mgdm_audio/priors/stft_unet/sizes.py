"""Sizes of the spectral denoiser, as they are stored beside its weights."""

from __future__ import annotations

from dataclasses import dataclass

from mgdm_audio.priors.spectral_network import SpectralConfig
from mgdm_core.errors import SettingsError

# A header may come from anywhere, and tables of bins by bands or pitches are made of these.
_LARGEST_WINDOW = 1 << 16
_MOST_BANDS = 1024
MOST_LAYERS = 64
BLOCKS_PER_SUMMARY = 3  # of the trunk over pitch


@dataclass(frozen=True)
class STFTUNetSizes(SpectralConfig):
    """Sizes of an `STFTUNet`.

    Parameters
    ----------
    stems : int
        Stems denoised jointly.
    n_fft, hop : int
        Window and step of the spectrum in samples.
    bands : int
        Bands that the bins are gathered into; divisible by 2 at every level but the last.
    min_band : int
        Width in bins of the lowest bands; the width grows exponentially above about 1 kHz.
    frame_patch : int
        Frames gathered into one column of the U-Net.
    widths : tuple of int
        Channels per level of the U-Net; each level halves bands and columns.
    blocks : tuple of int
        Residual blocks per level, on the way down and again on the way up; the last entry counts
        the blocks of the bottom, each followed by attention over time and over bands.
    heads : int
        Attention heads.
    embedding : int
        Size of the embedding of log sigma.
    hidden : int
        Width of the perceptron that decides every bin.
    sigma_data : float
        Deviation of a stem, which sets the skip connection.
    cross_stem : bool
        Whether a stem may take from the spectra of the others.
    pitch_layers, pitch_width : int
        Blocks of the trunk over pitch (`PitchTrunk`), 0 for none, and its channels.
    pitch_tokens : int
        Tokens that sum up all pitches and times after every third of those blocks, 0 for none.

    Raises
    ------
    SettingsError
        If the sizes do not fit each other.
    """

    stems: int = 4
    n_fft: int = 2048
    hop: int = 512
    bands: int = 64
    min_band: int = 4
    frame_patch: int = 2
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: tuple[int, ...] = (1, 2, 2)
    heads: int = 4
    embedding: int = 192
    hidden: int = 48
    sigma_data: float = 0.05
    cross_stem: bool = True
    pitch_layers: int = 0
    pitch_width: int = 32
    pitch_tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if self.stems < 1:
            raise SettingsError(f"a network needs at least one stem; found {self.stems}")
        if not self.widths or len(self.widths) != len(self.blocks):
            raise SettingsError(
                f"widths and blocks need one entry per level; "
                f"found {len(self.widths)} and {len(self.blocks)}"
            )
        sizes = (self.frame_patch, self.min_band, self.embedding, self.hidden, self.heads)
        if min(*self.widths, *self.blocks, *sizes) < 1:
            raise SettingsError(
                "widths, blocks, heads, frame_patch, min_band, embedding, hidden must be positive"
            )
        layers = max(*self.blocks, self.pitch_layers)
        if self.n_fft > _LARGEST_WINDOW or self.bands > _MOST_BANDS or layers > MOST_LAYERS:
            raise SettingsError(
                f"the network is too large: n_fft goes up to {_LARGEST_WINDOW}, bands to "
                f"{_MOST_BANDS}, blocks and pitch_layers to {MOST_LAYERS}; "
                f"found {self.n_fft}, {self.bands} and {layers}"
            )
        halvings = 1 << (len(self.widths) - 1)
        if self.bands < halvings or self.bands % halvings:
            raise SettingsError(
                f"bands must be divisible by {halvings}, once by 2 per level; found {self.bands}"
            )
        if self.bands * self.min_band > self.n_fft // 2:
            raise SettingsError(
                f"{self.bands} bands of at least {self.min_band} bins do not fit into the "
                f"{self.n_fft // 2} bins of n_fft {self.n_fft}; use fewer or narrower bands"
            )
        if self.widths[-1] % self.heads:
            raise SettingsError(
                f"the last width must be divisible by heads; "
                f"found {self.widths[-1]} and {self.heads}"
            )
        if self.pitch_layers < 0 or self.pitch_width < 1 or self.pitch_tokens < 0:
            raise SettingsError(
                f"pitch_layers and pitch_tokens must not be negative and pitch_width positive; "
                f"found {self.pitch_layers}, {self.pitch_tokens} and {self.pitch_width}"
            )
        if self.pitch_tokens and self.pitch_layers < BLOCKS_PER_SUMMARY:
            raise SettingsError(
                f"tokens sum up every {BLOCKS_PER_SUMMARY} blocks over pitch: with pitch_tokens "
                f"pitch_layers must be at least {BLOCKS_PER_SUMMARY}; found {self.pitch_layers}"
            )
        if not self.sigma_data > 0:
            raise SettingsError(f"sigma_data must be positive; found {self.sigma_data}")

    @property
    def frame_multiple(self) -> int:
        """Frames are padded to a multiple of this inside the network."""
        return self.frame_patch << (len(self.widths) - 1)
