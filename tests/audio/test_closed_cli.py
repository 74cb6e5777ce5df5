"""``--without``, and ``--closed`` for the stem ``other``: stems that recordings do not hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from mgdm_audio.cli.separate import main
from mgdm_audio.datasets.tracks import Track, TrackAudio
from mgdm_audio.evaluation.estimators import Job, PretrainedSpec
from mgdm_audio.evaluation.run_folder import Variant
from mgdm_audio.priors.catalogue import load_prior
from mgdm_audio.priors.checkpoint.store import save_prior
from mgdm_audio.priors.levels import Levels
from mgdm_audio.separation.files import separate_file
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import SettingsError
from tests.audio.checkpoint_helpers import save_tiny
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
    with pytest.raises(SettingsError, match="bass, drums, guitar, piano; found 'other'"):
        Separator.from_pretrained(four, without=["other"])


def test_a_data_set_of_four_classes_is_separated_closed(five):
    spec = PretrainedSpec(str(five), preset="fast")
    assert spec.over(FOUR).closed
    assert not spec.over(NAMES).closed
    assert "closed" not in json.dumps(spec.over(NAMES).describe())
    assert spec.over(FOUR).describe()["closed"]
    estimate = spec.over(FOUR).load("cpu")
    assert set(estimate(job_of(song(1.0, RATE, 1)[0])).stems) == set(FOUR)


class Heard(Track):
    """A track that is in memory."""

    def mix_path(self):
        return None

    def load(self, *args, **kwargs):
        raise AssertionError("has been loaded")


def job_of(mixture):
    audio = TrackAudio(mixture.astype(np.float32), {}, RATE)
    return Job(Heard(Path("heard")), audio, Variant("tweedie_gibbs"), 0)


# -- any stem --------------------------------------------------------------------------------------


@pytest.fixture
def mix(tmp_path):
    path = tmp_path / "mix.wav"
    sf.write(path, song(1.5, RATE, 1).T, RATE, subtype="FLOAT")
    return path


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], prog_name="mgdm-separate")


def test_stems_that_are_not_there_are_told_and_not_written(five, mix, tmp_path):
    call = [mix, "-n", five, "-q", "--preset", "fast", "-o"]
    ways = {
        "one": ["--without", "piano", "--closed"],
        "two": ["--closed", "--without", "other", "--without", "piano", "--without", "piano"],
    }
    for folder, more in ways.items():
        result = run(*call, tmp_path / folder, *more)
        assert result.exit_code == 0, result.output
        there = {path.stem: path for path in (tmp_path / folder / "five" / "mix").glob("*.wav")}
        assert set(there) == {"bass", "drums", "guitar", "residual"}
        stems = {name: sf.read(path, dtype="float32")[0] for name, path in there.items()}
        record = json.loads((tmp_path / folder / "five" / "mix" / "mgdm.json").read_text())
        assert record["identity"]["without"] == ["other", "piano"]
        told = Separator.from_pretrained(five, preset="fast", without=("piano", "other"))
        expected = told(sf.read(mix, dtype="float32")[0], RATE)
        for name in told.stems:
            np.testing.assert_allclose(stems[name], expected.stems[name], atol=1e-6)
    # The same, said in another way, is finished; something else is not.
    again = run(*call, tmp_path / "one", *ways["two"], "--resume")
    assert (again.exit_code, again.output) == (0, "")
    other = run(*call, tmp_path / "one", "--closed", "--stems", "bass,drums,guitar", "--resume")
    assert other.exit_code == 1
    assert "without differs (['other', 'piano'], now ['other'])" in other.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--without", "vocals"], "which are bass, drums, guitar, piano, other; found 'vocals'"),
        (["--without", "bass,drums"], "found 'bass,drums'"),
        ([f"--without={name}" for name in NAMES], "at least two stems must remain"),
        ([f"--without={name}" for name in FOUR[:3]] + ["--closed"], "found piano alone"),
        (["--without", "bass", "--two-stems", "bass"],
         "a stem that recordings are said to be without is not written; found 'bass'; choose "
         "another of drums, guitar, piano, other, or leave out saying so"),
        (["--closed", "--stems", "drums,other"], "is not written; found 'other'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_a_line(five, mix, more, said):
    result = run(mix, "-n", five, *more, "--dry-run")
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["-j", "2"]])
def test_a_prior_that_cannot_be_told_says_so(mix, tmp_path, more):
    deaf = tmp_path / "deaf.safetensors"
    save_tiny(deaf)
    result = run(mix, "-n", deaf, "--without", "bass", "-o", tmp_path / "out", *more)
    assert result.exit_code == 2
    assert result.output.startswith(
        "error: a network on spectra can be told which stems are silent; this prior has a unet1d; "
        "separate all its stems"
    )
    with pytest.raises(SettingsError, match="deaf has a unet1d; separate all its stems"):
        load_prior(deaf, without=["bass"])


def test_from_python(five, mix, tmp_path):
    whole = Separator.from_pretrained(five, preset="fast")
    paths = separate_file(mix, tmp_path / "a", separator=whole, without=["drums"])
    assert list(paths) == ["bass", "guitar", "piano", "other", "residual"]
    told = Separator(load_prior(five, without=["drums"]), whole.sampling)
    again = separate_file(mix, tmp_path / "b", separator=told)
    for name, path in paths.items():
        assert np.array_equal(sf.read(path)[0], sf.read(again[name])[0])
    for folder in "ab":
        record = json.loads((tmp_path / folder / "five" / "mix" / "mgdm.json").read_text())
        assert record["identity"]["without"] == ["drums"]
    with pytest.raises(SettingsError, match="is not written; found 'drums'"):
        separate_file(mix, tmp_path / "c", separator=told, two_stems="drums")
