"""Scale-invariant SDR and its improvement over the mixture, as published on Slakh2100.

Everything here is batched over stems and windows and stays on the device of its inputs. BSSEval
(SDR, ISR, SIR, SAR) runs on the CPU and has its own module, :mod:`mgdm_audio.metrics.bss_eval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Bool, Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError

__all__ = [
    "SILENCE_THRESHOLD",
    "SLAKH_RATE",
    "WindowScores",
    "si_sdr",
    "slakh_si_sdr_improvement",
    "slakh_windows",
]

SLAKH_RATE = 22_050
"""Sample rate in Hz at which the published scores were computed."""

SILENCE_THRESHOLD = 1.5e-5
"""A window x of n samples is silent where ||x||_2 / n is below this."""

WINDOW_SECONDS = 4.0
HOP_SECONDS = 2.0

# Elements of one stack of windows in float64. On a CPU few enough for its cache and enough that
# threads need not meet too often; on a GPU enough to be busy, and a few hundred MB at most.
_CHUNK_ELEMENTS = {"cpu": 2**21, "other": 2**24}


def _wide(signal: Tensor) -> Tensor:
    """Float64, in which the sums lose nothing; the one kind of device without it keeps float32."""
    return signal.float() if signal.device.type == "mps" else signal.double()


def si_sdr(
    estimate: Float[Tensor, "... samples"],
    reference: Float[Tensor, "... reference_samples"],
    eps: float = 1e-8,
) -> Float[Tensor, "..."]:
    """Scale-invariant signal-to-distortion ratio along the last axis, in dB.

    With a = (<e, r> + eps) / (<r, r> + eps) the score is
    10 log10((||a r||^2 + eps) / (||a r - e||^2 + eps)). The mean is not removed.

    Parameters
    ----------
    estimate, reference : Tensor
        Signals ``[..., samples]``; the leading axes broadcast.
    eps : float
        Added to both sums and to both sides of the scale. An exactly silent reference against an
        exactly silent estimate scores 0 dB; against a loud estimate the score is very negative.

    Returns
    -------
    Tensor
        dB, ``[...]``, in float64 (float32 on a device without it).

    Raises
    ------
    ShapeError
        If the numbers of samples differ.

    Notes
    -----
    Le Roux, Wisdom, Erdogan, Hershey: "SDR - half-baked or well done?", ICASSP 2019, equation 3,
    with the regularisation of the published Slakh2100 evaluation (Mariani et al., 2302.02257).
    """
    if estimate.shape[-1] != reference.shape[-1]:
        raise ShapeError(
            f"estimate and reference need the same number of samples, found {estimate.shape[-1]} "
            f"and {reference.shape[-1]}; cut or pad one of them"
        )
    estimate, reference = torch.broadcast_tensors(_wide(estimate), _wide(reference))
    return _si_sdr(estimate, reference, torch.linalg.vecdot(reference, reference), eps)


def _si_sdr(estimate: Tensor, reference: Tensor, energy: Tensor, eps: float) -> Tensor:
    """SI-SDR where the reference's energy is known, as it is for several estimates of it."""
    scale = (torch.linalg.vecdot(estimate, reference) + eps) / (energy + eps)
    # The distortion is formed sample by sample: expanding the square would cancel where the
    # estimate is nearly perfect.
    distortion = torch.addcmul(estimate, reference, scale[..., None], value=-1.0)
    noise = torch.linalg.vecdot(distortion, distortion)
    return 10.0 * torch.log10((scale.square() * energy + eps) / (noise + eps))


def slakh_windows(n: int, rate: int = SLAKH_RATE) -> list[tuple[int, int]]:
    """Windows ``(start, stop)`` over which the published score is computed.

    Windows of 4 s start every 2 s; there are ceil((n - overlap) / step) of them with an overlap of
    2 s, so the last may be short. A track of no more than the overlap has none.

    Parameters
    ----------
    n : int
        Length of the track in samples.
    rate : int
        Samples per second.

    Returns
    -------
    list of (int, int)
        First sample and the one after the last, in order.

    Raises
    ------
    SettingsError
        If the rate is not positive.
    """
    if rate <= 0:
        raise SettingsError(f"the sample rate must be positive, found {rate}; give it in Hz")
    window, step = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    count = max(0, math.ceil((n - (window - step)) / step))
    return [(i * step, min(i * step + window, n)) for i in range(count)]


