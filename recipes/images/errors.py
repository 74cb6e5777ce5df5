"""Errors of the image recipes: each is one line that says the rule and the value found."""

from __future__ import annotations

from mgdm_core.errors import MGDMError

__all__ = ["ImageError", "PriorError", "TaskError", "WeightsError"]


class ImageError(MGDMError, ValueError):
    """An image cannot be read, or its size or mode does not fit."""


class TaskError(MGDMError, ValueError):
    """A task is unknown or cannot be built for this image size."""


class PriorError(MGDMError, ValueError):
    """A prior is unknown, cannot be loaded, or does not fit the image."""


class WeightsError(MGDMError, FileNotFoundError):
    """A network's published weights are needed and not at hand."""
