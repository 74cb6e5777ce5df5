"""MGDM: reproducibility, settings, what it is given and tells."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import mgdm_core
from mgdm_core.conditionals import CONDITIONALS, Linearised, Tweedie, Variational
from mgdm_core.errors import CancelledError, DivergenceError, SettingsError, ShapeError
from mgdm_core.index_laws import INDEX_LAWS, NextLevel, PublishedMix, ResidualLaw
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.priors import GaussianMixturePrior, isotropic_mixture
from mgdm_core.sampler import Start
from mgdm_core.samplers import MGDM, MGDMMarginal, TweedieGibbs, default_sampler, get_sampler
from mgdm_core.samplers.mgdm import PRESETS
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.settings_text import settings_from

from .closed_forms import normal
from .gaussian_problem import SCHEDULE, gaussian_likelihood, gaussian_prior
from .samplers_support import CoordinatePrior, draw

# -- reproducibility -------------------------------------------------------------------------------

MIXTURE = isotropic_mixture(torch.tensor([1.0, 2.0, 1.0]), 5 * normal((3, 4), 5))
SMALL = MGDM(levels=6, gibbs=2, denoising_steps=4, conditional=Linearised(2))
VARIANTS = {
    "linearised": SMALL,
    "variational": replace(SMALL, conditional=Variational(3, 6)),
    "tweedie": replace(SMALL, conditional=Tweedie(), transition="ddim"),
    "tweedie-gibbs": TweedieGibbs(levels=6, conditional=Tweedie("isotropic")),
    "residual-law": replace(SMALL, index_law=ResidualLaw()),
    "low-indices": replace(SMALL, index_law=PublishedMix(1e-6, 1.0), denoising_steps=12),
    "heun-forward": replace(SMALL, transition="heun", renoise="forward"),
    "dpmpp_2m": replace(SMALL, transition="dpmpp_2m", denoising_steps=12),
    "closing": replace(SMALL, closing=1.0, closing_levels=4),
    "marginal": MGDMMarginal(8, budget=60),
}


def sample(settings, seeds, rows, start=None, dtype=torch.float64):
    """Items with one observation each: ``rows`` picks which."""
    y = 3 * normal((5, 2), 7)
    likelihood = GaussianLikelihood(Matrix(normal((2, 4), 8)), y[rows].to(dtype), 0.2)
    prior = GaussianMixturePrior(MIXTURE, SCHEDULE)
    return draw(prior, likelihood, (4,), RandomStreams(seeds), settings, start=start)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_an_item_ends_at_the_same_sample_alone_and_in_any_batch(settings):
    together = sample(settings, [10, 11, 12, 13, 14], [0, 1, 2, 3, 4]).x
    alone = sample(settings, [13], [3]).x
    torch.testing.assert_close(alone[0], together[3], rtol=1e-9, atol=1e-9)
    pair = sample(settings, [14, 10], [4, 0]).x
    torch.testing.assert_close(pair, together[[4, 0]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["variational", "residual-law", "marginal"])
def test_the_same_seeds_give_the_same_sample_to_the_bit(name):
    runs = [sample(VARIANTS[name], [3, 4], [0, 1]) for _ in range(2)]
    assert torch.equal(runs[0].x, runs[1].x)
    assert runs[0].trace.records == runs[1].trace.records


def test_seeds_differ_and_the_global_generator_plays_no_part():
    before = torch.random.get_rng_state()
    x = sample(SMALL, [1, 2], [0, 0]).x
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.allclose(x[0], x[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["variational", "tweedie", "linearised", "marginal"])
def test_the_samples_are_float32_or_wider(name, dtype):
    result = sample(VARIANTS[name], [1, 2], [0, 1], dtype=dtype)
    assert result.x.dtype == torch.promote_types(dtype, torch.float32)
    assert not result.x.requires_grad
    assert bool(torch.isfinite(result.x).all())


def test_single_precision_follows_double():
    # Not the same random numbers: compare what both say of the data.
    wide = sample(SMALL, range(60), [0] * 60).trace.records[-1].residual
    narrow = sample(SMALL, range(60), [0] * 60, dtype=torch.float32).trace.records[-1].residual
    assert narrow == pytest.approx(wide, rel=0.3)


# -- what it is given and tells --------------------------------------------------------------------


class Counting(GaussianMixturePrior):
    """Counts the items that it denoises, with and without a graph."""

    def __init__(self, *args):
        super().__init__(*args)
        self.items = self.with_graph = 0

    def denoise(self, x, t):
        self.items += len(x)
        self.with_graph += len(x) * x.requires_grad
        return super().denoise(x, t)


@pytest.mark.parametrize("name", ["variational", "linearised", "tweedie", "marginal"])
def test_every_evaluation_and_product_is_counted(name):
    prior = Counting(MIXTURE, SCHEDULE)
    likelihood = GaussianLikelihood(Matrix(normal((2, 4), 8)), normal((3, 2), 7), 0.2)
    trace = draw(prior, likelihood, (4,), RandomStreams([1, 2, 3]), VARIANTS[name]).trace
    assert trace.evaluations == pytest.approx(prior.items / 3)
    if name in ("tweedie", "marginal"):
        assert trace.vjps == prior.with_graph == 0
    elif name == "variational":
        assert trace.vjps == pytest.approx(prior.with_graph / 3)
    else:  # one product per observed value
        assert trace.vjps == pytest.approx(2 * prior.with_graph / 3)


def test_the_published_settings_cost():
    # 20 levels of the audio setting on levels like its own: G = 3 in the first half and 20 after,
    # R = 6, 14 denoising steps; the last level is 20, whose s is 10.
    preset, schedule = replace(PRESETS["audio-published"], gibbs=1), NoiseSchedule.karras()
    prior = GaussianMixturePrior(gaussian_prior().mixture, schedule)
    trace = draw(prior, gaussian_likelihood(1), (2,), RandomStreams([0]), preset).trace
    levels = [r.level for r in trace.records]
    assert (len(levels), levels[-1], trace.records[-1].index) == (19, 20, 10)
    early = round(0.5 * 19)
    assert trace.vjps == early * 3 + (19 - early) * 20
    assert 0.8 * 19 * 14 < trace.evaluations - trace.vjps <= 1 + 19 * 14


def test_presets_hold_the_published_settings():
    def row(name):
        p = PRESETS[name]
        c = p.conditional
        return (p.levels, p.gibbs, c.steps, c.late_steps, p.denoising_steps, c.learning_rate)

    # M = 20 and 15 are 19 and 14 steps in the published code.
    assert row("ffhq-pixel") == (100, 1, 5, 20, 19, 0.03)
    assert row("imagenet-pixel") == (100, 1, 5, 20, 19, 0.03)
    assert row("ffhq-latent") == (100, 1, 3, 20, 19, 0.03)
    assert row("audio-published") == (20, 6, 3, 20, 14, 0.005)
    for name in ("ffhq-pixel", "ffhq-latent"):
        assert PRESETS[name].conditional.early_learning_rate == 0.01
        assert PRESETS[name].conditional.early == 0.11
    assert PRESETS["imagenet-pixel"].conditional.early_learning_rate is None
    assert PRESETS["ffhq-latent"].conditional.every == 10
    for name in ("ffhq-pixel", "imagenet-pixel", "ffhq-latent"):
        assert PRESETS[name].index_law == PublishedMix(threshold=0.7)
        assert SCHEDULE.level_of_sigma(PRESETS[name].index_law.floor) == 10
        assert SCHEDULE.level_of_sigma(PRESETS[name].last) == 20
        assert PRESETS[name].conditional.late_from == 0.7
    audio = PRESETS["audio-published"]
    assert NoiseSchedule.karras().level_of_sigma(audio.index_law.floor) == 10
    assert NoiseSchedule.karras().level_of_sigma(audio.last) == 20
    assert audio.index_law.threshold == 0.65
    assert (audio.conditional.late_from, audio.conditional.stated_for) == (0.5, "ve")


def test_the_default_looks_at_the_problem():
    def chosen(likelihood, dim):
        prior = CoordinatePrior(SCHEDULE)
        problem = mgdm_core.Problem(prior, likelihood, (dim,))
        return default_sampler(problem)

    def bent(rows):
        operator = FunctionOperator(lambda x: x[:, :rows].sinh())
        return GaussianLikelihood(operator, normal((1, rows), 2), 0.1)

    few, many = bent(2), bent(65)
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, 2))
    assert chosen(few, 4) == MGDMMarginal()
    assert chosen(many, 65) == MGDM()
    assert chosen(own, 2) == MGDM()


def test_a_network_of_another_shape_is_refused():
    class Wrong(CoordinatePrior):
        def denoise(self, x, t):
            return super().denoise(x, t)[:, :1]

    with pytest.raises(ShapeError, match=r"input's shape \(1, 2\); found \(1, 1\)"):
        draw(Wrong(SCHEDULE), gaussian_likelihood(1), (2,), RandomStreams([0]), SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["imagenet-pixel", "audio-published"])
def test_narrow_observations_run_in_float32(name, dtype):
    """Both diverged: the state was as narrow as the observation."""
    y = torch.tensor([[0.4]], dtype=dtype)
    likelihood = GaussianLikelihood(Matrix(torch.tensor([[1.0, 0.5]])), y, 0.1)
    settings = replace(PRESETS[name], levels=20)
    result = draw(CoordinatePrior(SCHEDULE), likelihood, (2,), RandomStreams([0]), settings)
    assert result.x.dtype == torch.float32
    assert not any(w.startswith("divergence") for w in result.trace.warnings)


def test_a_likelihood_that_is_not_gaussian():
    rate = FunctionOperator(lambda x: x.exp())
    counts = PoissonLikelihood(rate, torch.tensor([[40.0, 3.0]], dtype=torch.float64))
    settings = replace(
        SMALL, levels=15, gibbs=1, conditional=Variational(10, 20, learning_rate=0.08)
    )
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(1), torch.zeros(1, 2), 4.0), SCHEDULE)
    x = draw(prior, counts, (2,), RandomStreams([0]), settings).x
    # log 40 = 3.7 and log 3 = 1.1, with counting errors of 0.16 and 0.6.
    assert float((x[0, 0] - 3.6).abs()) < 0.8
    assert float((x[0, 1] - 1.0).abs()) < 2.0


def test_the_callback_sees_every_step_and_the_last_is_the_end():
    seen = []
    y = gaussian_likelihood(2)
    settings = SMALL
    result = draw(gaussian_prior(), y, (2,), RandomStreams([0, 1]), settings, callback=seen.append)
    assert [p.step for p in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].step == seen[-1].steps == len(result.trace.records)
    assert {p.sampler for p in seen} == {"mgdm"}
    assert all(p.estimate.shape == (2, 2) for p in seen)
    assert torch.equal(seen[-1].estimate, result.x)
    levels = [p.level for p in seen]
    assert levels == sorted(levels, reverse=True)


def test_the_callback_can_cancel():
    calls = []

    def stop(progress):
        calls.append(progress.level)
        return len(calls) < 3

    with pytest.raises(CancelledError, match=f"cancelled at level {SCHEDULE.spaced(6, stop=2)[2]}"):
        draw(
            gaussian_prior(), gaussian_likelihood(1), (2,), RandomStreams([0]), SMALL, callback=stop
        )
    assert len(calls) == 3


def test_a_start_replaces_pure_noise():
    truth = normal((1, 4), 9)
    start = Start(truth, level=30)
    result = sample(SMALL, [3], [0], start=start)
    assert result.trace.records[0].level < 30
    # From so low a level the result keeps the start's mode; from pure noise it need not.
    far = sample(SMALL, [3], [0], start=Start(truth + 50, level=30)).x
    assert float((far - result.x).abs().max()) > 5
    low = sample(VARIANTS["marginal"], [3], [0], start=start)
    assert "path_acceptance" not in low.trace.extra  # the modes are decided
    with pytest.raises(ShapeError, match=r"\(1, 4\); found \(2, 4\)"):
        sample(SMALL, [3], [0], start=Start(truth.expand(2, 4)))


def test_one_stream_per_observation():
    with pytest.raises(ShapeError, match=r"2 samples of 2 observation\(s\), found 1 streams"):
        draw(gaussian_prior(), gaussian_likelihood(2), (2,), RandomStreams([0]), SMALL)


@pytest.mark.parametrize("level", [1000, 400])
def test_nan_stops_the_run_at_its_level(level):
    class Broken(GaussianMixturePrior):
        def denoise(self, x, t):
            out = super().denoise(x, t).clone()
            t = torch.as_tensor(t).reshape(-1).expand(len(x))
            out[1] = torch.where(t[1] <= level, torch.full_like(out[1], float("nan")), out[1])
            return out

    prior = Broken(PROBLEM_MIXTURE, SCHEDULE)
    settings = replace(SMALL, index_law=NextLevel(), denoising_steps=1)
    with pytest.raises(DivergenceError, match="NaN or infinity") as caught:
        draw(prior, gaussian_likelihood(3), (2,), RandomStreams([0, 1, 2]), settings)
    assert caught.value.items == [1]
    grid = [*SCHEDULE.spaced(6, stop=2), 1]
    # s is the next level below t; the first at or below the broken level is where it arises.
    first = next(min(s, t - 1) for t, s in pairwise(grid[1:]) if min(s, t - 1) <= level)
    # The step that met it is the one whose s it is: at the outer level above.
    met = next(t for t, s in pairwise(grid[1:]) if min(s, t - 1) == first)
    assert caught.value.level == met
    assert f"level {met}" in str(caught.value)


@pytest.mark.parametrize("level", [1000, 480])
def test_nan_stops_the_paths(level):
    class Broken(GaussianMixturePrior):
        def denoise(self, x, t):
            out = super().denoise(x, t)
            return out * float("nan") if int(torch.as_tensor(t).min()) <= level else out

    settings = MGDMMarginal(12, budget=200)
    prior = Broken(PROBLEM_MIXTURE, SCHEDULE)
    with pytest.raises(DivergenceError, match="NaN or infinity") as caught:
        draw(prior, gaussian_likelihood(2), (2,), RandomStreams([0, 1]), settings)
    assert caught.value.items == [0, 1]
    assert caught.value.level > 500


PROBLEM_MIXTURE = gaussian_prior().mixture


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"levels": 1}, "levels is a whole number, at least 2; found 1"),
        ({"gibbs": 0}, "gibbs is a whole number, at least 1; found 0"),
        ({"denoising_steps": 0}, "denoising_steps is a whole number, at least 1; found 0"),
        ({"renoise": "back"}, "one of between, forward; found 'back'"),
        ({"transition": "euler"}, "ddpm, ddim, heun, dpmpp_2m; found 'euler'"),
        ({"conditional": "exact"}, "variational, linearised, tweedie; found 'exact'"),
    ],
)
def test_settings_outside_their_domain(setting, rule):
    with pytest.raises(SettingsError, match=rule):
        replace(SMALL, **setting)


def test_conditionals_and_index_laws_go_by_name_or_object():
    for name, kind in CONDITIONALS.items():
        assert MGDM(conditional=name) == MGDM(conditional=kind())
    for name, law in INDEX_LAWS.items():
        assert MGDM(index_law=name) == MGDM(index_law=law())
    with pytest.raises(SettingsError, match="near-zero"):
        MGDM(index_law="near zero")


def test_settings_from_names_what_is_unknown():
    changed = settings_from(SMALL, {"levels": 12, "conditional": "tweedie"})
    assert (changed.levels, changed.conditional) == (12, Tweedie())
    with pytest.raises(SettingsError, match=r"no setting 'level'; valid names: levels, gibbs"):
        settings_from(SMALL, {"level": 3})


def test_it_is_in_the_list_by_name():
    assert get_sampler("mgdm") is MGDM
    assert mgdm_core.PRESETS["mgdm"] is PRESETS
    with pytest.raises(SettingsError, match=r"no sampler 'mgmd'; valid names: .*mgdm"):
        get_sampler("mgmd")
