"""The page "Your own problem in 30 lines", run from its own text."""

import contextlib
import io
import re

import pytest
import torch

import mgdm_core
from mgdm_core.samplers import SAMPLERS

from .closed_forms import condition


@pytest.fixture(scope="module")
def page(repo_root):
    return (repo_root / "docs" / "your_own_problem.md").read_text()


@pytest.fixture(scope="module")
def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.fixture(scope="module")
def names(blocks):
    """Names left by the page's code, run from top to bottom as one program."""
    scope: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "your_own_problem.md", "exec"), scope)
    return {**scope, "printed": printed.getvalue()}


def test_it_takes_thirty_lines(blocks):
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 30


def test_the_samples_are_the_posterior(names):
    x, truth = names["result"].x.double(), names["truth"].double()
    assert x.shape == (20, 48)
    values, vectors = names["values"].double().clamp_min(0), names["vectors"].double()
    cov = (vectors * values) @ vectors.T
    pick = torch.eye(48, dtype=torch.float64)[::4]
    mean, left = condition(torch.zeros(48).double(), cov, pick, names["y"][0].double(), 0.01)
    # The mean of 20 samples is nearer to the posterior's than one posterior deviation, and as near
    # to the truth as the posterior says.
    spread = left.diagonal().mean().sqrt()
    assert float((x.mean(0) - mean).square().mean().sqrt()) < 0.7 * float(spread)
    assert float((x.mean(0) - truth).square().mean().sqrt()) < 1.5 * float(spread)
    assert 0.6 < float(x.var(0).mean() / left.diagonal().mean()) < 1.5
    assert names["result"].trace.warnings == []


def test_the_other_examples_do_what_they_say(names):
    truth = names["truth"]
    error = (names["clipped"].x.mean(0) - truth).square().mean().sqrt()
    assert float(error) < 0.35 * float(truth.square().mean().sqrt())
    error = (names["rows"].mean(0) - truth).square().mean().sqrt()
    assert float(error) < 0.35 * float(truth.square().mean().sqrt())
    assert "1 of 19, level 947" in names["printed"]
    assert "mgdm was cancelled at level" in names["printed"]
    whole = mgdm_core.sample(names["problem"], names["settings"], n=20)
    assert torch.equal(names["later"].x, whole.x)


def test_every_sampler_and_adapter_it_names_exists(page):
    import mgdm_core.priors as priors

    for name in re.findall(r"`(\w+Prior)`", page):
        assert hasattr(priors, name)
    assert "mgdm" in SAMPLERS
