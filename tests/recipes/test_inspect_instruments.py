"""What the list of instruments says about presets that are right, mistuned, narrow and silent."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from recipes.music_prior.commands import main
from recipes.music_prior.sound.inspect_instruments import (
    cents_off,
    inspect_instruments,
    write_page,
)
from recipes.music_prior.sound.sf2_writer import Instrument, write_sf2
from recipes.music_prior.sound.sfz import Region
from recipes.music_prior.sound.soundfonts import SoundfontError

RATE = 22_050


@pytest.mark.parametrize("key", [28, 40, 57, 69, 76])
@pytest.mark.parametrize("cents", [-80.0, -20.0, 0.0, 45.0])
def test_cents_are_found_in_tones_with_partials(key, cents):
    time = np.arange(RATE // 2) / RATE
    frequency = 440 * 2 ** ((key - 69) / 12 + cents / 1200)
    sound = sum(0.7**n * np.sin(2 * np.pi * n * frequency * time) for n in range(1, 7))
    assert cents_off(np.asarray(sound, np.float32), key) == pytest.approx(cents, abs=4)


def test_noise_and_silence_have_no_pitch():
    noise = np.random.default_rng(0).standard_normal(RATE // 2).astype(np.float32)
    assert np.isnan(cents_off(noise, 60))
    assert np.isnan(cents_off(0 * noise, 60))


@pytest.fixture
def font(tmp_path: Path) -> str:
    time = np.arange(2 * RATE) / RATE
    loud, silent = tmp_path / "a.wav", tmp_path / "silent.wav"
    soundfile.write(loud, 0.3 * np.sin(2 * np.pi * 440 * time), RATE)
    soundfile.write(silent, 0 * time, RATE)
    whole = (0, 127)
    path = tmp_path / "mine.sf2"
    write_sf2(
        path,
        [
            Instrument("right", 0, 0, [Region(loud, whole, centre=69)]),
            Instrument("mistuned", 1, 0, [Region(loud, whole, centre=69, cents=60)]),
            Instrument("narrow", 0, 33, [Region(loud, (38, 42), centre=69)]),
            Instrument("silent", 0, 27, [Region(silent, whole)]),
            Instrument("flute", 0, 73, [Region(loud, whole, centre=69)]),
        ],
    )
    try:
        list(inspect_instruments((str(path),)))
    except SoundfontError as error:
        pytest.skip(f"FluidSynth is not here: {error}")
    return str(path)


def test_facts_and_warnings(font):
    facts = {fact.preset.name: fact for fact in inspect_instruments((font,))}
    assert {name: fact.stem for name, fact in facts.items()} == {
        "right": "piano", "mistuned": "piano", "narrow": "bass", "silent": "guitar",
        "flute": "other",
    }  # fmt: skip
    assert {name: fact.warnings for name, fact in facts.items()} == {
        "right": [], "mistuned": ["mistuned"], "narrow": ["narrow"], "silent": ["silent"],
        "flute": [],
    }  # fmt: skip
    right = facts["right"]
    assert (right.lowest, right.highest) == (21, 108)
    np.testing.assert_allclose(right.cents, 0, atol=5)
    np.testing.assert_allclose(facts["mistuned"].cents, 60, atol=6)
    assert right.loud - right.soft == pytest.approx(40 * np.log10(100 / 45), abs=1)
    assert (facts["narrow"].lowest, facts["narrow"].highest) == (38, 42)
    assert facts["silent"].lowest is None


def test_the_page_holds_a_picture_and_a_phrase_of_each(font, tmp_path):
    facts = list(inspect_instruments((font,)))
    write_page(facts, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<audio") == text.count("data:image/png") == len(facts)
    for fact in facts:
        assert fact.preset.name in text
    phrases = sorted((tmp_path / "page_sounds").iterdir())
    assert len(phrases) == len(facts)
    sound, rate = soundfile.read(tmp_path / "page_sounds" / "piano_000.ogg")
    assert rate == RATE
    assert np.abs(sound).max() > 0.3


def test_the_command_lists_and_names_what_is_wrong(font, tmp_path):
    result = CliRunner().invoke(main, ["instruments", font])
    assert result.exit_code == 0
    assert "MISTUNED" in result.output
    assert "right (mine.sf2 0:0)" in result.output
    missing = CliRunner().invoke(main, ["instruments", str(tmp_path / "none.sf2")])
    assert missing.exit_code != 0
    assert "there is no" in missing.output
