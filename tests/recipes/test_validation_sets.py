"""The named validation sets: fixed, kept, and scored by the rule of active stems."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.music_prior.songs.song import RATE, STEMS, SongError
from recipes.music_prior.sound import validation_sets
from recipes.music_prior.sound.validation_sets import score, separable, validation_set


def some_stems(seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.05 * rng.standard_normal((len(STEMS), round(seconds * RATE)))).astype(np.float32)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "midi").mkdir(parents=True)
    (folder / "soundfonts").mkdir()
    (folder / "soundfonts" / "heldout.sf3").touch()
    (folder / validation_sets.REAL).mkdir(parents=True)
    for stem, wave in zip(STEMS, some_stems()):
        soundfile.write(folder / validation_sets.REAL / f"{stem}.flac", wave, RATE)
    return folder


@pytest.fixture
def streamed(monkeypatch) -> list:
    """Stand in for the renderer: every third item has one stem only; the settings are kept."""
    asked = []

    def stream(settings):
        asked.append(settings)
        for number in range(20):
            stems = some_stems(0.5, seed=settings.seed + number)
            if number % 3 == 0:
                stems[1:] = 0
            yield stems

    monkeypatch.setattr(validation_sets, "StemStream", stream)
    renders = {name: (5, settings) for name, (_, settings) in validation_sets.RENDERS.items()}
    monkeypatch.setattr(validation_sets, "RENDERS", renders)
    return asked


def test_rendered_sets_are_made_once_and_only_of_what_can_be_separated(shared, streamed, tmp_path):
    first = validation_set("B", shared, tmp_path / "cache")
    assert first.stems.shape == (5, len(STEMS), round(0.5 * RATE))
    assert first.stems.dtype == np.float32
    rms = np.sqrt(np.mean(first.stems.sum(1) ** 2, axis=-1))
    np.testing.assert_allclose(rms, 0.1, rtol=1e-3)
    again = validation_set("B", shared, tmp_path / "cache")
    assert np.array_equal(first.stems, again.stems)
    assert first.identity == again.identity
    assert len(streamed) == 1
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_set_b_is_played_by_the_held_out_soundfont_and_a_by_debians(shared, streamed, tmp_path):
    for name in ("A", "B"):
        validation_set(name, shared, tmp_path / "cache")
    a, b = streamed
    assert a.heldout_soundfonts == ()
    assert b.heldout_soundfonts == (str(shared / "soundfonts" / "heldout.sf3"),)
    assert (a.split, b.split) == ("valid", "valid")
    assert a.soundfonts == b.soundfonts == ()
    assert a.seed != b.seed


def test_the_identity_follows_the_samples(shared, streamed, tmp_path):
    before = validation_set("A", shared, tmp_path / "cache").identity
    path = tmp_path / "cache" / "A" / "02.flac"
    samples, _ = soundfile.read(path, dtype="int16")
    samples[100, 2] += 1
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    after = validation_set("A", shared, tmp_path / "cache").identity
    assert before.startswith("A-")
    assert before != after


def test_an_interrupted_rendering_leaves_no_set(shared, streamed, tmp_path, monkeypatch):
    def broken(settings):
        yield some_stems(0.5)
        raise KeyboardInterrupt

    monkeypatch.setattr(validation_sets, "StemStream", broken)
    with pytest.raises(KeyboardInterrupt):
        validation_set("A", shared, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_set_c_is_one_recording_at_one_gain(shared):
    real = validation_set("C", shared)
    assert real.stems.shape == (1, len(STEMS), 6 * RATE)
    assert np.sqrt(np.mean(real.stems[0].sum(0) ** 2)) == pytest.approx(0.1, rel=1e-4)
    gains = real.stems[0, :, 1000] / some_stems()[:, 1000]
    np.testing.assert_allclose(gains, gains[0], rtol=1e-2)


def test_what_is_absent_is_named(tmp_path):
    for name, part in (("A", "midi"), ("B", "midi"), ("C", "bass.flac")):
        with pytest.raises(SongError, match=part):
            validation_set(name, tmp_path, tmp_path / "cache")
    with pytest.raises(SongError, match="one of A, B, C"):
        validation_set("D", tmp_path)


def test_stems_alone_are_not_separable():
    stems = some_stems(1.0)
    scaled = separable(stems)
    assert scaled is not None
    assert np.sqrt(np.mean(scaled.sum(0) ** 2)) == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(scaled / stems, scaled[0, 0] / stems[0, 0], rtol=1e-5)
    stems[1:] = 0
    assert separable(stems) is None
    assert separable(0 * stems) is None


def test_scores_by_the_rule_of_active_stems():
    """With e = s + c n and n orthogonal to s, SI-SDR is -20 log10 c; silence does not count."""
    truth = np.stack([some_stems(6.0, 1), some_stems(6.0, 2)])
    truth[0, 3] = 0
    noise = some_stems(6.0, 3)
    estimates = truth + 0.1 * noise
    answers = iter(torch.from_numpy(estimates))
    scores = score(lambda mixture: next(answers)[None], truth)
    assert scores.active[0, 3].sum() == 0
    assert scores.active[1].all()
    # The mixture as estimate has -10 log10(2) dB among three equal stems, -10 log10(3) among four.
    three, four = 10 * np.log10(2), 10 * np.log10(3)
    expected = 20 + np.array([(three + four) / 2] * 3 + [four])
    np.testing.assert_allclose(scores.per_stem.numpy(), expected, atol=0.3)


@pytest.mark.slow
def test_set_a_is_what_it_was(shared_dir, tmp_path, monkeypatch):
    """The first items of set A, rendered now, against their levels on 24 November 2026."""
    pytest.importorskip("fluidsynth")
    _, settings = validation_sets.RENDERS["A"]
    monkeypatch.setattr(validation_sets, "RENDERS", {"A": (2, settings)})
    found = validation_set("A", shared_dir, tmp_path)
    levels = 20 * np.log10(np.sqrt(np.mean(found.stems**2, axis=-1)) + 1e-6)
    golden = [[-27.563, -22.970, -120.0, -25.126], [-25.839, -26.919, -22.633, -120.0]]
    np.testing.assert_allclose(levels, golden, atol=0.02)
