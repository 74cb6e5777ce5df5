"""The packages import where POSIX-only modules are missing, and no more than what is needed."""

import subprocess
import sys

import soundfile

from tests.audio.tiny_stems_prior import save_tiny_stems, song


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_posix_modules():
    code = """
import importlib, pkgutil, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
import mgdm_core, mgdm_audio
count = 0
for package in (mgdm_core, mgdm_audio):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        count += 1
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            # What an extra brings may be missing here.
            if (error.name or "").split(".")[0] not in ("ray", "starlette", "uvicorn"):
                print(found.name, error)
assert count > 100
"""
    assert run(code) == ""


def test_separating_loads_what_it_needs_only(tmp_path):
    """`--help` no torch; a separation no library of evaluation and reports, and no compiler."""
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    soundfile.write(tmp_path / "mix.wav", song(0.5, 48_000, 2).T, 48_000)
    code = """
import sys
from mgdm_audio.cli.separate import main

def loaded_after(*arguments):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
    return {name.split(".")[0] for name in sys.modules}

mix, prior, out = sys.argv[1:]
assert not loaded_after("--help") & {"torch", "numpy", "soundfile"}
loaded = loaded_after(mix, "-n", prior, "-o", out, "-q")
assert {"torch", "soxr"} <= loaded
extra = {"pyarrow", "pandas", "scipy", "librosa", "museval", "matplotlib", "torchaudio", "yaml"}
extra |= {"sympy", "triton"}  # as torch's compiler does, which takes longer than the separation
assert not loaded & extra, loaded & extra
"""
    run(code, tmp_path / "mix.wav", prior, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 5


def test_pages_with_pictures_load_no_library_of_evaluation(tmp_path):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    soundfile.write(tmp_path / "mix.wav", song(0.5, 48_000, 2).T, 48_000)
    code = """
import sys
from mgdm_audio.cli.separate import main
mix, prior, out = sys.argv[1:]
try:
    main((mix, "-n", prior, "-o", out, "-q", "--page", "--uncertainty"))
except SystemExit as end:
    assert not end.code, end.code
loaded = {name.split(".")[0] for name in sys.modules}
extra = {"pyarrow", "pandas", "scipy", "librosa", "numba", "sklearn", "museval"}
assert "matplotlib" in loaded and not loaded & extra, loaded & extra
"""
    run(code, tmp_path / "mix.wav", prior, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.html"))
