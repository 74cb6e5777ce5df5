"""Validation of a checkpoint: denoising per noise level, and separation by a fixed fast sampler."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from mgdm_audio.metrics.si_sdr import si_sdr
from mgdm_audio.priors.spectral_network import SpectralNetwork
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.chunk_stream import ChunkStream
from mgdm_audio.sampling.level import LevelMeter
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.sampling.stem_sampler import StemSampler
from mgdm_core.array_types import Array, Float, Tensor
from mgdm_core.errors import MGDMError
from recipes.music_prior.sound.validation_sets import MIXTURE_RMS, separable
from recipes.music_prior.training.data import INT16_SCALE, SegmentSource
from recipes.music_prior.training.wiener_baseline import wiener_separate, wiener_spectra

__all__ = [
    "FastSampler",
    "STEMS",
    "denoising_sdr",
    "held_out",
    "preset_separator",
    "real_pieces",
    "separation",
    "validate",
]

STEMS = ("bass", "drums", "guitar", "piano")
SIGMAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class FastSampler:
    """A sampler of few evaluations, fixed so that checkpoints can be compared.

    It starts at the Wiener estimate plus noise. At every level the denoised stems get the rest of
    the mixture shared out per time-frequency bin by posterior variances,

        v_k = S_k sigma^2 / (S_k + sigma^2),   S_k = |X_k|^2 + average power of stem k,

    and the next level is reached with a part ``churn`` of fresh noise, the rest of it the noise
    that the denoiser found. The noise has ``noise`` times the deviation that the level says: a
    prior trained with cross-talk knows such states, and they hide less of the mixture.
    """

    steps: int = 4
    sigma_max: float = 0.3
    sigma_min: float = 0.03
    rho: float = 3.0
    churn: float = 1.0
    noise: float = 0.3
    samples: int = 1

    def levels(self) -> list[float]:
        """Noise levels, falling (Karras et al. 2022, equation 5)."""
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        ramp = np.linspace(0, 1, self.steps) if self.steps > 1 else np.zeros(1)
        return [float((high + r * (low - high)) ** self.rho) for r in ramp]

    @torch.no_grad()
    def separate(
        self, network: SpectralNetwork, mixture: Float[Tensor, "batch samples"], seed: int = 0
    ) -> Float[Tensor, "batch stems samples"]:
        """Stems of mixtures of RMS 0.1, the mean of ``samples`` runs."""
        generator = torch.Generator(device=mixture.device).manual_seed(seed)
        runs = [self._sample(network, mixture, generator) for _ in range(self.samples)]
        return torch.stack(runs).mean(0)

    def _sample(
        self, network: SpectralNetwork, mixture: Tensor, generator: torch.Generator
    ) -> Tensor:
        spectral, power = network.spectral, network.average_power
        target = spectral.forward(mixture)
        length, stems = mixture.shape[-1], network.config.stems
        shape = (mixture.shape[0], stems, length)
        clean = spectral.inverse(wiener_spectra(target, power), length)
        levels = self.levels()

        def white() -> Tensor:
            return torch.randn(shape, generator=generator, device=mixture.device)

        x = clean + self.noise * levels[0] * white()
        for level, following in zip(levels, [*levels[1:], 0.0]):
            noisy = spectral.forward(x)
            sigma = torch.full((len(mixture),), level, device=mixture.device)
            estimate = network.denoise_spectrum(noisy, sigma).spectrum
            signal = estimate.abs().square() + power[None, :, :, None]
            variance = signal * level**2 / (signal + level**2)
            share = variance / variance.sum(1, keepdim=True)
            estimate = estimate + share * (target - estimate.sum(1))[:, None]
            clean = spectral.inverse(estimate, length)
            found = (x - clean) / level
            fresh = self.noise * white()
            direction = math.sqrt(1 - self.churn**2) * found + self.churn * fresh
            x = clean + following * direction
        return clean


def held_out(source: SegmentSource, folder: Path, segments: int, identity: str) -> Array:
    """The fixed validation set, float32 (segments, stems, samples), mixtures of RMS 0.1.

    It is rendered once and kept in ``folder``. Segments with fewer than two active stems are
    passed over, since nothing in them is to be separated.
    """
    path, label = folder / "held_out.npy", folder / "held_out.txt"
    text = f"{identity} {segments}"
    if path.exists() and label.exists() and label.read_text() == text:
        return np.load(path).astype(np.float32) / INT16_SCALE
    chosen: list[Array] = []
    for item in source.stream(0):
        scaled = separable(item)
        if scaled is not None:
            chosen.append(scaled)
        if len(chosen) == segments:
            break
    stacked = np.clip(np.rint(np.stack(chosen) * INT16_SCALE), -32768, 32767).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, stacked)
    label.write_text(text)
    return stacked.astype(np.float32) / INT16_SCALE


def real_pieces(folder: Path, seconds: float = 6.0, rate: int = 22_050) -> Array:
    """Pieces of a real song in the four-stem layout (any format), mixtures of RMS 0.1."""
    stems = []
    for name in STEMS:
        files = sorted(folder.glob(f"{name}.*"))
        if not files:
            raise MGDMError(f"no {name}.* in {folder}; a real song needs the files of {STEMS}")
        audio, found = soundfile.read(files[0], dtype="float32", always_2d=True)
        if found != rate:
            raise MGDMError(f"{files[0]} has {found} Hz; the prior needs {rate}")
        stems.append(audio.mean(1))
    length = int(seconds * rate)
    song = np.stack(stems)
    song *= MIXTURE_RMS / max(1e-9, float(np.sqrt(np.mean(song.sum(0) ** 2))))
    pieces = [song[:, i : i + length] for i in range(0, song.shape[1] - length + 1, length)]
    return np.stack(pieces)


@torch.no_grad()
def denoising_sdr(
    network: SpectralNetwork,
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


def separation(
    separate: Callable[[Tensor], Tensor],
    stems: Float[Tensor, "items stems samples"],
    batch: int = 4,
) -> list[float]:
    """Mean SI-SDR improvement in dB per stem, over the pieces in which the stem is heard."""
    gains: list[Tensor] = []
    for piece in stems.split(batch):
        mixture = piece.sum(1)
        estimate = separate(mixture)
        gain = si_sdr(estimate, piece) - si_sdr(mixture[:, None].expand_as(piece), piece)
        heard = piece.square().mean(-1).sqrt() > 0.003
        gains.append(torch.where(heard, gain.float(), torch.nan))
    return torch.nanmean(torch.cat(gains), 0).tolist()


def preset_separator(
    prior: WaveformPrior, preset: str, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """What ``mgdm-separate --preset`` does with mono mixtures at the prior's rate."""
    sampler = StemSampler(prior, sampling_settings(preset))

    def one(mixture: Tensor) -> Tensor:
        meter = LevelMeter(prior.rate, 1)
        meter.add(mixture[None])
        level = meter.result()
        stream = ChunkStream(sampler, seed, len(mixture))
        draws = torch.cat(stream.push(level.to_prior(mixture[None])), -1)
        return level.from_prior(draws.mean(0))

    return lambda mixtures: torch.stack([one(mixture) for mixture in mixtures])


