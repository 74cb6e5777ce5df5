"""The commands of tiers 2 and 3, and the fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from mgdm_audio.cli.common import Command, prior_option
from mgdm_audio.io.atomic import write_text
from mgdm_audio.priors.closed import OTHER, closed_prior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.reports.tables import Table
from recipes.calibration.output import RECORDS, out_option, report, tell

__all__ = ["fit", "music", "self_consistent"]

_SETS = click.option(
    "--set", "which", default="B", show_default=True, help="Validation set: A, B, C or U."
)
_SHARED = click.option(
    "--shared",
    type=click.Path(path_type=Path),
    default=Path("shared"),
    show_default=True,
    help="Folder of the material that validation sets are made of.",
)
_CACHE = click.option(
    "--cache", type=click.Path(path_type=Path), help="Where rendered validation sets are kept."
)
_VARIANTS = click.option(
    "--variants", default="balanced,posterior", show_default=True, metavar="NAME,..."
)
_DRAWS = click.option("--draws", type=click.IntRange(2, 64), default=8, show_default=True)
_PIECES = click.option(
    "--pieces", type=click.IntRange(1), default=48, show_default=True, help="At most so many."
)
_SECONDS = click.option(
    "--seconds", type=click.FloatRange(1), default=12.0, show_default=True, help="Of each piece."
)


def _truths(which: str, shared: Path, cache: Path | None) -> tuple[str, np.ndarray]:
    """Identity and stems of a set; of a long song pieces of 12 s."""
    if which.endswith(".npz"):  # a set of one's own: "stems", items x stems x samples
        return Path(which).stem, np.load(which)["stems"]
    from recipes.music_prior.sound.validation_sets import validation_set

    found = validation_set(which, shared, cache)
    return found.identity, found.stems


def _prior_of(name: str, truth: np.ndarray) -> WaveformPrior:
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


def _run(
    out: Path,
    title: str,
    identity: str,
    truth_of: Callable[[int], np.ndarray],
    count: int,
    variants: str,
    draws: int,
    prior: Any,
) -> None:
    from recipes.calibration.audio import VARIANTS, Piece, run_piece
    from recipes.calibration.audio_report import audio_table, draw_audio
    from recipes.calibration.records import run_missing

    names = [name.strip() for name in variants.split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise click.UsageError(f"no variant {unknown[0]!r}; valid names: {', '.join(VARIANTS)}")
    began = time.perf_counter()
    pieces = [Piece.of(identity, i, name, draws, prior) for i in range(count) for name in names]
    records = run_missing(
        out / RECORDS, pieces, lambda piece: run_piece(piece, prior, truth_of(piece.index)), tell
    )
    by_variant = {name: records[k :: len(names)] for k, name in enumerate(names)}
    draw_audio(by_variant, prior.stems, title, out / "reliability.png")
    report(out, title, [audio_table(by_variant, prior.stems, draws)], began)


@click.command("music", cls=Command)
@out_option("music")
@prior_option
@_SETS
@_SHARED
@_CACHE
@_VARIANTS
@_DRAWS
@_PIECES
@_SECONDS
@click.option("--quick", is_flag=True, help="Two minutes: two pieces of 6 s, posterior alone.")
def music(
    out: Path,
    prior: str,
    which: str,
    shared: Path,
    cache: Path | None,
    variants: str,
    draws: int,
    pieces: int,
    seconds: float,
    quick: bool,
) -> None:
    """Tier 3: music that the prior has not heard.

    Coverage of the level of every stem in 64 bands by 0.1 s, CRPS, sharpness, the Brier score of
    silence and the rank correlation of deviation and error.
    """
    if quick:
        pieces, seconds, variants = min(pieces, 2), min(seconds, 6.0), "posterior"
    identity, truth = _truths(which, shared, cache)
    loaded = _prior_of(prior, truth)
    length = round(seconds * loaded.rate)
    # One long song is as many pieces as it holds.
    parts = [song[:, at : at + length] for song in truth
             for at in range(0, max(1, song.shape[-1] - length + 1), length)]  # fmt: skip
    parts = [np.ascontiguousarray(part) for part in parts[:pieces]]
    title = f"Tier 3: {identity}, {len(parts)} pieces of {seconds:g} s, {loaded.name}"
    told = f"{identity}, {seconds:g} s"
    _run(out, title, told, parts.__getitem__, len(parts), variants, draws, loaded)


@click.command("self", cls=Command)
@out_option("self")
@prior_option
@_VARIANTS
@_DRAWS
@click.option("--pieces", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=6.0, show_default=True)
@click.option("--levels", type=click.IntRange(2), default=50, show_default=True,
              help="Of the unconditional sampling.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Two minutes: one piece of 3 s from 10 levels.")
def self_consistent(
    out: Path,
    prior: str,
    variants: str,
    draws: int,
    pieces: int,
    seconds: float,
    levels: int,
    quick: bool,
) -> None:
    """Tier 2: stems drawn from the prior itself, mixed and separated again.

    The truth is the prior's own, so what is missed is the sampler's fault and not the music's.
    """
    from mgdm_audio.priors.catalogue import load_prior
    from mgdm_audio.sampling.level import TARGET_RMS
    from recipes.calibration.audio import draw_stems

    if quick:
        pieces, seconds, levels, variants = 1, 3.0, 10, "posterior"
    loaded = load_prior(prior, device="cpu")

    def truth(index: int) -> np.ndarray:
        path = out / "stems" / f"{index}-{seconds:g}-{levels}-{loaded.checksum[:12]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            stems = draw_stems(loaded, seconds, levels, index)
            stems *= TARGET_RMS / np.sqrt(np.mean(stems.sum(0) ** 2))
            np.save(path, stems)
        return np.load(path)

    title = f"Tier 2: {pieces} pieces of {seconds:g} s drawn from {loaded.name} in {levels} levels"
    told = f"self {seconds:g} s {levels}"
    _run(out, title, told, truth, pieces, variants, draws, loaded)


@click.command("fit", cls=Command)
@out_option("fit")
@prior_option
@click.option(
    "--set",
    "which",
    help="Validation set to fit on: A, B, C or U  [default: A, or U for a prior with other sounds]",
)
@_SHARED
@_CACHE
@_PIECES
@click.option("--write/--dry-run", default=True, show_default=True,
              help="Keep the fit beside the bundled weights.")  # fmt: skip
def fit(
    out: Path,
    prior: str,
    which: str | None,
    shared: Path,
    cache: Path | None,
    pieces: int,
    write: bool,
) -> None:
    """Fit the spread of `posterior` and the expected improvement of a prior.

    Not on B and C, which judge. Run it for every new prior: a fit is kept by the prior's checksum,
    and a prior without one has no expected improvement.
    """
    from dataclasses import asdict

    from mgdm_audio.priors.catalogue import resolve
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.priors.protocols import SpectralPrior
    from mgdm_audio.sampling.presets import sampling_settings
    from mgdm_audio.sampling.recalibration import PATH
    from recipes.calibration.audio import separate
    from recipes.calibration.fit import fit_line, fit_spread, gains, share_coverage, store

    began = time.perf_counter()
    which = which or ("U" if OTHER in read_header(resolve(prior)).stems else "A")
    identity, truth = _truths(which, shared, cache)
    loaded = _prior_of(prior, truth)
    if not isinstance(loaded, SpectralPrior):
        raise click.UsageError("only priors on spectra have shares; choose another with -n")
    truth = truth[:pieces]
    folder = out / f"{identity}-{loaded.checksum[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    estimates = []
    for index, song in enumerate(truth):
        path = folder / f"{index:02d}.npy"
        if not path.exists():
            click.echo(f"{index + 1}/{len(truth)}", err=True)
            np.save(path, separate(loaded, sampling_settings(), song.sum(0), 0)[0])
        estimates.append(np.load(path))
    spectral, rate, stems = loaded.spectral, loaded.rate, loaded.stems

    def coverage(spread: list[float]) -> np.ndarray:
        inside = sum(
            share_coverage(e, t, spread, spectral, rate, i)
            for i, (e, t) in enumerate(zip(estimates, truth))
        )
        held = inside[:, 0] / np.maximum(1, inside[:, 1])  # type: ignore[index]
        click.echo(f"spread {np.round(spread, 2)}: 90 % hold {np.round(held, 3)}", err=True)
        return held

    torch.set_num_threads(1)
    spread = fit_spread(coverage, len(stems))
    found = [gains(e, t, rate, spectral) for e, t in zip(estimates, truth)]
    lines, rows = {}, []
    for k, stem in enumerate(stems):
        said = np.concatenate([g.said[k][g.counts[k]] for g in found])
        true = np.concatenate([g.true[k][g.counts[k]] for g in found])
        lines[stem] = fit_line(said, true)
        line = asdict(lines[stem])
        rows.append([stem, f"{spread[k]:.2f}", *(f"{v:.2f}" for v in line.values()),
                     str(len(said))])  # fmt: skip
    fitted_on = f"{identity}, {len(truth)} pieces, {date.today().isoformat()}"
    entry = {
        "name": loaded.name,
        "fitted_on": fitted_on,
        "spread": {stem: round(s, 3) for stem, s in zip(stems, spread)},
        "improvement": {stem: asdict(line) for stem, line in lines.items()},
    }
    if write:
        store(PATH, loaded.checksum, entry)
        click.echo(f"written to {PATH}", err=True)
    columns = ["", "spread", "slope", "intercept", "low", "high", "seconds"]
    caption = (
        f"Fitted on {fitted_on}. Spread of the logarithm of a share; expected improvement = slope "
        "x said + intercept, and the central 80 % of the rest, in dB"
    )
    report(out, f"Fit of {loaded.name}", [Table("Fit", caption, columns, rows)], began)
    write_text(out / "fit.json", str(entry))
