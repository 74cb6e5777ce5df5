"""Tiers 2 and 3 and the fit: figures by meaning on signals that are known."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.evaluation import calibration as scores
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling import recalibration
from mgdm_core.errors import ShapeError
from recipes.calibration.audio import figures, measure
from recipes.calibration.cli import main
from recipes.calibration.fit import fit_line, fit_spread, gains
from tests.audio.tiny_stems_prior import save_tiny_stems

RATE = 8000
STEMS = ("bass", "drums", "guitar", "piano")


def test_levels_are_decibels_over_the_mixture_by_bands_and_frames():
    t = np.arange(RATE) / RATE
    low, high = np.sin(2 * np.pi * 200 * t), 0.1 * np.sin(2 * np.pi * 2000 * t)
    levels, sounding = scores.band_levels(np.stack([low, high]), low + high, RATE)
    assert levels.shape == (2, scores.BANDS, 10)
    energy = scores.band_energies(low, RATE)[:, 5]
    band = int(energy.argmax())
    assert energy[band - 1 : band + 2].sum() > 0.99 * energy.sum()
    assert sounding[band].all()
    assert levels[0, band] == pytest.approx(np.zeros(10), abs=0.1)
    assert levels[1, band] == pytest.approx(np.full(10, scores.FLOOR_DB))
    # Half of everything is 6 dB below it.
    half, _ = scores.band_levels(0.5 * (low + high)[None], low + high, RATE)
    assert half[0][sounding] == pytest.approx(-6.02, abs=0.01)


def test_crps_of_known_draws():
    draws = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    # E|x - 1| = (1 + 1 + 3) / 3; E|x - x'| over different pairs = (2 + 4 + 2) / 3.
    assert scores.crps(np.ones(2), draws) == pytest.approx([5 / 3 - 4 / 3, 0.0])
    assert scores.crps(np.ones(2), draws[:1]) == pytest.approx([1.0, 0.0])
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(4000)
    score = [
        scores.crps(truth, width * rng.standard_normal((10, 4000))).mean() for width in (1, 0.3, 3)
    ]
    assert score[0] == min(score)
    # Of the standard normal law with itself: 1 / sqrt(pi).
    assert score[0] == pytest.approx(np.pi**-0.5, rel=0.05)


def test_ties_are_ranked_anywhere_among_them():
    rng = np.random.default_rng(0)
    found = scores.dithered_ranks(np.zeros(5000), np.zeros((4, 5000)), rng)
    assert np.bincount(found) / 5000 == pytest.approx([0.2] * 5, abs=0.02)
    with pytest.raises(ShapeError):
        scores.dithered_ranks(np.zeros(2), np.zeros((4, 3)), rng)


def test_brier_score_against_the_base_rate():
    happened = np.array([True, False, False, False])
    assert scores.brier(happened.astype(float), happened) == (0.0, 0.1875)
    assert scores.brier(np.full(4, 0.25), happened)[0] == pytest.approx(0.1875)


def test_silence_is_counted_by_the_second():
    draws = np.zeros((4, 1, 2 * RATE))
    draws[:2, 0, RATE:] = 0.1
    draws[2, 0, RATE:] = 0.9e-3
    assert scores.silent_share(draws, RATE).tolist() == [[1.0, 0.5]]


def _song(seed=0, seconds=3):
    rng = np.random.default_rng(seed)
    return 0.05 * rng.standard_normal((4, seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize(("width", "covered"), [(0.0, "none"), (1.0, "as many"), (3.0, "more")])
def test_figures_of_draws_that_are_exact_narrow_and_wide(width, covered):
    rng = np.random.default_rng(7)
    middle, error = _song(1), 0.01
    # Truth and draws lie around the same middle with the same sum, the truth as far as width 1.
    noise = rng.standard_normal((10, *middle.shape)).astype(np.float32)
    noise -= noise.mean(1, keepdims=True)
    truth, draws = middle + error * noise[9], middle + width * error * noise[:9]
    record = json.loads(
        json.dumps(
            {k: v for k, v in measure(middle, draws, truth, RATE, STEMS).items() if k == "stems"},
            default=lambda a: a.tolist(),
        )
    )
    f = figures([record, record], "drums")
    at_90 = f["coverage"][scores.NOMINAL.index(0.9)]
    if covered == "none":
        assert at_90 < 0.5
    elif covered == "as many":
        assert f["coverage"] == pytest.approx(scores.NOMINAL, abs=0.03)
    else:
        assert at_90 > 0.94
        assert f["deviation"] > f["error"]
    assert f["brier"] == 0.0


def test_a_fit_finds_the_spread_that_covers():
    from scipy.stats import norm

    true = np.array([0.5, 2.0, 3.0, 1.0])

    def coverage(spread):
        return 2 * norm.cdf(norm.ppf(0.95) * np.array(spread) / true) - 1

    assert fit_spread(coverage, 4, rounds=4) == pytest.approx(true, rel=0.02)


def test_a_line_and_what_it_leaves():
    rng = np.random.default_rng(0)
    said = rng.uniform(0, 20, 4000)
    line = fit_line(said, 0.5 * said + 2 + rng.standard_normal(4000))
    assert (line.slope, line.intercept) == pytest.approx((0.5, 2.0), abs=0.1)
    assert (line.low, line.high) == pytest.approx((-1.28, 1.28), abs=0.1)


def test_gains_are_true_improvements_by_the_second():
    truth = _song(2)
    mixture = truth.sum(0)
    estimate = (truth + 0.1 * (mixture - truth)).astype(np.float32)
    found = gains(estimate, truth, RATE, SpectralTransform(512, 128))
    assert found.true.shape == (4, 3)
    assert found.true == pytest.approx(np.full((4, 3), 20.0), abs=0.7)
    assert found.counts.all()
    assert np.isfinite(found.said).all()


def test_fit_and_music_run_on_a_set_of_ones_own(tmp_path, monkeypatch):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    np.savez(tmp_path / "own.npz", stems=np.stack([_song(3, 6)]))
    kept = tmp_path / "recalibration.json"
    monkeypatch.setattr(recalibration, "PATH", kept)
    shared = ["-n", str(prior), "--set", str(tmp_path / "own.npz")]
    result = CliRunner().invoke(main, ["fit", *shared, "--out", str(tmp_path / "fit")])
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(kept.read_text()).values()
    assert set(entry["spread"]) == set(entry["improvement"]) == set(STEMS)
    given = ["music", *shared, "--out", str(tmp_path / "m"), "--variants", "posterior"]
    given += ["--draws", "3", "--seconds", "1", "--pieces", "1"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert "posterior, piano" in (tmp_path / "m/table.md").read_text()
    assert (tmp_path / "m/reliability.png").stat().st_size > 1000
    wrong = CliRunner().invoke(main, [*given, "--variants", "coffee"])
    assert wrong.exit_code == 2


def test_a_prior_with_other_sounds_is_closed_where_the_set_has_none(tmp_path, monkeypatch):
    prior = save_tiny_stems(tmp_path / "five.safetensors", name="five", stems=(*STEMS, "other"))
    monkeypatch.setattr(recalibration, "PATH", tmp_path / "recalibration.json")
    for stems in (4, 5, 3):
        song = np.concatenate([_song(2, 6), _song(2, 6)[::-1]])[:stems]
        np.savez(tmp_path / f"{stems}.npz", stems=song[None])
        given = ["fit", "-n", str(prior), "--set", str(tmp_path / f"{stems}.npz")]
        result = CliRunner().invoke(main, [*given, "--out", str(tmp_path / f"{stems}")])
        if stems == 3:
            assert result.exit_code == 2
            assert "the set has 3 stems and five has 5" in result.output
            continue
        assert result.exit_code == 0, result.output
        (entry,) = json.loads((tmp_path / "recalibration.json").read_text()).values()
        assert set(entry["spread"]) == {*STEMS, "other"} - ({"other"} if stems == 4 else set())


def test_stems_can_be_drawn_from_the_prior_alone(tmp_path):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    given = ["self", "-n", str(prior), "--out", str(tmp_path / "s"), "--variants", "posterior"]
    given += ["--pieces", "1", "--seconds", "1", "--levels", "3", "--draws", "3"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "s/stems").glob("*.npy")
    stems = np.load(path)
    assert stems.shape[0] == 4
    assert float(torch.from_numpy(stems.sum(0)).square().mean().sqrt()) == pytest.approx(0.1)
