"""What the denoiser is trained to undo: white noise, and cross-talk between the stems of a song.

Inside a sampler the states are not clean stems plus white noise: what has gone wrong so far is
sound that sits in the wrong stem. So a part of the items is corrupted by both,

    x = s + c e + v sigma eps,    e_k = sum_j g_kj s_j - s_k,    sum_k g_kj = 1,

where the shares g vary smoothly and at random over time and frequency. The leak e moves sound
between stems and leaves their sum as it is; c shrinks it to at most sigma, so that it vanishes
with the noise level; v is 1 (a leak on top of the white noise) or below it (the level is then
made up by the leak: states close to a deterministic sampler's). In some items the shares do not
depend on where the sound belongs: all stems are then shares of one mixture, as where a sampler
begins; in half of them the shares are those of the stems' average spectra, which is just where it
begins.

Part of them, ``own``, are replaced by what the network itself makes of them: where a sampler that
takes more than one evaluation comes to. Errors of a network are not random leaks, and one that
has never seen its own takes them for music.

Those are states near the mixture. Another part of the items, ``diffusion``, are states of the
diffusion itself, clean stems in white noise at any level up to ``sigma_max``: what makes of a
separator a prior, which samplers can follow down the whole schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mgdm_audio.priors.spectral_network import SpectralNetwork
from mgdm_core.array_types import Bool, Complex, Float, Tensor
from mgdm_core.errors import SettingsError

__all__ = [
    "CorruptionSettings",
    "Levels",
    "corrupt",
    "draw_absent",
    "draw_levels",
    "own_states",
    "random_leak",
]


# Far below what is heard in a song whose mixture has an RMS of 0.1.
_SILENT_POWER = 1e-10
# Leaks whose shares do not depend on where a sound belongs, and those of average spectra.
_BLIND, _BEGUN = 1, 2
# The least level of a network's own states, over the level that it took them from.
_LEAST_STEP = 0.2


@dataclass(frozen=True)
class CorruptionSettings:
    """Noise levels and cross-talk of the training.

    Parameters
    ----------
    sigma_median, sigma_spread : float
        Log-normal law of the noise deviation: its median and the deviation of its logarithm.
    sigma_min, sigma_max : float
        Where that law is cut off.
    diffusion : float
        Share of the items that are clean stems in white noise instead, at levels spread evenly in
        their logarithm over ``sigma_min`` to ``sigma_max``.
    told_absent : float
        Share of the items in which the network is told which stems are silent.
    cross_talk : float
        Share of the items that get cross-talk; 0 is the plain white-noise prior.
    quiet_noise : float
        Share of those whose white noise is below their nominal level.
    quiet_power : float
        That white noise is U^quiet_power times the nominal deviation, U uniform.
    blind : float
        Share of those whose stems are shares of the mixture.
    own : float
        Share of the items, in whole items of a batch, whose state is what the network itself makes
        of the corrupted one (:func:`own_states`).
    knots : int
        Knots of the random shares along frequency (on a logarithmic axis).
    knot_frames : int
        Frames between the knots along time.
    """

    sigma_median: float = 0.12
    sigma_spread: float = 1.1
    sigma_min: float = 5e-4
    sigma_max: float = 3.0
    diffusion: float = 0.0
    told_absent: float = 0.0
    cross_talk: float = 0.9
    quiet_noise: float = 0.85
    quiet_power: float = 3.0
    blind: float = 0.6
    own: float = 0.0
    knots: int = 10
    knot_frames: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_median < self.sigma_max:
            raise SettingsError("noise levels need 0 < sigma_min < sigma_median < sigma_max")
        if not self.sigma_spread > 0:
            raise SettingsError(f"sigma_spread must be positive; found {self.sigma_spread}")
        names = ("cross_talk", "quiet_noise", "blind", "own", "diffusion", "told_absent")
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(
                    f"{', '.join(names)} are shares in [0, 1]; found {name} {getattr(self, name)}"
                )
        if not self.quiet_power >= 0:
            raise SettingsError(f"quiet_power must not be negative; found {self.quiet_power}")
        if self.knots < 2 or self.knot_frames < 1:
            raise SettingsError("the random shares need knots >= 2 and knot_frames >= 1")


class Levels(NamedTuple):
    """Noise deviations of a batch, and which items are states of the diffusion itself."""

    sigma: Float[Tensor, " batch"]
    diffusion: Bool[Tensor, " batch"]


def draw_levels(batch: int, settings: CorruptionSettings, generator: torch.Generator) -> Levels:
    """Noise deviations, one per item, stratified over the batch to steady the loss."""
    device = generator.device

    def stratified() -> Tensor:
        order = torch.randperm(batch, generator=generator, device=device)
        return (order + torch.rand(batch, generator=generator, device=device)) / batch

    quantile = stratified().clamp(1e-6, 1 - 1e-6)
    normal = math.sqrt(2) * torch.erfinv(2 * quantile - 1)
    sigma = settings.sigma_median * torch.exp(settings.sigma_spread * normal)
    sigma = sigma.clamp(settings.sigma_min, settings.sigma_max)
    diffusion = torch.zeros(batch, dtype=torch.bool, device=device)
    if settings.diffusion:
        # As many as the share says in the long run; which ones is told by a place of its own.
        diffusion = stratified() < settings.diffusion
        ratio = settings.sigma_max / settings.sigma_min
        wide = settings.sigma_min * ratio ** torch.rand(batch, generator=generator, device=device)
        sigma = torch.where(diffusion, wide, sigma)
    return Levels(sigma, diffusion)


def draw_absent(
    clean: Complex[Tensor, "batch stems bins frames"],
    settings: CorruptionSettings,
    generator: torch.Generator,
) -> Bool[Tensor, "batch stems"] | None:
    """Stems that the network is told to be silent; None if no item is told anything.

    Only stems that are silent are named, and all of them; an item without any sound is not told,
    nor one of a single stem, which there would be nothing to learn from.
    """
    if not settings.told_absent:
        return None
    silent = torch.view_as_real(clean).square().sum(-1).mean((2, 3)) < _SILENT_POWER
    told = torch.rand(len(clean), generator=generator, device=clean.device) < settings.told_absent
    return silent & (told & ((~silent).sum(1) > 1))[:, None]


def _random_shares(
    items: int,
    stems: int,
    columns: int,
    settings: CorruptionSettings,
    generator: torch.Generator,
    absent: Bool[Tensor, "items stems"] | None,
) -> tuple[Float[Tensor, "items stems stems knots columns"], Bool[Tensor, " items"]]:
    """Where sound goes, on knots: axis 1, the stem it ends in, sums to 1; axis 2 is its origin.

    Also returns for which items the origin does not matter.
    """
    device = generator.device

    def uniform() -> Tensor:
        return torch.rand(items, 1, 1, 1, 1, generator=generator, device=device)

    shape = (items, stems, stems, settings.knots, columns)
    field = torch.randn(*shape, generator=generator, device=device)
    # Between one static share for the whole segment and one that changes all the time.
    steady = uniform()
    field = (1 - steady) * field + steady * field.mean(-1, keepdim=True) * columns**0.5
    field = field * (0.3 + 2.2 * uniform())
    stay = -0.5 + 4.0 * uniform()
    blind = torch.rand(items, 1, 1, 1, 1, generator=generator, device=device) < settings.blind
    own = field + stay * torch.eye(stems, device=device)[:, :, None, None]
    logits = torch.where(blind, field[:, :, :1], own)
    if absent is not None:  # nothing leaks into a stem that is known to be silent
        logits = logits.masked_fill(absent[:, :, None, None, None], -math.inf)
    return torch.softmax(logits, 1), blind.flatten()


def random_leak(
    clean: Complex[Tensor, "items stems bins frames"],
    settings: CorruptionSettings,
    generator: torch.Generator,
    power: Float[Tensor, "stems bins"] | None = None,
    absent: Bool[Tensor, "items stems"] | None = None,
) -> Complex[Tensor, "items stems bins frames"]:
    """Sound that moves between the stems, but not into absent ones; its sum over them is zero."""
    items, stems, bins, frames = clean.shape
    columns = max(2, math.ceil(frames / settings.knot_frames) + 1)
    shares, blind = _random_shares(items, stems, columns, settings, generator, absent)
    kinds = blind.long()
    if power is not None:
        begins = torch.rand(items, generator=generator, device=clean.device) < 0.5 * settings.blind
        kinds = kinds.masked_fill(begins, _BEGUN)
        power = power.expand(items, -1, -1)
        if absent is not None:
            power = power.masked_fill(absent[:, :, None], 0)
    # Knots lie evenly on a logarithmic axis of frequency.
    place = torch.log1p(torch.arange(bins, device=clean.device) / 8)
    place = place / place[-1] * (settings.knots - 1)
    knots = torch.arange(settings.knots, device=clean.device)
    spread = (1 - (place[:, None] - knots).abs()).clamp_min(0)
    leak = torch.empty_like(clean)
    for item, kind in enumerate(kinds.tolist()):
        if kind == _BEGUN and power is not None:
            wiener = power[item] / power[item].sum(0)
            torch.mul(wiener[..., None], clean[item].sum(0), out=leak[item])
        else:
            share, sources = shares[item], clean[item]
            if kind == _BLIND:  # whatever a sound's origin, it goes the same ways
                share, sources = share[:, :1], sources.sum(0, keepdim=True)
            ways = share.shape[:2]
            share = F.interpolate(share.flatten(0, 1), frames, mode="linear", align_corners=True)
            share = (spread @ share).unflatten(0, ways)
            torch.sum(share * sources, 1, out=leak[item])
    return leak.sub_(clean)


def corrupt(
    clean: Complex[Tensor, "batch stems bins frames"],
    noise: Complex[Tensor, "batch stems bins frames"],
    levels: Levels,
    settings: CorruptionSettings,
    generator: torch.Generator,
    power: Float[Tensor, "stems bins"] | None = None,
    absent: Bool[Tensor, "batch stems"] | None = None,
) -> Complex[Tensor, "batch stems bins frames"]:
    """Spectra of clean stems made noisy at their levels.

    Parameters
    ----------
    clean, noise : Tensor, shape (batch, stems, bins, frames)
        Spectra of the stems and of white noise of unit deviation.
    levels : Levels
        Noise levels, and which items get nothing but white noise.
    settings : CorruptionSettings
        Which items get cross-talk, and how.
    generator : torch.Generator
        Random stream, on the device of the spectra.
    power : Tensor, shape (stems, bins), optional
        Average power spectra of the stems, for states where a sampler begins.
    absent : Tensor of bool, shape (batch, stems), optional
        Stems that the network is told to be silent.
    """
    sigma = levels.sigma
    batch = len(sigma)
    device = generator.device
    pick = torch.rand(batch, generator=generator, device=device) < settings.cross_talk
    pick = pick & ~levels.diffusion
    quiet = torch.rand(batch, generator=generator, device=device) < settings.quiet_noise
    white = torch.rand(batch, generator=generator, device=device)
    reach = torch.rand(batch, generator=generator, device=device)
    chosen = pick.nonzero().flatten()
    white = torch.where(pick & quiet, white.pow(settings.quiet_power), torch.ones_like(white))
    corrupted = clean + (sigma * white)[:, None, None, None] * noise
    if len(chosen):
        silent = None if absent is None else absent[chosen]
        leak = random_leak(clean[chosen], settings, generator, power, silent)
        size = (2 * torch.view_as_real(leak).square().mean((1, 2, 3, 4))).sqrt()
        limit = sigma[chosen] * (0.2 + 0.8 * reach[chosen])
        scale = (limit / size.clamp_min(1e-12)).clamp(max=1.0)
        corrupted.index_add_(0, chosen, leak.mul_(scale[:, None, None, None]))
    return corrupted


@torch.no_grad()
def own_states(
    network: SpectralNetwork,
    noisy: Complex[Tensor, "batch stems bins frames"],
    clean: Complex[Tensor, "batch stems bins frames"],
    sigma: Float[Tensor, " batch"],
    settings: CorruptionSettings,
    generator: torch.Generator,
    absent: Bool[Tensor, "batch stems"] | None = None,
) -> tuple[Complex[Tensor, "batch stems bins frames"], Float[Tensor, " batch"]]:
    """States that a sampler comes to after an evaluation, in some of the items, and all levels.

    What the network says of a state is made to sum to the mixture, what is missing going to each
    stem by its share of a bin, and the state comes down to r times its level on the way there,
    x_0 + r^2 (x - x_0): the mean of the bridge of a diffusion whose signal keeps its scale. r is
    spread evenly over 0.2 to 1.
    """
    count = round(settings.own * len(sigma))
    if not count:
        return noisy, sigma
    some = torch.randperm(len(sigma), generator=generator, device=sigma.device)[:count]
    step = torch.rand(count, generator=generator, device=sigma.device)
    step = _LEAST_STEP + (1 - _LEAST_STEP) * step
    told = None if absent is None else absent[some]
    state = noisy[some]
    x_0 = network.denoise_spectrum(state, sigma[some], told).spectrum.to(state)
    magnitude = x_0.abs()
    share = magnitude / magnitude.sum(1, keepdim=True).clamp_min(1e-12)
    x_0 = x_0 + share * (clean[some].sum(1) - x_0.sum(1))[:, None]
    state = x_0 + step.square()[:, None, None, None] * (state - x_0)
    return noisy.index_copy(0, some, state), sigma.index_copy(0, some, step * sigma[some])
