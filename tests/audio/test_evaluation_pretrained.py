"""The evaluation with the product's own separator, on small priors; tracks batched together."""

import json
import threading

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from mgdm_audio.cli.evaluate import main
from mgdm_audio.datasets import open_dataset
from mgdm_audio.evaluation.estimators import WIENER, PretrainedSpec
from mgdm_audio.evaluation.result_files import result_rows
from mgdm_audio.evaluation.run import EngineSettings, EvaluationSettings, evaluate
from mgdm_audio.evaluation.run_folder import RunFolder, Variant
from mgdm_audio.evaluation.shared_batches import run_together
from mgdm_audio.metrics.si_sdr import score_windows
from mgdm_audio.sampling.presets import sampling_settings
from mgdm_audio.sampling.wiener import average_spectrum_wiener
from mgdm_audio.separation.separator import Separator
from mgdm_core.errors import CancelledError, SettingsError

from .tiny_stems_prior import save_tiny_stems, song
from .toy_prior import STEMS, draw_stems, toy_prior

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
    for wrong in (["--samplers", "magic"], ["--set", "gibs=2"], ["--set", "levels=many"]):
        result = CliRunner().invoke(main, command + wrong)
        assert result.exit_code == 2, result.output
        assert len(result.output.strip().splitlines()) == 1
    result = CliRunner().invoke(main, [str(stems_folder), "-n", "nobody", "-d", "cpu"])
    assert result.exit_code == 2
    assert "nobody" in result.output
    assert not (tmp_path / "run").exists()


def test_tracks_batched_together_give_the_same_stems(tiny, stems_folder, tmp_path):
    dataset = open_dataset(stems_folder)
    settings = EvaluationSettings(bss=False, keep="none")
    rows = []
    for count in (1, 2):
        run = RunFolder(tmp_path / str(count))
        engine = EngineSettings(batch_tracks=count)
        spec = PretrainedSpec(str(tiny), "fast", "float32")
        assert evaluate(dataset, spec, [FAST], run, settings, engine) == 0
        rows.append([row["si_sdr"] for row in result_rows(run)])
    assert rows[1] == pytest.approx(rows[0], abs=0.05)


def test_windows_meet_in_one_batch():
    prior = toy_prior(window=8192)
    mixes = [draw_stems(n, seed=n).sum(0).numpy() for n in (12_000, 12_000, 6_000)]
    sizes = []
    inner = prior.network.denoise_with_mask

    def counting(x, sigma):
        sizes.append(len(x))
        return inner(x, sigma)

    def separate(shared, mix, on_progress):
        return Separator(shared, sampling_settings("fast"))(mix, 22_050, on_progress=on_progress)

    prior.network.denoise_with_mask = counting
    alone = [separate(prior, mix, None).stems["bass"] for mix in mixes]
    before, sizes[:] = list(sizes), []
    threads = threading.active_count()
    together = [r.stems["bass"] for r in run_together(prior, mixes, separate)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # As many windows as before, in a third of the batches.
    assert sum(sizes) == sum(before)
    assert len(sizes) == len(before) / 3
    assert threading.active_count() == threads


def test_one_failure_ends_the_others():
    prior = toy_prior(window=8192)
    x, level = torch.zeros(1, 4, 8192), 500
    stopped = []

    def separate(shared, item, on_progress):
        if item == 0:
            raise ValueError("first")
        for _ in range(10_000):
            shared.denoise(x, level)
            if on_progress(0.0) is False:
                stopped.append(item)
                raise CancelledError("stopped")

    with pytest.raises(ValueError, match="first"):
        run_together(prior, [0, 1, 2], separate)
    assert sorted(stopped) == [1, 2]


def test_an_error_of_the_network_reaches_everybody():
    prior = toy_prior(window=8192)

    def broken(x, sigma):
        raise torch.OutOfMemoryError("full")

    prior.network.denoise_with_mask = broken
    met = []

    def separate(shared, item, on_progress):
        try:
            shared.denoise_with_mask(torch.zeros(1, 4, 8192), 500)
        except torch.OutOfMemoryError:
            met.append(item)
            return item

    assert run_together(prior, [1, 2, 3], separate) == [1, 2, 3]
    assert sorted(met) == [1, 2, 3]


def test_gradients_stay_within_one_separation():
    prior = toy_prior(window=8192)

    def separate(shared, item, on_progress):
        x = torch.full((1, 4, 4096), float(item), requires_grad=True)
        (g,) = torch.autograd.grad(shared.denoise(x, 500).sum(), x)
        return g

    gradients = run_together(prior, [1, 2], separate)
    # The toy's denoiser is linear, so its gradient does not depend on where it is taken.
    torch.testing.assert_close(gradients[0], gradients[1])


def test_describe_is_json(tiny):
    assert json.loads(json.dumps(PretrainedSpec(str(tiny)).describe()))["stems"] == list(STEMS)
