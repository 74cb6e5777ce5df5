"""What training makes small: losses of the network's output, and one of its trunk over pitch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mgdm_audio.priors.spectral_network import SpectralNetwork
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_audio.priors.stft_unet.pitch import PitchTrunk
from mgdm_core.array_types import Bool, Complex, Float, Tensor
from recipes.music_prior.training.loss import ChosenBins, decibel_loss, denoising_loss
from recipes.music_prior.training.presets import TrainSettings

__all__ = ["Objective", "TimbreLoss"]


class TimbreLoss(nn.Module):
    """Whose every pitch is: cross-entropy of the stems' shares of its power.

    Read from what the trunk over pitch tells, by a linear map that serves training only. Places
    count by the root of their power, items the same. A network that hears which instrument a note
    is from its own partials is told so here for every note, while the loss of its output tells it
    no more than how much of a bin went wrong.

    Parameters
    ----------
    hidden, stems : int
        Channels of what is told, and stems.
    """

    def __init__(self, hidden: int, stems: int) -> None:
        super().__init__()
        self.named = nn.Conv2d(hidden, stems, 1)
        nn.init.zeros_(self.named.weight)
        nn.init.zeros_(self.named.bias)  # type: ignore[arg-type]

    def forward(
        self,
        told: Float[Tensor, "batch hidden columns pitches"],
        power: Float[Tensor, "batch stems columns pitches"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> Float[Tensor, " batch"]:
        """One loss per item; 0 for silence."""
        logits = self.named(told).float()
        if absent is not None:  # finite, since their shares of 0 are multiplied by it
            logits = logits.masked_fill(absent[:, :, None, None], -1e4)
        total = power.sum(1)
        shares = power / total[:, None].clamp_min(1e-12)
        weights = total.sqrt()
        weights = weights / weights.sum((1, 2), keepdim=True).clamp_min(1e-9)
        return -((shares * logits.log_softmax(1)).sum(1) * weights).sum((1, 2))


class Objective(nn.Module):
    """Network and losses in one module, so that Fabric wraps what is differentiated.

    Where no bins are looked at (``bin_share`` 0), the trunk over pitch learns alone, by its own
    loss: everything else is frozen, and not computed.
    """

    def __init__(self, network: SpectralNetwork, settings: TrainSettings) -> None:
        super().__init__()
        self.network, self.decibels = network, settings.decibels
        self.weight, self.timbre = settings.timbre, None
        trunk_alone = not settings.bin_share
        parts = network.denoise_bins
        if settings.timbre:
            assert isinstance(network, STFTUNet)  # the settings have seen to it
            self.timbre = TimbreLoss(network.config.hidden, network.config.stems)
            parts = network.tell_pitches if trunk_alone else network.denoise_and_tell
        if trunk_alone:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.startswith("pitch."))
        parts = torch.compile(parts) if settings.compile else parts
        # Not as a submodule: only the network's weights are to be found here.
        object.__setattr__(self, "parts", parts)

    def forward(
        self,
        noisy: Complex[Tensor, "batch stems bins frames"],
        clean: Complex[Tensor, "batch stems bins frames"],
        sigma: Float[Tensor, " batch"],
        chosen: ChosenBins | None,
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch losses"]]:
        """What is made small, and the loss of every stem of every item (of every item alone)."""
        pair = torch.view_as_real(noisy.transpose(2, 3))
        seen = pair[..., 0].contiguous(), pair[..., 1].contiguous(), sigma
        clean = clean.transpose(2, 3)
        if chosen is None:
            told = self.parts(*seen, absent)  # type: ignore[operator]
            losses = self._timbre(told, clean, absent)
            return losses.mean(), losses[:, None]
        found = self.parts(*seen, chosen.bins, absent)  # type: ignore[operator]
        estimate, told = found if self.timbre is not None else (found, None)
        losses = denoising_loss(estimate[:2], clean, sigma, self.network.config.sigma_data, chosen)
        total = losses.mean()
        if self.decibels:
            total = total + self.decibels * decibel_loss(estimate[:2], clean, chosen).mean()
        if told is not None:
            total = total + self.weight * self._timbre(told, clean, absent).mean()
        return total, losses

    def _timbre(
        self,
        told: Float[Tensor, "batch hidden columns pitches"],
        clean: Complex[Tensor, "batch stems frames bins"],
        absent: Bool[Tensor, "batch stems"] | None,
    ) -> Float[Tensor, " batch"]:
        assert isinstance(self.network, STFTUNet)
        assert isinstance(self.network.pitch, PitchTrunk)
        assert self.timbre is not None
        power = torch.view_as_real(clean).square().sum(-1)[..., : self.network.config.n_fft // 2]
        padding = -power.shape[2] % self.network.config.frame_multiple
        with torch.autocast(power.device.type, enabled=False):  # shares to full precision
            power = self.network.pitch.power(F.pad(power, (0, 0, 0, padding)))
        return self.timbre(told, power, absent)
