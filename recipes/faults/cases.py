"""The cases of a campaign, one after the other, each told by a name that stays the same."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from recipes.faults.bad_files import bad_files
from recipes.faults.commands import Bench, Finding, Job, jobs_of, leftovers, one_failure
from recipes.faults.sandbox import Disturbance, Work, call, run

__all__ = ["GROUPS", "Case", "cases_of"]

GROUPS = (
    "bad files", "signals", "Ray workers", "full disk", "read-only", "streams", "memory", "clock",
)  # fmt: skip
_SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
_CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130, "SIGKILL": -9}


@dataclass(frozen=True)
class Case:
    """Something that is done to a command.

    Attributes
    ----------
    group : str
        One of :data:`GROUPS`.
    name : str
    run : callable
        From the bench to what became of it.
    """

    group: str
    name: str
    run: Callable[[Bench], Finding]


# -- bad files ------------------------------------------------------------------------------------


def _bad_file(job: Job, write: Callable[[Path], Path]) -> Callable[[Bench], Finding]:
    def check(bench: Bench) -> Finding:
        from mgdm_audio.cli.separate import main

        bench.reference(job)  # for what it imports: each case need not again
        where, out = bench.fresh(), bench.folder / "case" / "out"
        arguments = ["-n", bench.material.prior, "--preset", "fast", "-d", "cpu", "-o", out]
        work = call(main, [*arguments, "--", write(where)])
        ended = run(work, where / "log", limit=90, prepare=_bounded(2 << 30))
        found = one_failure(ended, (0, 1))
        if found.status != "clean":
            return found
        stems = [p for p in out.rglob("*") if p.is_file()] if out.exists() else []
        if ended.code and stems:
            return Finding("lost", f"failed, and left {stems[0].name}")
        return Finding("clean") if ended.code else _whole(stems)

    return check


def _whole(files: list[Path]) -> Finding:
    import numpy as np
    import soundfile

    if sorted(p.suffix for p in files) != [".json", *[".wav"] * 5]:
        return Finding("lost", f"done, and wrote {sorted(p.name for p in files)}")
    frames = set()
    for path in (p for p in files if p.suffix == ".wav"):
        with path.open("rb") as file:  # names of bytes are not for libsndfile's binding
            sound, _ = soundfile.read(file)
        frames.add(len(sound))
        if not np.isfinite(sound).all():
            return Finding("lost", f"{path.name} holds NaN or infinity")
    return Finding("clean") if len(frames) == 1 else Finding("lost", "stems differ in length")


def _bounded(more: int) -> Work:
    """Allow so many bytes of memory more than there are."""

    def prepare() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return prepare if Path("/proc/self/statm").exists() else lambda: None


# -- signals --------------------------------------------------------------------------------------


def _killed(job: Job, name: str, word: str) -> Callable[[Bench], Finding]:
    """One signal at a random moment, then the same call again, undisturbed."""

    def check(bench: Bench) -> Finding:
        wanted, seconds = bench.reference(job)
        moments = bench.stream(name)
        number = int(getattr(signal, word))
        for share in (1.0, 0.7, 0.4, 0.2, 0.1, 0.05):
            out = bench.fresh() / "out"
            after = moments.uniform(0.0, share * seconds)
            ended = run(job.work(out), out.parent / "log", Disturbance(number, after))
            if ended.disturbed and ended.code != 0:
                break
            if ended.disturbed and job.name == "training":
                break  # it saves and leaves when it is told to
        else:
            return Finding("skipped", "it ended before the signal six times")
        if (seen := ended.traceback) is not None:
            return Finding("traceback", seen)
        if ended.code not in (_CODES[word], 0 if job.name == "training" else _CODES[word]):
            return Finding("lost", f"exit code {ended.code} after {word}")
        if word != "SIGKILL" and (left := leftovers(out)):
            return Finding("lost", f"left behind {left[0]} after {word}")
        return _goes_on(job, out, wanted)

    return check


def _goes_on(job: Job, out: Path, wanted: object) -> Finding:
    """The same call again must end, with the same results and nothing beside them."""
    again = run(job.work(out), out.parent / "again")
    if (seen := again.traceback) is not None:
        return Finding("traceback", f"when called again: {seen}")
    if again.code != 0:
        return Finding("lost", f"cannot go on: {again.err.strip()[-200:]}")
    if left := leftovers(out):
        return Finding("lost", f"{left[0]} stays for ever")
    if job.results(out) != wanted:
        return Finding("lost", "the results differ from those of an undisturbed run")
    return Finding("clean")


def _ray_worker(command: int) -> int | None:
    """A process that works on a task for a command."""
    parents, working = {}, []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may just have ended
            process = int(status.parent.name)
            parents[process] = int(status.read_text().rpartition(")")[2].split()[1])
            if (status.parent / "cmdline").read_bytes().startswith(b"ray::_remote"):
                working.append(process)
    for process in sorted(working):
        above: int | None = process
        while above is not None and above != command:
            above = parents.get(above)
        if above == command:
            return process
    return None


def _worker_killed(job: Job, name: str) -> Callable[[Bench], Finding]:
    """A worker of Ray is killed in the middle of a task; the command must end as if it were not."""

    def check(bench: Bench) -> Finding:
        if find_spec("ray") is None:
            return Finding("skipped", "Ray is not installed; pip install 'mgdm[cluster]'")
        if job.on_ray is None or not Path("/proc/self/stat").exists():
            return Finding("skipped", "no way to find a worker here")
        wanted, _ = bench.reference(job)
        out = bench.fresh() / "out"
        pause = bench.stream(name).uniform(0.0, 1.0)
        seen: list[float] = []

        def victim(command: int) -> int | None:
            worker = _ray_worker(command)
            if worker is not None and not seen:
                seen.append(time.monotonic())
            return worker if seen and time.monotonic() - seen[0] >= pause else None

        ended = run(job.on_ray(out), out.parent / "log", Disturbance(signal.SIGKILL, 0.0, victim))
        if not ended.disturbed:
            return Finding("skipped", f"no worker was there to be killed; {ended.err[-200:]}")
        found = one_failure(ended, (0,))
        return _goes_on(job, out, wanted) if found.status == "clean" else found

    return check


# -- disks ----------------------------------------------------------------------------------------


def _limited(job: Job, name: str) -> Callable[[Bench], Finding]:
    """No file may grow beyond a random size; then there is room, and the same call goes on."""

    def check(bench: Bench) -> Finding:
        wanted, _ = bench.reference(job)
        size = int(10 ** bench.stream(name).uniform(1.0, 5.0))
        out = bench.fresh() / "out"

        def full() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        ended = run(job.work(out), out.parent / "log", prepare=full)
        found = one_failure(ended, (0, 1))
        # Its own words may not have fitted on the disk either.
        if found.status == "traceback" or (found.status != "clean" and size > 1000):
            return Finding(found.status, f"{found.detail} ({size} bytes)")
        if left := leftovers(out):
            return Finding("lost", f"left behind {left[0]} ({size} bytes)")
        return _goes_on(job, out, wanted)

    return check


def _read_only(job: Job) -> Callable[[Bench], Finding]:
    """A folder that cannot be written; root may write everywhere and is made somebody else."""

    def check(bench: Bench) -> Finding:
        wanted, _ = bench.reference(job)
        where = bench.fresh()
        place = where / "place"
        place.mkdir(mode=0o555)

        def nobody() -> None:
            if os.geteuid() == 0:
                # Files stay readable: only the right to write against the mode is given up.
                _drop_override()

        ended = run(job.work(place / "out"), where / "log", prepare=nobody)
        place.chmod(0o755)
        if ended.code == 0:
            return Finding("skipped", "this process may write everywhere")
        found = one_failure(ended, (1,))
        if found.status != "clean":
            return found
        return _goes_on(job, place / "out", wanted)

    return check


def _drop_override() -> None:
    """Give up CAP_DAC_OVERRIDE of this process (Linux)."""
    import ctypes

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Sets(ctypes.Structure):
        _fields_ = (
            ("effective", ctypes.c_uint32),
            ("permitted", ctypes.c_uint32),
            ("inheritable", ctypes.c_uint32),
        )

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(0x20080522, 0), (Sets * 2)()
    if libc.capget(ctypes.byref(header), sets) == 0:
        sets[0].effective &= ~(1 << 1)
        libc.capset(ctypes.byref(header), sets)


# -- streams, memory, clock -----------------------------------------------------------------------


def _stream(job: Job, how: str) -> Callable[[Bench], Finding]:
    """Standard output and error that are closed, full, or that nobody reads any more."""

    def check(bench: Bench) -> Finding:
        wanted, _ = bench.reference(job)
        out = bench.fresh() / "out"

        def spoil() -> None:
            kind, _, numbers = how.partition(" ")
            for number in map(int, numbers.split("+")):
                if kind == "closed":
                    os.close(number)
                elif kind == "full":
                    os.dup2(os.open("/dev/full", os.O_WRONLY), number)
                else:
                    reader, writer = os.pipe()
                    os.close(reader)
                    os.dup2(writer, number)

        ended = run(job.work(out), out.parent / "log", prepare=spoil)
        if (seen := ended.traceback) is not None:
            return Finding("traceback", seen)
        if ended.code not in (0, 1):
            return Finding("lost", f"exit code {ended.code}")
        if left := leftovers(out):
            return Finding("lost", f"left behind {left[0]}")
        return _goes_on(job, out, wanted)

    return check


def _no_memory(job: Job, name: str) -> Callable[[Bench], Finding]:
    """A device whose memory is exhausted at some evaluation of the network."""

    def check(bench: Bench) -> Finding:
        wanted, _ = bench.reference(job)
        out = bench.fresh() / "out"
        chance = bench.stream(name)
        first, count = chance.randrange(0, 4), chance.choice((1, 2, 10**9))

        def spoil() -> None:
            import torch

            from mgdm_audio.priors.stft_unet.network import STFTUNet

            inner, calls = STFTUNet.denoise_bins, [0]

            def denoise_bins(self, *arguments, **settings):
                calls[0] += 1
                if first < calls[0] <= first + count:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return inner(self, *arguments, **settings)

            STFTUNet.denoise_bins = denoise_bins

        ended = run(job.work(out), out.parent / "log", prepare=spoil)
        found = one_failure(ended, (0, 1))
        if found.status != "clean":
            return found
        if left := leftovers(out):
            return Finding("lost", f"left behind {left[0]}")
        return _goes_on(job, out, wanted)

    return check


def _clock(job: Job, name: str) -> Callable[[Bench], Finding]:
    """The time of day jumps back and forth by up to ten years at every look at it."""

    def check(bench: Bench) -> Finding:
        wanted, _ = bench.reference(job)
        out = bench.fresh() / "out"

        def spoil() -> None:
            import time

            chance, real = bench.stream(name), time.time
            time.time = lambda: real() + chance.uniform(-3e8, 3e8)

        ended = run(job.work(out), out.parent / "log", prepare=spoil)
        found = one_failure(ended, (0,))
        return _goes_on(job, out, wanted) if found.status == "clean" else found

    return check


# -- all of them ----------------------------------------------------------------------------------


def cases_of(bench: Bench, quick: bool = False) -> Iterator[Case]:
    """The cases in order; ``quick`` takes about one in twelve, of every group."""
    jobs = jobs_of(bench.material)
    stride = 12 if quick else 1
    for number, (name, write) in enumerate(bad_files(bench.seed)):
        if number % stride == 0:
            yield Case("bad files", name, _bad_file(jobs[0], write))
    per_signal = {"separation": 6, "evaluation": 4, "conversion": 4, "training": 3}
    for job in jobs:
        for word in _SIGNALS:
            for number in range(1 if quick else per_signal[job.name]):
                name = f"{job.name} {word} {number}"
                yield Case("signals", name, _killed(job, name, word))
    for job in jobs:
        for number in range(0 if job.on_ray is None else 1 if quick else 3):
            name = f"{job.name}, worker killed {number}"
            yield Case("Ray workers", name, _worker_killed(job, name))
    for job in jobs[: 1 if quick else None]:
        for number in range(1 if quick else 4):
            name = f"{job.name}, disk full {number}"
            yield Case("full disk", name, _limited(job, name))
        yield Case("read-only", job.name, _read_only(job))
        for how in ("closed 1", "closed 2", "closed 1+2", "full 1", "full 2", "unread 1"):
            yield Case("streams", f"{job.name}, {how}", _stream(job, how))
        for number in range(1 if quick else 3):
            if job.name in ("separation", "evaluation", "training"):
                name = f"{job.name}, out of memory {number}"
                yield Case("memory", name, _no_memory(job, name))
        yield Case("clock", job.name, _clock(job, f"{job.name} clock"))
