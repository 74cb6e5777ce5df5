"""An endless, reproducible stream of four-stem segments, rendered by worker processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import numpy as np

from recipes.music_prior.songs.composer import compose
from recipes.music_prior.songs.midi_songs import MidiError, augment, load_song, scan, split_files
from recipes.music_prior.songs.song import FIVE_STEMS, OTHER, RATE, STEMS, Song, SongError
from recipes.music_prior.sound.render import Fonts, render_song

SPLITS = ("train", "valid")
QUEUE_SEGMENTS = 24  # prefetched per worker: about 50 MB


class StreamError(SongError):
    """The stream's settings are wrong, or a worker died."""


@dataclass(frozen=True)
class StreamSettings:
    """What the stream is made of.

    Attributes
    ----------
    segment
        Samples per segment, at 22 050 Hz.
    midi_dirs
        Folders of MIDI files; empty: every song is composed.
    composed_share
        The share of composed songs where there are MIDI files too, 0 to 1.
    soundfonts
        Files or folders; empty: the MIT-licensed ones of Debian.
    heldout_soundfonts
        Files or folders that are never trained on; where there are some, they alone play the
        split "valid".
    workers
        Processes that render; 0 renders in the caller's process. Without influence on the data.
    seed
        Any integer from 0.
    split
        "train" or "valid": songs, presets and random streams of the two are disjoint.
    stems
        `STEMS`, or `FIVE_STEMS`: then half of the songs hold other instruments and voices in a
        fifth stem. The songs and notes of the four are the same; no sitar plays the guitar.
    segments_per_song
        How many consecutive segments are cut from one rendered song.
    strange
        How often computed instruments and those of another class play, as a share of what is usual.
    """

    segment: int = 131_072
    midi_dirs: tuple[str, ...] = ()
    composed_share: float = 0.6
    soundfonts: tuple[str, ...] = ()
    heldout_soundfonts: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 0
    split: str = "train"
    segments_per_song: int = 12
    stems: tuple[str, ...] = STEMS
    strange: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("segment", 1), ("segments_per_song", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise StreamError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if not 0 <= self.composed_share <= 1:
            raise StreamError(f"composed_share must be in 0..1; got {self.composed_share}")
        if not 0 <= self.strange <= 1:
            raise StreamError(f"strange must be in 0..1; got {self.strange}")
        if self.stems not in (STEMS, FIVE_STEMS):
            raise StreamError(f"stems must be {STEMS} or {FIVE_STEMS}; got {self.stems}")
        if self.split not in SPLITS:
            raise StreamError(f"split must be one of {', '.join(SPLITS)}; got {self.split!r}")


def open_fonts(settings: StreamSettings) -> Fonts:
    """Load the soundfonts of a stream's split."""
    s = settings
    return Fonts(s.soundfonts, s.split, s.heldout_soundfonts, s.stems, s.strange)


class SongSource:
    """Song number k of a split, whoever asks: from the composer or from MIDI files."""

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        files = [path for folder in settings.midi_dirs for path in scan(folder)]
        self.files = split_files(files, settings.split)
        self.broken: list[str] = []

    def rng(self, number: int, *purpose: int) -> np.random.Generator:
        """Return the random stream of a song, or of a `purpose` of it; a split has its own."""
        split = SPLITS.index(self.settings.split)
        return np.random.default_rng([self.settings.seed, split, number, *purpose])

    def song(self, rng: np.random.Generator) -> Song:
        """Draw a song: composed, or a MIDI file in another key and tempo."""
        composed = rng.random() < self.settings.composed_share
        while self.files and not composed:
            path = self.files[int(rng.integers(len(self.files)))]
            try:
                song = _load_cached(path)
            except MidiError as error:
                self.broken.append(str(error))
                song = None
            if song is not None:
                song = augment(song, rng, self.settings.stems)
                if any(stem in STEMS for stem in song.stems()):
                    return song
            # a broken or foreign file: draw again, in the end from the composer
            composed = rng.random() < 0.2
        return compose(rng)


_songs: dict[Path, Song | None] = {}


def _load_cached(path: Path) -> Song | None:
    if path not in _songs:
        if len(_songs) > 256:
            _songs.clear()
        _songs[path] = load_song(path)
    return _songs[path]


def render_segments(source: SongSource, fonts: Fonts, number: int) -> np.ndarray:
    """Render song `number` and cut it: float32 [segments_per_song, stems, segment]."""
    settings = source.settings
    rng = source.rng(number)
    song = source.song(rng)
    count, segment = settings.segments_per_song, settings.segment
    wanted = count * segment / RATE
    spare = max(0.0, song.duration - wanted)
    start = float(rng.uniform(0, spare)) if spare else 0.0
    others = source.rng(number, 1) if OTHER in settings.stems else None
    sound = render_song(
        song, rng, fonts, start=start, length=min(wanted, song.duration), others=others
    )
    samples = count * segment
    if sound.shape[1] < samples:  # a short song starts again
        sound = np.concatenate([sound] * -(-samples // sound.shape[1]), axis=1)
    sound = sound[:, :samples].reshape(len(settings.stems), count, segment)
    return np.ascontiguousarray(sound.swapaxes(0, 1))


class StemStream:
    """Segments float32 [stems, segment], in the order of the settings' stems, without end.

    Item i depends only on the settings' seed, split, songs and soundfonts and on i, not on the
    number of workers, so that a run resumes with `start=i` as if it had never stopped.
    Consecutive items come from one song: shuffle them.

    Parameters
    ----------
    settings
        What to render.
    start
        The first item.

    Examples
    --------
    >>> stream = StemStream(StreamSettings(workers=1), start=1000)  # doctest: +SKIP
    >>> for stems in stream: ...                                    # doctest: +SKIP
    """

    def __init__(self, settings: StreamSettings, start: int = 0) -> None:
        if start < 0:
            raise StreamError(f"start must be at least 0; got {start}")
        self.settings = settings
        self.start = start
        self._workers: list = []
        self._queues: list = []

    def __iter__(self) -> Iterator[np.ndarray]:
        first, skip = divmod(self.start, self.settings.segments_per_song)
        if self.settings.workers == 0:
            yield from self._render_here(first, skip)
            return
        self._launch(first)
        try:
            number = first
            while True:
                worker = number % self.settings.workers
                for index in range(self.settings.segments_per_song):
                    item = self._receive(worker)
                    if number > first or index >= skip:
                        yield item
                number += 1
        finally:
            self.close()

    def _render_here(self, first: int, skip: int) -> Iterator[np.ndarray]:
        source = SongSource(self.settings)
        fonts = open_fonts(self.settings)
        number = first
        while True:
            yield from render_segments(source, fonts, number)[skip:]
            number, skip = number + 1, 0

    def _launch(self, first: int) -> None:
        context = multiprocessing.get_context("spawn")
        count = self.settings.workers
        for worker in range(count):
            items = context.Queue(maxsize=QUEUE_SEGMENTS)
            number = first + (worker - first) % count
            process = context.Process(
                target=_work,
                args=(self.settings, number, count, items),
                daemon=True,
                name=f"render-{worker}",
            )
            process.start()
            self._workers.append(process)
            self._queues.append(items)

    def _receive(self, worker: int) -> np.ndarray:
        while True:
            try:
                item = self._queues[worker].get(timeout=2.0)
            except queue.Empty:
                if not self._workers[worker].is_alive():
                    code = self._workers[worker].exitcode
                    raise StreamError(f"a rendering process ended with status {code}") from None
                continue
            if isinstance(item, str):
                raise StreamError(f"a rendering process failed: {item}")
            return item

    def close(self) -> None:
        """End the workers; iterating again starts new ones."""
        for process in self._workers:
            process.terminate()
        for process in self._workers:
            process.join(timeout=5)
        for items in self._queues:
            items.close()
            items.cancel_join_thread()
        self._workers, self._queues = [], []


def _work(settings: StreamSettings, number: int, stride: int, items) -> None:
    """Render every `stride`-th song from `number` on into a queue, until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    try:
        source = SongSource(settings)
        fonts = open_fonts(settings)
        while True:
            for segment in render_segments(source, fonts, number):
                items.put(segment)
            number += stride
    except Exception as error:  # the parent raises it in its own process
        items.put(f"{type(error).__name__}: {error}")
        items.close()
        items.join_thread()


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)
