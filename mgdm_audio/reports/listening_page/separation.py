"""The page of a separation that is in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mgdm_audio.reports.listening_page.confidence import Confidence, agreement
from mgdm_audio.reports.listening_page.page import PageOptions, write_page
from mgdm_core.array_types import Array, Float

if TYPE_CHECKING:
    from mgdm_audio.separation.result import Separation

__all__ = ["write_separation_page"]


def write_separation_page(
    path: str | os.PathLike,
    result: Separation,
    title: str = "Stems",
    options: PageOptions | None = None,
) -> Path:
    """Write the page of a separation; its mixture is the sum of stems and residual.

    Parameters
    ----------
    path, title, options
        See :func:`mgdm_audio.reports.listening_page.write_page`.
    result : Separation
        With two posterior samples or more, strips show where these agree.

    Returns
    -------
    Path
        What to open.
    """
    stems = {name: _array(stem) for name, stem in result.stems.items()}
    residual = _array(result.residual)
    mixture = sum(stems.values(), residual)
    confidence = None
    if result.uncertainty is not None:
        # The rows cover the recording, the last frame perhaps in part.
        hop = residual.shape[-1] / result.rate / max(map(len, result.uncertainty.values()))
        rows = {
            name: agreement(_levels(stems[name], len(row)), row)
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


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _levels(sound: np.ndarray, count: int) -> Float[Array, " frames"]:
    power = (np.atleast_2d(sound).astype(np.float64) ** 2).mean(axis=0)
    place = np.arange(len(power)) * count // len(power)
    weight = np.maximum(np.bincount(place, minlength=count), 1)
    return np.sqrt(np.bincount(place, power, count) / weight)
