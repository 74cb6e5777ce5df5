"""Tiers 2 and 3 and the fit: figures by meaning on signals that are known."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mgdm_audio.errors import AudioError
from mgdm_audio.priors.checkpoint.store import load_prior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling import recalibration
from mgdm_core.errors import ShapeError
from recipes.calibration import scores
from recipes.calibration.audio import Piece, figures, measure, run_piece
from recipes.calibration.cli import main
from recipes.calibration.expected import expected_table, reliable_table
from recipes.calibration.fit import WORST_DB, Gains, fit_plane, fit_spread, gains, store
from recipes.calibration.options import truths
from recipes.calibration.separations import parts_of
from recipes.calibration.takes import TAKES, gains_of_takes, takes
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

    assert fit_spread(coverage, 4, rounds=6) == pytest.approx(true, rel=0.02)


def test_a_plane_and_what_it_leaves():
    rng = np.random.default_rng(0)
    said, level = rng.uniform(0, 20, 4000), rng.uniform(-20, 0, 4000)
    true = 0.5 * said - 0.3 * level + 2 + rng.standard_normal(4000)
    plane = fit_plane([np.stack([true, said, level]), np.empty((3, 0))])
    found = plane.slope, plane.level, plane.intercept
    assert found == pytest.approx((0.5, -0.3, 2.0), abs=0.1)
    assert (plane.low, plane.high) == pytest.approx((-1.28, 1.28), abs=0.1)
    assert plane.expected(np.array([4.0]), np.array([-10.0])) == pytest.approx([7.0], abs=0.2)


def test_the_interval_holds_on_each_set_that_was_fitted_on():
    """Together they would have 80 %, one of them fewer."""
    rng = np.random.default_rng(0)
    sets = []
    for off, spread, count in ((-1.5, 0.5, 4000), (1.5, 2.0, 1000)):
        said, level = rng.uniform(0, 20, count), rng.uniform(-20, 0, count)
        true = 0.5 * said - 0.3 * level + off + spread * rng.standard_normal(count)
        sets.append(np.stack([true, said, level]))
    plane = fit_plane(sets)
    for true, said, level in sets:
        left = true - plane.expected(said, level)
        assert ((left >= plane.low) & (left <= plane.high)).mean() >= 0.8


def test_gains_are_true_improvements_by_the_second():
    truth = _song(2)
    mixture = truth.sum(0)
    estimate = (truth + 0.1 * (mixture - truth)).astype(np.float32)
    found = gains(estimate, truth, RATE, SpectralTransform(512, 128))
    assert found.true.shape == (4, 3)
    assert found.true == pytest.approx(np.full((4, 3), 20.0), abs=0.7)
    assert found.counts.all()
    assert np.isfinite(found.said).all()
    # Powers of 1 + 3 x 0.01 over 0.3^2 + 3 x 1.2^2: the estimates sum to 1.3 of the mixture.
    assert found.level == pytest.approx(np.full((4, 3), -6.3), abs=0.3)
    assert found.of(1).tolist() == [found.true[1].tolist(), found.said[1].tolist(),
                                    found.level[1].tolist()]  # fmt: skip


def test_a_piece_is_the_beginning_of_a_song_and_a_single_song_is_many():
    long, short = np.zeros((4, 25)), np.zeros((4, 7))
    assert [part.shape[1] for part in parts_of([long, short], 10, 1)] == [10, 7]
    assert [part.shape[1] for part in parts_of([long], 10, 1)] == [10, 10]
    assert [part.shape[1] for part in parts_of([short], 10, 1)] == [7]


def test_takes_are_what_they_are_called():
    # Draws of two stems that sum to the mixture, all far off but one that lies in their middle.
    t, spectral = torch.arange(4 * RATE) / RATE, SpectralTransform(512, 128)
    a, b = 0.1 * torch.sin(2 * torch.pi * 200 * t), 0.1 * torch.sin(2 * torch.pi * 2000 * t)
    shares = torch.tensor([0.5, 1.0, 0.75, 0.75, 0.7])
    draws = torch.stack([torch.stack([s * a, b + (1 - s) * a]) for s in shares])
    made = takes(draws, spectral)
    torch.testing.assert_close(made["mean"], draws.mean(0))
    assert torch.equal(made["nearest to the others"][1], draws[2][1])
    assert torch.equal(made["best by its shares"], draws[1])
    # Of draws that are multiples of each other the unit mean is one more.
    cosine = torch.cosine_similarity(made["unit mean"][0], a, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(made["median mask"].sum(0), a + b, atol=1e-4, rtol=0)
    found = gains_of_takes(draws.mean(0), draws, draws[1], RATE, spectral)
    assert set(found) == set(TAKES)
    assert found["separation"][1] == pytest.approx(found["mean"][1])
    assert min(found["best draw"][1]) > 60
    assert max(found["one draw"][1]) < min(found["best draw"][1])


def test_expected_improvement_is_judged_by_order_and_interval():
    rng = np.random.default_rng(0)
    line = recalibration.PlaneFit(2.0, -1.0, 1.0, -1.28, 1.28)
    quality = recalibration.PlaneFit(1.0, 1.0, 0.0, -1.28, 1.28)
    planes = (dict.fromkeys(STEMS, line), dict.fromkeys(STEMS, quality))
    fit = recalibration.Recalibration("a test", {}, *planes)
    found = []
    for level in range(30):
        said = level / 3 + rng.standard_normal((4, 6))
        counts = np.ones((4, 6), bool)
        counts[3] = level < 5
        quiet = rng.uniform(-20, 0, (4, 6))
        true = 2 * said - quiet + 1 + rng.standard_normal((4, 6))
        own = said + quiet + rng.standard_normal((4, 6))
        found.append(Gains(true, said, quiet, own, counts, np.ones((4, 6), bool)))
    rows = {row[0]: row[1:] for row in expected_table(found, fit, STEMS, "it").rows}
    assert rows["bass"][:2] == ["30", "180"]
    assert rows["piano"][:2] == ["5", "30"]
    assert float(rows["bass"][4]) == pytest.approx(80, abs=8)
    assert float(rows["pieces, mean of their stems"][-1]) > 0.9
    assert rows["stems of pieces"][0] == "95"
    rows = {row[0]: row[1:] for row in reliable_table(found, fit, STEMS, "it").rows}
    own, said = (
        np.concatenate([x[0] for x in (y)])
        for y in ((g.si_sdr for g in found), (g.said + g.level for g in found))
    )
    both = ((own < 0) & (said < 0)).sum()
    wanted = [100 * (own < 0).mean(), 100 * (said < 0).mean(), 100 * both / (said < 0).sum(),
              100 * both / (own < 0).sum()]  # fmt: skip
    assert [int(v) for v in rows["bass"][:5]] == [180, *(round(v) for v in wanted)]
    assert float(rows["bass"][5]) == pytest.approx(80, abs=8)
    assert rows["all"][0] == "720"


def test_a_stem_that_does_not_play_is_as_bad_as_can_be():
    generator = np.random.default_rng(3)
    truth = 0.1 * generator.standard_normal((2, 2 * RATE)).astype(np.float32)
    truth[1] = 0
    estimate = np.stack([0.9 * truth[0], 0.1 * truth[0]])
    found = gains(estimate, truth, RATE, SpectralTransform(512, 128))
    assert found.counts.tolist() == [[False, False], [False, False]]  # nothing else sounds
    assert found.heard.tolist() == [[False, False], [True, True]]
    assert (found.quality(1)[0] == WORST_DB).all()


def test_fit_and_music_run_on_a_set_of_ones_own(tmp_path, monkeypatch):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    np.savez(tmp_path / "own.npz", stems=np.stack([_song(3, 6)]))
    kept = tmp_path / "recalibration.json"
    monkeypatch.setattr(recalibration, "PATH", kept)
    shared = ["-n", str(prior), "--set", str(tmp_path / "own.npz")]
    result = CliRunner().invoke(
        main, ["fit", *shared, "--out", str(tmp_path / "fit"), "--seconds", "1"]
    )
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(kept.read_text()).values()
    assert set(entry["spread"]) == set(entry["improvement"]) == set(entry["si_sdr"]) == set(STEMS)
    assert set(entry["shares"]["power"]) == set(entry["shares"]["weight"]) == set(STEMS)
    given = ["music", *shared, "--out", str(tmp_path / "m"), "--variants", "posterior"]
    given += ["--draws", "3", "--seconds", "1", "--pieces", "1"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert "posterior, piano" in (tmp_path / "m/table.md").read_text()
    assert (tmp_path / "m/reliability.png").stat().st_size > 1000
    assert "best draw" not in (tmp_path / "m/table.md").read_text()
    result = CliRunner().invoke(main, [*given, "--takes"])
    assert "posterior, best draw" in (tmp_path / "m/table.md").read_text()
    monkeypatch.setattr(recalibration, "_fits", lambda: json.loads(kept.read_text()))
    # What was separated for the fit is not separated again.
    separated = set((tmp_path / "separations").iterdir())
    told = ["expected", *shared, "--seconds", "1", "--out", str(tmp_path / "e")]
    result = CliRunner().invoke(main, told)
    assert result.exit_code == 0, result.output
    assert "stems of pieces" in (tmp_path / "e/table.md").read_text()
    assert (tmp_path / "e/expected.png").stat().st_size > 1000
    assert set((tmp_path / "separations").iterdir()) == separated
    monkeypatch.setattr(recalibration, "_fits", dict)
    result = CliRunner().invoke(main, told)
    assert result.exit_code == 2
    assert "run python -m recipes.calibration fit first" in result.output
    wrong = CliRunner().invoke(main, [*given, "--variants", "coffee"])
    assert wrong.exit_code == 2


def test_a_piece_that_fails_is_told_at_the_end(tmp_path, monkeypatch):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    np.savez(tmp_path / "own.npz", stems=np.stack([_song(3, 3), _song(4, 3), _song(5, 3)]))
    given = ["music", "-n", str(prior), "--set", str(tmp_path / "own.npz"), "--seconds", "1"]
    given += ["--variants", "posterior", "--draws", "3", "--out", str(tmp_path / "m")]

    def faulty(piece, *rest):
        if piece.index in broken:
            raise RuntimeError("as asked")
        return run_piece(piece, *rest)

    monkeypatch.setattr("recipes.calibration.audio.run_piece", faulty)
    broken = {1}
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 1
    assert "error: 1 failed; the same command tries them again" in result.output.splitlines()
    assert "as asked" in result.output
    assert "posterior, piano" in (tmp_path / "m/table.md").read_text()
    broken = {0, 2}  # what was judged is not judged again, and what failed is
    result = CliRunner().invoke(main, given)
    assert (result.exit_code, "failed" in result.output) == (0, False), result.output
    broken = {0, 1, 2}
    result = CliRunner().invoke(main, [*given, "--draws", "4"])
    assert result.exit_code == 1
    assert "error: no piece could be judged; the first: " in result.output


def _refused(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
    return " ".join(result.output.split())


def test_sets_that_cannot_be_judged_are_refused_in_a_line(tmp_path, monkeypatch):
    tiny = save_tiny_stems(tmp_path / "tiny.safetensors")
    stems = np.stack([_song(3, 6)])
    stems[:, 3] = 0  # the piano rests
    np.savez(tmp_path / "own.npz", stems=stems)
    np.savez(tmp_path / "other.npz", songs=stems)
    np.savez(tmp_path / "flat.npz", stems=stems[0])
    (tmp_path / "text.npz").write_text("no array")
    told = ["-n", tiny, "--pieces", 1, "--seconds", 1, "--out", tmp_path / "x"]
    own = [*told, "--set", tmp_path / "own.npz"]
    for name in ("other", "text", "missing"):
        assert "is no set" in _refused("music", *told, "--set", tmp_path / f"{name}.npz")
    assert "items x stems x samples" in _refused("music", *told, "--set", tmp_path / "flat.npz")
    np.savez(tmp_path / "none.npz", stems=stems[:0])
    assert "items x stems x samples" in _refused("music", *told, "--set", tmp_path / "none.npz")
    np.savez(tmp_path / "short.npz", stems=stems[..., : RATE // 2])
    for command in ("fit", "music", "expected"):
        said = _refused(command, *told, "--set", tmp_path / "short.npz")
        assert f"songs last at least a second, 22050 samples; found {RATE // 2}" in said
    assert "there is no odd piece" in _refused("music", *own, "--odd")
    with monkeypatch.context() as patched:
        patched.setattr("recipes.calibration.audio_commands.SpectralPrior", str)
        assert "--takes is for priors on spectra" in _refused("music", *own, "--takes")
    monkeypatch.setattr(recalibration, "PATH", tmp_path / "fits.json")
    assert "piano and the rest sound together in no second" in _refused("fit", *own)
    assert not (tmp_path / "fits.json").exists()
    fitted = recalibration.Recalibration("a test", {}, {}, {})
    monkeypatch.setattr(recalibration, "recalibration", lambda checksum: fitted)
    assert "there is no odd piece" in _refused("expected", *own, "--odd")
    stems[:, 1:] = 0
    np.savez(tmp_path / "alone.npz", stems=stems)
    said = _refused("expected", *told, "--set", tmp_path / "alone.npz")
    assert "no two stems sound together" in said


def test_sets_of_one_name_and_other_settings_are_other_pieces(tmp_path, monkeypatch):
    told = []
    for seed in (1, 2):
        np.savez(tmp_path / "own.npz", stems=_song(seed, 1)[None])
        told.append(truths(str(tmp_path / "own.npz"), tmp_path, None)[0])
    assert told[0] != told[1]
    prior = load_prior(save_tiny_stems(tmp_path / "tiny.safetensors"))
    before = Piece.of("set", 0, "exact draw", 4, prior).key
    monkeypatch.setattr("recipes.calibration.audio.sampling_settings", lambda: "another default")
    assert Piece.of("set", 0, "exact draw", 4, prior).key != before


def test_a_fit_that_breaks_off_leaves_the_others(tmp_path, monkeypatch):
    path = tmp_path / "fits.json"
    store(path, "a", {"name": "first"})
    monkeypatch.setattr("pathlib.Path.write_text", _full)
    with pytest.raises(AudioError):
        store(path, "b", {"name": "second"})
    assert json.loads(path.read_text()) == {"a": {"name": "first"}}


def _full(self, text, **_):
    with self.open("w") as file:
        file.write(text[:5])
    raise OSError(28, "No space left on device")


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
    # Beside a set that has other sounds they are silent in it, for the open prior.
    before = set((tmp_path / "separations").iterdir())
    both = [option for stems in (4, 5) for option in ("--set", str(tmp_path / f"{stems}.npz"))]
    given = ["fit", "-n", str(prior), *both, "--out", str(tmp_path / "both")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    (entry,) = json.loads((tmp_path / "recalibration.json").read_text()).values()
    assert set(entry["improvement"]) == {*STEMS, "other"}
    assert len(set((tmp_path / "separations").iterdir()) - before) == 1
    both = ["--set", tmp_path / "4.npz", "--set", tmp_path / "3.npz"]
    assert "is fitted on sets of 4 stems here" in _refused("fit", "-n", prior, *both)


def test_stems_can_be_drawn_from_the_prior_alone(tmp_path):
    prior = save_tiny_stems(tmp_path / "tiny.safetensors")
    given = ["self", "-n", str(prior), "--out", str(tmp_path / "s"), "--variants", "posterior"]
    given += ["--pieces", "1", "--seconds", "1", "--levels", "3", "--draws", "3"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "s/stems").iterdir()
    stems = np.load(path)
    assert stems.shape[0] == 4
    assert float(torch.from_numpy(stems.sum(0)).square().mean().sqrt()) == pytest.approx(0.1)
