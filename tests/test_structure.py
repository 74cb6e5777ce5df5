"""What the tree of folders promises: no circle of imports, arrows one way, files of one screen."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mgdm_core", "mgdm_audio", "recipes")
MOST_LINES = 400


def modules(package: str) -> dict[str, Path]:
    """Modules of a package by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = {name: path for package in PACKAGES for name, path in modules(package).items()}


def imported(path: Path) -> set[str]:
    """Modules of this repository that a file names in an import, wherever in it, types included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (within & ALL.keys()) or {node.module}
    return names & ALL.keys()


def room(name: str) -> str:
    """Folder within a package."""
    return ".".join(name.split(".")[:2])


def test_no_file_imports_itself_by_others():
    list(TopologicalSorter({name: imported(path) for name, path in ALL.items()}).static_order())


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_form_no_circle(package):
    rooms: dict[str, set[str]] = {}
    for name, path in modules(package).items():
        if name != package:  # the front door
            others = {room(other) for other in imported(path) if other.startswith(f"{package}.")}
            rooms.setdefault(room(name), set()).update(others - {room(name)})
    list(TopologicalSorter(rooms).static_order())


@pytest.mark.parametrize(
    ("package", "above"),
    [("mgdm_core", ("mgdm_audio", "recipes")), ("mgdm_audio", ("recipes",))],
)
def test_arrows_run_down(package, above):
    for name, path in modules(package).items():
        assert not [other for other in imported(path) if other.startswith(above)], name


def test_files_stay_small():
    long = {
        name: n for name, p in ALL.items() if (n := len(p.read_bytes().splitlines())) > MOST_LINES
    }
    assert not long
