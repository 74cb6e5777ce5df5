"""Every sampler under one prior at equal cost, on one folder of reference stems.

``python -m recipes.slakh.separation_table REFERENCES`` mixes the stems in REFERENCES (bass, drums,
guitar, piano; any format), separates the mix with every sampler at about the cost of the default
preset (a vector-Jacobian product counts as two evaluations) and prints a Markdown table of SI-SDR
improvements, with the average-spectrum Wiener filter as the row that needs no diffusion.
"""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import torch

from mgdm_audio.audio_io import read
from mgdm_audio.chunking import ChunkStream
from mgdm_audio.cost import count_evaluations
from mgdm_audio.gain import LevelMeter
from mgdm_audio.metrics import slakh_si_sdr_improvement
from mgdm_audio.presets import PRESETS, sampling_settings
from mgdm_audio.priors.checkpoints import load_prior
from mgdm_audio.priors.registry import resolve
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.resampling import resample
from mgdm_audio.stem_sampler import SamplingSettings, StemSampler
from mgdm_audio.wiener import average_spectrum_wiener
from mgdm_core.errors import MGDMError, SettingsError
from mgdm_core.samplers import SAMPLERS
from mgdm_core.settings_text import change_settings

__all__ = ["at_cost", "main"]

_LENGTHS = ("steps", "levels", "iterations")


def at_cost(sampling: SamplingSettings, budget: float, prior: WaveformPrior) -> SamplingSettings:
    """Lengthen or shorten a sampler so that a sample costs at most ``budget`` evaluations.

    The length is the first of ``steps``, ``levels``, ``iterations`` that its settings have; the
    shortest allowed run is returned where even that costs more.
    """
    names = {f.name for f in fields(sampling.settings)}
    name = next(n for n in _LENGTHS if n in names)

    def cost(length: int) -> tuple[float, SamplingSettings]:
        settings = replace(sampling.settings, **{name: length})
        changed = replace(sampling, settings=settings)
        evaluations, vjps = count_evaluations(changed, prior.schedule, len(prior.stems))
        return evaluations + 2 * vjps, changed

    best: SamplingSettings | None = None
    low, high = 2, 1000
    while low <= high:
        middle = (low + high) // 2
        try:
            spent, changed = cost(middle)
        except SettingsError:
            low = middle + 1
            continue
        if spent <= budget:
            best, low = changed, middle + 1
        else:
            high = middle - 1
    return best if best is not None else cost(2)[1]


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


def _ways(prior: WaveformPrior, names: list[str], budget: float) -> dict[str, SamplingSettings]:
    default = sampling_settings()
    ways: dict[str, SamplingSettings] = {}
    for name in names:
        if name in PRESETS:
            ways[f"mgdm ({name})"] = PRESETS[name]
            continue
        if name == "mgdm-published":
            published = replace(PRESETS["paper"], start="wiener")
            ways[name] = at_cost(published, budget, prior)
            continue
        chosen = sampling_settings(sampler=name, samples=1)
        if name == "mgdm":
            chosen = default
        else:
            settings: Any = SAMPLERS[name].settings()
            if SAMPLERS[name].particles:
                settings = change_settings(settings, {"particles": "4"})
            chosen = at_cost(replace(chosen, settings=settings), budget, prior)
        ways[name] = chosen
    return ways


@click.command()
@click.argument("references", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prior", "prior_name", default="music-stems", show_default=True)
@click.option("--samplers", default="", help="Names with commas; presets are names too.")
@click.option("--seconds", type=float, help="Only the first so many seconds.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="One object a line.")
def main(
    references: Path,
    prior_name: str,
    samplers: str,
    seconds: float | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Print a table of SI-SDR improvements of every sampler on REFERENCES."""
    prior = load_prior(resolve(prior_name))
    truth = _references(references, prior, seconds)
    mixture = truth.sum(0)
    default = sampling_settings()
    evaluations, vjps = count_evaluations(default, prior.schedule, len(prior.stems))
    budget = default.samples * (evaluations + 2 * vjps)
    names = [n.strip() for n in samplers.split(",") if n.strip()] or [
        "mgdm",
        "fast",
        "mgdm-published",
        *(n for n in SAMPLERS if n not in ("mgdm", "mcg_diff", "smc_diff")),
    ]
    click.echo(
        f"| sampler | {' | '.join(prior.stems)} | mean | evaluations | VJPs | seconds |\n"
        f"|---|{'---|' * (len(prior.stems) + 4)}"
    )

    def row(name: str, estimate: torch.Tensor, nfe: float, products: float, took: float) -> None:
        scores = slakh_si_sdr_improvement(estimate, truth, mixture, prior.rate)
        gains = scores.silence_safe_mean.tolist()
        mean = sum(gains) / len(gains)
        cells = " | ".join(f"{g:.2f}" for g in gains)
        click.echo(f"| {name} | {cells} | {mean:.2f} | {nfe:.0f} | {products:.0f} | {took:.0f} |")
        if json_path is not None:
            facts = {
                "sampler": name,
                "improvement": dict(zip(prior.stems, gains)),
                "mean": mean,
                "evaluations": nfe,
                "vjps": products,
                "seconds": took,
            }
            with json_path.open("a") as file:
                file.write(json.dumps(facts) + "\n")

    power = prior.average_power
    spectral = getattr(prior, "spectral", None)
    if power is not None and spectral is not None:
        began = time.perf_counter()
        filtered = average_spectrum_wiener(mixture[None], power, spectral)[0]
        row("average-spectrum Wiener", filtered, 0, 0, time.perf_counter() - began)
    for name, sampling in _ways(prior, names, budget).items():
        began = time.perf_counter()
        try:
            estimate, nfe, products = _separate(StemSampler(prior, sampling), mixture, seed)
        except MGDMError as error:
            click.echo(f"| {name} | {str(error).splitlines()[0]} |")
            continue
        count = sampling.samples
        row(name, estimate, count * nfe, count * products, time.perf_counter() - began)


if __name__ == "__main__":
    main()
