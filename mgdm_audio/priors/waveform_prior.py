"""A prior over the stems of a piece of music: noisy waveforms in, clean estimates out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mgdm_audio.errors import PriorError
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.precision import resolve_precision
from mgdm_audio.priors.protocols import CastsWeights, SpectralDenoiser
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.priors import Denoised, level_vector
from mgdm_core.schedule import NoiseSchedule


class WaveformPrior:
    """A denoiser over stacked stem waveforms, as a prior for :mod:`mgdm_core` samplers.

    Arrays outside are float32 (or what the caller uses); inside, the network runs under autocast
    at ``precision``. Nothing here changes after construction, so one prior serves many threads.
    The weights take no gradient; a gradient through ``x`` is available unless the caller
    switches it off.

    Parameters
    ----------
    network : nn.Module
        Takes ``(x[batch, stems, samples], sigma[batch])`` and returns the denoised stems.
    stems : sequence of str
        Names, in the order of the network's channels.
    rate : int
        Sampling rate in hertz.
    window : int
        Preferred length in samples of what is denoised at once.
    levels : Levels or NoiseSchedule
        Where the prior is used.
    name, licence, training, config
        For reports: facts about the training, the network's configuration.
    checksum : str
        SHA-256 of the weights and of what is made of them (:attr:`PriorHeader.checksum`); ""
        when unknown.
    kind : str
        The network's kind, such as ``"stft_unet"``.
    precision : str
        ``"auto"`` (bfloat16 where it is faster), ``"float32"`` or ``"bfloat16"``.

    Attributes
    ----------
    schedule : NoiseSchedule
        The levels 0..T, alpha 1 throughout.
    without : tuple of str
        Stems of the network that recordings are known not to hold, which :attr:`stems` leaves out
        (:func:`mgdm_audio.priors.closed.closed_prior`).

    Raises
    ------
    SettingsError
        If the stems, the rate, the window or the precision are not valid.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        stems: Sequence[str],
        rate: int,
        window: int,
        levels: Levels | NoiseSchedule,
        name: str = "",
        licence: str = "",
        training: Mapping[str, Any] | None = None,
        checksum: str = "",
        config: Mapping[str, Any] | None = None,
        kind: str = "",
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ) -> None:
        self.stems = tuple(stems)
        if not self.stems or len(set(self.stems)) != len(self.stems) or not all(self.stems):
            raise SettingsError(f"stems are different, non-empty names; found {list(self.stems)}")
        if rate < 1 or window < 1:
            raise SettingsError(f"rate and window must be positive; found {rate} and {window}")
        self.without: tuple[str, ...] = ()
        self.rate = rate
        self.window = window
        self.name = name
        self.licence = licence
        self.training = MappingProxyType(dict(training or {}))
        self.config = MappingProxyType(dict(config or {}))
        self.checksum = checksum
        self.kind = kind
        self.levels = levels if isinstance(levels, Levels) else None
        self.schedule = levels.schedule() if isinstance(levels, Levels) else levels
        self.device = torch.device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        if self.dtype != torch.float32 and isinstance(network, CastsWeights):
            network.cast_weights(self.dtype)

    @property
    def precision(self) -> str:
        """Arithmetic inside the network: ``"float32"`` or ``"bfloat16"``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise deviation of level 1 and of level T."""
        return float(self.schedule.sigma[1]), float(self.schedule.sigma[-1])

    # -- denoising ----------------------------------------------------------------------------

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != len(self.stems) or x.shape[2] < 1:
            raise ShapeError(
                f"this prior takes (batch, {len(self.stems)} stems, samples); "
                f"found {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ShapeError(f"this prior takes floating point waveforms; found {x.dtype}")
        if x.device.type != self.device.type:
            raise ShapeError(f"the prior is on {self.device}, the waveforms on {x.device}")

    def _run(self, function: Callable[..., Any], x: Tensor, sigma: Tensor) -> Any:
        autocast = self.dtype != torch.float32
        kind = x.device.type
        # A caller's own autocast must not reach a network that was asked to run in float32.
        with torch.autocast(kind, dtype=self.dtype if autocast else None, enabled=autocast):
            return function(x.float(), sigma)

    def _sigma(self, x: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """Noise deviation per item in float32, and which items are clean (None for no item)."""
        index = level_vector(t, x.shape[0], x.device)
        if len(index) != x.shape[0]:
            raise ShapeError(f"one level, or one per item ({x.shape[0]}); found {len(index)}")
        clean: Tensor | None = index == 0
        # What is known without asking the device is looked at.
        if isinstance(t, int) or index.device.type == "cpu":
            levels = [t] if isinstance(t, int) else index.tolist()
            if min(levels) < 0 or max(levels) > self.schedule.last:
                raise SettingsError(f"levels run from 0 to {self.schedule.last}; found {levels}")
            clean = clean if 0 in levels else None
        sigma = self.schedule.at(index.clamp_min(1), x)[1].reshape(-1).float()
        return sigma, None if clean is None else clean[:, None, None]

    def denoise(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Estimate E[x_0 | x_t = x], in the dtype of ``x``.

        Parameters
        ----------
        x : Tensor, shape (batch, stems, samples)
            Noisy stems at :attr:`rate`, full scale 1, on the prior's device; any length.
        t : int or Tensor of shape (batch,)
            Level(s) of :attr:`schedule`; at level 0 ``x`` itself is returned.

        Raises
        ------
        ShapeError, SettingsError
            If ``x`` or ``t`` do not fit the prior.
        """
        self._check(x)
        sigma, clean = self._sigma(x, t)
        if isinstance(t, int) and t == 0:
            return x
        x0 = self._run(self.network, x, sigma).to(x.dtype)
        return x0 if clean is None else torch.where(clean, x, x0)

    def denoise_at(
        self, x: Float[Tensor, "batch stems samples"], sigma: float | Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch stems samples"]:
        """Estimate x_0 at noise deviations above 0 that need not be levels of the schedule."""
        self._check(x)
        vector = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1)
        if not bool((vector > 0).all()):
            raise SettingsError(f"a noise deviation is above 0; found {vector.tolist()}")
        return self._run(self.network, x, vector.expand(x.shape[0])).to(x.dtype)


class SpectralWaveformPrior(WaveformPrior):
    """A waveform prior whose network is a :class:`~mgdm_audio.priors.protocols.SpectralDenoiser`.

    So it gives a mask per time-frequency bin, and with it a variance.
    """

    @property
    def spectral(self) -> SpectralTransform:
        """Transform of the masks: noise of deviation sigma has variance sigma^2 in every bin."""
        return self.network.spectral  # type: ignore[return-value]

    @property
    def average_power(self) -> Float[Tensor, "stems bins"]:
        """Mean power spectrum of each stem in the training data."""
        return self.network.average_power  # type: ignore[return-value]

    def denoise_with_mask(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch stems samples"], Float[Tensor, "batch stems bins frames"]]:
        """As :meth:`denoise`, and give the mask that the network multiplied with.

        It is real and within 0..1; 1 at level 0.
        """
        self._check(x)
        sigma, clean = self._sigma(x, t)
        masked: Any = self.network
        x0, mask = self._run(masked.denoise_with_mask, x, sigma)
        x0, mask = x0.to(x.dtype), mask.to(x.dtype)
        if clean is not None:
            x0 = torch.where(clean, x, x0)
            mask = torch.where(clean[..., None], torch.ones_like(mask), mask)
        return x0, mask

    def denoise_with_variance(
        self, x: Float[Tensor, "batch stems samples"], t: int | Int[Tensor, " batch"]
    ) -> Denoised:
        """Estimate the mean of x_0 given x_t = x, and its variance per time-frequency bin.

        Tweedie's second-order formula gives Cov[x_0 | x_t] = sigma^2 dD/dx; a denoiser that
        multiplies spectra with a mask has the mask as its Jacobian up to the mask's own
        dependence on x, so the variance of a bin is sigma^2 times the mask, without a VJP.

        Returns
        -------
        Denoised
            ``mean`` (batch, stems, samples), ``variance`` (batch, stems, bins, frames) and
            ``basis``, :attr:`spectral`; variance 0 at level 0.
        """
        x0, mask = self.denoise_with_mask(x, t)
        index = level_vector(t, x.shape[0], x.device)
        sigma = self.schedule.at(index, mask)[1]
        return Denoised(x0, sigma**2 * mask, self.spectral)


def make_prior(network: nn.Module, **facts: Any) -> WaveformPrior:
    """Return the prior class that the network's capabilities allow; ``facts`` as for the class.

    Raises
    ------
    PriorError
        If the network has masks, but no transform to read them in or no average spectra.
    """
    if isinstance(network, SpectralDenoiser):
        return SpectralWaveformPrior(network, **facts)
    if hasattr(network, "denoise_with_mask"):
        raise PriorError(
            f"{type(network).__name__} gives masks but lacks 'spectral', which they belong to, or "
            f"'average_power'"
        )
    return WaveformPrior(network, **facts)
