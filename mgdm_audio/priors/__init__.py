"""Waveform priors: networks, checkpoints and the names they are known by."""

from __future__ import annotations

from mgdm_audio.priors.checkpoint.header import FORMAT_VERSION, PriorHeader
from mgdm_audio.priors.checkpoint.store import load_prior, read_header, save_prior, verify
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.networks import register_network
from mgdm_audio.priors.waveform_prior import (
    SpectralWaveformPrior,
    WaveformPrior,
    make_prior,
)

__all__ = [
    "FORMAT_VERSION",
    "Levels",
    "PriorHeader",
    "SpectralWaveformPrior",
    "WaveformPrior",
    "load_prior",
    "make_prior",
    "read_header",
    "register_network",
    "save_prior",
    "verify",
]
