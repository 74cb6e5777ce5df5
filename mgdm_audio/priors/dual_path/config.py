"""The configuration that builds the dual-path denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.dual_path.sizes import DualPathSizes


@dataclass(frozen=True)
class DualPathConfig(DualPathSizes):
    """Sizes of a `DualPath`, see `DualPathSizes`."""

    def build(self) -> DualPath:
        """Return the network of these sizes."""
        return DualPath(self)
