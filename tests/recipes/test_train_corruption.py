"""What the stems of a training batch are corrupted with."""

import math
from typing import Any

import pytest
import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.priors.spectral_network import DenoisedSpectrum
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.errors import SettingsError
from recipes.music_prior.training.corruption import (
    CorruptionSettings,
    Levels,
    _random_shares,
    corrupt,
    draw_absent,
    draw_levels,
    own_states,
    random_leak,
)

from .tiny_training import near, stream_of


class SayingHalf(STFTUNet):
    """Says that of every bin half is there, and keeps what it was told."""

    def denoise_spectrum(self, spectrum, sigma, absent=None):
        self.told = absent
        return DenoisedSpectrum(spectrum / 2, torch.full(spectrum.shape, 0.5))


class TestCorruption:
    def spectra(self, items=3, seed=0):
        return SpectralTransform(128, 32).forward(
            0.05 * torch.randn(items, 4, 2000, generator=stream_of(seed))
        )

    def test_leak_moves_sound_and_keeps_the_sum(self):
        clean = self.spectra()
        leak = random_leak(clean, CorruptionSettings(), stream_of(1))
        assert leak.abs().mean() > 0.05 * clean.abs().mean()
        torch.testing.assert_close(leak.sum(1), torch.zeros_like(leak.sum(1)), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("blind", [0.0, 0.6, 1.0])
    @pytest.mark.parametrize("begun", [False, True])
    def test_leaks_are_what_shares_make_of_the_sound(self, blind, begun):
        """However an item's leak is computed: all of its sound, by where it comes from, moved."""
        clean, settings = self.spectra(items=12), CorruptionSettings(blind=blind)
        power = 0.1 + torch.rand(4, 65, generator=stream_of(5))
        absent = torch.zeros(12, 4, dtype=torch.bool)
        absent[:4, 2] = True
        stream = stream_of(1)
        frames = clean.shape[-1]
        columns = math.ceil(frames / settings.knot_frames) + 1
        shares, _ = _random_shares(12, 4, columns, settings, stream, absent)
        axis = torch.linspace(0, columns - 1, frames).double()
        over_time = (1 - (torch.arange(columns)[:, None] - axis).abs()).clamp_min(0).float()
        place = torch.log1p(torch.arange(65) / 8)
        place = place / place[-1] * (settings.knots - 1)
        over_bins = (1 - (place[:, None] - torch.arange(settings.knots)).abs()).clamp_min(0)
        moved = over_bins @ shares @ over_time  # (items, to, from, bins, frames)
        expected = (moved * clean[:, None]).sum(2) - clean
        if begun:
            told = power.masked_fill(absent[:, :, None], 0)
            wiener = (told / told.sum(1, keepdim=True))[..., None] * clean.sum(1, keepdim=True)
            begins = torch.rand(12, generator=stream) < 0.5 * blind
            expected[begins] = (wiener - clean)[begins]
            assert bool(begins.any()) == (blind > 0)
        same = stream_of(1)
        leak = random_leak(clean, settings, same, power if begun else None, absent)
        torch.testing.assert_close(leak, expected, atol=1e-6, rtol=1e-4)
        assert torch.equal(same.get_state(), stream.get_state())

    def test_a_silent_song_leaks_nothing(self):
        clean = torch.zeros_like(self.spectra())
        assert not random_leak(clean, CorruptionSettings(), stream_of(1)).abs().any()

    def test_leaking_stem_stays_between_nothing_and_itself(self):
        """Shares lie in [0, 1]: a lone stem loses at most all of itself, others gain its phase."""
        clean = self.spectra()
        clean[:, 1:] = 0
        after = clean + random_leak(clean, CorruptionSettings(), stream_of(2))
        share = (after / clean[:, :1]).nan_to_num()
        assert share.imag.abs().max() < 1e-3
        assert share.real.min() > -1e-4
        assert share.real.max() < 1 + 1e-4

    @pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.5])
    def test_cross_talk_vanishes_with_the_level(self, sigma):
        clean = self.spectra(items=8)
        settings = CorruptionSettings(cross_talk=1.0, quiet_noise=1.0)
        out = corrupt(
            clean, torch.zeros_like(clean), near(torch.full((8,), sigma)), settings, stream_of(3)
        )
        size = (out - clean).abs().square().mean((1, 2, 3)).sqrt()
        assert (size <= sigma * (1 + 1e-4)).all()
        assert size.max() > 0

    def test_without_cross_talk_it_is_white_noise(self):
        clean, noise = self.spectra(), self.spectra(seed=9)
        sigma = torch.tensor([0.1, 0.2, 0.3])
        out = corrupt(clean, noise, near(sigma), CorruptionSettings(cross_talk=0.0), stream_of(3))
        torch.testing.assert_close(out, clean + sigma[:, None, None, None] * noise)

    def test_levels_follow_their_law(self):
        settings = CorruptionSettings(sigma_median=0.1, sigma_spread=1.2)
        logs = draw_levels(4000, settings, stream_of(4)).sigma.log()
        assert abs(float(logs.median()) - math.log(0.1)) < 0.01
        assert abs(float(logs.std()) - 1.2) < 0.05

    def test_diffusion_states_are_clean_stems_in_white_noise_at_any_level(self):
        settings = CorruptionSettings(sigma_median=0.1, diffusion=0.5, sigma_min=1e-3, sigma_max=3)
        levels = draw_levels(2000, settings, stream_of(4))
        assert int(levels.diffusion.sum()) == 1000
        place = (levels.sigma[levels.diffusion] / 1e-3).log() / math.log(3000)
        assert (place.sort().values - torch.linspace(0, 1, 1000)).abs().max() < 0.05
        some = Levels(levels.sigma[:8], torch.arange(8) % 2 == 0)
        clean, noise = self.spectra(8), self.spectra(8, seed=9)
        out = corrupt(clean, noise, some, CorruptionSettings(cross_talk=1.0), stream_of(3))
        plain = clean + some.sigma[:, None, None, None] * noise
        difference = (out - plain).abs().amax((1, 2, 3))
        assert difference[::2].max() < 1e-6
        assert difference[1::2].min() > 1e-4

    def test_only_silent_stems_are_told_and_nothing_leaks_into_them(self):
        clean = self.spectra(40)
        clean[:, 2] = 0
        clean[::2, 0] = 0
        clean[0] = 0
        settings = CorruptionSettings(cross_talk=1.0, blind=0.5, told_absent=0.5)
        absent = draw_absent(clean, settings, stream_of(1))
        told = absent.any(1)
        assert 8 < int(told.sum()) < 32
        assert not told[0]
        silent = ~clean.abs().amax((2, 3)).bool()
        assert torch.equal(absent[told], silent[told])
        power = torch.rand(4, 65) + 0.1
        leak = random_leak(clean, settings, stream_of(2), power, absent)
        assert not leak[absent].abs().any()
        torch.testing.assert_close(leak.sum(1), torch.zeros_like(leak.sum(1)), atol=1e-5, rtol=0)
        assert draw_absent(clean, CorruptionSettings(), stream_of(1)) is None

    def test_who_plays_alone_is_not_told(self):
        """With every other stem known to be silent there is nothing to find out."""
        clean = self.spectra(40)
        clean[::2, 1:] = 0
        clean[1::2, 2:] = 0
        absent = draw_absent(clean, CorruptionSettings(told_absent=1.0), stream_of(1))
        assert not absent[::2].any()
        assert torch.equal(absent[1::2], torch.tensor([False, False, True, True]).expand(20, 4))

    def test_own_states_lie_between_the_state_and_what_the_network_says(self):
        clean, sigma = self.spectra(items=6), torch.full((6,), 0.3)
        noisy = clean + random_leak(clean, CorruptionSettings(), stream_of(1))
        absent = torch.zeros(6, 4, dtype=torch.bool)
        absent[:, 1] = True
        config = STFTUNetConfig(
            stems=4, n_fft=128, hop=32, bands=8, min_band=2, widths=(8,), blocks=(1,)
        )
        network = SayingHalf(config)
        settings = CorruptionSettings(own=0.5)
        state, levels = own_states(network, noisy, clean, sigma, settings, stream_of(2), absent)
        mine = levels < sigma
        assert mine.sum() == 3
        assert torch.equal(state[~mine], noisy[~mine])
        # Half of every stem is missing, and goes to each by its share.
        magnitude = noisy.abs()
        x_0 = noisy / 2 + magnitude / magnitude.sum(1, keepdim=True) * noisy.sum(1)[:, None] / 2
        step = (levels / sigma)[:, None, None, None]
        torch.testing.assert_close(state[mine], (x_0 + step**2 * (noisy - x_0))[mine])
        torch.testing.assert_close(state.sum(1), clean.sum(1))
        assert torch.equal(network.told, absent[:3])

    def test_without_own_states_nothing_is_drawn_or_evaluated(self):
        clean, stream = self.spectra(), stream_of(3)
        before = stream.get_state()
        sigma = torch.ones(3)
        # A network that is not there cannot be asked.
        network: Any = None
        state, levels = own_states(network, clean, clean, sigma, CorruptionSettings(), stream)
        assert state is clean
        assert levels is sigma
        assert torch.equal(stream.get_state(), before)

    def test_levels_of_a_batch_are_spread(self):
        """One level in every quarter of the law, whatever the draw."""
        for seed in range(20):
            settings = CorruptionSettings(sigma_median=0.1, sigma_spread=1.2)
            sigma = draw_levels(4, settings, stream_of(seed)).sigma.sort().values
            normal = (sigma / 0.1).log() / 1.2
            quantile = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
            assert ((quantile * 4).floor() == torch.arange(4)).all()


@pytest.mark.parametrize(
    "change", [{"quiet_power": -1.0}, {"blind": 1.5}, {"own": -0.1}, {"knots": 1}]
)
def test_refuses_corruption_without_sense(change):
    with pytest.raises(SettingsError):
        CorruptionSettings(**change)
