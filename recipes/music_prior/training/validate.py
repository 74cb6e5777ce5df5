"""Validation of a prior: the sets A, B and C separated as the product does it, and denoising."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mgdm_audio.io.atomic import replacing
from mgdm_audio.metrics.silence import ACTIVE_RMS, ActiveStemScores
from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.priors.waveform_prior import SpectralWaveformPrior
from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_audio.sampling.wiener import average_spectrum_wiener
from mgdm_audio.separation.separator import Separator
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import MGDMError
from recipes.music_prior.songs.song import RATE, STEMS
from recipes.music_prior.sound.validation_sets import ValidationSet, score
from recipes.music_prior.training.export import export

__all__ = [
    "alone_share",
    "denoising_sdr",
    "plot",
    "read_prior",
    "separator",
    "unknown_share",
    "validate",
]

SIGMAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def read_prior(path: Path) -> SpectralWaveformPrior:
    """Prior of an exported file, or of a checkpoint as it would be exported, in float32."""
    if path.suffix == ".safetensors":
        prior = load_prior(path, device="cpu", precision="float32")
    else:
        with tempfile.TemporaryDirectory() as folder:
            shipped = Path(folder) / "exported.safetensors"
            export(path, shipped)
            prior = load_prior(shipped, device="cpu", precision="float32")
    if not isinstance(prior, SpectralWaveformPrior):
        raise MGDMError(f"{path} is no spectral denoiser; the training makes and measures those")
    return prior


def closed_to_four(prior: SpectralWaveformPrior) -> SpectralWaveformPrior:
    """Return the prior of the four stems of the sets; a fifth is told to be silent."""
    others = [stem for stem in prior.stems if stem not in STEMS]
    return closed_prior(prior, others) if others else prior


def separator(
    prior: SpectralWaveformPrior, sampling: SamplingSettings, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """What ``mgdm-separate`` does with mono mixtures at the prior's rate."""
    separate = Separator(prior, sampling)

    def one(mixture: Tensor) -> Tensor:
        stems = separate(mixture, rate=prior.rate, seed=seed).stems
        return torch.stack([torch.as_tensor(stems[stem]).reshape(-1) for stem in prior.stems])

    return lambda mixtures: torch.stack([one(mixture) for mixture in mixtures])


@torch.no_grad()
def denoising_sdr(
    network: Callable[[Tensor, Tensor], Tensor],
    stems: Float[Tensor, "items stems samples"],
    seed: int = 0,
    batch: int = 4,
) -> dict[float, list[float]]:
    """SDR in dB per noise level and stem: power of the clean stems over that of the error."""
    scores: dict[float, list[float]] = {}
    for sigma in SIGMAS:
        generator = torch.Generator().manual_seed(seed)
        error = torch.zeros(stems.shape[1], dtype=torch.float64)
        power = torch.zeros(stems.shape[1], dtype=torch.float64)
        for piece in stems.split(batch):
            noisy = piece + sigma * torch.randn(piece.shape, generator=generator)
            estimate = network(noisy, torch.full((len(piece),), sigma))
            error += (estimate - piece).double().square().sum((0, 2))
            power += piece.double().square().sum((0, 2))
        scores[sigma] = (10 * torch.log10(power / error)).tolist()
    return scores


