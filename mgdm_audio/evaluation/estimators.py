"""Where estimates come from: a separator with its prior, or files that any program made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mgdm_audio.datasets.four_stem import stem_files
from mgdm_audio.datasets.patterns import FilePattern
from mgdm_audio.datasets.tracks import Track, TrackAudio, fit_length, read_mono, resample
from mgdm_audio.errors import AudioError, DatasetError
from mgdm_audio.evaluation.run_folder import Variant
from mgdm_core.errors import SettingsError


@dataclass(frozen=True)
class Job:
    """One track to separate in one way; only the scores may look at the references in ``audio``."""

    track: Track
    audio: TrackAudio
    variant: Variant
    seed: int


@dataclass(frozen=True)
class Estimates:
    """What came of a job.

    Attributes
    ----------
    stems : mapping of str to ndarray
        ``[samples]`` each, as long as the mixture.
    evaluations, vjps : float
        Denoiser evaluations and vector-Jacobian products spent on one window of the prior, all
        posterior samples together: a measure of effort that the track's length does not change.
    nothing : mapping of str to mapping
        Stems of yardsticks that need no sampler, by the name of their row in the tables.
    """

    stems: Mapping[str, np.ndarray]
    evaluations: float = 0.0
    vjps: float = 0.0
    warnings: tuple[str, ...] = ()
    nothing: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


Estimator = Callable[[Job], Estimates]
"""Separates one job."""


@runtime_checkable
class EstimatorSpec(Protocol):
    """How to get an estimator; small and picklable, it travels to the workers."""

    def load(self, device: str) -> Estimator:
        """Load what is needed (the prior), once per worker."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that the estimates depend on, such as the prior's checksum, for run.json."""
        ...

    def files(self, tracks: Sequence[Track]) -> dict[str, list[Path]]:
        """Files by track's key that the estimates are read from, where they are files."""
        ...

    def settings_of(self, variant: Variant) -> dict[str, Any]:
        """Every setting of a variant by dotted name, those that nobody changed included."""
        ...


@dataclass(frozen=True)
class PretrainedSpec:
    """The product's separator: a prior, and per variant a sampler with its settings.

    Fields as in :meth:`mgdm_audio.separation.separator.Separator.from_pretrained`.
    """

    prior: str
    preset: str = "balanced"
    precision: str = "auto"
    batch_size: int = 4
    closed: bool = False

    def over(self, stems: Sequence[str]) -> PretrainedSpec:
        """Return the spec for a data set of some stems: closed where none of them is ``other``."""
        from mgdm_audio.priors.catalogue import resolve
        from mgdm_audio.priors.checkpoint.store import read_header
        from mgdm_audio.priors.closed import is_closed_over

        header = read_header(resolve(self.prior))
        return replace(self, closed=is_closed_over(header.stems, stems))

    def check(self, variants: Sequence[Variant]) -> None:
        """Refuse unknown samplers and settings (SettingsError) before anything is loaded."""
        several = len({variant.sampler for variant in variants}) > 1
        for variant in variants:
            try:
                self._sampling(variant)
            except SettingsError as error:
                if not several or not variant.settings:
                    raise
                raise SettingsError(
                    f"{error}; SAMPLER:NAME=VALUE changes it for one sampler only"
                ) from error

    def load(self, device: str) -> Estimator:
        """See :class:`EstimatorSpec`."""
        from mgdm_audio.priors.catalogue import load_prior
        from mgdm_audio.priors.closed import OTHER
        from mgdm_audio.sampling.cost import count_evaluations
        from mgdm_audio.separation.separator import Separator

        without = (OTHER,) if self.closed else ()
        prior = load_prior(self.prior, device=device, precision=self.precision, without=without)
        costs: dict[Variant, tuple[float, float]] = {}

        def estimate(job: Job) -> Estimates:
            sampling = self._sampling(job.variant)
            separator = Separator(prior, sampling, batch_size=self.batch_size)
            result = separator(job.audio.mixture, job.audio.rate, seed=job.seed)
            nothing = _wiener(prior, job.audio)
            if result.trace is None:  # silence
                return Estimates(result.stems, nothing=nothing)
            if job.variant not in costs:
                counted = count_evaluations(sampling, prior.schedule, len(prior.stems))
                evaluations, vjps = (float(sampling.runs * n) for n in counted)
                costs[job.variant] = evaluations, vjps
            warnings = tuple(map(str, result.trace.warnings))
            return Estimates(result.stems, *costs[job.variant], warnings, nothing)

        return estimate

    def describe(self) -> dict[str, Any]:
        """See :class:`EstimatorSpec`; only the prior's header is read."""
        from mgdm_audio.priors.catalogue import resolve
        from mgdm_audio.priors.checkpoint.store import read_header

        header = read_header(resolve(self.prior))
        return {
            "prior": header.name or Path(self.prior).stem,
            "network": header.network,
            "stems": list(header.stems),
            "sha256": header.checksum,
            "preset": self.preset,
            "precision": self.precision,
            **({"closed": True} if self.closed else {}),
        }

    def settings_of(self, variant: Variant) -> dict[str, Any]:
        """See :class:`EstimatorSpec`."""
        from mgdm_audio.separation.record import flat, settings_as_json

        told = flat(settings_as_json(self._sampling(variant)))
        # The kind of an object stands under the object's own name.
        return {name.removesuffix(".type"): v for name, v in told.items() if name != "type"}

    def files(self, tracks: Sequence[Track]) -> dict[str, list[Path]]:
        """See :class:`EstimatorSpec`; none, as the prior has a checksum."""
        return {}

    def _sampling(self, variant: Variant) -> Any:
        from mgdm_audio.sampling.presets import sampling_settings

        changes = dict(variant.settings)
        return sampling_settings(self.preset, sampler=variant.sampler, changes=changes)


