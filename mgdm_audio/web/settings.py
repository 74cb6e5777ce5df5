"""What a web page allows and which prior it separates with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mgdm_core.errors import SettingsError


@dataclass(frozen=True)
class WebSettings:
    """Limits and place of a web page.

    Parameters
    ----------
    folder : Path
        Everything that is uploaded and made lies below it; nothing else is ever served.
    prior : str
        Name or path.
    devices : tuple of str
        One worker each.
    max_bytes : int
        Of an upload.
    max_seconds : float
        Of a recording.
    max_jobs : int
        Recordings of one session that are kept or waiting.
    """

    folder: Path
    prior: str = "music-stems"
    devices: tuple[str, ...] = ("auto",)
    precision: str = "auto"
    max_bytes: int = 500_000_000
    max_seconds: float = 1800.0
    max_jobs: int = 20

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_seconds", "max_jobs"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is positive; found {getattr(self, name)}")
        if not self.devices:
            raise SettingsError("a web page needs at least one device; found none")

    @property
    def minutes_words(self) -> str:
        """How long a recording may be, with its unit."""
        minutes = self.max_seconds / 60
        return f"{minutes:g} minute{'s' if minutes != 1 else ''}"

    @property
    def size_words(self) -> str:
        """How large an upload may be, with its unit."""
        return f"{self.max_bytes / 1e6:g} MB"
