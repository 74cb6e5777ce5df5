"""Commands beside other work: threads that wait for each other soon sleep."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.priors.catalogue import resolve

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back whatever the command sets
        monkeypatch.delenv(name)


def asked_for() -> str | None:
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    return os.environ.get("GOMP_SPINCOUNT")


def test_what_the_user_says_of_waiting_holds(monkeypatch):
    assert asked_for() == "2000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert asked_for() == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert asked_for() is None


def test_it_is_said_before_torch_is_loaded():
    """GNU's OpenMP tells what it goes by, as soon as it is there."""
    code = "from mgdm_audio.cli.models import main; main(['verify', %r])"
    done = subprocess.run(
        [sys.executable, "-c", code % str(resolve())],
        env={**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch is built with another OpenMP than GNU's")
    assert "GOMP_SPINCOUNT = '2000'" in done.stderr