def validate(
    network: SpectralNetwork,
    stems: Float[Tensor, "items stems samples"],
    real: Float[Tensor, "pieces stems samples"] | None = None,
    sampler: FastSampler | None = None,
    denoise: bool = True,
    separate: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """All figures of one network; ``separate`` in place of the fast sampler where it is given."""
    network.eval()
    fast = FastSampler() if sampler is None else sampler
    chosen = separate if separate is not None else lambda y: fast.separate(network, y)
    result: dict[str, Any] = {"denoising_sdr": denoising_sdr(network, stems) if denoise else {}}
    for name, pieces in (("held_out", stems), ("real", real)):
        if pieces is None:
            continue
        result[name] = separation(chosen, pieces)
        result[f"{name}_wiener"] = separation(
            lambda y: wiener_separate(y, network.average_power, network.spectral), pieces
        )
    return result


def append_result(path: Path, step: int, seconds: float, label: str, result: dict) -> None:
    """One line of JSON per validated checkpoint."""
    line = {"step": step, "seconds": seconds, "label": label, **result}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def plot(out: Path, picture: Path) -> None:
    """Loss and validation over training as one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axes, gain_axes = figure.subplots(2, 1, sharex=True)
    log = out / "log.csv"
    if log.exists():
        with log.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        steps = [int(r["step"]) for r in rows]
        for name in ("loss_low", "loss_middle", "loss_high"):
            loss_axes.plot(steps, [float(r[name]) for r in rows], label=name, alpha=0.7)
    loss_axes.set(ylabel="weighted loss", ylim=(0, 1.2))
    loss_axes.legend()
    results = out / "validation.jsonl"
    if results.exists():
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        for name in ("held_out", "held_out_wiener", "real", "real_wiener"):
            points = [(r["step"], float(np.mean(r[name]))) for r in lines if name in r]
            if points:
                gain_axes.plot(*zip(*points), "o-", label=name.replace("_", " "))
        gain_axes.legend()
    gain_axes.set(xlabel="step", ylabel="SI-SDR improvement (dB)")
    figure.savefig(picture, dpi=110)
