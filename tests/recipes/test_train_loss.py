"""The loss of training, and the mean of the weights over its steps."""

import math

import pytest
import torch

from mgdm_audio.priors.spectral import SpectralTransform
from recipes.music_prior.training.loss import (
    PowerAverage,
    choose_bins,
    decibel_loss,
    denoising_loss,
)

from .tiny_training import stream_of


class TestLoss:
    def test_skip_of_edm_on_white_stems_scores_one(self):
        sigma_data, sigma = 0.05, torch.tensor([0.01, 0.05, 0.4])
        transform = SpectralTransform(256, 64)
        clean = transform.forward(sigma_data * torch.randn(3, 4, 30_000, generator=stream_of()))
        noise = transform.forward(torch.randn(3, 4, 30_000, generator=stream_of(1)))
        noisy = clean + sigma[:, None, None, None] * noise
        skip = (sigma_data**2 / (sigma_data**2 + sigma**2))[:, None, None, None] * noisy
        losses = denoising_loss((skip.real, skip.imag), clean, sigma, sigma_data)
        torch.testing.assert_close(losses, torch.ones(3, 4), atol=0.05, rtol=0)

    def test_perfect_scores_zero(self):
        clean = SpectralTransform(64, 16).forward(torch.randn(2, 4, 500, generator=stream_of()))
        sigma = torch.tensor([0.1, 1.0])
        assert denoising_loss((clean.real, clean.imag), clean, sigma, 0.05).abs().max() == 0

    def test_stems_count_alike_until_they_are_hardly_there(self):
        clean = SpectralTransform(64, 16).forward(torch.randn(1, 3, 500, generator=stream_of()))
        clean = clean * torch.tensor([0.1, 0.05, 0.005])[:, None, None]
        nothing = torch.zeros_like(clean)
        sigma = torch.tensor([100.0])
        loud, quiet, least = denoising_loss((nothing.real, nothing.imag), clean, sigma, 0.05)[0]
        assert float(quiet) == pytest.approx(float(loud), rel=0.01)
        # Its power is a hundredth of sigma_data^2, and 0.4 of that is what it is measured by.
        assert float(least) == pytest.approx(0.01 / 0.4, rel=0.2)

    def test_some_bins_estimate_the_error_of_all(self):
        """Over many draws the weighted error of some bins is that of all of them."""
        clean = SpectralTransform(256, 64).forward(torch.randn(1, 2, 2000, generator=stream_of()))
        clean = clean.transpose(2, 3)[..., :128]
        clean = clean * torch.linspace(1, 0.1, 128)
        nothing = torch.zeros(clean.shape)
        sigma, generator = torch.tensor([0.2]), stream_of(3)
        exact = denoising_loss((nothing, nothing), clean, sigma, 0.05)
        drawn = []
        for _ in range(400):
            chosen = choose_bins(128, 0.3, generator)
            assert len(chosen.bins) == len(chosen.bins.unique()) == 38
            part = nothing[..., chosen.bins]
            drawn.append(denoising_loss((part, part), clean, sigma, 0.05, chosen))
        torch.testing.assert_close(torch.stack(drawn).mean(0), exact, rtol=5e-3, atol=0)
        everything = denoising_loss(
            (nothing, nothing), clean, sigma, 0.05, choose_bins(128, 1.0, generator)
        )
        torch.testing.assert_close(everything, exact)

    def test_decibels_are_those_of_the_waveform(self):
        """Bounded at both ends, (1 - a) / a is the reciprocal of the SI-SDR, at any scale."""
        true = torch.randn(1, 2, 60_000, generator=stream_of(), dtype=torch.float64)
        noise = torch.randn(true.shape, generator=stream_of(1), dtype=torch.float64)
        wave = 0.3 * (true + torch.tensor([0.3, 1.5])[:, None] * noise)
        along = (wave * true).sum(2, keepdim=True) / true.square().sum(2, keepdim=True) * true
        ratio = along.square().sum(2) / (wave - along).square().sum(2)
        expected = torch.log((1 / (1 + ratio) + 0.02) / (ratio / (1 + ratio) + 0.1))
        transform = SpectralTransform(256, 64)
        clean, found = transform.forward(true), transform.forward(wave)
        losses = decibel_loss((found.real, found.imag), clean)
        torch.testing.assert_close(losses, expected.float(), atol=0.02, rtol=0)

    def test_decibels_of_silence_are_nought_and_pull_at_nothing(self):
        clean = SpectralTransform(64, 16).forward(torch.randn(1, 2, 500, generator=stream_of()))
        clean = clean * torch.tensor([1.0, 5e-4])[:, None, None]
        found = torch.zeros_like(clean).real.requires_grad_()
        losses = decibel_loss((found, found), clean)
        losses.sum().backward()
        # Nothing at all is as wrong as can be, and no gradient of it is infinite.
        assert losses.tolist() == [[pytest.approx(math.log(1.02 / 0.1), rel=1e-5), 0.0]]
        assert bool(torch.isfinite(found.grad).all())
        assert float(found.grad[:, 1].abs().max()) == 0

    def test_decibels_of_some_bins_are_near_those_of_all(self):
        clean = SpectralTransform(256, 64).forward(torch.randn(1, 2, 9000, generator=stream_of()))
        clean = clean.transpose(2, 3)[..., :128] * torch.linspace(1, 0.1, 128)
        noise = torch.randn(clean.shape, generator=stream_of(1), dtype=clean.dtype)
        found = clean + 0.3 * noise
        chosen = choose_bins(128, 0.3, stream_of(3))
        part = found[..., chosen.bins]
        torch.testing.assert_close(
            decibel_loss((part.real, part.imag), clean, chosen),
            decibel_loss((found.real, found.imag), clean),
            atol=0.15,
            rtol=0,
        )

    def test_power_average_of_a_ramp(self):
        """The profile is t^gamma: of the values 1..n its mean is about n (gamma+1)/(gamma+2)."""
        average = PowerAverage({"w": torch.zeros(1, dtype=torch.float64)}, length=0.1)
        for step in range(1, 2001):
            average.update({"w": torch.full((1,), float(step), dtype=torch.float64)}, step)
        gamma = average.gamma
        expected = 2000 * (gamma + 1) / (gamma + 2)
        assert abs(float(average.values["w"]) / expected - 1) < 2e-3
        deviation = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
        assert abs(deviation - 0.1) < 1e-6

    def test_first_update_forgets_the_start(self):
        average = PowerAverage({"w": torch.full((1,), 9.0)}, length=0.05)
        average.update({"w": torch.ones(1)}, 1)
        assert float(average.values["w"]) == 1.0