def validate(
    prior: SpectralWaveformPrior,
    sets: Sequence[ValidationSet],
    sampling: SamplingSettings,
    *,
    denoise: bool = False,
    alone: bool = False,
    progress: Callable[[str, ActiveStemScores], object] | None = None,
) -> dict[str, Any]:
    """All figures of one prior, as plain values.

    Parameters
    ----------
    prior : SpectralWaveformPrior
        Four stems, or five of which the last is told to be silent.
    sets : sequence of ValidationSet
    sampling : SamplingSettings
        How to separate.
    denoise : bool
        Whether to measure the denoising of clean stems in white noise as well, on the first set.
    alone : bool
        Whether to measure where stems end that play alone (:func:`alone_share`), on the first set.
    progress : callable, optional
        Receives the identity of every set and its scores as soon as they are known.

    Returns
    -------
    dict
        Per set's identity the SI-SDR improvement over active stems, ``per_stem`` and ``mean`` with
        its 95 % ``interval`` over the songs, what of each stem is in it (``retained``), the figure
        of the average-spectrum Wiener filter, and the seconds per second of music; for set U,
        which all stems of the prior separate, the share of the unknown sound that ends in each
        (:func:`unknown_share`); ``denoising_sdr`` per level and ``alone`` where they are asked for.
    """
    whole, prior = prior, closed_to_four(prior)
    order = [prior.stems.index(stem) for stem in STEMS]
    result: dict[str, Any] = {}
    for found in sets:
        if found.name == "U":
            mixtures = torch.from_numpy(found.stems.sum(1))
            estimates = separator(whole, sampling)(mixtures)
            shares = unknown_share(estimates, torch.from_numpy(found.stems[:, -1]))
            result[found.identity] = dict(zip(whole.stems, shares.tolist(), strict=True))
            continue
        began = time.perf_counter()
        run = separator(prior, sampling)
        scores = score(lambda mixtures, run=run: run(mixtures)[:, order], found.stems)
        seconds = time.perf_counter() - began

        def wiener(mixtures: Tensor) -> Tensor:
            return average_spectrum_wiener(mixtures, prior.average_power, prior.spectral)[:, order]

        result[found.identity] = {
            "per_stem": scores.per_stem.tolist(),
            "mean": float(scores.mean),
            "interval": [scores.interval.low, scores.interval.high],
            "retained": scores.retained_per_stem.tolist(),
            "wiener": float(score(wiener, found.stems).mean),
            "real_time": seconds / (found.stems.shape[0] * found.stems.shape[2] / RATE),
        }
        if progress is not None:
            progress(found.identity, scores)
    if denoise:
        clean = torch.from_numpy(sets[0].stems)[:, torch.tensor(order).argsort()]
        result["denoising_sdr"] = denoising_sdr(prior.network, clean[..., : 6 * RATE])
    if alone:
        stems = torch.from_numpy(sets[0].stems)
        run = separator(whole, sampling)
        result["alone"] = {
            stem: dict(zip(whole.stems, alone_share(run, stems[:, place]).tolist(), strict=True))
            for place, stem in enumerate(STEMS)
        }
    return result


def alone_share(
    separate: Callable[[Tensor], Tensor], sounds: Float[Tensor, "items samples"]
) -> Float[Tensor, " stems"]:
    """Where sounds end that play alone: who knows an instrument leaves it in one stem.

    Parameters
    ----------
    separate : callable
        From mixtures to their stems (:func:`separator`).
    sounds : Tensor, shape (items, samples)
        One stem of every song; songs without it are left out, and each is made as loud as a song.

    Returns
    -------
    Tensor, shape (stems,)
        Mean over the items of :func:`unknown_share`.

    Raises
    ------
    MGDMError
        If no song has the stem.
    """
    loudness = sounds.square().mean(1).sqrt()
    played = loudness >= ACTIVE_RMS
    mixtures = sounds[played] * (0.1 / loudness[played])[:, None]
    shares = [unknown_share(separate(mixture[None]), mixture[None]) for mixture in mixtures]
    if not shares:
        raise MGDMError("no song of the set has this stem; measure stems alone on another set")
    return torch.stack(shares).mean(0)


def unknown_share(
    estimates: Float[Tensor, "items stems samples"], unknown: Float[Tensor, "items samples"]
) -> Float[Tensor, " stems"]:
    """How much of a sound ends in which stem: its projection on every stem, over the items.

    Parameters
    ----------
    estimates : Tensor, shape (items, stems, samples)
        Stems that sum to the mixtures.
    unknown : Tensor, shape (items, samples)
        One of the sounds that were mixed, not correlated with the others.

    Returns
    -------
    Tensor, shape (stems,)
        <e_k, u> / <u, u>, summed over the items; these sum to about 1.
    """
    projected = (estimates * unknown[:, None]).double().sum((0, 2))
    return projected / unknown.double().square().sum()


def plot(out: Path, picture: Path) -> None:
    """Loss of a run and its validation (``validation.jsonl``) over core-hours as one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axes, gain_axes = figure.subplots(2, 1, sharex=True)
    log = out / "log.csv"
    if log.exists():
        with log.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        spent = [float(r["cpu_seconds"]) / 3600 for r in rows]
        for name in ("loss_low", "loss_middle", "loss_high"):
            loss_axes.plot(spent, [float(r[name]) for r in rows], label=name, alpha=0.7)
        loss_axes.legend()
    loss_axes.set(ylabel="weighted loss", ylim=(0, 1.2))
    results = out / "validation.jsonl"
    if results.exists():
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        for name in sorted(
            {key for line in lines for key in line if key[:2] in ("A-", "B-", "C-")}
        ):
            points = [(r["cpu_seconds"] / 3600, r[name]["mean"]) for r in lines if name in r]
            gain_axes.plot(*zip(*sorted(points)), "o-", label=f"set {name[0]}")
        gain_axes.legend()
    gain_axes.set(xlabel="core-hours of training", ylabel="SI-SDR improvement (dB)")
    with replacing(picture) as partial:
        figure.savefig(partial, format=picture.suffix[1:] or "png", dpi=110)
