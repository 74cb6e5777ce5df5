"""What the methods that are not exact do guarantee, and the parts that samplers are built from."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.likelihoods import CallableLikelihood, GaussianLikelihood
from mgdm_core.noise import RandomStreams
from mgdm_core.operators import (
    Mask,
    Matrix,
    SumOverChannels,
)
from mgdm_core.problem import Problem
from mgdm_core.samplers import PRESETS, SAMPLERS
from mgdm_core.samplers.daps import DAPS
from mgdm_core.samplers.ddnm import DDNM
from mgdm_core.samplers.ddrm import DDRM, meet_components
from mgdm_core.samplers.diffpir import DiffPIR
from mgdm_core.samplers.dps import DPS
from mgdm_core.samplers.guess_and_guide import GuessAndGuide
from mgdm_core.samplers.msdm_dirac import MSDMDirac
from mgdm_core.samplers.msdm_gaussian import MSDMGaussian
from mgdm_core.samplers.pgdm import PGDM
from mgdm_core.samplers.pnp_dm import PnPDM
from mgdm_core.samplers.red_diff import REDDiff
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.steps.grids import coupling_levels, karras_levels, posterior_variance

from .closed_forms import OneGenerator, assert_moments, normal
from .samplers_support import CoordinatePrior, draw

VP = NoiseSchedule.vp_linear()
KARRAS = NoiseSchedule.karras(steps=300, sigma_min=1e-3, sigma_max=10.0)
WIDE = Matrix(normal((2, 4), 21))
Y = normal((3, 2), 22)


def linear(sigma_y: float, operator=WIDE, y=Y) -> GaussianLikelihood:
    return GaussianLikelihood(operator, y, sigma_y)


def seeds(count: int = 3, seed: int = 0) -> RandomStreams:
    return RandomStreams.from_seed(seed, count)


# -- consistency with the data -----------------------------------------------------------------


def test_ddnm_without_noise_ends_with_a_x_equal_to_y():
    cfg = DDNM(steps=8, noise_aware=False)
    for operator, shape, y in (
        (WIDE, (4,), Y),
        (SumOverChannels(3), (3, 6), normal((3, 6), 2)),
        (Mask(torch.tensor([[True, False], [False, True]])), (2, 2), normal((3, 2), 3)),
    ):
        x = draw(CoordinatePrior(VP), linear(0.3, operator, y), shape, seeds(), cfg).x
        assert torch.allclose(operator.forward(x), y, atol=1e-10)


def test_a_component_s_noise_is_the_level_s_whatever_the_observation_brings_of_it():
    """Where x_0 is known, x_s / alpha_s has variance q_s^2 around it in every component.

    sigma_y / s is 0.15 and 0.6 on either side of q_s; the third component is not seen.
    """
    sigma_y, eta, items = 0.3, 0.6, 40000
    operator = Matrix(torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)))
    x_0 = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64).expand(items, -1)
    streams = OneGenerator(items, 1)
    y = operator.forward(x_0) + sigma_y * streams.normal((3,), torch.float64)
    problem = Problem(CoordinatePrior(VP), GaussianLikelihood(operator, y, sigma_y), (3,))
    t, s = VP.level_of_sigma(1.0), VP.level_of_sigma(0.4)
    (alpha_t, sigma_t), (alpha, sigma) = VP.moments(t), VP.moments(s)
    x = alpha_t * x_0 + sigma_t * streams.normal((3,), torch.float64)
    z = streams.normal((3,), torch.float64)
    drawn = meet_components(problem, x, x_0, t, s, z, eta, 1.0) / alpha - x_0
    q = sigma / alpha
    zero = torch.zeros(3, dtype=torch.float64)
    assert_moments(drawn, zero, q**2 * torch.eye(3, dtype=torch.float64))
    # The first is y with what noise is left over, the second moved by a share of the gap.
    rest = (q**2 - 0.15**2) ** 0.5 * z[:, 0]
    assert torch.allclose(drawn[:, 0] - rest, y[:, 0] / 2 - x_0[:, 0])
    share = (1 - eta**2) ** 0.5 * q / 0.6
    gap = y[:, 1] / 0.5 - x_0[:, 1]
    assert torch.allclose(drawn[:, 1] - eta * q * z[:, 1], share * gap)


@pytest.mark.parametrize("name", ["ddnm", "ddrm"])
def test_spectral_methods_fit_an_exact_observation_to_the_last_level_s_noise(name):
    settings = SAMPLERS[name](steps=40)
    x = draw(CoordinatePrior(VP), linear(1e-9), (4,), seeds(), settings).x
    last = float(VP.sigma[1] / VP.alpha[1]) * float(torch.linalg.matrix_norm(WIDE.matrix, 2))
    assert float((WIDE.forward(x) - Y).abs().max()) < 5 * last


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddnm", {"steps": 10}),
        ("ddnm", {"steps": 10, "noise_aware": False}),
        ("ddrm", {"steps": 10}),
        ("diffpir", {"steps": 10}),
        ("pgdm", {"steps": 10}),
        ("pgdm", {"steps": 10, "weighting": "score"}),
        ("daps", {"levels": 10}),
    ],
)
def test_what_the_data_do_not_reach_does_not_depend_on_them(name, changes):
    """Under an isotropic prior the null space of A evolves on its own."""
    null = torch.linalg.svd(WIDE.matrix).Vh[2:]
    seen = []
    for y in (Y, Y + 3.0):
        prior, settings = CoordinatePrior(VP, 0.4, 1.3), SAMPLERS[name](**changes)
        seen.append(draw(prior, linear(0.2, y=y), (4,), seeds(), settings).x @ null.T)
    assert torch.allclose(seen[0], seen[1], atol=1e-9)


def test_ddrm_keeps_the_noise_level_of_each_component():
    """With the truth as the estimate, component i has variance q_s^2 whichever rule applies."""
    items, truth = 20000, 0.7
    operator = Matrix(torch.diag(torch.tensor([2.0, 0.2], dtype=torch.float64)))
    streams = OneGenerator(items, 2)
    x_0 = torch.full((items, 2), truth, dtype=torch.float64)
    y = operator.forward(x_0) + 0.5 * streams.normal((2,), torch.float64)
    prior = CoordinatePrior(KARRAS, truth, 1e-12)
    seen = {}

    def spy(x, t):
        seen[int(torch.as_tensor(t).reshape(-1)[0])] = x
        return CoordinatePrior.denoise(prior, x, t)

    watched = CoordinatePrior(KARRAS)
    watched.denoise = spy
    lik = GaussianLikelihood(operator, y, 0.5)
    draw(watched, lik, (2,), streams, DDRM(steps=6, eta=1.0))
    for t, x in seen.items():
        q2 = float(KARRAS.sigma[t]) ** 2
        eye = torch.eye(2, dtype=torch.float64)
        assert_moments(x, torch.full((2,), truth, dtype=torch.float64), q2 * eye)


def test_diffpir_ends_at_the_minimiser_of_the_last_level():
    prior, sigma_y, lam = CoordinatePrior(VP, 0.3, 0.8), 0.25, 2.0
    result = draw(prior, linear(sigma_y), (4,), seeds(), DiffPIR(steps=9, lam=lam))
    a, q2 = WIDE.matrix, float(posterior_variance(VP, 1, None))
    rho = lam * sigma_y**2 / q2
    want = torch.linalg.solve(
        a.T @ a + rho * torch.eye(4, dtype=torch.float64), (Y @ a + rho * prior.last).T
    ).T
    assert torch.allclose(result.x, want, atol=1e-9)


class _PlayBack(RandomStreams):
    """A given first draw, then numbers of its own."""

    def __init__(self, first, seed):
        super().__init__(range(1000 * seed, 1000 * seed + len(first)))
        self.first = first

    def normal(self, shape, dtype=torch.float32, device="cpu"):
        if self.first is None:
            return super().normal(shape, dtype, device)
        drawn, self.first = self.first.to(dtype), None
        return drawn


@pytest.mark.parametrize("zeta", [0.0, 1.0])
def test_diffpir_without_fresh_noise_follows_its_first(zeta):
    first, cfg = normal((3, 4), 17), DiffPIR(steps=5, zeta=zeta)
    a, b = (
        draw(CoordinatePrior(VP), linear(0.2), (4,), _PlayBack(first, seed), cfg).x
        for seed in (1, 2)
    )
    assert torch.allclose(a, b) == (zeta == 0.0)


def test_guess_and_guide_meets_an_exact_observation_and_reaches_no_gradient():
    prior = CoordinatePrior(VP, refuse_grad=True)
    cfg = GuessAndGuide(warm_iterations=4, steps=7, every=3)
    # levels 0, 3, 6 are guided: the last of them is the last level
    result = draw(prior, linear(1e-6), (4,), seeds(), cfg)
    assert torch.allclose(WIDE.forward(result.x), Y, atol=1e-5)
    assert result.trace.evaluations == 11
    assert prior.levels[:5] == [600] * 5  # the warm start stays at its level


def test_the_tied_stem_makes_the_stems_sum_to_the_mixture():
    y = normal((2, 8), 5)
    lik = linear(0.01, SumOverChannels(3), y)
    for source in (0, 2):
        cfg = MSDMDirac(steps=20, source=source)
        x = draw(CoordinatePrior(KARRAS), lik, (3, 8), seeds(2), cfg).x
        assert torch.allclose(x.sum(1), y, atol=1e-12)


def test_msdm_s_residual_closes_with_the_square_of_the_noise():
    """Sum of stems: d r / d q = (3 x weight + shrink) r / q, so weight 1/2 nearly closes it."""
    y = normal((2, 8), 5)
    lik = linear(0.01, SumOverChannels(3), y)
    weak, strong = (
        draw(
            CoordinatePrior(KARRAS, 0.0, 4.0),
            lik,
            (3, 8),
            seeds(2),
            MSDMGaussian(steps=40, weight=weight, s_churn=0.0, resamples=1),
        ).x
        for weight in (0.5, 1e-6)
    )
    closed = float((weak.sum(1) - y).abs().mean())
    assert closed < 0.15 * float((strong.sum(1) - y).abs().mean())


def test_msdm_separates_two_gaussian_stems_by_their_variances():
    """The Wiener estimate y v_1 / (v_1 + v_2) on average over draws, to a tenth (it is biased:
    the tied stem's score is that of the noisy stem)."""
    items, y = 2000, 1.2

    class TwoStems(CoordinatePrior):
        def denoise(self, x, t):
            sigma2 = self.schedule.sigma[torch.as_tensor(t).reshape(-1)[:1]] ** 2
            v = torch.tensor([0.9, 0.3], dtype=x.dtype)[None, :, None]
            return x * v / (v + sigma2)

    lik = linear(0.01, SumOverChannels(2), torch.full((items, 1), y, dtype=torch.float64))
    cfg = MSDMDirac(steps=60, sigma_max=5.0)
    x = draw(TwoStems(KARRAS), lik, (2, 1), OneGenerator(items), cfg).x[:, :, 0]
    assert x.mean(0).tolist() == pytest.approx([0.9, 0.3], abs=0.09)
    assert float(x[:, 0].std()) == pytest.approx((0.9 * 0.3 / 1.2) ** 0.5, rel=0.15)


# -- single steps against their formulas -------------------------------------------------------


def test_dps_steps_by_gamma_along_the_residual():
    """One step from the top, against J^T A^T r in closed form."""
    prior, gamma = CoordinatePrior(VP, 0.0, 2.0), 0.7
    t, s = 1000, 1
    one, two = (
        draw(prior, linear(0.1), (4,), seeds(), DPS(steps=2, gamma=g, eta=0.0)).x
        for g in (gamma, 1e-9)
    )
    x_t = float(VP.sigma[t]) * seeds().normal((4,), torch.float64)
    alpha, sigma = float(VP.alpha[t]), float(VP.sigma[t])
    gain = alpha * 2 / (alpha**2 * 2 + sigma**2)
    residual = Y - WIDE.forward(gain * x_t)
    pull = 2 * gamma * gain * residual @ WIDE.matrix / residual.norm(dim=-1, keepdim=True)
    # x_s moves by the pull; the last step multiplies it by D's gain at level 1
    alpha, sigma = float(VP.alpha[s]), float(VP.sigma[s])
    assert torch.allclose(one - two, pull * alpha * 2 / (alpha**2 * 2 + sigma**2), rtol=1e-6)


def test_dps_brings_the_residual_down():
    prior = CoordinatePrior(VP, 0.0, 1.0)
    cfg = DPS(steps=60, gamma=0.1)
    x = draw(prior, linear(0.1, y=Y + 4), (4,), seeds(), cfg).x
    assert float((Y + 4 - WIDE.forward(x)).norm()) < 0.5 * float((Y + 4).norm())


def test_dps_cuts_the_gradient_of_other_likelihoods():
    """gamma times the gradient, no longer than 2 gamma, carried to x_t by D's Jacobian."""
    steep, flat_ = (
        CallableLikelihood(lambda x, y, k=k: -k * (x - y).square().sum(-1), normal((3, 4), 1))
        for k in (1e6, 1e-3)
    )
    cfg = DPS(steps=2, gamma=0.3, eta=0.0)
    prior = CoordinatePrior(VP, 0.0, 2.0)
    x_t = float(VP.sigma[1000]) * seeds().normal((4,), torch.float64)
    free = draw(prior, steep, (4,), seeds(), DPS(steps=2, gamma=1e-12, eta=0.0)).x

    def gain(t):
        alpha, sigma = float(VP.alpha[t]), float(VP.sigma[t])
        return alpha * 2 / (alpha**2 * 2 + sigma**2)

    way = normal((3, 4), 1) - gain(1000) * x_t
    scale = gain(1000) * gain(1)
    moved = draw(prior, steep, (4,), seeds(), cfg).x - free
    assert torch.allclose(moved, 0.6 * scale * way / way.norm(dim=-1, keepdim=True), rtol=1e-5)
    moved = draw(prior, flat_, (4,), seeds(), cfg).x - free
    assert torch.allclose(moved, 0.3 * scale * 2e-3 * way, rtol=1e-3, atol=1e-12)


def test_pgdm_s_published_step():
    """x_0 + alpha_t J^T r^2 A^T (r^2 A A^T + sigma_y^2)^-1 (y - A x_0), in one step."""
    prior, sigma_y = CoordinatePrior(VP, 0.5, 2.0), 0.3
    x = draw(prior, linear(sigma_y), (4,), seeds(), PGDM(steps=1)).x
    a, x_0 = WIDE.matrix, prior.last
    alpha, sigma = float(VP.alpha[1000]), float(VP.sigma[1000])
    r2 = (sigma / alpha) ** 2 / ((sigma / alpha) ** 2 + 1)
    gram = r2 * a @ a.T + sigma_y**2 * torch.eye(2, dtype=torch.float64)
    pull = r2 * torch.linalg.solve(gram, (Y - x_0 @ a.T).T).T @ a
    gain = alpha * 2 / (alpha**2 * 2 + sigma**2)
    assert torch.allclose(x, x_0 + alpha * gain * pull, rtol=1e-8)


def test_red_diff_ends_at_its_fixed_point():
    """Where every level is far noisier than the data it is ridge regression, exactly."""
    schedule = NoiseSchedule.from_sigmas(torch.linspace(40, 80, 120, dtype=torch.float64))
    v, m, lam = 0.5, 0.3, 0.6
    cfg = REDDiff(steps=120, learning_rate=0.1, lam=lam, rate_decay=0.01)
    x = draw(CoordinatePrior(schedule, m, v), linear(0.1), (4,), seeds(), cfg).x
    a, q2 = WIDE.matrix, 60.0**2
    weight = lam * q2 / (q2 + v) * 2 / 4  # both terms are means: over 2 and over 4 entries
    eye = torch.eye(4, dtype=torch.float64)
    want = m + torch.linalg.solve(a.T @ a + weight * eye, ((Y - m * a.sum(1)) @ a).T).T
    assert torch.allclose(x, want, atol=0.02)


def test_red_diff_s_loss_does_not_know_sigma_y():
    """As published: the data term is the mean of (y - A mu)^2 / 2, whatever sigma_y."""
    cfg = REDDiff(steps=10)
    one, other = (
        draw(CoordinatePrior(VP), linear(sigma_y), (4,), seeds(), cfg).x for sigma_y in (0.1, 0.7)
    )
    assert torch.allclose(one, other, atol=1e-9)


def test_daps_replaces_the_deviation_by_tau():
    prior = CoordinatePrior(VP)
    with_tau = draw(prior, linear(5.0), (4,), seeds(), DAPS(levels=6, tau=0.01)).x
    own = draw(prior, linear(0.01), (4,), seeds(), DAPS(levels=6)).x
    assert torch.allclose(with_tau, own)


def test_presets_of_daps_and_pnp_dm_run_on_their_grids():
    audio = PRESETS["daps"]["audio"]
    levels = karras_levels(KARRAS, 50, audio.sigma_max, audio.sigma_min)
    assert levels[0] == KARRAS.last  # 20 lies above this schedule: its last level
    assert levels == sorted(set(levels), reverse=True)
    cfg = PnPDM(iterations=60, rho=10.0, decay=0.9, floor=0.3)
    ratios = [
        float(KARRAS.sigma[t])
        for t in coupling_levels(
            KARRAS, cfg.iterations, (cfg.rho, cfg.floor), cfg.decay, KARRAS.last
        )
    ]
    assert ratios[0] == pytest.approx(10, rel=0.02)
    assert ratios[10] == pytest.approx(10 * 0.9**10, rel=0.03)
    assert ratios[-1] == pytest.approx(0.3, rel=0.03)
