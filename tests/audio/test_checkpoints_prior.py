"""The waveform prior as samplers see it: levels, dtypes, capabilities, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mgdm_audio.errors import PriorError
from mgdm_audio.priors import Levels, WaveformPrior, make_prior
from mgdm_audio.priors.protocols import SpectralPrior, StemPrior
from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.priors import Prior, VariancePrior
from tests.audio.checkpoint_helpers import STEMS, generator, tiny_unet

LEVELS = Levels(sigma_min=0.01, sigma_max=2.0, rho=7.0, steps=20)


class Wiener(nn.Module):
    """The exact denoiser of white stems of deviation 0.5, with its mask."""

    def __init__(self):
        super().__init__()
        self.spectral = SpectralTransform(64, 16)
        self.register_buffer("average_power", torch.full((4, 33), 0.25))
        self.weight = nn.Parameter(torch.tensor(0.25))

    def forward(self, x, sigma):
        return self.denoise_with_mask(x, sigma)[0]

    def denoise_with_mask(self, x, sigma):
        gain = self.weight / (self.weight + sigma[:, None, None] ** 2)
        frames = self.spectral.frames(x.shape[-1])
        return gain * x, gain[..., None].expand(len(x), 4, 33, frames)


def prior_of(network, **changes) -> WaveformPrior:
    facts = {
        "stems": STEMS, "rate": 22_050, "window": 4096, "levels": LEVELS, "precision": "float32",
    }  # fmt: skip
    return make_prior(network, **(facts | changes))


def noisy(batch: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 4, 200, generator=generator(), dtype=dtype)


def test_the_level_sets_the_noise():
    prior, x = prior_of(Wiener()), noisy()
    sigma = prior.schedule.sigma.float()
    for t in (1, 7, 20):
        expected = x * 0.25 / (0.25 + sigma[t] ** 2)
        assert torch.allclose(prior.denoise(x, t), expected, rtol=1e-6)
        assert torch.allclose(prior.denoise_at(x, float(sigma[t])), expected, rtol=1e-6)
    levels = torch.tensor([3, 20, 1])
    each = torch.cat([prior.denoise(x[i : i + 1], int(t)) for i, t in enumerate(levels)])
    assert torch.allclose(prior.denoise(x, levels), each)


def test_clean_items_come_back_as_they_are():
    prior, x = prior_of(Wiener()), noisy()
    assert torch.equal(prior.denoise(x, 0), x)
    mixed = prior.denoise(x, torch.tensor([0, 5, 0]))
    assert torch.equal(mixed[[0, 2]], x[[0, 2]])
    assert torch.allclose(mixed[1:2], prior.denoise(x[1:2], 5))
    denoised = prior.denoise_with_variance(x, torch.tensor([0, 5, 0]))
    assert torch.equal(denoised.mean, mixed)
    assert denoised.variance[[0, 2]].abs().max() == 0


def test_the_variance_is_that_of_the_posterior():
    prior, x = prior_of(Wiener()), noisy()
    mean, variance, basis = prior.denoise_with_variance(x, 9)
    noise = float(prior.schedule.sigma[9]) ** 2
    assert variance.shape == basis.forward(mean).shape
    exact = torch.tensor(0.25 * noise / (0.25 + noise))
    assert torch.allclose(variance, exact.expand_as(variance), rtol=1e-5)


def test_capabilities_are_those_of_the_network():
    spectral, plain = prior_of(Wiener()), prior_of(tiny_unet())
    assert isinstance(spectral, Prior)
    assert isinstance(plain, Prior)
    assert isinstance(spectral, VariancePrior)
    assert not isinstance(plain, VariancePrior)
    assert isinstance(spectral, SpectralPrior)
    assert isinstance(plain, StemPrior)
    assert not isinstance(plain, SpectralPrior)

    class Masked(nn.Module):
        def denoise_with_mask(self, x, sigma):
            return x, x

    with pytest.raises(PriorError, match="'spectral'"):
        prior_of(Masked())


def test_wider_arithmetic_outside_is_kept():
    prior = prior_of(Wiener())
    x = noisy(dtype=torch.float64)
    assert prior.denoise(x, 5).dtype == torch.float64
    assert torch.allclose(prior.denoise(x, 5).float(), prior.denoise(x.float(), 5))


def test_the_callers_autocast_does_not_reach_a_float32_network():
    prior, x = prior_of(tiny_unet()), noisy()
    expected = prior.denoise(x, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prior.denoise(x, 5), expected)


def test_gradients_reach_the_waveform_but_not_the_weights():
    prior = prior_of(Wiener())
    x = noisy().requires_grad_()
    prior.denoise(x, 5).sum().backward()
    gain = 0.25 / (0.25 + float(prior.schedule.sigma[5]) ** 2)
    assert torch.allclose(x.grad, torch.full_like(x, gain))
    assert all(p.grad is None and not p.requires_grad for p in prior.network.parameters())


def test_many_threads_on_one_prior_agree():
    prior, x = prior_of(tiny_unet()), noisy(1)
    levels = list(range(1, 9))
    with torch.no_grad():
        expected = [prior.denoise(x, t) for t in levels]

    def work(t):
        with torch.no_grad():
            return prior.denoise(x, t)

    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(work, levels), expected, strict=True):
            assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "t", "kind"),
    [
        ((1, 3, 10), 1, ShapeError),
        ((1, 4, 0), 1, ShapeError),
        ((1, 4, 10), -1, SettingsError),
        ((1, 4, 10), 21, SettingsError),
    ],
)
def test_what_does_not_fit_is_refused(shape, t, kind):
    with pytest.raises(kind):
        prior_of(Wiener()).denoise(torch.zeros(shape), t)


def test_a_noise_deviation_is_positive():
    with pytest.raises(SettingsError, match="above 0"):
        prior_of(Wiener()).denoise_at(noisy(), 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"stems": ()},
        {"stems": ("a", "a")},
        {"stems": ("a", "")},
        {"rate": 0},
        {"window": 0},
        {"precision": "int8"},
    ],
)
def test_facts_are_checked(changes):
    with pytest.raises(SettingsError):
        prior_of(Wiener(), **changes)
