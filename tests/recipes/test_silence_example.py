"""The generated example of docs/scores.md: silence earns points by the protocol and none else."""

import pytest
from click.testing import CliRunner

from mgdm_audio.evaluation.nothing import MIXTURE, ORACLE
from recipes.slakh.silence import LEAKY, SHARES, main, measure


def test_silence_pays_by_the_protocol_alone():
    found = {(p.output, p.share): p for p in measure(songs=4, seconds=4.0)}
    assert len(found) == 3 * len(SHARES)
    for (name, share), point in found.items():
        if name != LEAKY:
            assert point.active == pytest.approx(0, abs=1e-3)
        if share == 0:
            assert point.published == pytest.approx(point.active, abs=1e-3)
    paid = [found[ORACLE, share].published for share in SHARES]
    assert paid == sorted(paid)
    # Every silent stem-window is worth about the regularised 0 dB less a very negative mixture.
    assert paid[-1] > found[LEAKY, 0.0].active
    # The leak is a tenth in amplitude: 20 dB, however many stems are silent.
    assert found[LEAKY, 0.4].active == pytest.approx(20, abs=1.0)
    # Six of sixteen stems are silent, each worth 20 log10(4) dB to a quarter of the mixture.
    assert found[MIXTURE, 0.4].published == pytest.approx(6 / 16 * 12.04, abs=0.1)


def test_the_command_writes_table_and_picture(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "x"), "--songs", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x/silence.md").read_text() == result.output
    assert "<svg" in (tmp_path / "x/silence.svg").read_text()


def test_the_page_says_what_its_code_gives(repo_root, capsys):
    text = (repo_root / "docs/scores.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, "scores.md", "exec"), {})
    assert capsys.readouterr().out.startswith("tensor([20.0")
