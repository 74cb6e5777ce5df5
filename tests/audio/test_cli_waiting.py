"""Commands beside other work: threads that wait for each other soon sleep."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mgdm_audio.cli import evaluate_options
from mgdm_audio.cli.separate import main
from mgdm_audio.evaluation import track_scores
from mgdm_audio.metrics import si_sdr
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


# Stands at torch's door: says what the environment asks for as it is loaded, and ends the process.
DOOR = """
import os, runpy, sys
class Door:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.stderr.write("torch: " + os.environ.get("GOMP_SPINCOUNT", "nothing"))
            sys.stderr.flush()
            os._exit(7)
sys.meta_path.insert(0, Door())
kind, name, *sys.argv[1:] = sys.argv[1:]
if kind == "command":
    __import__(name)
    sys.modules[name].main()
elif kind == "module":
    runpy.run_module(name, run_name="__main__")
else:
    runpy.run_path(name, run_name="__main__")
"""


def at_the_door(*arguments):
    return subprocess.run([sys.executable, "-c", DOOR, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("command", "mgdm_audio.cli.evaluate", "check", "nowhere"),
        ("command", "mgdm_audio.cli.separate", "nowhere.wav"),
        ("command", "mgdm_audio.cli.models", "list"),
        ("module", "recipes.images", "tasks"),
        ("module", "recipes.exact_posterior", "--help"),
        ("module", "recipes.calibration", "--help"),
        ("module", "recipes.speed", "--help"),
        ("module", "recipes.faults", "--help"),
        ("module", "recipes.pictures.time_scales", "--help"),
        ("module", "recipes.slakh.silence", "--help"),
        ("module", "recipes.slakh.separation_table", "--help"),
        ("file", "app.py"),
    ],
    ids=lambda arguments: arguments[1],
)
def test_every_program_says_it_before_its_modules_load_torch(arguments, repo_root, monkeypatch):
    if arguments[1] == "app.py":
        pytest.importorskip("uvicorn", reason="the web extra is not installed")
    monkeypatch.chdir(repo_root)
    done = at_the_door(*arguments)
    assert (done.returncode, done.stderr) == (7, "torch: 2000")


def test_help_and_mistyped_options_of_evaluate_load_no_torch():
    assert at_the_door("command", "mgdm_audio.cli.evaluate", "run", "--help").returncode == 0
    done = at_the_door("command", "mgdm_audio.cli.evaluate", "run", "a", "--no-such-option")
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such option")


def test_the_names_that_evaluate_knows_without_torch_are_those_of_the_library():
    assert evaluate_options.SCORES == track_scores.SCORES
    assert evaluate_options.ACTIVE == track_scores.ACTIVE
    assert evaluate_options.SLAKH_RATE == si_sdr.SLAKH_RATE
