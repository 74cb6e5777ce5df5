"""The evaluation with the product's own separator, on small priors."""

import json

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from mgdm_audio.cli.evaluate import main
from mgdm_audio.datasets import open_dataset
from mgdm_audio.evaluation.estimators import WIENER, PretrainedSpec
from mgdm_audio.evaluation.run import evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.track_work import EvaluationSettings, EvaluationWork
from mgdm_audio.metrics.si_sdr import score_windows
from mgdm_audio.sampling.wiener import average_spectrum_wiener
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import SettingsError
from mgdm_core.index_laws import Fraction

from .checkpoint_helpers import save_tiny
from .tiny_stems_prior import save_tiny_stems, song
from .toy_prior import STEMS

FAST = Variant("tweedie_gibbs", (("levels", "1"), ("samples", "1")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_stems(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="module")
def stems_folder(tmp_path_factory):
    """Two tracks of four stems, 2.2 and 2.7 s, at the prior's rate."""
    root = tmp_path_factory.mktemp("stems")
    for track, seconds in (("one", 2.2), ("two", 2.7)):
        (root / track).mkdir()
        for index, name in enumerate(STEMS):
            sound = 0.3 * song(seconds, 22_050, 1, seed=index)[0]
            soundfile.write(root / track / f"{name}.wav", sound, 22_050, subtype="FLOAT")
    return root


def test_the_command_with_a_prior(tiny, stems_folder, tmp_path):
    command = [str(stems_folder), "-n", str(tiny), "--samplers", "tweedie_gibbs",
               "--set", "tweedie_gibbs:levels=2",
               "-d", "cpu", "--preset", "fast", "--no-museval", "--no-report", "-q",
               "-o", str(tmp_path / "run"), "--keep", "all"]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    run = RunFolder(tmp_path / "run")
    asked = run.description["asked"]["estimator"]
    assert asked["prior"] == "tiny"
    assert len(asked["sha256"]) == 64
    variant = run.variants()[0]
    separator = Separator.from_pretrained(
        tiny, device="cpu", preset="fast", sampler="tweedie_gibbs", settings={"levels": 2}
    )
    track = open_dataset(stems_folder).tracks[0]
    audio = track.load(22_050)
    stems = separator(audio.mixture, 22_050, seed=0).stems
    for name, stem in stems.items():
        kept, _ = soundfile.read(run.stems_folder(variant, "one") / f"{name}.wav", dtype="float32")
        np.testing.assert_array_equal(kept, stem)
    record = run.record(variant, "one")
    assert record["evaluations"] > 0
    assert set(record["stems"]) == set(STEMS)
    # The prior's own yardstick is a row of the tables.
    prior, mixture = separator.prior, torch.from_numpy(audio.mixture)
    filtered = average_spectrum_wiener(mixture[None], prior.average_power, prior.spectral)[0]
    expected = score_windows(filtered, torch.from_numpy(audio.stacked()), mixture, 22_050)
    assert tuple(audio.stems) == prior.stems
    for name, own in zip(audio.stems, expected.si_sdr):
        assert record["nothing"][WIENER]["si_sdr"][name] == pytest.approx(own.tolist(), abs=1e-3)


def test_unknown_settings_are_told_before_anything_is_loaded(tiny, stems_folder, tmp_path):
    spec = PretrainedSpec(str(tiny))
    with pytest.raises(SettingsError, match="no setting 'gibs'"):
        spec.check([Variant("mgdm", (("gibs", "2"),))])
    with pytest.raises(SettingsError, match="SAMPLER:NAME=VALUE"):
        spec.check([Variant("dps"), Variant("dps", (("gibbs", "2"),)), Variant("mgdm")])
    command = [str(stems_folder), "-n", str(tiny), "-d", "cpu", "-o", str(tmp_path / "run")]
    for wrong in (
        ["--samplers", "magic"],
        ["--samplers", ""],
        ["--set", "gibs=2"],
        ["--set", "levels=many"],
    ):
        result = CliRunner().invoke(main, command + wrong)
        assert result.exit_code == 2, result.output
        assert len(result.output.strip().splitlines()) == 1
    result = CliRunner().invoke(main, [str(stems_folder), "-n", "nobody", "-d", "cpu"])
    assert result.exit_code == 2
    assert "nobody" in result.output
    assert not (tmp_path / "run").exists()


def test_settings_given_as_values_stay_values(tiny, stems_folder, tmp_path):
    law = Fraction(0.25)
    variant = Variant("tweedie_gibbs", (("levels", 1), ("index_law", law), ("samples", 1)))
    spec = PretrainedSpec(str(tiny))
    spec.check([variant])
    assert spec.settings_of(variant)["settings.index_law.fraction"] == 0.25
    with pytest.raises(SettingsError, match=r"levels is a whole number; found 1\.5"):
        spec.check([Variant("tweedie_gibbs", (("levels", 1.5),))])
    with pytest.raises(SettingsError, match=r"index_law is an object, such as .*; found 3"):
        spec.check([Variant("tweedie_gibbs", (("index_law", 3),))])
    run, dataset = RunFolder(tmp_path / "run"), open_dataset(stems_folder)
    for _ in range(2):  # the second finds what the first has left
        assert evaluate(dataset, spec, [variant], run, EvaluationSettings(bss=False)) == 0
    (told,) = run.variants()
    assert told.slug == variant.slug
    assert run.record(told, "one")["evaluations"] > 0


def test_describe_is_json(tiny):
    assert json.loads(json.dumps(PretrainedSpec(str(tiny)).describe()))["stems"] == list(STEMS)


def test_a_prior_that_knows_no_spectra_has_no_row_of_them(stems_folder, tmp_path):
    path = tmp_path / "waveform.safetensors"
    save_tiny(path)
    work = EvaluationWork(PretrainedSpec(str(path), preset="fast"), EvaluationSettings(bss=False))
    variant = Variant("ddrm", (("steps", "2"),))
    result = work.start("cpu")((variant, open_dataset(stems_folder).tracks[0]))
    assert result.record["error"] is None, result.record
    assert WIENER not in result.record["nothing"]
