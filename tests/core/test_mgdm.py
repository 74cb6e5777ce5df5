"""MGDM as a whole: its law where that is closed form, reproducibility, settings."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mgdm_core.conditionals import CONDITIONALS, Linearised, Tweedie, Variational
from mgdm_core.errors import CancelledError, DivergenceError, SettingsError, ShapeError
from mgdm_core.gaussian_mixture import GaussianMixture, GaussianMixturePrior, isotropic_mixture
from mgdm_core.index_laws import INDEX_LAWS, Fraction, NextLevel, PublishedMix, ResidualLaw
from mgdm_core.jumps import MarginalJumps
from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood, PoissonLikelihood
from mgdm_core.operators import FunctionOperator, Matrix
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Start, settings_from
from mgdm_core.samplers import SAMPLERS, get_sampler
from mgdm_core.samplers.mgdm import PRESETS, MGDMSettings, default_settings, mgdm
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator, assert_moments, normal, spd
from .gaussian_mgdm import AffineMGDM, Problem

SCHEDULE = NoiseSchedule.vp_linear()
PROBLEM = Problem(
    normal((2,), 1), spd(2, 2), normal((1, 2), 3), torch.tensor([1.5], dtype=torch.float64), 0.3
)
HALF, NEXT = Fraction(0.5), NextLevel()


def gaussian_prior(problem: Problem = PROBLEM) -> GaussianMixturePrior:
    return GaussianMixturePrior(
        GaussianMixture(torch.ones(1), problem.mean[None], problem.cov[None]), SCHEDULE
    )


def gaussian_likelihood(count: int, problem: Problem = PROBLEM) -> GaussianLikelihood:
    return GaussianLikelihood(
        Matrix(problem.matrix), problem.y.expand(count, len(problem.y)), problem.sigma_y
    )


def half(t: int, below: int) -> int:
    return min(max(1, round(0.5 * t)), t - 1)


def following(t: int, below: int) -> int:
    return min(max(1, below), t - 1)


# -- the law of the result -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "index", "inflate", "renoise"),
    [
        (HALF, half, 0.0, "between"),
        (HALF, half, 1.0, "forward"),
        (NEXT, following, 0.0, "forward"),
        (NEXT, following, 1.0, "between"),
    ],
)
def test_the_result_has_the_law_that_matrix_algebra_gives(law, index, inflate, renoise):
    """Gaussian prior, linear observation: MGDM is an affine chain and its law a Gaussian."""
    n, levels, gibbs, steps = 10000, 6, 2, 4
    settings = MGDMSettings(
        levels=levels,
        gibbs=gibbs,
        denoising_steps=steps,
        index_law=law,
        conditional=Linearised(passes=1, inflate=inflate),
        renoise=renoise,
    )
    result = mgdm(gaussian_prior(), gaussian_likelihood(n), (2,), OneGenerator(n), settings)
    chain = AffineMGDM(PROBLEM, SCHEDULE)
    mean, cov = chain.run(SCHEDULE.spaced(levels), gibbs, steps, index, inflate, renoise)
    assert_moments(result.x, mean, cov)


def test_that_law_tends_to_the_posterior_with_gibbs_steps_and_the_exact_likelihood():
    # With p(y | x_s) itself (inflate 1) only unfinished mixing and the DDPM steps stand between
    # MGDM and the posterior; with the paper's g(y | D(x_s)) a bias stays however many steps.
    mean, cov = PROBLEM.posterior()
    levels, errors = SCHEDULE.spaced(12), {}
    for inflate in (0.0, 1.0):
        for gibbs in (1, 3, 9):
            chain = AffineMGDM(PROBLEM, SCHEDULE)
            m, c = chain.run(levels, gibbs, 12, half, inflate)
            errors[inflate, gibbs] = (
                float((m - mean).norm()),
                float((c - cov).norm() / cov.norm()),
            )
    assert errors[1.0, 3][0] < 0.5 * errors[1.0, 1][0]
    assert errors[1.0, 9][0] < 0.25 * errors[1.0, 1][0]
    assert errors[1.0, 9][1] < 0.5 * errors[1.0, 1][1]
    assert errors[0.0, 9][0] > 1.8 * errors[1.0, 9][0]
    # That bias is a seventh of the posterior's largest deviation here.
    assert errors[0.0, 9][0] < 0.2 * float(cov.diagonal().max().sqrt())


def test_two_levels_and_a_conditioned_first_estimate_are_a_draw_of_the_posterior():
    """N(0, d I) has exactly the variance that ``isotropic`` takes, and x_T says next to nothing."""
    n, d = 20_000, 2.5
    problem = replace(PROBLEM, mean=torch.zeros(2).double(), cov=d * torch.eye(2).double())
    settings = MGDMSettings(
        levels=2, denoising_steps=0, conditional=Tweedie("isotropic", data_variance=d)
    )
    prior, likelihood = gaussian_prior(problem), gaussian_likelihood(n, problem)
    result = mgdm(prior, likelihood, (2,), OneGenerator(n), settings)
    assert result.trace.evaluations == 1
    assert_moments(result.x, *problem.posterior())


@pytest.mark.parametrize("transition", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("conditional", ["variational", "linearised"])
def test_every_transition_ends_near_the_posterior(transition, conditional):
    n = 500
    settings = MGDMSettings(
        levels=12,
        denoising_steps=5,
        conditional=conditional,
        transition=transition,
        index_law=HALF,
    )
    result = mgdm(gaussian_prior(), gaussian_likelihood(n), (2,), OneGenerator(n), settings)
    mean, cov = PROBLEM.posterior()
    # The bias of g(y | D(x_s)) and of few steps, as in the chain above: not exact, but near.
    assert float((result.x.mean(0) - mean).norm()) < 0.7 * float(cov.diagonal().max().sqrt())
    off = result.x @ PROBLEM.matrix.T - PROBLEM.y
    want = (
        PROBLEM.matrix @ cov @ PROBLEM.matrix.T + (PROBLEM.matrix @ mean - PROBLEM.y) ** 2
    ) ** 0.5
    assert float(off.square().mean().sqrt()) < 1.5 * float(want)


# -- reproducibility -------------------------------------------------------------------------------

MIXTURE = isotropic_mixture(torch.tensor([1.0, 2.0, 1.0]), 5 * normal((3, 4), 5))
SMALL = MGDMSettings(levels=6, gibbs=2, denoising_steps=4, conditional=Linearised(2))
VARIANTS = {
    "linearised": SMALL,
    "variational": replace(SMALL, conditional=Variational(3, 6)),
    "tweedie": replace(SMALL, conditional=Tweedie(), transition="ddim"),
    "tweedie-x0": replace(SMALL, conditional=Tweedie("isotropic"), denoising_steps=0),
    "residual-law": replace(SMALL, index_law=ResidualLaw()),
    "low-indices": replace(SMALL, index_law=PublishedMix(1, 1.0), denoising_steps=12),
    "heun-forward": replace(SMALL, transition="heun", renoise="forward"),
    "dpmpp_2m": replace(SMALL, transition="dpmpp_2m", denoising_steps=12),
    "jumps": replace(SMALL, jumps=MarginalJumps(count=4, steps=4)),
}


def sample(settings, seeds, rows, start=None, dtype=torch.float64):
    """Items with one observation each: ``rows`` picks which."""
    y = 3 * normal((5, 2), 7)
    likelihood = GaussianLikelihood(Matrix(normal((2, 4), 8)), y[rows].to(dtype), 0.2)
    prior = GaussianMixturePrior(MIXTURE, SCHEDULE)
    return mgdm(prior, likelihood, (4,), RandomStreams(seeds), settings, start=start)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_an_item_ends_at_the_same_sample_alone_and_in_any_batch(settings):
    together = sample(settings, [10, 11, 12, 13, 14], [0, 1, 2, 3, 4]).x
    alone = sample(settings, [13], [3]).x
    torch.testing.assert_close(alone[0], together[3], rtol=1e-9, atol=1e-9)
    pair = sample(settings, [14, 10], [4, 0]).x
    torch.testing.assert_close(pair, together[[4, 0]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["variational", "residual-law", "jumps"])
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
@pytest.mark.parametrize("name", ["variational", "tweedie", "linearised", "jumps"])
def test_the_samples_have_the_observations_precision(name, dtype):
    result = sample(VARIANTS[name], [1, 2], [0, 1], dtype=dtype)
    assert result.x.dtype == dtype
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


@pytest.mark.parametrize("name", ["variational", "linearised", "tweedie", "jumps"])
def test_every_evaluation_and_product_is_counted(name):
    prior = Counting(MIXTURE, SCHEDULE)
    likelihood = GaussianLikelihood(Matrix(normal((2, 4), 8)), normal((3, 2), 7), 0.2)
    trace = mgdm(prior, likelihood, (4,), RandomStreams([1, 2, 3]), VARIANTS[name]).trace
    assert trace.evaluations == pytest.approx(prior.items / 3)
    if name == "tweedie":
        assert trace.vjps == prior.with_graph == 0
    elif name == "variational":
        assert trace.vjps == pytest.approx(prior.with_graph / 3)
    else:  # one product per observed value
        assert trace.vjps == pytest.approx(2 * prior.with_graph / 3)


def test_the_published_settings_cost():
    # 20 levels of the audio setting: G = 3 before step 10 and 20 from there on, R = 6, M = 15;
    # the last level is 1, where nothing is left to do; low s takes fewer than M steps.
    preset = replace(PRESETS["audio-published"], gibbs=1)
    trace = mgdm(gaussian_prior(), gaussian_likelihood(1), (2,), RandomStreams([0]), preset).trace
    assert len(trace.records) == 18
    assert trace.vjps == 10 * 3 + 8 * 20
    assert 0.8 * 18 * 15 < trace.evaluations - trace.vjps <= 1 + 18 * 15


def test_presets_hold_the_published_settings():
    def row(name):
        p = PRESETS[name]
        c = p.conditional
        return (p.levels, p.gibbs, c.steps, c.late_steps, p.denoising_steps, c.learning_rate)

    assert row("ffhq-pixel") == (100, 1, 5, 20, 20, 0.03)
    assert row("imagenet-pixel") == (100, 1, 5, 20, 20, 0.03)
    assert row("ffhq-latent") == (100, 1, 3, 20, 20, 0.03)
    assert row("audio-published") == (20, 6, 3, 20, 15, 0.005)
    for name in ("ffhq-pixel", "ffhq-latent"):
        assert PRESETS[name].conditional.early_learning_rate == 0.01
        assert PRESETS[name].conditional.early == 11
    assert PRESETS["imagenet-pixel"].conditional.early_learning_rate is None
    assert PRESETS["ffhq-latent"].conditional.every == 10
    for name in ("ffhq-pixel", "imagenet-pixel", "ffhq-latent"):
        assert PRESETS[name].index_law == PublishedMix(10, 0.7)
        assert PRESETS[name].conditional.late_from == 0.7
    assert PRESETS["audio-published"].index_law == PublishedMix(10, 0.65)
    assert PRESETS["audio-published"].conditional.late_from == 0.5


def test_the_default_looks_at_the_likelihood():
    few = gaussian_likelihood(1)
    many = GaussianLikelihood(Matrix(normal((40, 40), 1)), normal((1, 40), 2), 0.1)
    counts = PoissonLikelihood(Matrix(normal((2, 4), 1).abs()), torch.ones(1, 2))
    assert default_settings(few) == PRESETS["best"]
    assert default_settings(many).jumps is None
    own = CallableLikelihood(lambda x, y: -(x - y).abs().sum(-1), torch.ones(1, 2))
    assert default_settings(counts) == PRESETS["best"]
    assert default_settings(own) == PRESETS["imagenet-pixel"]


def test_a_likelihood_that_is_not_gaussian():
    rate = FunctionOperator(lambda x: x.exp())
    counts = PoissonLikelihood(rate, torch.tensor([[40.0, 3.0]], dtype=torch.float64))
    settings = replace(
        SMALL, levels=15, gibbs=1, conditional=Variational(10, 20, learning_rate=0.08)
    )
    prior = GaussianMixturePrior(isotropic_mixture(torch.ones(1), torch.zeros(1, 2), 4.0), SCHEDULE)
    x = mgdm(prior, counts, (2,), RandomStreams([0]), settings).x
    # log 40 = 3.7 and log 3 = 1.1, with counting errors of 0.16 and 0.6.
    assert float((x[0, 0] - 3.6).abs()) < 0.8
    assert float((x[0, 1] - 1.0).abs()) < 2.0


def test_the_callback_sees_every_step_and_the_last_is_the_end():
    seen = []
    y = gaussian_likelihood(2)
    settings = replace(SMALL, jumps=MarginalJumps(count=3, steps=2))
    result = mgdm(gaussian_prior(), y, (2,), RandomStreams([0, 1]), settings, callback=seen.append)
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

    with pytest.raises(CancelledError, match=f"cancelled at level {SCHEDULE.spaced(6)[2]}"):
        mgdm(
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
    jumpy = sample(VARIANTS["jumps"], [3], [0], start=start)
    assert "jump_acceptance" not in jumpy.trace.extra
    with pytest.raises(ShapeError, match=r"\(1, 4\); found \(2, 4\)"):
        sample(SMALL, [3], [0], start=Start(truth.expand(2, 4)))


def test_one_stream_per_observation():
    with pytest.raises(ShapeError, match="found 2 observations and 1 streams"):
        mgdm(gaussian_prior(), gaussian_likelihood(2), (2,), RandomStreams([0]), SMALL)


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
        mgdm(prior, gaussian_likelihood(3), (2,), RandomStreams([0, 1, 2]), settings)
    assert caught.value.items == [1]
    grid = SCHEDULE.spaced(6)
    # s is the next level below t; the first at or below the broken level is where it arises.
    first = next(min(s, t - 1) for t, s in pairwise(grid[1:]) if min(s, t - 1) <= level)
    assert caught.value.level == first
    assert f"level {first}" in str(caught.value)


@pytest.mark.parametrize("level", [1000, 480, 190])
def test_nan_stops_the_jumps_at_its_level(level):
    class Broken(GaussianMixturePrior):
        def denoise(self, x, t):
            out = super().denoise(x, t)
            return out * float("nan") if int(torch.as_tensor(t).min()) <= level else out

    settings = replace(SMALL, jumps=MarginalJumps(count=8, steps=4))
    prior = Broken(PROBLEM_MIXTURE, SCHEDULE)
    with pytest.raises(DivergenceError, match="NaN or infinity") as caught:
        mgdm(prior, gaussian_likelihood(2), (2,), RandomStreams([0, 1]), settings)
    # s of the stages: 500, 400, 300, 200; below them the levels of the loop.
    assert caught.value.level == {1000: 500, 480: 400}.get(level, caught.value.level)
    assert level > 200 or caught.value.level < 200


PROBLEM_MIXTURE = gaussian_prior().mixture


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"levels": 1}, "levels is at least 2; found 1"),
        ({"gibbs": 0}, "gibbs is at least 1; found 0"),
        ({"denoising_steps": -1}, "denoising_steps is not negative; found -1"),
        ({"renoise": "back"}, "'between' or 'forward'; found 'back'"),
        ({"transition": "euler"}, "ddpm, ddim, heun, dpmpp_2m; found 'euler'"),
        ({"conditional": "exact"}, "variational, linearised, tweedie; found 'exact'"),
    ],
)
def test_settings_outside_their_domain(setting, rule):
    with pytest.raises(SettingsError, match=rule):
        replace(SMALL, **setting)


def test_no_x_0_of_its_own():
    with pytest.raises(SettingsError, match="at least 1 with Linearised"):
        sample(replace(SMALL, denoising_steps=0), [0], [0])


def test_conditionals_and_index_laws_go_by_name_or_object():
    for name, kind in CONDITIONALS.items():
        assert MGDMSettings(conditional=name) == MGDMSettings(conditional=kind())
    for name, law in INDEX_LAWS.items():
        assert MGDMSettings(index_law=name) == MGDMSettings(index_law=law())
    with pytest.raises(SettingsError, match="near-zero"):
        MGDMSettings(index_law="near zero")


def test_settings_from_names_what_is_unknown():
    changed = settings_from(SMALL, {"levels": 12, "conditional": "tweedie"})
    assert (changed.levels, changed.conditional) == (12, Tweedie())
    with pytest.raises(SettingsError, match=r"no setting 'level'; valid names: levels, gibbs"):
        settings_from(SMALL, {"level": 3})


def test_it_is_in_the_list_by_name():
    entry = get_sampler("mgdm")
    assert entry.run is mgdm
    assert entry.settings is MGDMSettings
    assert entry.presets is PRESETS
    assert SAMPLERS["mgdm"] is entry
    with pytest.raises(SettingsError, match=r"no sampler 'mgmd'; valid names: .*mgdm"):
        get_sampler("mgmd")
