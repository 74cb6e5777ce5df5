"""Separations by the default preset, kept on disk: what is fitted and judged is about these."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mgdm_audio.io.atomic import replacing
from mgdm_audio.priors.protocols import SpectralPrior
from mgdm_audio.priors.waveform_prior import WaveformPrior
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.sampling.recalibration import recalibrated
from mgdm_audio.sampling.stem_sampler import SamplingSettings, StemSampler
from mgdm_core.array_types import Array, Float
from mgdm_core.errors import SettingsError

__all__ = ["SEPARATIONS", "Separations", "parts_of", "separate"]

SEPARATIONS = "separations"
"""Folder of them, beside those of the tiers."""


def parts_of(
    songs: Iterable[Float[Array, "stems samples"]], seconds: float, rate: int
) -> list[Float[Array, "stems part"]]:
    """The first so many seconds of each song; of a single song as many parts as it holds.

    Raises
    ------
    SettingsError
        If a song is shorter than the second that figures are about.
    """
    songs, length = list(songs), round(seconds * rate)
    for song in songs:
        if song.shape[-1] < rate:
            raise SettingsError(
                f"songs last at least a second, {rate} samples; found {song.shape[-1]}"
            )
    last = songs[0].shape[-1] - length if len(songs) == 1 else 0
    return [
        np.ascontiguousarray(song[:, at : at + length])
        for song in songs
        for at in range(0, max(1, last + 1), length)
    ]


def separate(
    prior: WaveformPrior, sampling: SamplingSettings, mixture: Float[Array, " samples"], seed: int
) -> tuple[Float[Array, "stems samples"], Float[Array, "draws stems samples"]]:
    """Separation and posterior samples of a mixture at the prior's rate and level."""
    sampler = StemSampler(prior, sampling)
    padded = torch.zeros(sampler.padded_length(len(mixture)))
    padded[: len(mixture)] = torch.from_numpy(mixture)
    length = len(mixture)
    result = sampler.sample(padded, 0, seed, heard=slice(0, length))
    return result.mean[:, :length].numpy(), result.samples[..., :length].numpy()


@dataclass(frozen=True)
class Separations:
    """What the default preset makes of the parts of a set, made once.

    Attributes
    ----------
    prior : WaveformPrior
    folder : Path
        One file per part, named by all that it depends on.
        Before their shares are corrected, so that a new fit asks for no new separations.
    corrected : bool
        Whether they are given with the shares corrected as was fitted.
    """

    prior: WaveformPrior
    folder: Path
    corrected: bool = True

    def of(
        self, truth: Float[Array, "stems samples"]
    ) -> tuple[Float[Array, "stems samples"], float]:
        """Separation of the sum of some stems, and the processor's seconds that it took."""
        mixture = truth.sum(0)
        # A prior that was closed has the checksum of the open one.
        sampling = sampling_settings(recalibrated=False)
        told = f"{self.prior.checksum} {self.prior.stems} {sampling!r}".encode()
        path = self.folder / f"{hashlib.sha256(told + mixture.tobytes()).hexdigest()[:16]}.npz"
        if not path.exists():
            began = time.process_time()
            stems, _ = separate(self.prior, sampling, mixture, 0)
            spent = time.process_time() - began
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez(file, stems=stems, seconds=spent)
        found = np.load(path)
        stems = found["stems"]
        if self.corrected and isinstance(self.prior, SpectralPrior):
            stems = recalibrated(torch.from_numpy(stems), self.prior, self.prior.checksum).numpy()
        return stems, float(found["seconds"])
