"""Everything that a call of ``mgdm-separate`` asks for, checked once and carried unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mgdm_audio.io.encoders import OutputFormat
from mgdm_audio.sampling.stem_sampler import SamplingSettings
from mgdm_audio.separation.result import RESIDUAL
from mgdm_core.errors import SettingsError

DEFAULT_TEMPLATE = "{prior}/{track}/{stem}.{ext}"


@dataclass(frozen=True)
class OutputChoice:
    """Which stems are written, and how.

    Parameters
    ----------
    complement : str or None
        For two-stem output: name of the file that holds the input minus the one stem.
    residual : bool
        Whether a residual file is written (the input minus everything else that is written).
    """

    stems: tuple[str, ...]
    complement: str | None = None
    residual: bool = True
    format: OutputFormat = field(default_factory=OutputFormat)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files of a track."""
        last = self.complement if self.complement is not None else RESIDUAL
        return (*self.stems, last) if self.residual or self.complement else self.stems

    @classmethod
    def of(
        cls,
        known: Sequence[str],
        *,
        without: Sequence[str] = (),
        stems: Sequence[str] | None = None,
        two_stems: str | None = None,
        residual: bool = True,
        format: OutputFormat | None = None,
    ) -> OutputChoice:
        """Check names against the stems that the prior separates.

        Parameters
        ----------
        without : sequence of str
            Its stems that recordings are known not to hold, which ``known`` leaves out.

        Raises
        ------
        SettingsError
            For a stem that the prior does not have, listing those that it has, or that recordings
            do not hold.
        """
        output = format if format is not None else OutputFormat()
        if stems is not None and two_stems is not None:
            raise SettingsError("choose either some stems or one stem and its complement, not both")
        wanted = [two_stems] if two_stems is not None else list(known if stems is None else stems)
        for name in wanted:
            if name in without:
                raise SettingsError(
                    f"a stem that recordings are said to be without is not written; found "
                    f"{name!r}; choose another of {', '.join(known)}, or leave out saying so"
                )
            if name not in known:
                raise SettingsError(f"this prior has the stems {', '.join(known)}; found {name!r}")
        if not wanted or len(set(wanted)) != len(wanted):
            raise SettingsError(f"stems are named once each, at least one; found {wanted}")
        if not residual and (stems is not None or two_stems is not None):
            raise SettingsError("without a residual all stems are written; name none of them")
        if two_stems is not None:
            return cls((two_stems,), f"no_{two_stems}", False, output)
        return cls(tuple(wanted), None, residual, output)


@dataclass(frozen=True)
class SeparateRequest:
    """What is to be separated, with what, and where it goes; picklable.

    Parameters
    ----------
    inputs : tuple of str
        Files, folders, patterns, or ``"-"`` for standard input.
    out : Path
        Folder that the names of ``template`` are below.
    prior : Path
        The checkpoint, the same on every machine.
    prior_name : str
        For ``{prior}``.
    without : tuple of str
        Stems of the prior that the inputs are known not to hold.
    template : str
        See :func:`mgdm_audio.separation.file_plan.check_template`.
    recursive : bool
        Whether folders are searched to any depth.
    device, precision : str
        Where and in what arithmetic the network runs.
    batch_size : int
        Windows evaluated at once.
    raw : bool
        The prior's own output, mono at its rate, instead of the input's rate and channels.
    save_samples : bool
        Write every posterior sample beside the mean.
    uncertainty : bool
        Write the deviation between the samples as npz and as a picture.
    on_clip : {"gain", "error"}
        When integer output would clip: turn all stems down together, or write nothing.
    existing : {"refuse", "resume", "overwrite"}
        What to do where a file has been separated before.
    address : str or None
        Of the Ray cluster.
    jobs : int
        Files at once, each in a process of its own where there are several.
    """

    inputs: tuple[str, ...]
    out: Path
    prior: Path
    prior_name: str
    sampling: SamplingSettings
    choice: OutputChoice
    without: tuple[str, ...] = ()
    template: str = DEFAULT_TEMPLATE
    recursive: bool = False
    seed: int = 0
    device: str = "cpu"
    precision: str = "auto"
    batch_size: int = 4
    raw: bool = False
    save_samples: bool = False
    uncertainty: bool = False
    on_clip: Literal["gain", "error"] = "gain"
    existing: Literal["refuse", "resume", "overwrite"] = "refuse"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        rules = (
            (0 <= self.seed <= 2**62, f"a seed lies in 0..2^62; found {self.seed}"),
            (
                1 <= self.batch_size <= 4096,
                f"the batch size lies in 1..4096; found {self.batch_size}",
            ),
            (1 <= self.jobs <= 256, f"files at once lie in 1..256; found {self.jobs}"),
            (
                not self.uncertainty or self.sampling.samples >= 2,
                f"uncertainty is the deviation between posterior samples and needs at least two; "
                f"found {self.sampling.samples}; add --samples 4",
            ),
            (
                not (self.raw and self.save_samples),
                "raw output has no full-band samples; choose one of the two",
            ),
            (
                self.existing != "resume" or "-" not in self.inputs,
                "standard input cannot be compared with an earlier run; leave out --resume",
            ),
            (
                self.engine == "ray" or self.address is None,
                "an address is for the Ray engine; add --engine ray",
            ),
            (
                self.engine == "local" or "-" not in self.inputs,
                "the Ray engine reads files; standard input is local",
            ),
            (
                self.jobs == 1 or "-" not in self.inputs,
                "several files at once are read from disk; standard input takes one job",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise SettingsError(message)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the request before it is carried out, a line each."""
        temperature = self.sampling.temperature
        if self.uncertainty and temperature < 1 and self.sampling.draws == "chain":
            return (
                f"the preset draws its samples at temperature {temperature:g}: they hardly differ, "
                f"and their deviation is far below the true error; leave out --preset",
            )
        return ()

    @property
    def overwrite(self) -> bool:
        """Whether files that exist may be replaced (when resuming: of unfinished tracks)."""
        return self.existing != "refuse"
