"""How the tests read what the command wrote."""

import soundfile as sf

QUICK = ["--preset", "fast", "--set", "levels=3"]


def one_error(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def folder(tmp_path, out="out", track="mix"):
    return tmp_path / out / "tiny" / track


def read_all(where, names):
    return {n: sf.read(where / f"{n}.wav", always_2d=True, dtype="float64")[0].T for n in names}


def leftovers(root):
    return [p for p in root.rglob("*") if ".mgdm-" in p.name]


def one_error_line(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert lines, result.output
    return lines[0]
