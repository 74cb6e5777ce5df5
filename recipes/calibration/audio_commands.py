"""The commands of tiers 2 and 3."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from mgdm_audio.cli.common import Command, prior_option
from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.protocols import SpectralPrior
from recipes.calibration.options import (
    cache_option,
    draws_option,
    odd_option,
    pieces_option,
    prior_for,
    seconds_option,
    set_option,
    shared_option,
    truths,
    variants_option,
)
from recipes.calibration.output import RECORDS, out_option, report, tell
from recipes.calibration.separations import SEPARATIONS, Separations, parts_of

__all__ = ["music", "self_consistent"]


def _run(
    out: Path,
    title: str,
    identity: str,
    truth_of: Callable[[int], np.ndarray],
    indices: range,
    variants: str,
    draws: int,
    prior: Any,
    takes: bool = False,
) -> None:
    from recipes.calibration.audio import ONE_DRAW, VARIANTS, Piece, run_piece
    from recipes.calibration.audio_report import audio_table, draw_audio, takes_table
    from recipes.calibration.records import run_missing

    names = [name.strip() for name in variants.split(",")]
    known = [*VARIANTS, *ONE_DRAW]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no variant {unknown[0]!r}; valid names: {', '.join(known)}")
    began = time.perf_counter()
    pieces = [Piece.of(identity, i, name, draws, prior, takes) for i in indices for name in names]
    kept = Separations(prior, out.parent / SEPARATIONS)

    def run(piece: Piece) -> dict[str, Any]:
        return run_piece(piece, kept, truth_of(piece.index))

    if not indices:
        raise click.UsageError("there is no odd piece; take more of them, or shorter ones")
    if takes and not isinstance(prior, SpectralPrior):
        raise click.UsageError("--takes is for priors on spectra; choose another with -n")
    torch.set_num_threads(1)
    records, failures = run_missing(out / RECORDS, pieces, run, tell)
    found = {name: [r for r in records[k :: len(names)] if "error" not in r]
             for k, name in enumerate(names)}  # fmt: skip
    by_variant = {name: own for name, own in found.items() if own}
    if not by_variant:
        raise click.ClickException(f"no piece could be judged; the first: {failures[0]}")
    draw_audio(by_variant, prior.stems, title, out / "reliability.png")
    tables = [audio_table(by_variant, prior.stems, draws)]
    if takes:
        tables.append(takes_table(by_variant, prior.stems))
    report(out, title, tables, began, failures)


@click.command("music", cls=Command)
@out_option("music")
@prior_option
@set_option
@shared_option
@cache_option
@variants_option
@draws_option
@pieces_option
@odd_option
@seconds_option
@click.option("--takes", is_flag=True, help="What the draws are good for, as a second table.")
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
    odd: bool,
    seconds: float,
    takes: bool,
    quick: bool,
) -> None:
    """Tier 3: music that the prior has not heard.

    Coverage of the level of every stem in 64 bands by 0.1 s, CRPS, sharpness, the Brier score of
    silence and the rank correlation of deviation and error.
    """
    if quick:
        pieces, seconds, variants = min(pieces, 2), min(seconds, 6.0), "posterior"
    identity, truth = truths(which, shared, cache)
    loaded = prior_for(prior, truth)
    parts = parts_of(truth, seconds, loaded.rate)[:pieces]
    indices = range(int(odd), len(parts), 1 + odd)
    kind = "odd pieces" if odd else "pieces"
    title = f"Tier 3: {identity}, {len(indices)} {kind} of {seconds:g} s, {loaded.name}"
    told = f"{identity}, {seconds:g} s"
    _run(out, title, told, parts.__getitem__, indices, variants, draws, loaded, takes)


@click.command("self", cls=Command)
@out_option("self")
@prior_option
@variants_option
@draws_option
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
            stems = draw_stems(loaded, seconds, levels, index)
            stems *= TARGET_RMS / np.sqrt(np.mean(stems.sum(0) ** 2))
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, stems)
        return np.load(path)

    title = f"Tier 2: {pieces} pieces of {seconds:g} s drawn from {loaded.name} in {levels} levels"
    told = f"self {seconds:g} s {levels}"
    _run(out, title, told, truth, range(pieces), variants, draws, loaded)
