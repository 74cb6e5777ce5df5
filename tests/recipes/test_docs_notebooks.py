"""The notebooks of docs/notebooks run as they stand, and are kept without what they printed."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_there_is_one_for_each_kind_of_user():
    assert [path.stem for path in NOTEBOOKS] == ["evaluate", "sample", "separate"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_opens_in_colab(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    first = "".join(cells(path, "markdown")[0]["source"])
    assert first.startswith("# ")
    assert (
        f"https://colab.research.google.com/github/OWNER/mgdm/blob/main/docs/notebooks/{path.name}"
        in first
    )


SHORTER = {
    "SECONDS = 6": "SECONDS = 3",
    "n=200": "n=4",
    "levels=40": "levels=5",
    "steps=50": "steps=5",
    "steps=100": "steps=5",
}


def shortened(source):
    """Three seconds in the place of six, few samples and steps: a test need not sound."""
    for long, short in SHORTER.items():
        source = source.replace(long, short)
    return source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(path, tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells(path, "code"):
        source = "".join(cell["source"])
        if "%pip" not in source:
            exec(compile(shortened(source), path.name, "exec"), names)
    out = capsys.readouterr().out
    if path.stem == "separate":
        assert (tmp_path / "listen.html").is_file()
        assert len(names["several"].uncertainty) == 5
    elif path.stem == "evaluate":
        assert "0 failed" in out
        assert (tmp_path / "run" / "results.parquet").is_file()
    else:
        assert set(names["draws"]) == {"exact", "MGDM", "DDRM", "DPS"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is in the extra docs")
    client = pytest.importorskip("nbclient", reason="nbclient is in the extra docs")
    pytest.importorskip("ipykernel", reason="ipykernel is in the extra docs")
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert {"display_data", "execute_result", "stream"} & {o.output_type for o in outputs}
