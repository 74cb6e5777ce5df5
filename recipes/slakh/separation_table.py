"""Every sampler under one prior at equal cost, on one folder of reference stems.

``python -m recipes.slakh.separation_table REFERENCES`` mixes the stems in REFERENCES (bass, drums,
guitar, piano; any format), separates the mix with every sampler at about the cost of the default
preset, or of ``--budget`` evaluations (a vector-Jacobian product counts as two), and prints a
Markdown table of SI-SDR improvements, with the average-spectrum Wiener filter as the row that needs
no diffusion. With ``--out TABLE.md`` the table is a file with the command, the prior and the
machine above it, written again as each row ends; the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import click

from mgdm_audio.cli.common import (
    Command,
    device_option,
    precision_option,
    prior_option,
    wait_briefly,
)

if __name__ == "__main__":
    wait_briefly()  # before torch

import torch

from mgdm_audio.compute.machine import describe_machine
from mgdm_audio.io.atomic import write_text
from mgdm_audio.io.reader import read
from mgdm_audio.io.resampling import resample
from mgdm_audio.metrics.silence import active_stem_improvement
from mgdm_audio.priors.catalogue import load_prior, resolve
from mgdm_audio.priors.checkpoint.store import read_header
from mgdm_audio.priors.closed import OTHER, is_closed_over
from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.chunk_stream import ChunkStream
from mgdm_audio.sampling.cost import count_evaluations
from mgdm_audio.sampling.level import LevelMeter
from mgdm_audio.sampling.presets import PRESETS, sampling_settings
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.sampling.wiener import average_spectrum_wiener
from mgdm_core.errors import MGDMError, SettingsError
from mgdm_core.samplers import SAMPLERS
from mgdm_core.settings_text import change_settings

__all__ = ["at_cost", "cost_of", "main"]

_LENGTHS = ("steps", "levels", "iterations")
_LONGEST = 1000
_WIENER = "average-spectrum Wiener"


@dataclass(frozen=True)
class Row:
    """One sampler's figures: dB per stem, cost of all posterior samples, or why there is none."""

    sampler: str
    improvement: dict[str, float]
    evaluations: float = 0.0
    vjps: float = 0.0
    seconds: float = 0.0
    error: str = ""
    settings: str = ""

    def cells(self, stems: Sequence[str]) -> list[str]:
        """Cells of the Markdown table."""
        if self.error:
            return [self.sampler, *["–"] * (len(stems) + 4), self.error]
        gains = [self.improvement[s] for s in stems]
        figures = [f"{g:.2f}" for g in (*gains, sum(gains) / len(gains))]
        cost = [f"{x:.0f}" for x in (self.evaluations, self.vjps, self.seconds)]
        return [self.sampler, *figures, *cost, ""]


def cost_of(sampling: SamplingSettings, prior: WaveformPrior) -> float:
    """Evaluations of all posterior samples of a window; a VJP counts as two."""
    evaluations, vjps = count_evaluations(sampling, prior.schedule, len(prior.stems))
    return sampling.runs * (evaluations + 2 * vjps)


def at_cost(sampling: SamplingSettings, budget: float, prior: WaveformPrior) -> SamplingSettings:
    """Lengthen or shorten a sampler so that it costs at most ``budget`` evaluations.

    The length is the first of ``steps``, ``levels``, ``iterations`` that its settings have. Where
    no length costs between half the budget and all of it, the shortest one above is taken.
    """
    names = {f.name for f in fields(sampling.settings)}
    name = next(n for n in _LENGTHS if n in names)

    # Doubled until it costs too much, then halved: only long runs take time to count.
    affordable: SamplingSettings | None = None
    shortest: SamplingSettings | None = None
    refused = SettingsError(f"{name} of {sampling.sampler} has no length that is allowed")
    low, high, bounded = 0, 1, False
    while (high - low > 1 or not bounded) and low < _LONGEST:
        length = (low + high) // 2 if bounded else high
        try:
            changed = replace(sampling, settings=replace(sampling.settings, **{name: length}))
        except SettingsError as error:  # most often too short
            low, refused = length, error
        else:
            spent = cost_of(changed, prior)
            if spent <= budget:
                low = length
                # A run that ends before it has begun is no comparison.
                affordable = changed if spent >= budget / 2 else None
            else:
                high, bounded, shortest = length, True, changed
        if not bounded:
            high = 2 * low
    found = affordable or shortest
    if found is None:
        raise refused
    return found


