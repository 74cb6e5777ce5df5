"""Fixtures of the core tests."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """The arrays here are small: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
