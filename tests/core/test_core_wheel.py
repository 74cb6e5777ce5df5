"""mgdm_core as a distribution of its own."""

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

SAY = """
import mgdm_core, torch
from mgdm_core import priors, operators
mixture = priors.isotropic_mixture(torch.ones(2), torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
prior = priors.GaussianMixturePrior(mixture, mgdm_core.NoiseSchedule.vp_linear(50))
seen = operators.Matrix(torch.eye(2, dtype=torch.float64)[:1])
y = torch.tensor([[2.0]], dtype=torch.float64)
problem = mgdm_core.Problem(prior, mgdm_core.GaussianLikelihood(seen, y, 0.1), (2,))
print(mgdm_core.__file__)
print(tuple(mgdm_core.sample(problem, mgdm_core.DDRM(steps=5), n=3).samples.shape))
"""


def test_it_has_the_version_of_the_whole(repo_root):
    for field in (r'^version = "(.+)"', r'^requires-python = "(>=[\d.]+)'):
        whole, core = (
            re.search(field, (repo_root / name).read_text(), re.MULTILINE)[1]
            for name in ("pyproject.toml", "packaging/core.toml")
        )
        assert core == whole


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_without_the_checkout(repo_root, tmp_path):
    pytest.importorskip("pip")
    script = repo_root / "packaging" / "core_wheel.py"
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("mgdm_core-*.whl")
    env = tmp_path / "env"
    venv.create(env, with_pip=False)
    python = env / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    # torch and numpy are this environment's; a plain path brings no editable checkout with it.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    site = Path(told.stdout.strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = subprocess.run(
        [python, "-I", "-c", SAY], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.splitlines()
    assert Path(said[0]).is_relative_to(env)
    assert said[1] == "(1, 3, 2)"