WIENER = "nothing: Wiener filter of average spectra"
"""Row of a prior that knows its stems' average spectra: it separates without looking."""


def _wiener(prior: Any, audio: TrackAudio) -> dict[str, dict[str, np.ndarray]]:
    """The row that needs the prior's average spectra and no diffusion; none without them."""
    import torch

    from mgdm_audio.priors.protocols import SpectralPrior
    from mgdm_audio.sampling.wiener import average_spectrum_wiener

    if not isinstance(prior, SpectralPrior):
        return {}
    mixture = torch.from_numpy(resample(audio.mixture, audio.rate, prior.rate))[None]
    power = prior.average_power
    with torch.no_grad():
        stems = average_spectrum_wiener(mixture.to(power.device), power, prior.spectral)[0].cpu()
    n = len(audio.mixture)
    return {
        WIENER: {
            name: fit_length(resample(stem.numpy(), prior.rate, audio.rate), n)
            for name, stem in zip(prior.stems, stems)
        }
    }


TOLERANCE = 0.1
"""Seconds by which estimates may be longer or shorter than the references: they are cut or padded.

More than that is an error, as the two are not of one recording."""


@dataclass(frozen=True)
class EstimateFiles:
    """Estimates that are read from ``{stem}.wav`` files, paired with the references by name.

    Attributes
    ----------
    root : Path
        Folder with a folder per track, with or without splits around them; or one track's folder.
    pattern : str or None
        How the files are named where it is not ``TRACK/{stem}.wav``, see
        :class:`~mgdm_audio.datasets.patterns.FilePattern`.
    allow_missing : bool
        A stem that sounds in a track and has a file elsewhere, but not there, is left out with a
        remark; else it is an error of the track.
    """

    root: Path
    pattern: str | None = None
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if self.pattern is not None and not FilePattern(self.pattern).has_stem:
            raise SettingsError(f"the estimates' pattern needs {{stem}}; found {self.pattern!r}")

    def files(self, tracks: Sequence[Track]) -> dict[str, list[Path]]:
        """See :class:`EstimatorSpec`."""
        find = self.finder()
        return {track.key: list((find(track) or {}).values()) for track in tracks}

    def load(self, device: str) -> Estimator:
        """See :class:`EstimatorSpec`; the device is not used."""
        del device
        find, known = self.finder(), self._stems()
        return lambda job: self._read(job, find(job.track), known)

    def describe(self) -> dict[str, Any]:
        """See :class:`EstimatorSpec`."""
        named = {} if self.pattern is None else {"pattern": self.pattern}
        return {"estimates": str(self.root.resolve()), **named}

    def finder(self) -> Callable[[Track], dict[str, Path] | None]:
        """What finds a track's files by stem; it gives None where a track has none."""
        if self.pattern is None:
            return self._in_folder
        pattern = FilePattern(self.pattern)
        found = pattern.files(self.root)
        return lambda track: pattern.of_track(found, track.name)

    def settings_of(self, variant: Variant) -> dict[str, Any]:
        """See :class:`EstimatorSpec`; files have none."""
        del variant
        return {}

    def _in_folder(self, track: Track) -> dict[str, Path] | None:
        """Files in ``root/{split}/{name}`` or ``root/{name}``, else in the root itself."""
        for folder in (self.root / track.key, self.root / track.name):
            if folder.is_dir():
                return stem_files(folder)
        return (self.root.is_dir() and stem_files(self.root)) or None

    def _stems(self) -> set[str]:
        """What there are estimates of, for any track."""
        if self.pattern is not None:
            folders = FilePattern(self.pattern).files(self.root).values()
        else:
            below = (p for depth in ("*", "*/*") for p in self.root.glob(depth) if p.is_dir())
            folders = map(stem_files, below)
        return {stem for files in folders for stem in files}

    def _read(self, job: Job, found: dict[str, Path] | None, known: set[str]) -> Estimates:
        if found is None and self.pattern is not None:
            raise DatasetError(
                f"{self.root}: has no estimates named {self.pattern} for {job.track.key}"
            )
        if found is None:
            raise DatasetError(
                f"{self.root}: has no folder of estimates for {job.track.key}; "
                f"it should be named {job.track.name}"
            )
        files = {name: path for name, path in found.items() if name in job.audio.stems}
        if not files:
            raise DatasetError(
                f"{self.root}: has none of the stems {', '.join(job.audio.stems)} for "
                f"{job.track.key}; files are paired by name"
            )
        n, rate = len(job.audio.mixture), job.audio.rate
        sounding = (name for name, signal in job.audio.stems.items() if signal.any())
        lacking = [name for name in sounding if name in known and name not in files]
        if lacking and not self.allow_missing:
            raise DatasetError(
                f"{self.root}: has no {', '.join(lacking)} for {job.track.key}, which sounds "
                f"there, but has for other tracks; add it (a silent file, where it was lost), or "
                f"leave such stems out with --allow-missing"
            )
        stems, remarks = {}, [f"{name}: no estimate, left out of the means" for name in lacking]
        for name, path in files.items():
            signal, own_rate = read_mono(path)
            signal = resample(signal, own_rate, rate)
            if abs(len(signal) - n) > TOLERANCE * rate:
                raise AudioError(
                    f"{path}: lasts {len(signal) / rate:.3f} s and the reference {n / rate:.3f} s; "
                    f"they must not differ by more than {TOLERANCE} s; cut or pad the estimate, or "
                    f"pair it with the reference that it was made from"
                )
            if len(signal) != n:
                remarks.append(f"{name}: {len(signal) - n:+d} samples against the reference")
            stems[name] = fit_length(signal, n)
        return Estimates(stems, warnings=tuple(remarks))
