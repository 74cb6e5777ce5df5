"""The packages import where POSIX-only modules are missing, as on Windows."""

import subprocess
import sys


def test_every_module_imports_without_posix_modules():
    code = """
import importlib, pkgutil, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
import mgdm_core, mgdm_audio
for package in (mgdm_core, mgdm_audio):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            if any(n in str(error) for n in ("resource", "fcntl", "pwd", "grp", "termios")):
                print(found.name, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
