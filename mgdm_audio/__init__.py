"""Music source separation with a diffusion prior.

>>> import mgdm_audio                                             # doctest: +SKIP
>>> result = mgdm_audio.Separator.from_pretrained()("mix.wav")    # doctest: +SKIP
>>> result.save("stems")                                          # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgdm_audio.evaluation.run import evaluate
    from mgdm_audio.priors.catalogue import load_prior
    from mgdm_audio.separation.files import separate_file
    from mgdm_audio.separation.separator import Separator

__all__ = ["Separator", "evaluate", "load_prior", "separate_file"]

# Loaded when asked for: `import mgdm_audio` costs nothing.
_HOMES = {
    "Separator": "mgdm_audio.separation.separator",
    "evaluate": "mgdm_audio.evaluation.run",
    "load_prior": "mgdm_audio.priors.catalogue",
    "separate_file": "mgdm_audio.separation.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mgdm_audio' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
