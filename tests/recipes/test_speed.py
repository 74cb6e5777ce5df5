"""The table of costs: its ratios, and that every part runs. No timing is asserted."""

import json

from click.testing import CliRunner

from mgdm_audio.sampling.presets import PRESETS
from recipes.speed.cli import main, rows
from recipes.speed.timing import Measurement, measure
from tests.audio.tiny_stems_prior import save_tiny_stems


def test_ratios_are_to_one_forward_of_the_same_run():
    measured = [
        Measurement("network", "batch of 1", 6.0, wall=3.0, processor=2.0, forwards=1),
        Measurement("network", "batch of 4", 24.0, wall=7.0, processor=6.0, forwards=4),
        Measurement("separation", "preset", 12.0, wall=60.0, processor=50.0, forwards=20),
        Measurement("scoring", "scores", 600.0, wall=1.5, processor=1.0),
        Measurement("overhead", "numbers", 0.0, wall=0.5, processor=0.5),
    ]
    assert [row[4:] for row in rows(measured)] == [
        ("1.00", "1.00"),
        ("3.00", "0.75"),
        ("25.00", "1.25"),
        ("0.50", ""),
        ("0.25", ""),
    ]
    # On a GPU the processor mostly waits.
    assert [row[4] for row in rows(measured, on_cpu=False)] == [
        "1.00",
        "2.33",
        "20.00",
        "0.50",
        "0.17",
    ]
    assert [row[3] for row in rows(measured)] == ["0.5000", "0.2917", "5.0000", "0.0025", ""]
    assert [row[4:] for row in rows(measured[3:])] == [("", "")] * 2


def test_work_is_repeated_and_warmed_up():
    calls = []
    measure("x", "y", 1.0, lambda: calls.append(1), repeats=3)
    assert len(calls) == 4
    measure("x", "y", 1.0, lambda: calls.append(1), repeats=2, warm=True)
    assert len(calls) == 6


def test_every_part_runs(tmp_path):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    given = ["-n", str(prior), "-d", "cpu", "--seconds", "1", "--score", "8", "--museval", "2"]
    given += ["--repeats", "1", "--json", str(tmp_path / "new/speed.json")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    found = json.loads((tmp_path / "new/speed.json").read_text())
    assert len(table) == 2 + len(found["measured"])
    parts = [m["part"] for m in found["measured"]]
    assert parts[:6] == 2 * ["network"] + 2 * ["separation"] + 2 * ["scoring"]
    assert set(parts[6:]) == {"overhead"}
    # A level costs one evaluation.
    presets = [PRESETS[name] for name in ("fast", "balanced")]
    expected = [p.samples * getattr(p.settings, "levels") for p in presets]  # noqa: B009
    assert [m["forwards"] for m in found["measured"][2:4]] == expected
    assert found["facts"]["sha256"]
    result = CliRunner().invoke(main, ["--only", "coffee"])
    assert result.exit_code == 2
    assert "coffee" in result.output
