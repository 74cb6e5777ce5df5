"""Errors of the image recipes: each is one line that says the rule and the value found."""

from __future__ import annotations

from mgdm_core.errors import MGDMError, SettingsError

__all__ = [
    "ImageError",
    "ImageUsageError",
    "PriorError",
    "PriorUsageError",
    "TaskError",
    "WeightsError",
]


class ImageError(MGDMError, ValueError):
    """An image cannot be read, or its size or mode does not fit."""


class ImageUsageError(ImageError, SettingsError):
    """No image has the number or range that was asked for: wrong usage rather than a failure."""


class TaskError(SettingsError):
    """A task is unknown or cannot be built for this image size."""


class PriorError(MGDMError, ValueError):
    """A prior is unknown, cannot be loaded, or does not fit the image."""


class PriorUsageError(PriorError, SettingsError):
    """No prior has this name, or it is told what it does not take: wrong usage, no failure."""


class WeightsError(MGDMError, FileNotFoundError):
    """A network's published weights are needed and not at hand."""
