"""Options that the commands share, and what they name: a set's stems, a prior for them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import click
import numpy as np

from mgdm_audio.priors.closed import OTHER, closed_prior
from mgdm_audio.priors.waveform_prior import WaveformPrior

__all__ = [
    "cache_option",
    "draws_option",
    "odd_option",
    "pieces_option",
    "prior_for",
    "seconds_option",
    "set_option",
    "shared_option",
    "truths",
    "variants_option",
    "with_other",
]

set_option = click.option(
    "--set", "which", default="B", show_default=True, help="Validation set: A, B, C or U."
)
shared_option = click.option(
    "--shared",
    type=click.Path(path_type=Path),
    default=Path("shared"),
    show_default=True,
    help="Folder of the material that validation sets are made of.",
)
cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), help="Where rendered validation sets are kept."
)
variants_option = click.option(
    "--variants", default="balanced,posterior", show_default=True, metavar="NAME,..."
)
draws_option = click.option("--draws", type=click.IntRange(2, 64), default=8, show_default=True)
pieces_option = click.option(
    "--pieces", type=click.IntRange(1), default=48, show_default=True, help="At most so many."
)
odd_option = click.option(
    "--odd", is_flag=True, help="Odd-numbered pieces alone: of B, those that nothing was fitted on."
)
seconds_option = click.option(
    "--seconds", type=click.FloatRange(1), default=12.0, show_default=True, help="Of each piece."
)


def truths(which: str, shared: Path, cache: Path | None) -> tuple[str, np.ndarray]:
    """Identity and stems of a set."""
    if which.endswith(".npz"):  # a set of one's own: "stems", items x stems x samples
        try:
            stems = np.load(which)["stems"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise click.UsageError(
                f'{which} is no set: a file of NumPy with the array "stems"; {error}'
            ) from error
        if stems.ndim != 3 or not len(stems):
            raise click.UsageError(
                f"{which}: stems are items x stems x samples; found the shape {stems.shape}"
            )
        mark = hashlib.sha256(stems.tobytes()).hexdigest()[:8]
        return f"{Path(which).stem} {mark}", stems
    from recipes.music_prior.sound.validation_sets import validation_set

    found = validation_set(which, shared, cache)
    return found.identity, found.stems


def with_other(truth: np.ndarray, stems: tuple[str, ...]) -> np.ndarray:
    """The stems of a set in a prior's order, silence for other sounds where the set has none."""
    if OTHER in stems and truth.shape[1] == len(stems) - 1:
        return np.insert(truth, stems.index(OTHER), 0, axis=1)
    return truth


def prior_for(name: str, truth: np.ndarray) -> WaveformPrior:
    """A prior of the stems that the truth has: a stem for other sounds is told to be silent."""
    from mgdm_audio.priors.catalogue import load_prior

    loaded = load_prior(name, device="cpu")
    count = truth.shape[1]
    if OTHER in loaded.stems and count == len(loaded.stems) - 1:
        loaded = closed_prior(loaded, [OTHER])
    if count != len(loaded.stems):
        raise click.UsageError(
            f"the set has {count} stems and {loaded.name} has {len(loaded.stems)}; "
            f"choose another set or prior"
        )
    return loaded
