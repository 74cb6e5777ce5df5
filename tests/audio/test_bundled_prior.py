"""The weights that come with the package still separate: weights that rot are noticed here."""

import numpy as np
import soundfile as sf
import torch

from mgdm_audio.metrics.silence import active_stem_improvement
from mgdm_audio.priors.catalogue import load_prior, resolve
from mgdm_audio.priors.checkpoint.store import read_header
from mgdm_audio.priors.closed import OTHER, is_closed_over
from mgdm_audio.sampling.recalibration import recalibration
from mgdm_audio.separation.separator import Separator

STEMS = ("bass", "drums", "guitar", "piano")


def test_the_shipped_example_is_separated_by_at_least_6_decibels(repo_root):
    examples = repo_root / "mgdm_audio" / "examples"
    mix, rate = sf.read(examples / "example_mix.flac", dtype="float32")
    truth = [sf.read(examples / "example_stems" / f"{s}.ogg", dtype="float32") for s in STEMS]
    assert {r for _, r in truth} == {rate}
    true = torch.from_numpy(np.stack([wave.mean(1) for wave, _ in truth]))
    # The stems are compressed with loss; they are still the parts of this very mixture.
    mono = torch.from_numpy(mix.mean(1))
    rest = mono - true.sum(0)
    assert float(rest.square().mean() / mono.square().mean()) < 0.01
    closed = is_closed_over(read_header(resolve("music-stems")).stems, STEMS)
    told = [OTHER] if closed else []
    result = Separator.from_pretrained(without=told, preset="fast")(mono, rate=rate)
    found = torch.from_numpy(np.stack([result.stems[stem].reshape(-1) for stem in STEMS]))
    scores = active_stem_improvement(found[None], true[None], mono[None], rate)
    assert float(scores.mean) > 6, scores.per_stem
    assert float(scores.per_stem.min()) > 3, scores.per_stem
    # SI-SDR takes a stem at a hundredth of its level for the whole.
    assert float(scores.retained_per_stem.min()) > 0.1, scores.retained_per_stem
    assert float(scores.retained_per_stem.mean()) > 0.4, scores.retained_per_stem


def test_the_bundled_prior_has_a_fit_of_every_stem():
    header = read_header(resolve("music-stems"))
    fit = recalibration(load_prior("music-stems", device="cpu").checksum)
    assert fit is not None, "run python -m recipes.calibration fit"
    assert fit.shares is not None, "run python -m recipes.calibration fit"
    for found in (fit.spread, fit.improvement, fit.si_sdr, fit.shares.power):
        assert set(found) == set(header.stems)
