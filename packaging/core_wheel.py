"""Build mgdm_core as a wheel of its own: python packaging/core_wheel.py FOLDER [pip's options].

The package, its page of documentation and its settings are laid out in a folder of their own first,
since a build leaves files behind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(folder: Path, *options: str) -> None:
    """Build the wheel into ``folder``; ``options`` go to pip."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        shutil.copytree(
            ROOT / "mgdm_core", tree / "mgdm_core", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(ROOT / "LICENSE", tree)
        shutil.copy(ROOT / "docs" / "core.md", tree / "README.md")
        shutil.copy(ROOT / "packaging" / "core.toml", tree / "pyproject.toml")
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options]
        subprocess.run([*pip, "--wheel-dir", str(folder), str(tree)], check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:])
