"""Look through a data set without separating it: what is there, what is missing or broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from mgdm_audio.datasets.four_stem import StemFolderTrack, stem_files
from mgdm_audio.datasets.slakh import EDITIONS, SLAKH_STEMS, SlakhTrack, read_metadata
from mgdm_audio.datasets.tracks import Dataset, Track
from mgdm_audio.errors import AudioError
from mgdm_audio.io.reader import open_blocks, probe


@dataclass(frozen=True)
class Finding:
    """One thing to know about a track: that it cannot be evaluated (``broken``), or a remark."""

    track: str
    broken: bool
    text: str


@dataclass(frozen=True)
class TrackCheck:
    """What one track holds: stems (classes for Slakh2100) with audio; seconds of the longest."""

    key: str
    split: str
    seconds: float
    stems: tuple[str, ...]
    rates: tuple[int, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class DatasetCheck:
    """What a data set holds."""

    dataset: Dataset
    tracks: list[TrackCheck] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """All findings, by track."""
        return [f for t in self.tracks for f in t.findings]

    @property
    def broken(self) -> list[Finding]:
        """Findings that keep a track from being evaluated."""
        return [f for f in self.findings if f.broken]

    def stem_counts(self) -> dict[str, int]:
        """Number of tracks in which each stem has audio."""
        return {s: sum(s in t.stems for t in self.tracks) for s in self.dataset.stems}

    def edition(self) -> str | None:
        """Edition of Slakh2100 by its splits; None where it is another data set.

        Only the redux edition has a split ``omitted``; else the one whose counts are nearest.
        """
        splits = self.dataset.splits
        if self.dataset.kind != "slakh" or not set(splits) & set(EDITIONS["original"]):
            return None
        if "omitted" in splits:
            return "redux"

        def distance(edition: str) -> int:
            return sum(abs(EDITIONS[edition].get(s, 0) - n) for s, n in splits.items())

        return min(EDITIONS, key=distance)

    def expected(self, split: str) -> int | None:
        """Number of tracks that the edition has in a split; None where it is not known."""
        edition = self.edition()
        return None if edition is None else EDITIONS[edition].get(split)


def check_dataset(dataset: Dataset, deep: bool = False) -> DatasetCheck:
    """Look through every track; what is broken is reported, not raised.

    ``deep`` decodes every sample. Otherwise headers are read and the last sample is decoded, which
    finds files that were cut off.
    """
    with ThreadPoolExecutor(4) as pool:
        return DatasetCheck(dataset, [*pool.map(lambda t: check_track(t, deep), dataset.tracks)])


def check_track(track: Track, deep: bool = False) -> TrackCheck:
    """Look into the files of one track; see :func:`check_dataset`."""
    look = _Look(track, deep)
    if isinstance(track, SlakhTrack):
        _look_slakh(track, look)
    elif isinstance(track, StemFolderTrack):
        _look_stems(track, look)
    look.compare_lengths()
    if not look.stems and not any(f.broken for f in look.findings):
        look.add(True, "no stem has audio")
    return TrackCheck(
        track.key,
        track.split,
        max((n / rate for n, rate in look.lengths.values()), default=0.0),
        tuple(sorted(look.stems)),
        tuple(sorted({rate for _, rate in look.lengths.values()})),
        tuple(look.findings),
    )


class _Look:
    """Gathers what is found in one track."""

    def __init__(self, track: Track, deep: bool) -> None:
        self.track = track
        self.deep = deep
        self.findings: list[Finding] = []
        self.stems: set[str] = set()
        self.lengths: dict[str, tuple[int, int]] = {}

    def add(self, broken: bool, text: str) -> None:
        self.findings.append(Finding(self.track.key, broken, text))

    def audio(self, path: Path, broken: bool = True) -> bool:
        """Whether a file is sound; what is wrong with it is noted."""
        name = path.relative_to(self.track.path).as_posix()
        try:
            frames, rate, channels = _frames(path, self.deep)
        except (AudioError, soundfile.LibsndfileError) as error:
            self.add(broken, f"{name}: {str(error).removeprefix(f'{path}: ')}")
            return False
        self.lengths[name] = (frames, rate)
        if channels != 1:
            self.add(False, f"{name} has {channels} channels: their mean is scored")
        return True

    def compare_lengths(self) -> None:
        rates = {rate for _, rate in self.lengths.values()}
        if len(rates) > 1:
            broken = isinstance(self.track, SlakhTrack)
            self.add(broken, f"files have different sample rates: {sorted(rates)} Hz")
            return
        lengths = {n for n, _ in self.lengths.values()}
        if len(lengths) > 1:
            longest = max(lengths)
            short = [name for name, (n, _) in self.lengths.items() if n < longest]
            self.add(False, f"shorter than the longest file ({longest} samples): {_few(short)}")


def _look_slakh(track: SlakhTrack, look: _Look) -> None:
    try:
        stems = read_metadata(track.path / "metadata.yaml")
    except AudioError as error:
        look.add(True, str(error).removeprefix(f"{track.path}/"))
        return
    for stem in stems:
        path = track.audio_of(stem)
        wanted = stem.stem_class is not None  # the residual is not needed for a sum of the classes
        if path is not None:
            if look.audio(path, broken=wanted) and wanted:
                look.stems.add(str(stem.stem_class))
        elif stem.rendered:
            look.add(wanted, f"stems/{stem.name} is missing although it was rendered")
        elif wanted:
            look.add(False, f"stems/{stem.name} ({stem.stem_class}) has no audio")
    mix = track.mix_path()
    if mix is None:
        look.add(False, "mix.flac is missing: only the sum of the stems can be separated")
    else:
        look.audio(mix, broken=False)
    absent = [name for name in SLAKH_STEMS if name not in look.stems]
    if absent:
        look.add(False, f"without {', '.join(absent)}")


def _look_stems(track: StemFolderTrack, look: _Look) -> None:
    files = stem_files(track.path)
    for name in track.stem_names:
        if name not in files:
            look.add(False, f"without {name}")
        elif look.audio(files[name]):
            look.stems.add(name)
    extra = sorted(set(files) - set(track.stem_names))
    if extra:
        look.add(False, f"not among the stems: {_few(extra)}")


def _frames(path: Path, deep: bool) -> tuple[int, int, int]:
    """Length, rate and channels of a sound file, of which at least the end was decoded."""
    info = probe(path)
    if deep or info.frames is None:
        frames = sum(block.shape[1] for block in open_blocks(path))
        return frames, info.rate, info.channels
    if info.frames:
        with soundfile.SoundFile(path) as file:
            file.seek(info.frames - 1)
            if len(file.read(1)) != 1:
                raise AudioError(f"{path}: ends before its last sample; it was cut off")
    return info.frames, info.rate, info.channels


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
