"""Scale-invariant SDR and its improvement over the mixture, as published on Slakh2100.

Everything here is batched over stems and windows and stays on the device of its inputs. BSSEval
(SDR, ISR, SIR, SAR) runs on the CPU and has its own module, :mod:`mgdm_audio.metrics.bss_eval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mgdm_core.array_types import Bool, Float, Tensor
from mgdm_core.errors import SettingsError, ShapeError

SLAKH_RATE = 22_050
"""Sample rate in Hz at which the published scores were computed."""

SILENCE_THRESHOLD = 1.5e-5
"""A window x of n samples is silent to the protocol where ||x||_2 / n is below this."""

_EPS = 1e-8
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
) -> Float[Tensor, "..."]:
    """Scale-invariant signal-to-distortion ratio along the last axis, in dB.

    With a = (<e, r> + eps) / (<r, r> + eps) and eps = 1e-8 the score is
    10 log10((||a r||^2 + eps) / (||a r - e||^2 + eps)). The mean is not removed. An exactly silent
    reference against an exactly silent estimate scores 0 dB; against a loud estimate the score is
    very negative.

    Parameters
    ----------
    estimate, reference : Tensor
        Signals ``[..., samples]``; the leading axes broadcast.

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
    return _si_sdr(estimate, reference, torch.linalg.vecdot(reference, reference))


def _si_sdr(estimate: Tensor, reference: Tensor, energy: Tensor) -> Tensor:
    """SI-SDR where the reference's energy is known, as it is for several estimates of it."""
    scale = _scale(estimate, reference, energy)
    # The distortion is formed sample by sample: expanding the square would cancel where the
    # estimate is nearly perfect.
    distortion = torch.addcmul(estimate, reference, scale[..., None], value=-1.0)
    noise = torch.linalg.vecdot(distortion, distortion)
    return 10.0 * torch.log10((scale.square() * energy + _EPS) / (noise + _EPS))


def _scale(estimate: Tensor, reference: Tensor, energy: Tensor) -> Tensor:
    """How much of the reference is in the estimate: the factor that SI-SDR is blind to."""
    return (torch.linalg.vecdot(estimate, reference) + _EPS) / (energy + _EPS)


def slakh_windows(
    n: int,
    rate: int = SLAKH_RATE,
    window: float = WINDOW_SECONDS,
    hop: float = HOP_SECONDS,
) -> list[tuple[int, int]]:
    """Windows ``(start, stop)`` over which the published score is computed.

    Windows of 4 s start every 2 s; there are ceil((n - overlap) / step) of them with an overlap of
    2 s, so the last may be short. A track of no more than the overlap has none.

    Parameters
    ----------
    window, hop : float
        Length and distance of the windows in seconds; 4 and 2 in the published protocol.

    Returns
    -------
    list of (int, int)
        First sample and the one after the last, in order.

    Raises
    ------
    SettingsError
        If the rate is not positive, or the hop not between 0 and the window.
    """
    if rate <= 0:
        raise SettingsError(f"the sample rate must be positive, found {rate}; give it in Hz")
    length, step = round(window * rate), round(hop * rate)
    if not 0 < step <= length:
        raise SettingsError(
            f"windows need a hop of at least a sample and at most their length, found windows of "
            f"{window} s every {hop} s at {rate} Hz"
        )
    count = max(0, math.ceil((n - (length - step)) / step))
    return [(i * step, min(i * step + length, n)) for i in range(count)]


