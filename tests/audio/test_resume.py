"""Going on with a separation: the record is the same in every process and lies there in time."""

import json
import shutil
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.errors import AudioWriteError
from mgdm_audio.io.atomic import commit_all
from mgdm_audio.separation.record import is_finished, settings_as_json
from tests.audio.tiny_stems_prior import save_tiny_stems, song


@dataclass(frozen=True)
class _Settings:
    known: ClassVar[frozenset[str]] = frozenset({"of", "the", "class"})
    names: frozenset[str] = frozenset({"a", "b", "c", "d"})
    inner: tuple[frozenset[int], ...] = (frozenset({9, 1, 5}),)
    by_name: dict[str, frozenset[str]] = field(default_factory=lambda: {"x": frozenset({"q", "p"})})
    thing: object = field(default_factory=object)


def test_settings_are_the_same_json_in_every_process():
    assert settings_as_json(_Settings()) == {
        "type": "_Settings",
        "names": ["a", "b", "c", "d"],
        "inner": [[1, 5, 9]],
        "by_name": {"x": ["p", "q"]},
        "thing": "object",
    }


def test_an_identical_call_goes_on_whenever_the_first_was_killed(tmp_path, monkeypatch):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    sf.write(tmp_path / "mix.wav", song(0.2, 22_050, 1).T, 22_050)
    names = []

    def told(outputs, gain):
        names.extend(output.path.name for output in outputs)
        commit_all(outputs, gain)

    monkeypatch.setattr("mgdm_audio.separation.files.commit_all", told)

    def separate(out):
        arguments = [tmp_path / "mix.wav", "-n", prior, "-o", tmp_path / out, "--resume"]
        result = CliRunner().invoke(main, [*map(str, arguments), "--preset", "fast"])
        assert result.exit_code == 0, result.output
        return "finished before" in result.stderr

    assert not separate("whole")
    assert len(names) == 6
    # Killed between two renames, which go in this order: the first three files are there.
    whole, cut = (tmp_path / out / "tiny" / "mix" for out in ("whole", "cut"))
    cut.mkdir(parents=True)
    for name in names[:3]:
        shutil.copy2(whole / name, cut / name)
    assert not separate("cut")
    assert separate("cut")
    for name in set(names) - {"mgdm.json"}:
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("facts", [5, "bass", None, {"sha256": "0"}, {"bytes": 1}])
def test_outputs_that_a_record_tells_otherwise_are_not_touched(tmp_path, facts):
    record, stem = tmp_path / "mgdm.json", tmp_path / "bass.wav"
    stem.write_bytes(b"a")
    record.write_text(json.dumps({"identity": {}, "outputs": {"bass.wav": facts}}))
    with pytest.raises(AudioWriteError, match=r"bass\.wav: has been changed"):
        is_finished(record, [stem], {})
