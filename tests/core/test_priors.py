"""Whatever a network predicts, every adapter ends at one and the same exact denoiser."""

import pytest
import torch

from mgdm_core.errors import SettingsError
from mgdm_core.operators import LinearOperator, Matrix, compose
from mgdm_core.priors import (
    DenoiserPrior,
    EDMPrior,
    GaussianMixture,
    GaussianMixturePrior,
    GuidedPrior,
    LatentPrior,
    NoisePredictionPrior,
    Prior,
    ScorePrior,
    VariancePrior,
    VelocityPrior,
)
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal

SCHEDULES = {
    "vp_linear": NoiseSchedule.vp_linear(),
    "vp_cosine": NoiseSchedule.vp_cosine(),
    "karras": NoiseSchedule.karras(),
}
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[1.5, -2.0, 0.0], [-1.0, 0.5, 3.0]], dtype=torch.float64)
VARIANCE = 0.4


def clean_denoiser(u: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """E[x_0 | x_0 + ratio eps = u] of the mixture, written out here on its own."""
    ratio = ratio.reshape(-1, 1).to(u)
    spread = VARIANCE + ratio**2
    distance = (u[:, None] - MEANS.to(u)).square().sum(-1)
    share = torch.softmax(WEIGHTS.to(u).log() - distance / (2 * spread), 1)
    shrunk = MEANS.to(u) + VARIANCE / spread[:, :, None] * (u[:, None] - MEANS.to(u))
    return torch.einsum("bc,bcd->bd", share, shrunk)


def network(kind: str, schedule: NoiseSchedule):
    """The perfect network of each parametrisation."""
    alpha, sigma = schedule.alpha, schedule.sigma

    def by_level(x, time):
        assert time.dtype == torch.long
        level = time + 1
        a, s = (m[level].to(x).reshape(-1, 1) for m in (alpha, sigma))
        return a, s, clean_denoiser(x / a, s / a)

    def noise(x, time):
        a, s, x_0 = by_level(x, time)
        return (x - a * x_0) / s

    def velocity(x, time):
        a, s, x_0 = by_level(x, time)
        return a * (x - a * x_0) / s - s * x_0

    def score(x, ratio):
        level = (sigma / alpha - ratio.double()[:, None]).abs().argmin(1)
        a, s = (m[level].to(x).reshape(-1, 1) for m in (alpha, sigma))
        return (a * clean_denoiser(x / a, s / a) - x) / s**2

    def edm(scaled, time):
        # Karras et al. 2022, table 1, solved for F; sigma_data 0.7.
        r = (4 * time).exp().reshape(-1, 1)
        u = scaled * (r**2 + 0.49).sqrt()
        skip, out = 0.49 / (r**2 + 0.49), r * 0.7 / (r**2 + 0.49).sqrt()
        return (clean_denoiser(u, r) - skip * u) / out

    return {
        "noise": NoisePredictionPrior(noise, schedule),
        "velocity": VelocityPrior(velocity, schedule),
        "score": ScorePrior(score, schedule),
        "denoiser": DenoiserPrior(clean_denoiser, schedule),
        "edm": EDMPrior(edm, schedule, sigma_data=0.7),
    }[kind]


KINDS = ["noise", "velocity", "score", "denoiser", "edm"]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_is_the_exact_denoiser(kind, name):
    schedule = SCHEDULES[name]
    prior = network(kind, schedule)
    t = torch.tensor([1, 30, 400, 700, 1000])
    x = schedule.sigma[t][:, None] * normal((5, 3), 1) + schedule.alpha[t][:, None] * MEANS[0]
    eye = VARIANCE * torch.eye(3, dtype=torch.float64)
    exact = GaussianMixturePrior(
        GaussianMixture(WEIGHTS, MEANS, eye.expand(2, 3, 3).clone()), schedule
    )
    want = exact.denoise(x, t)
    got = prior.denoise(x, t)
    # x / alpha loses digits where the signal is all but gone, and eps where the noise is.
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    one_by_one = torch.cat([prior.denoise(x[i : i + 1], int(t[i])) for i in range(5)])
    torch.testing.assert_close(one_by_one, got, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_level_zero_is_the_identity_and_never_reaches_the_network(kind):
    prior = network(kind, SCHEDULES["vp_linear"])
    x = normal((3, 3), 2)
    assert torch.equal(prior.denoise(x, 0), x)
    mixed = prior.denoise(x, torch.tensor([0, 500, 0]))
    assert torch.equal(mixed[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(mixed[1:2], prior.denoise(x[1:2], 500), rtol=1e-12, atol=0)


def test_adapters_are_priors_and_the_exact_prior_too():
    for kind in KINDS:
        prior = network(kind, SCHEDULES["karras"])
        assert isinstance(prior, Prior)
        assert not isinstance(prior, VariancePrior)


def test_a_learned_variance_is_split_off():
    schedule = SCHEDULES["vp_linear"]

    def eps(x, time):
        return torch.tanh(x)

    def eps_and_variance(x, time):
        return torch.cat([torch.tanh(x), torch.full_like(x, 99.0)], 1)

    x = normal((2, 3, 4, 4), 3)
    plain = NoisePredictionPrior(eps, schedule).denoise(x, 300)
    split = NoisePredictionPrior(eps_and_variance, schedule).denoise(x, 300)
    assert torch.equal(plain, split)


def test_network_times_map_levels_to_the_networks_own():
    schedule = NoiseSchedule.from_alphas_cumprod([0.9, 0.5, 0.1])
    seen = []

    def eps(x, time):
        seen.append(time.tolist())
        return torch.zeros_like(x)

    times = torch.tensor([0, 333, 999])
    prior = NoisePredictionPrior(eps, schedule, network_times=times)
    prior.denoise(torch.zeros(3, 1), torch.tensor([3, 1, 2]))
    NoisePredictionPrior(eps, schedule).denoise(torch.zeros(1, 1), 3)
    assert seen == [[999, 0, 333], [2]]
    with pytest.raises(SettingsError, match=r"one entry per level 1\.\.3; found 2"):
        NoisePredictionPrior(eps, schedule, network_times=times[:2])


@pytest.mark.parametrize("kind", [NoisePredictionPrior, ScorePrior, DenoiserPrior, EDMPrior])
def test_what_is_divided_by_alpha_asks_for_some(kind):
    with pytest.raises(SettingsError, match=f"{kind.__name__} divides by alpha, which is 0"):
        kind(clean_denoiser, NoiseSchedule.flow(10))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_arithmetic_keeps_the_inputs_precision(dtype):
    schedule = SCHEDULES["karras"]
    seen = []

    def half(u, ratio):
        seen.append(u.dtype)
        return clean_denoiser(u.float(), ratio.float()).to(u.dtype)

    prior = DenoiserPrior(half, schedule, network_dtype=torch.bfloat16)
    x = normal((4, 3), 4).to(dtype)
    out = prior.denoise(x, 800)
    assert seen == [torch.bfloat16]
    assert out.dtype == dtype
    exact = DenoiserPrior(clean_denoiser, schedule).denoise(x.double(), 800)
    torch.testing.assert_close(out.double(), exact, rtol=0.03, atol=0.05)


def test_edm_refuses_a_scale_of_zero():
    with pytest.raises(SettingsError, match="sigma_data is positive; found 0"):
        EDMPrior(lambda x, t: x, SCHEDULES["karras"], sigma_data=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_input(kind):
    prior = network(kind, SCHEDULES["vp_linear"])
    x = normal((2, 3), 5)
    assert torch.autograd.gradcheck(lambda z: prior.denoise(z, 400), x.requires_grad_(True))


def test_a_latent_problem_is_the_operator_after_the_decoder():
    schedule = SCHEDULES["vp_linear"]
    root = normal((6, 3), 6)
    latent = DenoiserPrior(clean_denoiser, schedule)
    prior = LatentPrior(
        latent,
        encoder=lambda x: x @ torch.linalg.pinv(root).T,
        decoder=lambda z: z @ root.T,
        scale=0.18,
    )
    z = normal((4, 3), 7)
    torch.testing.assert_close(prior.encode(prior.decode(z)), z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prior.decode(z), z @ root.T / 0.18, rtol=1e-12, atol=1e-12)
    assert torch.equal(prior.denoise(z, 200), latent.denoise(z, 200))
    assert prior.schedule is schedule

    pick = Matrix(normal((2, 6), 8))
    operator = compose(pick, prior.decoder_operator())
    assert not isinstance(operator, LinearOperator)
    z = z.requires_grad_(True)
    torch.testing.assert_close(operator.forward(z), z @ root.T @ pick.matrix.T / 0.18)
    operator.forward(z).square().sum().backward()
    assert z.grad is not None
    assert bool((z.grad != 0).all())


def test_guidance_moves_along_the_line_between_two_priors():
    """Under N(m_1, C) and N(m_0, C) the denoiser is that of N(m_0 + w (m_1 - m_0), C)."""
    schedule, cov = NoiseSchedule.vp_linear(), torch.eye(3).double()[None]
    means = normal((2, 3), 1)

    def gaussian(mean):
        return GaussianMixturePrior(GaussianMixture(torch.ones(1), mean[None], cov), schedule)

    guided = GuidedPrior(gaussian(means[1]), gaussian(means[0]), 2.5)
    x, t = normal((4, 3), 2), torch.tensor([10, 400, 900, 1000])
    want = gaussian(means[0] + 2.5 * (means[1] - means[0])).denoise(x, t)
    torch.testing.assert_close(guided.denoise(x, t), want)
    other = NoiseSchedule.vp_cosine()
    mixture = GaussianMixture(torch.ones(1), means[:1], cov)
    with pytest.raises(SettingsError, match=r"same levels; found .* 'vp_linear' and 'vp_cosine'"):
        GuidedPrior(guided, GaussianMixturePrior(mixture, other), 1.0)
