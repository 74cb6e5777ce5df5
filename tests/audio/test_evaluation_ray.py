"""The Ray engine gives the numbers of the local one, and survives a killed worker."""

import os
import signal
import threading
import time

import pytest
import torch

from mgdm_audio.compute.engines import EngineError
from mgdm_audio.datasets import open_dataset
from mgdm_audio.evaluation.result_files import result_rows
from mgdm_audio.evaluation.run import EngineSettings, EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.summary import summarise

from .fake_separator import FakeSpec
from .fake_slakh import write_fake_slakh

BANDS = [Variant("bands", (("steps", n),)) for n in (1, 2, 4)]


def table(run):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result_rows(run)]
    return rows, [v.scores for v in summarise(run).variants]


@pytest.fixture(scope="module")
def cluster(repo_root):
    """Two workers on this machine, which import the tests too."""
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `cluster`)")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": str(repo_root)}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_fake_slakh(tmp_path_factory.mktemp("slakh"))).select("test")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.gate
def test_same_numbers_with_bss(cluster, dataset, tmp_path):
    settings = EvaluationSettings(rate=8000)
    some = dataset.select(names=["Track00001", "Track00002"])
    runs = {}
    for engine in ("local", "ray"):
        runs[engine] = RunFolder(tmp_path / engine)
        where = EngineSettings(engine=engine)
        assert evaluate(some, FakeSpec(), BANDS[:1], runs[engine], settings, where) == 0
    rows, scores = table(runs["local"])
    assert rows[0]["sdr"] is not None
    assert table(runs["ray"]) == (rows, scores)


@pytest.mark.slow
def test_one_of_two_workers_killed(cluster, dataset, tmp_path):
    settings = EvaluationSettings(rate=8000, bss=False)
    plain, killed = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "killed")
    assert evaluate(dataset, FakeSpec(), BANDS, plain, settings) == 0
    log = tmp_path / "log"
    victim = []

    def kill_one():
        """Kill the first of two workers in the middle of a track."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = log.read_text().split("\n") if log.exists() else []
            working = [line.split() for line in lines if line.startswith("Track")]
            workers = list(dict.fromkeys(pid for _, pid in working))
            if len(workers) == 2:
                victim.append(int(workers[0]))
                os.kill(victim[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    spec = FakeSpec(delay=1.0, log=str(log))
    assert evaluate(dataset, spec, BANDS, killed, settings, EngineSettings(engine="ray")) == 0
    thread.join()
    assert victim
    assert table(killed) == table(plain)
    lines = [line.split() for line in log.read_text().splitlines()]
    loads = [pid for what, pid in lines if what == "load"]
    # Loaded once by every worker, and by the one that took the place of the dead one.
    assert len(loads) == len(set(loads)) >= 2
    assert len([what for what, _ in lines if what != "load"]) > 9  # at least one was tried twice


@pytest.mark.slow
def test_errors_of_tracks_and_of_the_start(cluster, dataset, tmp_path):
    settings = EvaluationSettings(rate=8000, bss=False)
    run = RunFolder(tmp_path / "run")
    engine = EngineSettings(engine="ray")
    assert evaluate(dataset, FakeSpec(fail=["Track00001"]), BANDS[:1], run, settings, engine) == 1
    assert run.record(BANDS[0], "test/Track00001")["error"]["message"] == (
        "cannot separate Track00001"
    )
    engine = EngineSettings(engine="ray", devices=("cuda",))
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="has no GPU"):
            evaluate(dataset, FakeSpec(), BANDS[:1], RunFolder(tmp_path / "b"), settings, engine)


def test_without_ray_the_extra_is_named(dataset, tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    settings = EvaluationSettings(rate=8000, bss=False)
    with pytest.raises(EngineError, match=r"pip install 'mgdm\[cluster\]'"):
        evaluate(dataset, FakeSpec(), BANDS, RunFolder(tmp_path / "run"), settings,
                 EngineSettings(engine="ray"))  # fmt: skip
