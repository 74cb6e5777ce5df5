"""Training in two processes, as on two GPUs: own songs, one set of weights, exact resume."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.music_prior.training.data import SegmentsFrom, ShardSource

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", (400 * rng.standard_normal((5, 4, 16_384))).astype(np.int16))
    return folder


def test_segments_of_a_process_begin_further_on(shards):
    source = ShardSource(shards)
    mine = SegmentsFrom(source, 2)
    assert mine.segment == source.segment
    for found, expected in zip(islice(mine.stream(1), 3), islice(source.stream(3), 3)):
        np.testing.assert_array_equal(found, expected)


def train(run, shards, *more):
    command = [sys.executable, "-m", "recipes.music_prior", "train", "--out", run, "--dry"]
    command += ["--no-compile", "--threads", "1", "--data-dir", shards, "--devices", "2", *more]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_share_their_weights_and_resume_exactly(tmp_path, shards):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    output = train(whole, shards)
    assert output.count("step 6/6") == output.count("saved step 6") == 1
    assert "saved step 4" in train(pieces, shards, "--stop-after", "4")
    assert "step 4/6" not in train(pieces, shards)
    first, second = (torch.load(run / "last.pt", weights_only=True) for run in (whole, pieces))
    for kind in ("network", "average"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), name
    rings = [np.load(whole / f"pool{rank}" / "pool.npy", mmap_mode="r") for rank in (0, 1)]
    assert not np.array_equal(rings[0][0], rings[1][0])
