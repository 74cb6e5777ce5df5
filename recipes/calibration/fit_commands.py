"""The fit of a prior's error bars, and how far the expected improvement holds."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import click
import numpy as np
import torch

from mgdm_audio.cli.common import Command, prior_option
from mgdm_audio.priors.closed import OTHER
from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.reports.tables import Table
from recipes.calibration.options import (
    cache_option,
    odd_option,
    pieces_option,
    prior_for,
    set_option,
    shared_option,
    truths,
    with_other,
)
from recipes.calibration.output import out_option, report
from recipes.calibration.separations import SEPARATIONS, Separations, parts_of

__all__ = ["expected", "fit"]

_SECONDS = click.option(
    "--seconds", type=click.FloatRange(1), default=5.94, show_default=True, help="Of each piece."
)


def _kept(
    prior: str, truth: np.ndarray, out: Path, corrected: bool = True
) -> tuple[Separations, SpectralTransform]:
    """Where separations by the prior are, and where its shares are."""
    loaded = prior_for(prior, truth)
    if not isinstance(loaded, SpectralPrior):
        raise click.UsageError("only priors on spectra have shares; choose another with -n")
    return Separations(loaded, out.parent / SEPARATIONS, corrected), loaded.spectral


@click.command("fit", cls=Command)
@out_option("fit")
@prior_option
@click.option(
    "--set",
    "which",
    multiple=True,
    help="Validation set to fit on: A, B, C or U, of B and U the even pieces; may be repeated  "
    "[default: A and B, and U for a prior with a stem for other sounds, silent in A and B]",
)
@shared_option
@cache_option
@pieces_option
@_SECONDS
@click.option(
    "--unknown-db",
    type=click.FloatRange(0),
    default=4.5,
    show_default=True,
    help="What it is worth that a strange sound ends in `other`, in dB of mean SI-SDR.",
)
@click.option("--write/--dry-run", default=True, show_default=True,
              help="Keep the fit beside the bundled weights.")  # fmt: skip
def fit(
    out: Path,
    prior: str,
    which: tuple[str, ...],
    shared: Path,
    cache: Path | None,
    pieces: int,
    seconds: float,
    unknown_db: float,
    write: bool,
) -> None:
    """Fit the correction of shares, the spread of `posterior` and what is expected of a stem.

    Not on C and the odd pieces of B and U, which judge. Run it for every new prior: a fit is kept
    by the prior's checksum, and a prior without one has no expected improvement.
    """
    from dataclasses import asdict

    from mgdm_audio.priors.catalogue import resolve
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.priors.closed import closed_prior
    from mgdm_audio.sampling.recalibration import PATH
    from recipes.calibration.fit import (
        Gains,
        fit_plane,
        fit_spread,
        gains,
        share_coverage,
        store,
    )
    from recipes.calibration.fit_shares import Separated, fit_shares, separated

    began, processor = time.perf_counter(), time.process_time()
    stems = read_header(resolve(prior)).stems
    which = which or (("A", "B", "U") if OTHER in stems else ("A", "B"))
    sets = [truths(name, shared, cache) for name in which]
    if any(truth.shape[1] == len(stems) for _, truth in sets):
        sets = [(identity, with_other(truth, stems)) for identity, truth in sets]
    kept, spectral = _kept(prior, sets[0][1], out, corrected=False)
    loaded = kept.prior
    torch.set_num_threads(1)
    parts, origin, identities = [], [], []
    for name, (identity, truth) in zip(which, sets):
        if truth.shape[1] != len(loaded.stems):
            raise click.UsageError(
                f"{loaded.name} is fitted on sets of {len(loaded.stems)} stems here; {identity} "
                f"has {truth.shape[1]}; fit on one or the other"
            )
        own = parts_of(truth, seconds, loaded.rate)[:: 1 + (name in ("B", "U"))][:pieces]
        parts += own
        origin += [name] * len(own)
        identities.append(f"{identity}{' even' if name in ('B', 'U') else ''}")
    closed = kept
    if OTHER in loaded.stems:
        closed = replace(kept, prior=closed_prior(loaded, [OTHER]))
    rate, stems = loaded.rate, loaded.stems
    known = [stems.index(stem) for stem in closed.prior.stems]
    judged: list[tuple[str, Separated]] = []
    for index, (part, name) in enumerate(zip(parts, origin)):
        click.echo(f"{index + 1}/{len(parts)}", err=True)
        judged.append((name, separated(kept, part)))
        if OTHER in stems and not part[stems.index(OTHER)].any():
            judged.append((f"{name} closed", separated(closed, part[known])))

    def told(epoch: int, gain: float) -> None:
        click.echo(f"shares, pass {epoch + 1}: {gain:.3f} dB", err=True)

    # Strangers count as often as the rest, which comes twice.
    weighed = [piece for name, piece in judged for _ in range(2 if OTHER in piece.heard else 1)]
    shares = fit_shares(weighed, spectral, rate, unknown_db=unknown_db, on_epoch=told)
    judged = [(name, piece.corrected(shares, spectral, rate)) for name, piece in judged]
    whole = [piece for _, piece in judged if piece.stems == stems]

    def coverage(spread: list[float]) -> np.ndarray:
        inside = sum(
            share_coverage(p.estimate.numpy(), p.truth.numpy(), spread, spectral, rate, i)
            for i, p in enumerate(whole)
        )
        held = inside[:, 0] / np.maximum(1, inside[:, 1])  # type: ignore[index]
        click.echo(f"spread {np.round(spread, 2)}: 90 % hold {np.round(held, 3)}", err=True)
        return held

    spread = fit_spread(coverage, len(stems))
    # A prior that is told what does not play has the planes of one that is told nothing.
    gained = [gains(p.estimate.numpy(), p.truth.numpy(), rate, spectral) for _, p in judged]
    planes: dict[str, dict[str, dict[str, float]]] = {"improvement": {}, "si_sdr": {}}
    rows = []
    for k, stem in enumerate(stems):
        for kind, of in (("improvement", Gains.of), ("si_sdr", Gains.quality)):
            of_sets: dict[str, list[np.ndarray]] = {}
            for gain, (name, piece) in zip(gained, judged):
                if stem in piece.stems:
                    of_sets.setdefault(name, []).append(of(gain, piece.stems.index(stem)))
            own = [np.concatenate(found, 1) for found in of_sets.values()]
            count = sum(found.shape[1] for found in own)
            if not count:
                raise click.UsageError(
                    f"{stem} and the rest sound together in no second; fit on more or other pieces"
                )
            planes[kind][stem] = asdict(fit_plane(own))
            values = [f"{value:.2f}" for value in planes[kind][stem].values()]
            rows.append([stem, f"{spread[k]:.2f}", kind, *values, str(count)])
    fitted_on = f"{' and '.join(identities)}, {len(parts)} pieces, {date.today()}"
    entry = {
        "name": loaded.name,
        "fitted_on": fitted_on,
        "shares": asdict(shares),
        "spread": {stem: round(s, 3) for stem, s in zip(stems, spread)},
        **planes,
    }
    if write:
        store(PATH, loaded.checksum, entry)
        click.echo(f"written to {PATH}", err=True)
    columns = ["", "spread", "of", "slope", "level", "intercept", "low", "high", "seconds"]
    caption = (
        f"Fitted on {fitted_on}, in {time.process_time() - processor:.0f} seconds of one core. "
        "Spread of the logarithm of a share; expected improvement, or SI-SDR, = slope x said + "
        "level x level over the rest + intercept, and what holds 80 % of the rest on every set, dB"
    )
    report(out, f"Fit of {loaded.name}", [Table("Fit", caption, columns, rows)], began)


@click.command("expected", cls=Command)
@out_option("expected")
@prior_option
@set_option
@shared_option
@cache_option
@pieces_option
@odd_option
@click.option(
    "--open",
    "untold",
    is_flag=True,
    help="A prior with a stem for other sounds is not told that the set has none.",
)
@_SECONDS
def expected(
    out: Path,
    prior: str,
    which: str,
    shared: Path,
    cache: Path | None,
    pieces: int,
    odd: bool,
    untold: bool,
    seconds: float,
) -> None:
    """Does what is expected of a stem hold on a set? Order, intervals, and what is not reliable.

    The separations that the fit and `music` have made are taken as they are.
    """
    from mgdm_audio.priors.catalogue import resolve
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_audio.sampling.recalibration import recalibration
    from recipes.calibration.expected import draw_expected, expected_table, reliable_table
    from recipes.calibration.fit import gains

    began = time.perf_counter()
    identity, truth = truths(which, shared, cache)
    if untold:
        truth = with_other(truth, read_header(resolve(prior)).stems)
    kept, spectral = _kept(prior, truth, out)
    loaded = kept.prior
    parts = parts_of(truth, seconds, loaded.rate)[:pieces][odd :: 1 + odd]
    if not parts:
        raise click.UsageError("there is no odd piece; take more of them, or shorter ones")
    fitted = recalibration(loaded.checksum)
    if fitted is None:
        raise click.UsageError(
            f"nothing was fitted for {loaded.name}; run python -m recipes.calibration fit first"
        )
    torch.set_num_threads(1)
    found = [gains(kept.of(p)[0], p, loaded.rate, spectral) for p in parts]
    if not any(gain.counts.any() for gain in found):
        raise click.UsageError("no two stems sound together in any second; take other pieces")
    kind = "odd pieces" if odd else "pieces"
    title = f"{identity}, {len(parts)} {kind} of {seconds:g} s, {loaded.name}"
    title += ", open" if untold else ""
    out.mkdir(parents=True, exist_ok=True)
    draw_expected(found, fitted, loaded.stems, title, out / "expected.png")
    tables = [made(found, fitted, loaded.stems, title) for made in (expected_table, reliable_table)]
    report(out, f"Expected improvement: {title}", tables, began)
