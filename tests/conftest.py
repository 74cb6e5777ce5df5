"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

from tests import shape_checks

# No test is about how long something takes: on a busy machine an example may take any time.
settings.register_profile("mgdm", deadline=None)
settings.load_profile("mgdm")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference material that is not part of the project; tests that need it skip without it."""
    path = Path(os.environ.get("MGDM_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("reference material (MGDM_SHARED or ../shared) is not here")
    return path


@pytest.fixture(scope="session", autouse=True)
def _threads():
    """As many as OMP_NUM_THREADS says, or two: the suite is sized for two cores."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@pytest.fixture(autouse=True)
def _shape_checks():
    shape_checks.begin()


@pytest.fixture
def unchecked_shapes():
    """Switch the suite's own shape checks off, to see the error that a user would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
