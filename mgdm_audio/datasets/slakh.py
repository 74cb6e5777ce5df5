"""Raw Slakh2100 as downloaded: one flac file per instrument, joined to four classes.

``TrackNNNNN/{mix.flac, all_src.mid, metadata.yaml, stems/SNN.flac, MIDI/SNN.mid}``, mono 44.1 kHz
16-bit, in the original splits (1500/375/225) or the redux ones (1289/270/151 with ``omitted/``).
Manilow, Wichern, Seetharaman, Le Roux: "Cutting music source separation some Slakh: a dataset to
study the impact of training data quality and quantity", WASPAA 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mgdm_audio.datasets.tracks import (
    Mixture,
    Track,
    TrackAudio,
    find_audio,
    fit_length,
    read_mono,
    resample,
)
from mgdm_audio.errors import DatasetError, os_reason

SLAKH_STEMS = ("bass", "drums", "guitar", "piano")
"""The four classes, in the order in which the published priors hold them."""

EDITIONS = {
    "original": {"train": 1500, "validation": 375, "test": 225},
    "redux": {"train": 1289, "validation": 270, "test": 151, "omitted": 390},
}
"""Number of tracks of each split, by edition."""

_PROGRAMS = {"piano": range(0, 8), "guitar": range(24, 32), "bass": range(32, 40)}


def slakh_class(program: int | None, is_drum: bool) -> str | None:
    """Class of an instrument by its General MIDI program; None for the residual.

    Parameters
    ----------
    program : int or None
        ``program_num`` of the metadata, 0 to 127 (drum kits are listed as 128).
    is_drum : bool
        Drum stems are told by this flag alone: their program means nothing.
    """
    if is_drum:
        return "drums"
    return next((name for name, span in _PROGRAMS.items() if program in span), None)


def stem_order(names: set[str]) -> tuple[str, ...]:
    """Stems in the order of tables: the four classes first, then by name."""
    return (*(s for s in SLAKH_STEMS if s in names), *sorted(names - set(SLAKH_STEMS)))


@dataclass(frozen=True)
class SlakhStem:
    """What metadata.yaml says of one instrument.

    Attributes
    ----------
    name : str
        ``S00``, ``S01``, ...
    stem_class : str or None
        One of :data:`SLAKH_STEMS`, or None for the residual.
    rendered : bool
        Whether audio was rendered: some instruments have only MIDI.
    """

    name: str
    stem_class: str | None
    rendered: bool


def read_metadata(path: Path) -> list[SlakhStem]:
    """Read the instruments of a track.

    Raises
    ------
    DatasetError
        If the file is missing or is not what Slakh2100 writes.
    """
    try:
        # The C parser is ten times faster, and both build plain containers only.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_bytes(), Loader=loader)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({os_reason(error)})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not valid YAML ({error})") from error
    stems = content.get("stems") if isinstance(content, Mapping) else None
    if not isinstance(stems, Mapping):
        raise DatasetError(f"{path}: needs a mapping 'stems', as Slakh2100 writes it; found none")
    found = []
    for name, facts in stems.items():
        if not isinstance(facts, Mapping):
            raise DatasetError(f"{path}: stem {name} needs a mapping of facts, found {facts!r}")
        program = facts.get("program_num")
        found.append(
            SlakhStem(
                str(name),
                slakh_class(
                    program if isinstance(program, int) else None, facts.get("is_drum") is True
                ),
                facts.get("audio_rendered", True) is not False,
            )
        )
    return found


@dataclass(frozen=True)
class SlakhTrack(Track):
    """One track of raw Slakh2100."""

    def audio_of(self, stem: SlakhStem) -> Path | None:
        """File of an instrument; None where there is none."""
        return find_audio(self.path / "stems", stem.name)

    def mix_path(self) -> Path | None:
        """The track's own mixture, with the residual instruments; None where there is none."""
        return find_audio(self.path, "mix")

    def load(self, rate: int, mixture: Mixture = "sum") -> TrackAudio:
        """See :meth:`Track.load`; stems of one class are summed before they are resampled."""
        sums: dict[str, np.ndarray] = {}
        rates: set[int] = set()
        notes = []
        for stem in read_metadata(self.path / "metadata.yaml"):
            if stem.stem_class is None:
                continue
            path = self.audio_of(stem)
            if path is None:
                if stem.rendered:
                    raise DatasetError(
                        f"{self.path}: stems/{stem.name} ({stem.stem_class}) is missing although "
                        f"metadata.yaml says it was rendered; download the track again"
                    )
                notes.append(f"{stem.name} ({stem.stem_class}) has no audio")
                continue
            signal, file_rate = read_mono(path)
            rates.add(file_rate)
            # Sums of 16-bit samples are exact in float32.
            held = sums.get(stem.stem_class, np.zeros(0, np.float32))
            n = max(len(held), len(signal))
            sums[stem.stem_class] = fit_length(held, n) + fit_length(signal, n)
        if not sums:
            raise DatasetError(
                f"{self.path}: has no audio in any of {', '.join(SLAKH_STEMS)}; nothing to score"
            )
        if len(rates) > 1:
            raise DatasetError(
                f"{self.path}: stems must share one sample rate, found {sorted(rates)} Hz"
            )
        notes += [f"no {name} in this track" for name in SLAKH_STEMS if name not in sums]
        n = max(map(len, sums.values()))
        own_rate = rates.pop()
        silence = np.zeros(n, np.float32)
        stems = {
            name: resample(fit_length(sums.get(name, silence), n), own_rate, rate)
            for name in SLAKH_STEMS
        }
        return TrackAudio(self.mixed(stems, rate, mixture), stems, rate, tuple(notes))