@dataclass(frozen=True)
class WindowScores:
    """What is measured of one track, per stem and window; every score follows from it.

    Attributes
    ----------
    windows : list of (int, int)
        First sample of each window and the one after its last.
    si_sdr : Tensor
        dB of the estimates, ``[stems, windows]``, on the CPU.
    mixture_si_sdr : Tensor
        dB of the mixture taken as estimate, ``[stems, windows]``.
    active : Tensor
        Where the published protocol takes the reference for active, ``[stems, windows]``.
    rms, estimate_rms : Tensor
        Root mean square of reference and estimate, ``[stems, windows]``.
    rest_rms : Tensor
        That of the mixture less the reference, ``[stems, windows]``.
    mixture_rms : Tensor
        That of the mixture, ``[windows]``.
    retained : Tensor
        <estimate, reference> / <reference, reference>, ``[stems, windows]``: 1 where the whole
        stem is in its estimate, whatever else is there.
    """

    windows: list[tuple[int, int]]
    si_sdr: Float[Tensor, "stems windows"]
    mixture_si_sdr: Float[Tensor, "stems windows"]
    active: Bool[Tensor, "stems windows"]
    rms: Float[Tensor, "stems windows"]
    estimate_rms: Float[Tensor, "stems windows"]
    rest_rms: Float[Tensor, "stems windows"]
    mixture_rms: Float[Tensor, " windows"]
    retained: Float[Tensor, "stems windows"]

    @property
    def kept(self) -> Bool[Tensor, " windows"]:
        """Windows that the published score counts: those where more than one source is active."""
        return self.active.sum(dim=0) > 1

    @property
    def improvement(self) -> Float[Tensor, "stems windows"]:
        """SI-SDR of the estimate less that of the mixture, in dB."""
        return self.si_sdr - self.mixture_si_sdr


def score_windows(
    estimates: Float[Tensor, "stems samples"],
    references: Float[Tensor, "reference_stems reference_samples"],
    mixture: Float[Tensor, " mixture_samples"],
    rate: int = SLAKH_RATE,
    windows: Sequence[tuple[int, int]] | None = None,
) -> WindowScores:
    """Measure one track in windows: SI-SDR of estimates and mixture, and what sounds where.

    Scores that people read follow from it: the published one from ``kept`` and ``improvement``,
    those of :mod:`mgdm_audio.metrics.silence` from the levels. All of them are means over **all**
    windows of all tracks, so tracks are joined by their windows, not by their means.

    Parameters
    ----------
    estimates, references : Tensor
        Stems in the same order, ``[stems, samples]``, on any device.
    mixture : Tensor
        What was separated, ``[samples]``: the sum of the references in the published protocol.
    rate : int
        Samples per second; 22 050 in the published protocol.
    windows : sequence of (int, int), optional
        Where to measure, in order and evenly spaced; :func:`slakh_windows` by default.

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
    windows = list(slakh_windows(n, rate) if windows is None else windows)
    full = sum(stop - start == windows[0][1] - windows[0][0] for start, stop in windows)
    budget = _CHUNK_ELEMENTS["cpu" if references.device.type == "cpu" else "other"]
    # Full windows go through in stacks of equal length, a short last one by itself, so that no
    # window is padded and every sum runs over exactly its own samples.
    groups = [windows[i : i + 1] for i in range(full, len(windows))]
    if full:
        stack = max(1, budget // (stems * (windows[0][1] - windows[0][0])))
        groups = [windows[i : min(i + stack, full)] for i in range(0, full, stack)] + groups
    parts = []
    for group in groups:
        reference, estimate = _stack(references, group), _stack(estimates, group)
        mixed = _stack(mixture, group)
        length = reference.shape[-1]
        energy = torch.linalg.vecdot(reference, reference)
        rms = (energy / length).sqrt()
        parts.append(
            (
                _si_sdr(estimate, reference, energy),
                _si_sdr(mixed.expand_as(reference), reference, energy),
                energy.sqrt() / length >= SILENCE_THRESHOLD,
                rms,
                _rms(estimate),
                _rms(mixed - reference),
                _rms(mixed),
                _scale(estimate, reference, energy),
            )
        )
    if not parts:
        none = torch.zeros((stems, 0))
        return WindowScores([], none, none, none.bool(), none, none, none, none[0], none)
    return WindowScores(
        windows, *(torch.cat(part, dim=-1).cpu() for part in zip(*parts, strict=True))
    )


def _rms(signal: Tensor) -> Tensor:
    return signal.square().mean(-1).sqrt()


def _stack(signal: Tensor, group: list[tuple[int, int]]) -> Tensor:
    """Neighbouring windows of equal length, ``[..., windows, samples]``, in the wide dtype."""
    length = group[0][1] - group[0][0]
    step = group[1][0] - group[0][0] if len(group) > 1 else length
    # A view: what two windows share is converted and held once.
    return _wide(signal[..., group[0][0] : group[-1][1]]).unfold(-1, length, step)