def _references(folder: Path, prior: WaveformPrior, seconds: float | None) -> torch.Tensor:
    rows = []
    for stem in prior.stems:
        found = sorted(folder.glob(f"{stem}.*"))
        if not found:
            raise SettingsError(f"{folder} has no file named {stem}.*")
        signal, rate = read(found[0])
        rows.append(resample(torch.from_numpy(signal.mean(0)), rate, prior.rate))
    length = min(len(r) for r in rows)
    if seconds is not None:
        length = min(length, round(seconds * prior.rate))
    return torch.stack([r[:length] for r in rows])


def _separate(
    sampler: StemSampler, mixture: torch.Tensor, seed: int
) -> tuple[torch.Tensor, float, float]:
    meter = LevelMeter(sampler.prior.rate, 1)
    meter.add(mixture[None])
    level = meter.result()
    stream = ChunkStream(sampler, seed, len(mixture))
    draws = torch.cat(stream.push(level.to_prior(mixture[None])), -1)
    evaluations = sum(t.evaluations for t in stream.traces) / max(1, len(stream.traces))
    vjps = sum(t.vjps for t in stream.traces) / max(1, len(stream.traces))
    return level.from_prior(draws.mean(0)), evaluations, vjps


_EXTRA = ("fast",)
"""Rows of the whole table besides the samplers."""


def _ways(prior: WaveformPrior, names: list[str], budget: float) -> dict[str, SamplingSettings]:
    ways: dict[str, SamplingSettings] = {}
    for name in names:
        if name == sampling_settings().sampler:
            ways[name] = at_cost(sampling_settings(), budget, prior)
        elif name in PRESETS:
            ways[f"{PRESETS[name].sampler} ({name})"] = PRESETS[name]
        elif name == "mgdm":
            ways[name] = at_cost(replace(PRESETS["paper"], start="wiener"), budget, prior)
        else:
            chosen = sampling_settings(sampler=name, samples=1)
            settings: Any = chosen.settings
            if SAMPLERS[name].interacting:
                settings = change_settings(settings, {"particles": "4"})
            ways[name] = at_cost(replace(chosen, settings=settings), budget, prior)
    return ways


def _measured(
    name: str, sampling: SamplingSettings, prior: WaveformPrior, truth: torch.Tensor, seed: int
) -> Row:
    began = time.perf_counter()
    try:
        estimate, nfe, vjps = _separate(StemSampler(prior, sampling), truth.sum(0), seed)
    except MGDMError as error:
        return Row(name, {}, error=str(error).splitlines()[0])
    seconds, count = time.perf_counter() - began, sampling.samples
    return Row(name, _improvement(estimate, truth, prior), count * nfe, count * vjps, seconds)


def _improvement(
    estimate: torch.Tensor, truth: torch.Tensor, prior: WaveformPrior
) -> dict[str, float]:
    scores = active_stem_improvement(estimate, truth, truth.sum(0), prior.rate)
    return dict(zip(prior.stems, scores.per_stem.tolist(), strict=True))


def _wiener(prior: WaveformPrior, truth: torch.Tensor) -> Row | None:
    if not isinstance(prior, SpectralPrior):
        return None
    began = time.perf_counter()
    mixture = truth.sum(0)[None].to(prior.device)
    filtered = average_spectrum_wiener(mixture, prior.average_power, prior.spectral)[0]
    gains = _improvement(filtered.cpu(), truth, prior)
    return Row(_WIENER, gains, seconds=time.perf_counter() - began)


def _markdown(rows: Sequence[Row], stems: Sequence[str], head: Sequence[str]) -> str:
    columns = ["sampler", *stems, "mean", "evaluations", "VJPs", "seconds", ""]
    table = [columns, ["---", *["---:"] * (len(columns) - 2), "---"]]
    table += [row.cells(stems) for row in sorted(rows, key=_order)]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([*head, *lines]) + "\n"


def _order(row: Row) -> float:
    return -sum(row.improvement.values()) if row.improvement else float("inf")


