"""Fixtures of the core tests."""

import jaxtyping
import pytest


@pytest.fixture()
def unchecked_shapes():
    """Switch the suite's own shape checks off, to see the error that a user would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
