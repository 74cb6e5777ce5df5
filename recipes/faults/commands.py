"""The commands that are disturbed: how each is called, and what an undisturbed call leaves."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.faults.material import Material, small_preset
from recipes.faults.sandbox import Ended, Work, call, run, warm

__all__ = ["Bench", "Finding", "Job", "jobs_of", "leftovers"]


@dataclass(frozen=True)
class Finding:
    """What became of a case.

    Attributes
    ----------
    status : {"clean", "lost", "traceback", "skipped"}
    detail : str
        Where it was not clean, what was seen.
    """

    status: str
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """A command that writes below a folder, and can be called again to go on.

    Attributes
    ----------
    name : str
    work : callable
        From the folder to what is run.
    results : callable
        From the folder to what must be the same whatever happened on the way.
    on_ray : callable, optional
        The same work as tasks of a Ray cluster, for a command that can.
    """

    name: str
    work: Callable[[Path], Work]
    results: Callable[[Path], Any]
    on_ray: Callable[[Path], Work] | None = None


@dataclass
class Bench:
    """Where a campaign works: its material, its random numbers, its undisturbed runs.

    Attributes
    ----------
    folder : Path
        Everything lies below it.
    material : Material
    seed : int
    """

    folder: Path
    material: Material
    seed: int
    _references: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def stream(self, name: str) -> random.Random:
        """Random numbers of a case, the same for the same seed and name."""
        return random.Random(f"{self.seed} {name}")

    def fresh(self) -> Path:
        """An empty folder for a case; the one before is removed."""
        where = self.folder / "case"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        return where

    def reference(self, job: Job) -> tuple[Any, float]:
        """What an undisturbed call leaves, and how many seconds it takes."""
        if job.name not in self._references:
            where = self.folder / "undisturbed" / job.name
            shutil.rmtree(where, ignore_errors=True)
            warm(job.work(where / "first"), where / "log")
            ended = run(job.work(where / "out"), where / "log")
            if ended.code != 0:
                raise RuntimeError(f"{job.name} fails undisturbed: {ended.err.strip()[-400:]}")
            self._references[job.name] = job.results(where / "out"), ended.seconds
        return self._references[job.name]


def leftovers(folder: Path) -> list[str]:
    """Names of files that only a run in progress may have."""
    if not folder.exists():
        return []
    marks = (".part", ".partial", ".tmp")
    return [
        path.name
        for path in folder.rglob("*")
        if path.name.startswith(".mgdm-") or path.name.endswith(marks)
    ]


def one_failure(ended: Ended, codes: tuple[int, ...] = (1,)) -> Finding:
    """Whether a command failed as it should: one line, the right code, no traceback."""
    if (seen := ended.traceback) is not None:
        return Finding("traceback", seen)
    if ended.code not in codes:
        return Finding("lost", f"exit code {ended.code}; {ended.err.strip()[-150:]}")
    if ended.code and not ended.errors:
        return Finding("lost", f"exit code {ended.code} without a line that says why")
    return Finding("clean")


def _separation(out: Path) -> Any:
    return {p.name: p.read_bytes() for p in sorted(out.rglob("*.wav"))}


def _conversion(out: Path) -> Any:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.wav"))}


def _evaluation(out: Path) -> Any:
    import pyarrow.parquet as pq

    rows = pq.read_table(out / "results.parquet").drop_columns(["seconds"]).to_pylist()
    return json.dumps(rows, sort_keys=True), (out / "summary.md").read_text().split("## Cost")[0]


def _training(out: Path) -> Any:
    import torch

    state = torch.load(out / "last.pt", map_location="cpu", weights_only=True)
    return {
        f"{part}.{name}": tensor.numpy().tobytes()
        for part in ("network", "average")
        for name, tensor in state[part].items()
    } | {"step": state["step"]}


def jobs_of(material: Material) -> list[Job]:
    """Separation, evaluation, conversion, and training where it can be done."""
    from mgdm_audio.cli.evaluate import main as evaluate
    from mgdm_audio.cli.separate import main as separate

    def separation(out: Path, *more: str) -> Work:
        return call(separate, [material.mix, "-n", material.prior, "--preset", "fast", "-o", out,
                               "-d", "cpu", "--resume", "--set", "window=3", *more])  # fmt: skip

    def evaluation(out: Path, *more: str) -> Work:
        return call(evaluate, ["run", material.dataset, "-n", material.prior, "--preset", "fast",
                               "--no-museval", "--no-report", "--rate", "8000", "-q", "-d", "cpu",
                               "--keep", "none", "-o", out, *more])  # fmt: skip

    ray = "--engine", "ray"

    def conversion(out: Path) -> Work:
        return call(evaluate, ["convert", material.dataset, out, "--rate", "8000",
                               "--jobs", "1", "-q"])  # fmt: skip

    jobs = [
        Job("separation", separation, _separation, lambda out: separation(out, *ray)),
        Job("evaluation", evaluation, _evaluation, lambda out: evaluation(out, *ray)),
        Job("conversion", conversion, _conversion),
    ]
    if material.shards is not None:
        from recipes.music_prior.commands import main as music_prior

        shards = material.shards

        def training(out: Path) -> Work:
            def work() -> object:
                preset = small_preset()
                arguments = ["train", "--out", str(out), "--preset", preset, "--threads", "1"]
                return music_prior([*arguments, "--data-dir", str(shards), "--devices", "1"])

            return work

        jobs.append(Job("training", training, _training))
    return jobs