@dataclass(frozen=True)
class WindowScores:
    """SI-SDR of one track, per stem and window.

    Attributes
    ----------
    windows : list of (int, int)
        First sample of each window and the one after its last.
    si_sdr : Tensor
        dB of the estimates, ``[stems, windows]``, on the CPU.
    mixture_si_sdr : Tensor
        dB of the mixture taken as estimate, ``[stems, windows]``.
    active : Tensor
        Where the reference is not silent, ``[stems, windows]``.
    """

    windows: list[tuple[int, int]]
    si_sdr: Float[Tensor, "stems windows"]
    mixture_si_sdr: Float[Tensor, "stems windows"]
    active: Bool[Tensor, "stems windows"]

    @property
    def kept(self) -> Bool[Tensor, " windows"]:
        """Windows that the published score counts: those where more than one source is active."""
        return self.active.sum(dim=0) > 1

    @property
    def scored(self) -> Bool[Tensor, "stems windows"]:
        """What the silence-safe score counts: kept windows where the stem itself is active."""
        return self.active & self.kept

    @property
    def improvement(self) -> Float[Tensor, "stems windows"]:
        """SI-SDR of the estimate less that of the mixture, in dB."""
        return self.si_sdr - self.mixture_si_sdr

    @property
    def published_mean(self) -> Float[Tensor, " stems"]:
        """Mean improvement per stem over the kept windows; NaN where there is none.

        A stem that is silent in a kept window is scored there too, as in the published figures,
        which can be worth up to +100 dB where the reference is exactly zero.
        """
        return _masked_mean(self.improvement, self.kept.expand_as(self.active))

    @property
    def silence_safe_mean(self) -> Float[Tensor, " stems"]:
        """Mean improvement per stem over the kept windows in which that stem is active."""
        return _masked_mean(self.improvement, self.scored)

    @property
    def silence_safe_si_sdr(self) -> Float[Tensor, " stems"]:
        """Mean SI-SDR of the estimates over the windows of :attr:`silence_safe_mean`, in dB."""
        return _masked_mean(self.si_sdr, self.scored)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    total = torch.where(mask, values, torch.zeros_like(values)).sum(dim=-1)
    return total / mask.sum(dim=-1)  # 0 / 0 is NaN: no window, no score


def slakh_si_sdr_improvement(
    estimates: Float[Tensor, "stems samples"],
    references: Float[Tensor, "reference_stems reference_samples"],
    mixture: Float[Tensor, " mixture_samples"],
    rate: int = SLAKH_RATE,
    eps: float = 1e-8,
    silence_threshold: float = SILENCE_THRESHOLD,
) -> WindowScores:
    """Score one track as published on Slakh2100: SI-SDR improvement in windows of 4 s every 2 s.

    The published figure of a data set is the mean over **all** windows of all tracks, so
    tracks are joined by their window scores, not by their means.

    Parameters
    ----------
    estimates, references : Tensor
        Stems in the same order, ``[stems, samples]``, on any device.
    mixture : Tensor
        What was separated, ``[samples]``: the sum of the references in the published protocol.
    rate : int
        Samples per second; 22 050 in the published protocol.
    eps : float
        See :func:`si_sdr`.
    silence_threshold : float
        A reference window x of n samples is silent where ||x||_2 / n is below this.

    Returns
    -------
    WindowScores
        Per stem and window, with the published and the silence-safe mean.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Notes
    -----
    The protocol of Mariani et al., "Multi-Source Diffusion Models for Simultaneous Music
    Generation and Separation" (arXiv 2302.02257), written from its definition.
    """
    if estimates.shape != references.shape or mixture.shape[-1] != references.shape[-1]:
        raise ShapeError(
            "estimates and references must have the same shape and the mixture their length, "
            f"found {tuple(estimates.shape)}, {tuple(references.shape)} and "
            f"{tuple(mixture.shape)}; cut or pad them first"
        )
    stems, n = references.shape
    windows = slakh_windows(n, rate)
    full = sum(stop - start == windows[0][1] for start, stop in windows)
    budget = _CHUNK_ELEMENTS["cpu" if references.device.type == "cpu" else "other"]
    # Full windows go through in stacks of equal length, a short last one by itself, so that no
    # window is padded and every sum runs over exactly its own samples.
    groups = [windows[i : i + 1] for i in range(full, len(windows))]
    if full:
        stack = max(1, budget // (stems * windows[0][1]))
        groups = [windows[i : min(i + stack, full)] for i in range(0, full, stack)] + groups
    parts = []
    for group in groups:
        reference = _stack(references, group)
        energy = torch.linalg.vecdot(reference, reference)
        own = _si_sdr(_stack(estimates, group), reference, energy, eps)
        mixed = _si_sdr(_stack(mixture, group).expand_as(reference), reference, energy, eps)
        level = energy.sqrt() / reference.shape[-1]
        parts.append((own, mixed, level >= silence_threshold))
    if not parts:
        empty = references.new_zeros((stems, 0)).cpu()
        return WindowScores([], empty, empty, torch.zeros((stems, 0), dtype=torch.bool))
    own, mixed, active = (torch.cat(part, dim=1).cpu() for part in zip(*parts, strict=True))
    return WindowScores(windows, own, mixed, active)


def _stack(signal: Tensor, group: list[tuple[int, int]]) -> Tensor:
    """Neighbouring windows of equal length, ``[..., windows, samples]``, in the wide dtype."""
    length = group[0][1] - group[0][0]
    step = group[1][0] - group[0][0] if len(group) > 1 else length
    # A view: what two windows share is converted and held once.
    return _wide(signal[..., group[0][0] : group[-1][1]]).unfold(-1, length, step)
