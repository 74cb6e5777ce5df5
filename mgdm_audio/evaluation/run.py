"""Separate every track of a data set and score it: resumable, here or on a cluster.

Estimates come from an :class:`~mgdm_audio.evaluation.estimators.EstimatorSpec`; what is done with a
track does not depend on where it is done, so engines differ in speed only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mgdm_audio.compute.engines import InlinePool, Outcome, Pool, ProcessPool
from mgdm_audio.datasets.discover import open_dataset
from mgdm_audio.datasets.four_stem import stem_files
from mgdm_audio.datasets.tracks import Dataset, Track, read_mono
from mgdm_audio.evaluation.estimators import EstimatorSpec
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.track_scores import ACTIVE, TrackScores
from mgdm_audio.evaluation.track_work import EvaluationSettings, EvaluationWork, failure
from mgdm_audio.metrics.bss_eval import BssItem, BssScores, BssWork
from mgdm_core.errors import SettingsError
from mgdm_core.settings import check

LISTEN_TRACKS = 3
"""Of the best and of the worst tracks, so many are kept for listening."""


@dataclass(frozen=True)
class EngineSettings:
    """Where the work is done; scores do not depend on it.

    Attributes
    ----------
    devices : tuple of str
        Torch devices; several of them on one machine get a process each. For Ray the kind of the
        first one counts.
    threads : int or None
        Torch threads of each worker; None for as many as in this process.
    address : str or None
        Of the Ray cluster; ``"auto"`` for the one this machine belongs to.
    bss_jobs : int
        Processes that run BSSEval beside the separation.
    """

    engine: Literal["local", "ray"] = "local"
    devices: tuple[str, ...] = ("cpu",)
    threads: int | None = None
    address: str | None = None
    bss_jobs: int = 1

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise SettingsError(f"the engine must be local or ray, found {self.engine!r}")
        if not self.devices:
            raise SettingsError("at least one device is needed, found none; give cpu or cuda:0")
        if self.bss_jobs < 1:
            raise SettingsError(f"bss_jobs must be at least 1, found {self.bss_jobs}")


@dataclass(frozen=True)
class Progress:
    """Something ended; done and total count its kind, those of earlier runs included."""

    kind: str
    key: str
    variant: str
    done: int
    total: int
    error: str | None = None


def evaluate(
    dataset: Dataset | str | Path,
    spec: EstimatorSpec,
    variants: Sequence[Variant],
    run: RunFolder | str | Path,
    settings: EvaluationSettings | None = None,
    engine: EngineSettings | None = None,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> int:
    """Separate and score every track in every variant; go on where an earlier run stopped.

    Parameters
    ----------
    dataset : Dataset or path
        Tracks, already selected; or the folder of a data set, all of which is meant.
    run : RunFolder or path
        Where results go, track by track.
    settings, engine : optional
        What decides the scores, and where the work is done.
    overwrite : bool
        Throw away what an earlier run left.
    facts : dict, optional
        What else run.json should remember, such as versions and hardware.
    on_progress : callable, optional
        Told of everything that ends.

    Returns
    -------
    int
        Number of tracks that failed, over all variants.

    Raises
    ------
    AudioError
        If the folder holds another run, or a worker cannot load the prior. Errors of single
        tracks are recorded instead, and tried again by the next run.
    """
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset)
    run = run if isinstance(run, RunFolder) else RunFolder(run)
    check(isinstance(spec, EstimatorSpec), "the spec is one of an estimator's", spec)
    settings = settings or EvaluationSettings()
    engine = engine or EngineSettings()
    asked = {
        "dataset": str(dataset.root.resolve()),
        "kind": dataset.kind,
        "stems": list(dataset.stems),
        "tracks": [track.key for track in dataset.tracks],
        "variants": [
            {
                "sampler": v.sampler,
                "settings": v.stored,
                "all_settings": spec.settings_of(v),
            }
            for v in variants
        ],
        "estimator": spec.describe(),
        # What is kept for listening may change from one call to the next.
        **{name: value for name, value in asdict(settings).items() if name != "keep"},
    }
    run.begin(asked, facts or {}, overwrite)
    by_slug = {variant.slug: variant for variant in variants}
    if len(by_slug) < len(variants):
        raise SettingsError("variants must differ from each other, found one twice")
    tracks = {track.key: track for track in dataset.tracks}
    return _Evaluation(tracks, spec, by_slug, run, settings, engine, on_progress).go()


@dataclass
class _Evaluation:
    """State of one call of :func:`evaluate`."""

    tracks: dict[str, Track]
    spec: EstimatorSpec
    variants: dict[str, Variant]
    run: RunFolder
    settings: EvaluationSettings
    engine: EngineSettings
    tell: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self.done = {"track": 0, "bss": 0}
        self.failed: set[tuple[str, str]] = set()
        self.bss: dict[Future, tuple[Variant, Track]] = {}
        self.ranks: dict[str, dict[str, float]] = {slug: {} for slug in self.variants}

    def go(self) -> int:
        todo, bss_todo = self._left()
        items = [(f"{variant.slug} {track.key}", (variant, track)) for variant, track in todo]
        by_key = dict(items)
        pools: list[Pool] = []
        try:
            bss_pool = None
            if self.settings.bss and (items or bss_todo):
                bss_pool = self._pool(BssWork(), cpu=True)
                pools.append(bss_pool)
                for variant, track in bss_todo:
                    self._submit(bss_pool, variant, track)
            if items:
                pool = self._pool(EvaluationWork(self.spec, self.settings))
                pools.append(pool)
                for outcome in pool.run(items):
                    self._take(outcome, *by_key[outcome.key], bss_pool)
                    self._collect(block=False)
            self._collect(block=True)
        finally:
            for pool in reversed(pools):
                pool.close()
        for variant in self.variants.values():
            self._prune(variant)
        return len(self.failed)

    def _left(self) -> tuple[list[tuple[Variant, Track]], list[tuple[Variant, Track]]]:
        """What earlier runs left to separate, and to run BSSEval on."""
        todo, bss_todo = [], []
        tracks = list(self.tracks.values())
        read = self.spec.files(tracks)
        self.stamps = {t.key: stamp([*t.files(), *read.get(t.key, [])]) for t in tracks}
        for variant in self.variants.values():
            for key, track in self.tracks.items():
                record = self.run.record(variant, key)
                # A record of before 2026-12 does not say what it was read from.
                if record is not None and record.get("files", self.stamps[key]) != self.stamps[key]:
                    self.run.forget(variant, key)
                    record = None
                scored = record is not None and record.get("error") is None
                bss = self.run.record(variant, key, "bss") if self.settings.bss else None
                if record is not None:
                    self._rank(variant, record)
                if not scored:
                    todo.append((variant, track))
                elif self.settings.bss and (bss is None or bss.get("error")):
                    if self.run.stems_folder(variant, key).is_dir():
                        self.done["track"] += 1
                        bss_todo.append((variant, track))
                    else:
                        todo.append((variant, track))
                else:
                    self.done["track"] += 1
                    self.done["bss"] += 1
        return todo, bss_todo

    def _pool(self, work: Any, cpu: bool = False) -> Pool:
        engine = self.engine
        if engine.engine == "ray":
            from mgdm_audio.compute.engines_ray import RayPool

            device = "cpu" if cpu else engine.devices[0].split(":")[0]
            return RayPool(work, engine.address, device, 1 if cpu else engine.threads)
        if cpu:
            return ProcessPool(work, ["cpu"] * engine.bss_jobs, threads=1)
        if len(engine.devices) == 1 and engine.threads in (None, torch.get_num_threads()):
            return InlinePool(work, engine.devices[0])
        return ProcessPool(work, engine.devices, engine.threads)

    def _take(
        self, outcome: Outcome, variant: Variant, track: Track, bss_pool: Pool | None
    ) -> None:
        """Write what a worker sent back."""
        result = outcome.value
        if result is None:
            result = failure(track, variant, outcome.error_type, outcome.error or "")
        record, rate = {**result.record, "files": self.stamps[track.key]}, self.settings.rate
        # The record comes last: a track that has one has everything else too.
        if result.estimates:
            folder = self.run.stems_folder(variant, result.key)
            self.run.write_sounds(folder, result.estimates, rate)
        if result.excerpt:
            folder = self.run.listen_folder(variant, result.key)
            self.run.write_sounds(folder, result.excerpt, rate, lossless=False)
        self.run.write_record(variant, result.key, record)
        self._rank(variant, record)
        self._prune(variant)
        error = record["error"]
        if error is None and bss_pool is not None:
            self._submit(bss_pool, variant, track)
        self._count("track", variant, result.key, error and error["message"])

    def _submit(self, pool: Pool, variant: Variant, track: Track) -> None:
        estimates: Any = self.run.stems_folder(variant, track.key)
        if self.engine.engine == "ray":  # other nodes do not see this machine's run folder
            estimates = {name: read_mono(path)[0] for name, path in stem_files(estimates).items()}
        item = BssItem(track, estimates, self.settings.rate)
        self.bss[pool.submit(track.key, item)] = (variant, track)

    def _collect(self, block: bool) -> None:
        """Write BSSEval results that have ended; wait for all of them if ``block``."""
        while self.bss:
            done, _ = wait(self.bss, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            for future in done:
                self._take_bss(future.result(), *self.bss.pop(future))
            if not done and not block:
                return

    def _take_bss(self, outcome: Outcome, variant: Variant, track: Track) -> None:
        if outcome.error is not None:
            error = {"type": outcome.error_type, "message": " ".join(outcome.error.split())}
            self.run.write_record(variant, track.key, {"error": error}, "bss")
        else:
            scores: BssScores = outcome.value
            text = scores.to_museval_json(track.name)
            self.run.write_museval(variant, track.split, track.name, text)
            medians = {
                stem: {m: v if math.isfinite(v) else None for m, v in held.items()}
                for stem, held in scores.medians.items()
            }
            record = {"medians": medians, "notes": list(scores.notes), "error": None}
            self.run.write_record(variant, track.key, record, "bss")
            if self.settings.keep != "all":
                self.run.drop(self.run.stems_folder(variant, track.key))
        self._count("bss", variant, track.key, outcome.error)

    def _count(self, kind: str, variant: Variant, key: str, error: str | None) -> None:
        self.done[kind] += 1
        if error is not None:
            self.failed.add((variant.slug, key))
        if self.tell is not None:
            total = len(self.tracks) * len(self.variants)
            self.tell(Progress(kind, key, variant.label, self.done[kind], total, error))

    def _rank(self, variant: Variant, record: dict[str, Any]) -> None:
        if record["error"] is None and "excerpt" in record:
            self.ranks[variant.slug][record["track"]] = TrackScores.of(record).mean_of(ACTIVE)

    def _prune(self, variant: Variant) -> None:
        """Keep excerpts of the best and worst tracks so far: the final ones are among them."""
        ranks = self.ranks[variant.slug]
        kept = {*best_and_worst(ranks, LISTEN_TRACKS)}
        for key in [k for k in ranks if k not in kept]:
            self.run.drop(self.run.listen_folder(variant, key))
            del ranks[key]


def stamp(files: Sequence[Path]) -> str:
    """Tell apart what files hold: by names, sizes and times, which reads none of them."""
    found = [(str(path), path.stat()) for path in files if path.exists()]
    facts = [(name, held.st_size, held.st_mtime_ns) for name, held in found]
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def best_and_worst(ranks: dict[str, float], count: int) -> list[str]:
    """Keys of the best tracks, best first, and of the worst, worst last; NaN ranks nowhere."""
    known = sorted((k for k in ranks if not math.isnan(ranks[k])), key=lambda k: (-ranks[k], k))
    return known if len(known) <= 2 * count else known[:count] + known[-count:]
