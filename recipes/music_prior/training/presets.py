"""Settings of a training run and the presets sized for the machines it is meant for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.networks import NetworkConfig, kind_of, read_config
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_core.errors import SettingsError
from recipes.music_prior.training.corruption import CorruptionSettings
from recipes.music_prior.training.data import DataSettings
from recipes.music_prior.training.tfc_tdf import TFCTDFConfig, register

__all__ = ["PRESETS", "TrainSettings", "preset"]


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights of a run, besides the songs.

    Parameters
    ----------
    network : NetworkConfig
        Sizes of the denoiser, of any registered kind that works on spectra.
    data : DataSettings
        Batches, their augmentation and the pool they are drawn from.
    corruption : CorruptionSettings
        Noise levels and cross-talk.
    steps : int
        Length of the whole run. A finished or broken-off run may be resumed with another length.
    warmup_steps, decay_steps : int
        The learning rate rises linearly, stays, and falls as a half cosine over the last
        ``decay_steps``; the state before the fall is kept, so a run can be continued from there.
    learning_rate, weight_decay, gradient_clip : float
        Of Muon for the matrices and AdamW for the rest; the gradient is clipped by its norm.
    bin_share : float
        Share of the bins that a step looks at in its loss (and computes the outputs of); at 0 the
        trunk over pitch learns alone, by ``timbre``.
    decibels : float
        Weight of what separations are judged by (`decibel_loss`) beside the denoising loss.
    timbre : float
        Weight of whose every pitch is (`TimbreLoss`), for networks with a trunk over pitch.
    ema_length : float
        Length of the average of the weights as a share of the run so far (a power-law average:
        Karras et al. 2024, "Analyzing and improving the training dynamics", section 3.1), so
        that one setting fits short and long runs.
    seed : int
        Of the weights, the batches and the noise.
    precision : str
        ``auto``, ``float32`` or ``bfloat16``.
    compile : bool
        Whether to compile the network.
    checkpoint_minutes : float
        Wall time between checkpoints.
    """

    network: NetworkConfig = field(default_factory=STFTUNetConfig)
    data: DataSettings = field(default_factory=DataSettings)
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    steps: int = 100_000
    warmup_steps: int = 100
    decay_steps: int = 600
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    bin_share: float = 0.35
    decibels: float = 0.0
    timbre: float = 0.0
    ema_length: float = 0.05
    seed: int = 0
    precision: str = "auto"
    compile: bool = True
    checkpoint_minutes: float = 4.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup_steps < 0 or self.decay_steps < 0:
            raise SettingsError("steps must be positive, warmup_steps and decay_steps not negative")
        if not self.learning_rate > 0 or not self.gradient_clip > 0:
            raise SettingsError("learning_rate and gradient_clip must be positive")
        if not 0 <= self.bin_share <= 1:
            raise SettingsError(f"bin_share must be in [0, 1]; found {self.bin_share}")
        if not (self.decibels >= 0 and self.timbre >= 0):
            raise SettingsError(
                f"decibels and timbre must not be negative; found {self.decibels} and {self.timbre}"
            )
        if self.timbre and not getattr(self.network, "pitch_layers", 0):
            raise SettingsError(
                "timbre is learnt by the trunk over pitch; give the network pitch_layers, "
                "or set timbre to 0"
            )
        if not self.bin_share and not self.timbre:
            raise SettingsError("with bin_share 0 nothing is learnt but timbre; set that too")
        if not 0 < self.ema_length < 0.3:
            raise SettingsError(f"ema_length must be in (0, 0.3); found {self.ema_length}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; the network's begin with its kind."""
        register()
        values = asdict(self)
        values["network"] = {"kind": kind_of(self.network), **self.network.to_dict()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Back from :meth:`to_dict`."""
        register()
        values = dict(values)
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise SettingsError(f"training has no settings {unknown}")
        network = dict(values["network"])
        values["network"] = read_config(network.pop("kind", ""), network)
        values["data"] = DataSettings(**values["data"])
        values["corruption"] = CorruptionSettings(**values["corruption"])
        return cls(**values)


# A run goes into what separates: states where samplers of few evaluations begin, with little noise.
_NEAR_THE_MIXTURE = CorruptionSettings(
    sigma_median=0.25,
    sigma_spread=0.6,
    cross_talk=0.95,
    quiet_noise=0.95,
    quiet_power=8.0,
    blind=0.9,
)

_TOLD = replace(_NEAR_THE_MIXTURE, told_absent=0.5)
_OPEN = replace(_TOLD, diffusion=0.25)

# An instrument is learnt where it is heard alone.
_THINNED = DataSettings(sparse=0.4)

_SMALL = STFTUNetConfig(widths=(32, 64, 128), blocks=(1, 2, 2), embedding=128)

# Fewer parameters than the next, better per hour; with a fifth stem the bundled prior's network.
_PITCH = replace(_SMALL, n_fft=4096, hop=1024, pitch_layers=6, pitch_width=64)
_PITCH_OPEN = replace(_PITCH, stems=5)
_TOKENS_OPEN = replace(_PITCH_OPEN, pitch_tokens=16)
_WIDE_OPEN = replace(_TOKENS_OPEN, pitch_width=128, hidden=96)

# The trunk with room, for tens of core-hours: its matrix products are what a processor does best.
_DUAL = DualPathConfig(widths=(32, 64, 128), blocks=(1, 2, 2), embedding=128)

_CPU = TrainSettings(
    network=_SMALL,
    corruption=_NEAR_THE_MIXTURE,
    warmup_steps=40,
    decay_steps=500,
    ema_length=0.08,
)

_CPU_OPEN = replace(
    _CPU, network=_PITCH_OPEN, data=_THINNED, bin_share=0.15, decibels=0.3, corruption=_TOLD
)

_TOKENS = replace(_CPU_OPEN, network=_TOKENS_OPEN, timbre=0.5)

PRESETS: dict[str, TrainSettings] = {
    "cpu-2h": _CPU,
    # Goes on from the weights of "cpu-2h" with --init; four stems, states near the mixture.
    "cpu-dual": replace(_CPU, network=_DUAL),
    # Rivals of the two, for the comparison of networks (`compare`).
    "cpu-2h-12s": replace(_CPU, data=DataSettings(batch=1, crop=262_144)),
    "cpu-dual-12s": replace(_CPU, network=_DUAL, data=DataSettings(batch=1, crop=262_144)),
    "cpu-2h-4096": replace(_CPU, network=replace(_SMALL, n_fft=4096, hop=1024)),
    # Three of these, each with a trunk over pitch beside the U-Net. Neighbouring bins of an item
    # say much the same: with fewer of them a step costs less, and more items are seen.
    "cpu-dual-pitch": replace(_CPU, network=replace(_DUAL, pitch_layers=6), bin_share=0.15),
    "cpu-2h-4096-pitch": replace(
        _CPU, network=replace(_SMALL, n_fft=4096, hop=1024, pitch_layers=6), bin_share=0.15
    ),
    # Goes on from that one with --init: twice the channels over pitch, and what is judged.
    "cpu-4096-pitch-64": replace(_CPU, network=_PITCH, bin_share=0.15, decibels=0.3),
    "cpu-2h-pitch": replace(_CPU, network=replace(_SMALL, pitch_layers=6), bin_share=0.15),
    "cpu-tfc": replace(
        _CPU, network=TFCTDFConfig(widths=(32, 64, 128), blocks=(1, 2, 2), embedding=128)
    ),
    # Five stems; a quarter of the states are the diffusion's; silent stems told now and then.
    "cpu-open": replace(_CPU, network=replace(_SMALL, stems=5), data=_THINNED, corruption=_OPEN),
    "cpu-dual-open": replace(
        _CPU, network=replace(_DUAL, stems=5), data=_THINNED, corruption=_OPEN
    ),
    # Goes on from "cpu-4096-pitch-64". Every state is near the mixture, since no other is
    # separated.
    "cpu-4096-pitch-64-open": _CPU_OPEN,
    # The bundled prior: that one with tokens; goes on from it. The first of the two lets the trunk
    # over pitch alone learn whose every pitch is; the second goes on in its folder.
    "cpu-4096-timbre": replace(
        _TOKENS, data=replace(_THINNED, sparse=0.6, texture=0.0), bin_share=0.0
    ),
    "cpu-4096-tokens-open": _TOKENS,
    # Goes on from it: twice the channels over pitch and of what decides a bin.
    "cpu-4096-wide-open": replace(_TOKENS, network=_WIDE_OPEN),
    # Goes on from the one before that, so that a second evaluation gains: half of the states are
    # the network's own.
    "cpu-4096-tokens-own": replace(_TOKENS, corruption=replace(_TOLD, own=0.5)),
    # The reference: a denoiser of clean stems in white noise, as diffusion priors are trained.
    "cpu-2h-plain": replace(_CPU, corruption=CorruptionSettings(cross_talk=0.0)),
    # For what "cpu-2h" has learnt, with --init: its channels twice, two processes of a core each.
    "cpu-wide": replace(
        _CPU,
        network=replace(_SMALL, widths=(64, 128, 256), heads=8),
        data=DataSettings(items_per_step=2.0),
        learning_rate=9e-4,
    ),
    # For the kit: one call of ten minutes on a large GPU, renderers on its other cores; goes on
    # from the bundled prior.
    "gpu-9min": TrainSettings(
        network=_TOKENS_OPEN,
        timbre=0.5,
        bin_share=0.15,
        decibels=0.3,
        corruption=_TOLD,
        data=replace(_THINNED, batch=64, window=4096, initial=512, items_per_step=4.0),
        steps=3_000,
        warmup_steps=100,
        decay_steps=600,
        learning_rate=7e-4,
        ema_length=0.08,
        checkpoint_minutes=2.0,
    ),
}


def preset(name: str, dry: bool = False) -> TrainSettings:
    """Settings of a preset by name; ``dry`` shrinks run, batch and pool, never the code path.

    Raises
    ------
    SettingsError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise SettingsError(f"there is no preset {name!r}; choose one of {sorted(PRESETS)}")
    settings = PRESETS[name]
    if not dry:
        return settings
    data = replace(settings.data, batch=2, window=8, initial=4, items_per_step=0.5, crop=16_384)
    return replace(
        settings, data=data, steps=6, warmup_steps=2, decay_steps=2, checkpoint_minutes=1e-3
    )
