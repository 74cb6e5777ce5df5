"""Pictures and tables of the recipes appear whole, or what was there stays."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas
import pytest
import torch

from mgdm_audio.errors import AudioWriteError
from mgdm_audio.sampling.recalibration import PlaneFit, Recalibration
from recipes.calibration import audio_report, exact_report
from recipes.calibration.exact import Setting
from recipes.calibration.expected import draw_expected
from recipes.calibration.fit import Gains
from recipes.calibration.statistics import LEVELS
from recipes.exact_posterior import pictures, runner
from recipes.exact_posterior.problems import Case
from recipes.exact_posterior.runner import Job, run_job, sample_path
from recipes.exact_posterior.table import write_parquet
from recipes.music_prior.training import sources
from recipes.music_prior.training.validate import plot
from recipes.pictures import time_scales

from .tiny_training import Tones

PLANE = Case("linear", 2, 1, 0.5, 0)


def exact_coverage(path: Path) -> None:
    curve = list(LEVELS)
    record = {"sampler": "exact", "coverage_curve": curve, "tarp_curve": curve}
    exact_report.draw_exact([record], Setting("linear", 2, 1), path)


def audio_coverage(path: Path) -> None:
    audio_report.draw_audio({"posterior": [{}]}, ("bass",), "a set", path)


def expected(path: Path) -> None:
    one = np.linspace(0, 1, 6)[None]
    planes = {"bass": PlaneFit(1.0, 0.0, 0.0, -1.0, 1.0)}
    fit, all_of_it = Recalibration("a test", {}, planes, planes), np.ones((1, 6), bool)
    draw_expected([Gains(one, one, one, one, all_of_it, all_of_it)], fit, ("bass",), "a set", path)


def plane(path: Path) -> None:
    points = torch.zeros(3, 2)
    pictures.plane_picture(PLANE, points, {"ddrm": points}, {"ddrm": 1.0}, path)


def loss(path: Path) -> None:
    plot(path.with_name("no such run"), path)


def scales(path: Path) -> None:
    time_scales.draw(path)


def parquet(path: Path) -> None:
    write_parquet([{"sampler": "ddrm"}], path)


WRITERS = [exact_coverage, audio_coverage, expected, plane, loss, scales, parquet]


@pytest.mark.parametrize("write", WRITERS)
def test_what_breaks_off_leaves_what_was_there(write, tmp_path, monkeypatch):
    figures = {"levels": LEVELS, "curve": LEVELS, "rank_shares": [0.5, 0.5]}
    monkeypatch.setattr(exact_report, "verdict", lambda record: "passes")
    scale = time_scales.Scale("window", 6.0, 3.0, 0.0, "one evaluation")
    monkeypatch.setattr(time_scales, "time_scales", lambda: [scale])
    monkeypatch.setattr(audio_report, "figures", lambda records, stem: figures)
    path = tmp_path / "output"
    write(path)
    whole = path.read_bytes()
    assert len(whole) > 500

    def half(target, *args, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matplotlib.image, "imsave", lambda name, *_, **__: half(name))
    monkeypatch.setattr(pandas.DataFrame, "to_parquet", lambda frame, name, **_: half(name))
    with pytest.raises(AudioWriteError, match=r"output: cannot be written .No space left"):
        write(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_shard_that_breaks_off_is_not_there(tmp_path, monkeypatch):
    def half(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources.np, "save", half)
    with pytest.raises(AudioWriteError, match=r"shard0000.npy: cannot be written .No space left"):
        sources.pack(Tones(), tmp_path, segments=2)
    assert list(tmp_path.iterdir()) == []


def test_samples_that_break_off_are_not_there(tmp_path, monkeypatch):
    def half(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.np, "save", half)
    job = Job("ddrm", PLANE, 20)
    record = run_job(job, folder=tmp_path)
    assert record["error"].endswith("cannot be written (No space left on device)")
    path = sample_path(job, tmp_path)
    assert path is not None
    assert not path.exists()
