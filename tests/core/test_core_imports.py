"""`mgdm_core` stands alone: torch, numpy, the standard library and itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mgdm_core

PACKAGE = Path(mgdm_core.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {"torch", "numpy", "mgdm_core"} | set(sys.stdlib_module_names)


def type_checking_only(tree: ast.AST) -> set[int]:
    """Line numbers inside ``if TYPE_CHECKING:``."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                lines |= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    tree = ast.parse(path.read_text())
    unseen, found = type_checking_only(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node.lineno not in unseen:
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.lineno not in unseen:
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            found.add((node.module or "").split(".")[0])
    assert found <= ALLOWED, found - ALLOWED


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_global_is_touched(path):
    """No global random state, no eval, no pickles run, no default device."""
    banned = {
        "torch.manual_seed",
        "torch.set_default_device",
        "torch.set_default_dtype",
        "np.random.seed",
        "numpy.random.seed",
        "eval",
        "exec",
        "print",
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in banned, f"{path.name}:{node.lineno} calls {name}"
            for keyword in node.keywords:
                if keyword.arg == "weights_only":
                    assert ast.unparse(keyword.value) == "True"


def test_a_fresh_interpreter_loads_nothing_else():
    code = (
        "import sys, mgdm_core\n"
        "bad = {'mgdm_audio', 'recipes', 'jaxtyping', 'beartype', 'scipy', 'torchaudio'}\n"
        "print(sorted(bad & {name.split('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert out.stdout.strip() == "[]", out.stdout
