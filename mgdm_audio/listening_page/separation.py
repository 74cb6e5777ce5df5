"""The page of a separation that is in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgdm_audio.listening_page.confidence import Confidence, agreement, levels
from mgdm_audio.listening_page.page import PageOptions, write_page

if TYPE_CHECKING:
    from mgdm_audio.separation.result import Separation

__all__ = ["write_separation_page"]


def write_separation_page(
    path: str | os.PathLike,
    result: Separation,
    title: str = "Stems",
    options: PageOptions | None = None,
) -> Path:
    """Write the page of a separation; its mixture is the sum of stems and residual."""
    plain = result.to_dict()
    stems, residual = plain["stems"], plain["residual"]
    mixture = np.sum([residual, *stems.values()], axis=0)
    confidence = None
    if result.uncertainty is not None:
        # The rows cover the recording, the last frame perhaps in part.
        hop = residual.shape[-1] / result.rate / max(map(len, result.uncertainty.values()))
        rows = {
            name: agreement(levels([np.atleast_2d(stems[name])], hop * result.rate, len(row)), row)
            for name, row in result.uncertainty.items()
        }
        confidence = Confidence(rows, hop)
    return write_page(
        path,
        stems,
        mixture,
        result.rate,
        residual=residual,
        title=title,
        confidence=confidence,
        options=options,
    )
