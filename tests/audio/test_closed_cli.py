"""``--closed``: recordings that hold nothing for the stem ``other``."""

import json

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.evaluation.estimators import PretrainedSpec
from mgdm_audio.priors.checkpoint.store import save_prior
from mgdm_audio.priors.levels import Levels
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import SettingsError
from tests.audio.test_closed_prior import NAMES, SIZES, STFTUNet, STFTUNetConfig, random_network
from tests.audio.tiny_stems_prior import save_tiny_stems, song

FOUR = NAMES[:4]
RATE = 8000


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    network = random_network(STFTUNet(STFTUNetConfig(**SIZES)))
    path = tmp_path_factory.mktemp("prior") / "five.safetensors"
    config = network.config
    save_prior(
        path, network, kind="stft_unet", config=config.to_dict(), stems=NAMES, rate=RATE,
        window=8192, sigma_data=config.sigma_data, licence="MIT", name="five",
        levels=Levels(sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=200),
    )  # fmt: skip
    return path


def test_the_stem_other_goes_where_it_is_said_to_be_silent(five, tmp_path):
    mix = tmp_path / "mix.wav"
    sf.write(mix, song(1.5, RATE, 1).T, RATE, subtype="FLOAT")
    call = [str(mix), "-n", str(five), "-q", "--preset", "fast"]
    stems = {}
    for folder, more, names in (("open", [], NAMES), ("closed", ["--closed"], FOUR)):
        result = CliRunner().invoke(main, [*call, *more, "-o", str(tmp_path / folder)])
        assert result.exit_code == 0, result.output
        there = {path.stem: path for path in (tmp_path / folder / "five" / "mix").glob("*.wav")}
        assert set(there) == {*names, "residual"}
        stems[folder] = {name: sf.read(path)[0] for name, path in there.items()}
        np.testing.assert_allclose(sum(stems[folder].values()), sf.read(mix)[0], atol=1e-6)
    gone = stems["open"]["other"]
    assert np.abs(gone).max() > 1e-3
    # What was in it is shared among the others, not left in the residual.
    rest = {folder: sum(s[name] for name in FOUR) for folder, s in stems.items()}
    moved = rest["closed"] - rest["open"]
    assert np.dot(moved, gone) / np.dot(gone, gone) > 0.9
    again = CliRunner().invoke(main, [*call, "--resume", "-o", str(tmp_path / "closed")])
    assert again.exit_code == 1
    assert "stems" in again.output


def test_a_prior_without_it_has_nothing_to_close(tmp_path):
    four = save_tiny_stems(tmp_path / "four.safetensors")
    mix = tmp_path / "mix.wav"
    sf.write(mix, song(0.2, 22_050, 1).T, 22_050)
    result = CliRunner().invoke(main, [str(mix), "-n", str(four), "--closed"])
    assert result.exit_code == 2
    assert "--closed leaves out the stem other; tiny has the stems bass" in result.output
    with pytest.raises(SettingsError, match="only stems of the prior can be silent"):
        Separator.from_pretrained(four, closed=True)


def test_a_data_set_of_four_classes_is_separated_closed(five):
    spec = PretrainedSpec(str(five))
    assert spec.over(FOUR).closed
    assert not spec.over(NAMES).closed
    assert "closed" not in json.dumps(spec.over(NAMES).describe())
    assert spec.over(FOUR).describe()["closed"]
    assert Separator.from_pretrained(five, closed=True).stems == FOUR