def _head(prior: WaveformPrior, budget: float, seconds: float) -> list[str]:
    machine = describe_machine([str(prior.device)])
    amx = "with" if machine["amx"] else "without"
    return [
        "SI-SDR improvement in dB over active stems, by "
        "`mgdm_audio.metrics.silence.active_stem_improvement`;",
        f"{seconds:.1f} s of audio. Evaluations and vector-Jacobian products per window, of all",
        f"posterior samples together: at most {budget:.0f} in all (a VJP counts as two), or the",
        "least above that at which a sampler does anything. Seconds are for the whole recording.",
        "",
        f"Prior {prior.name}, {prior.precision}, checksum `{prior.checksum[:16]}`.",
        f"{machine['cpu']}, {machine['cores']} cores {amx} AMX, {machine['threads']} threads,",
        f"device {prior.device}; {date.today().isoformat()}.",
        "",
        "```",
        f"python -m recipes.slakh.separation_table {' '.join(sys.argv[1:])}",
        "```",
        "",
    ]


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("references", type=click.Path(exists=True, file_okay=False, path_type=Path))
@prior_option
@device_option
@precision_option
@click.option("--samplers", default="", help="Names with commas; presets are names too.")
@click.option("--seconds", type=float, help="Only the first so many seconds.")
@click.option("--seed", default=0, show_default=True)
@click.option("--budget", type=click.FloatRange(1), help="Evaluations; the default preset's own.")
@click.option(
    "--pooling", default=0.0, show_default=True,
    help="Bandwidth of the pooling after every run; 0: the samplers themselves.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file; beside it a .json.")
def main(
    references: Path,
    prior: str,
    device: torch.device,
    precision: str,
    samplers: str,
    seconds: float | None,
    seed: int,
    budget: float | None,
    pooling: float,
    out: Path | None,
) -> None:
    """Print a table of SI-SDR improvements of every sampler on REFERENCES.

    A prior with a stem for other sounds is told that there are none where REFERENCES has none.

    Names: any sampler (mgdm at its published setting), any preset (fast, balanced, paper).
    """
    path = resolve(prior)
    there = {file.stem for file in references.iterdir()}
    closed = is_closed_over(read_header(path).stems, sorted(there))
    without = (OTHER,) if closed else ()
    loaded = load_prior(path, device=device, precision=precision, without=without)
    if budget is None:
        budget = cost_of(sampling_settings(), loaded)
    names = [n.strip() for n in samplers.split(",") if n.strip()] or [*_EXTRA, *SAMPLERS]
    ways = {
        name: replace(sampling, pooling=pooling, recalibrated=False)
        for name, sampling in _ways(loaded, names, budget).items()
    }
    truth = _references(references, loaded, seconds)
    length = truth.shape[-1] / loaded.rate
    head = _head(loaded, budget, length)
    store = None if out is None else out.with_suffix(".json")
    question = {
        "prior": loaded.checksum, "stems": list(loaded.stems), "precision": loaded.precision,
        "references": references.name,
        "sound": hashlib.sha256(truth.numpy().tobytes()).hexdigest()[:16], "seconds": length,
        "seed": seed, "budget": budget, "pooling": pooling,
    }  # fmt: skip
    rows = _held(store, question)

    def done(row: Row | None) -> None:
        if row is None:
            return
        rows[row.sampler] = row
        click.echo(f"| {' | '.join(row.cells(loaded.stems))} |", err=True)
        if out is not None and store is not None:
            content = {"question": question, "rows": [asdict(r) for r in rows.values()]}
            write_text(store, json.dumps(content, indent=1) + "\n")
            write_text(out, _markdown(list(rows.values()), loaded.stems, head))

    if _WIENER not in rows:
        done(_wiener(loaded, truth))
    for name, sampling in ways.items():
        told = repr(sampling)
        if name not in rows or rows[name].settings != told:
            done(replace(_measured(name, sampling, loaded, truth, seed), settings=told))
    click.echo(_markdown(list(rows.values()), loaded.stems, head), nl=False)


def _held(store: Path | None, question: dict[str, Any]) -> dict[str, Row]:
    """Rows of an earlier call that asked for the same."""
    if store is None or not store.exists():
        return {}
    content = json.loads(store.read_text(encoding="utf-8"))
    if content["question"] != question:
        raise SettingsError(
            f"{store}: holds rows of another question ({content['question']}); give another --out"
        )
    return {row["sampler"]: Row(**row) for row in content["rows"] if not row["error"]}


if __name__ == "__main__":
    main()
