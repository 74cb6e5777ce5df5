"""The spectral transform and the denoiser built on it."""

import inspect
import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.layers import (
    BandDecoder,
    BandEncoder,
    BandSpread,
    attend,
    band_edges,
    band_groups,
)
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.errors import SettingsError, ShapeError

TINY = STFTUNetConfig(
    n_fft=128, hop=32, bands=8, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2, embedding=16
)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed))


def network(trained: bool = True, config: STFTUNetConfig = TINY) -> STFTUNet:
    """A network as it is made, or with every weight moved off its first value."""
    net = STFTUNet(config)
    if trained:
        generator = stream(1)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(0.15 * torch.randn(p.shape, generator=generator))
    return net.eval()


class TestSpectralTransform:
    @settings(max_examples=40, deadline=None)
    @given(
        length=st.integers(1, 700),
        sizes=st.sampled_from([(64, 16), (64, 32), (128, 8), (6, 3)]),
        seed=st.integers(0, 1000),
    )
    def test_round_trip_is_exact_for_any_length(self, length, sizes, seed):
        transform = SpectralTransform(*sizes)
        x = torch.randn(2, 3, length, generator=stream(seed), dtype=torch.float64)
        spectrum = transform.forward(x)
        assert spectrum.shape == (2, 3, transform.bins, transform.frames(length))
        torch.testing.assert_close(transform.inverse(spectrum, length), x, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("hop", [64, 128])
    def test_white_noise_has_its_variance_in_every_bin(self, hop):
        transform = SpectralTransform(256, hop)
        spectrum = transform.forward(0.3 * noise(400_000))[:, 4:-4]
        power = spectrum.abs().square().mean(1)
        # About 1500 independent frames: a deviation of 3 % for complex bins.
        torch.testing.assert_close(power, torch.full_like(power, 0.09), rtol=0.2, atol=0)
        assert abs(float(power.mean()) / 0.09 - 1) < 0.01

    def test_a_sine_stands_in_its_bin(self):
        transform = SpectralTransform(256, 64)
        t = torch.arange(4096, dtype=torch.float64)
        spectrum = transform.forward(torch.cos(2 * math.pi * 20 / 256 * t)).abs()
        assert (spectrum[:, 8:-8].argmax(0) == 20).all()
        # Half the amplitude times the window's sum over the root of its sum of squares.
        expected = 0.5 * 128 / math.sqrt(3 * 256 / 8)
        torch.testing.assert_close(
            spectrum[20, 8:-8], torch.full_like(spectrum[20, 8:-8], expected), rtol=1e-9, atol=0
        )

    def test_differentiable(self):
        transform = SpectralTransform(16, 4)
        x = noise(37).double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: transform.inverse(transform.forward(x) * (1 + 0.5j), 37), x
        )

    @pytest.mark.parametrize("sizes", [(64, 48), (64, 64), (63, 21), (64, 0), (2, 1)])
    def test_refuses_windows_that_do_not_add_up(self, sizes):
        with pytest.raises(SettingsError):
            SpectralTransform(*sizes)

    def test_refuses_a_foreign_length(self):
        transform = SpectralTransform(64, 16)
        with pytest.raises(ShapeError, match="frames"):
            transform.inverse(transform.forward(noise(100)), 400)


class TestConfig:
    def test_round_trip_through_json(self):
        import json

        stored = json.loads(json.dumps(TINY.to_dict()))
        assert STFTUNetConfig.from_dict(stored) == TINY

    def test_unknown_setting_is_named(self):
        with pytest.raises(SettingsError, match="wdiths"):
            STFTUNetConfig.from_dict({"wdiths": [8]})

    @pytest.mark.parametrize(
        "change",
        [
            {"bands": 7},
            {"widths": (8,)},
            {"heads": 3},
            {"min_band": 20},
            {"sigma_data": 0.0},
            {"stems": 0},
            {"blocks": (1, 0)},
        ],
    )
    def test_refuses_sizes_that_do_not_fit(self, change):
        with pytest.raises(SettingsError):
            STFTUNetConfig.from_dict({**TINY.to_dict(), **change})

    @given(st.integers(1, 6), st.sampled_from([8, 16, 64]), st.sampled_from([512, 1024, 2048]))
    def test_bands_tile_the_bins(self, min_band, bands, bins):
        edges = band_edges(bins, bands, min_band)
        widths = [b - a for a, b in itertools.pairwise(edges)]
        assert edges[0] == 0
        assert edges[-1] == bins
        assert len(widths) == bands
        assert min(widths) >= min_band
        assert widths[0] <= widths[-1]
        groups = band_groups(bins, bands, min_band)
        assert sum(count for count, _ in groups) == bands
        last_begins = sum(count * width for count, width in groups) - groups[-1][1]
        assert last_begins < bins <= last_begins + groups[-1][1] + groups[-1][0]
        assert all(a[1] <= b[1] for a, b in itertools.pairwise(groups))


class TestDenoiser:
    @settings(max_examples=8, deadline=None)
    @given(length=st.integers(1, 900), sigma=st.floats(1e-3, 3.0))
    def test_untrained_it_is_the_skip_of_edm(self, length, sigma):
        x = noise(2, 4, length)
        skip = TINY.sigma_data**2 / (TINY.sigma_data**2 + sigma**2)
        out = network(trained=False)(x, torch.full((2,), sigma))
        torch.testing.assert_close(out, skip * x, atol=2e-6, rtol=1e-4)

    @pytest.mark.parametrize("length", [1, 31, 32, 33, 500, 2049])
    def test_any_length(self, length):
        x = noise(1, 4, length)
        out, mask = network().denoise_with_mask(x, torch.tensor([0.1]))
        assert out.shape == x.shape
        assert mask.shape == (1, 4, 65, length // 32 + 1)
        assert torch.isfinite(out).all()
        assert ((mask >= 0) & (mask <= 1)).all()

    def test_bands_are_spread_over_every_bin_in_order(self):
        """What is constant over the bands stays so; what rises over them rises over the bins."""
        bins, bands = 50, 8
        spread = BandSpread(bins, bands, 2)
        every = torch.arange(bins)
        torch.testing.assert_close(
            spread(torch.ones(1, 1, 1, bands), every), torch.ones(1, 1, 1, bins)
        )
        rising = spread(torch.arange(bands).float().reshape(1, 1, 1, bands), every)[0, 0, 0]
        assert (rising.diff() >= 0).all()
        assert rising[0] == 0
        assert rising[-1] == bands - 1
        chosen, x = torch.tensor([3, 17, 44]), noise(2, 3, 5, bands)
        torch.testing.assert_close(spread(x, chosen), spread(x, every)[..., chosen])

    def test_some_bins_are_what_they_are_among_all(self):
        """Training looks at some bins only; they come out as they would with all the others."""
        net = network()
        parts = torch.view_as_real(net.spectral.forward(noise(2, 4, 640)).transpose(2, 3))
        re, im = parts[..., 0].contiguous(), parts[..., 1].contiguous()
        sigma = torch.tensor([0.1, 0.5])
        chosen = torch.tensor([0, 5, 6, 40, 63])
        for some, whole in zip(
            net.denoise_bins(re, im, sigma, chosen), net.denoise_parts(re, im, sigma)
        ):
            torch.testing.assert_close(some, whole[..., chosen], atol=1e-6, rtol=1e-5)

    def test_every_bin_enters_one_band(self):
        bins, bands = 50, 8
        encoder = BandEncoder(bins, bands, 2, 1, 1, 1)
        with torch.no_grad():
            for weight in encoder.weights:
                weight.fill_(1.0)
        heard = encoder(torch.eye(bins)[:, None, None])[:, 0, :, 0]
        assert torch.equal(heard.sum(1), torch.ones(bins))
        order = heard.argmax(1)
        assert torch.equal(order, order.sort().values)
        assert len(order.unique()) == bands

    def test_a_band_decides_its_own_bins_and_a_column_its_own_frames(self):
        bins, bands, patch = 50, 8, 3
        encoder = BandEncoder(bins, bands, 2, 1, patch, 1)
        decoder = BandDecoder(bins, bands, 2, 5, patch, 4)
        assert not decoder(noise(2, 4, bands, 6)).any()
        with torch.no_grad():
            for weight in encoder.weights:
                weight.fill_(1.0)
            for weight in decoder.weights:
                weight.copy_(noise(*weight.shape, seed=2))
        for band, column in ((0, 0), (3, 2), (7, 5)):
            x = torch.zeros(2, 4, bands, 6)
            x[1, :, band, column] = noise(4, seed=3)
            out = decoder(x)
            assert out.shape == (2, 5, 6 * patch, bins)
            heard = out[1].abs().amin(0) > 0
            assert not out[0].any()
            assert torch.equal(out[1].abs().amax(0) > 0, heard)
            # The same bins and frames as the encoder gathers there.
            gathered = encoder(heard.float()[None, None])[0, 0]
            assert gathered[band, column] == heard.sum() == gathered.sum()
            assert heard.any(1).sum() == patch

    def test_started_from_average_spectra_it_is_their_wiener_filter(self):
        net = network(trained=False)
        power = 0.01 * torch.rand(4, TINY.n_fft // 2 + 1, generator=stream(4)) + 1e-4
        net.start_from_average(power)
        with torch.no_grad():
            net.bias[8] = -20.0  # nothing is moved
        white = 0.07 * noise(1, 4, 320)
        # The masks of quiet bins are Wiener's at the nominal level, since the noise is that loud.
        with torch.no_grad():
            net.evidence.zero_()
        _, mask = net.denoise_with_mask(1.5 * white, torch.tensor([0.07]))
        wiener = (power / (power + 0.07**2))[None, :, :, None].expand_as(mask)
        torch.testing.assert_close(mask[:, :, :-1], wiener[:, :, :-1], atol=1e-5, rtol=0)
        assert torch.equal(net.average_power, power)
        with torch.no_grad():
            net.evidence.fill_(1.0)
        loud = net.denoise_with_mask(100 * noise(1, 4, 320), torch.tensor([0.07]))[1]
        assert loud[:, :, 1:-1].median() > 0.99

    def test_quiet_states_keep_their_sound(self):
        """Less noise than the level says: the rest of the level may be cross-talk, no reason to
        take sound away."""
        net = network(trained=False)
        net.start_from_average(torch.full((4, TINY.n_fft // 2 + 1), TINY.sigma_data**2))
        x = torch.zeros(2, 4, 2000)
        x[:, :, 800:900] = 0.2 * noise(2, 4, 100)
        for level in (0.005, 0.5):
            loss = (net(x, torch.full((2,), level)).sum(1) - x.sum(1)).square().mean()
            assert (loss / x.sum(1).square().mean()).item() < 0.02
        hidden = net(x + 0.5 * noise(2, 4, 2000), torch.full((2,), 0.5))
        assert ((hidden - x).square().mean() / x.square().mean()).item() > 0.5

    def test_where_sound_is_counts_at_low_levels_only(self):
        net = network(trained=False)
        net.start_from_average(torch.full((4, TINY.n_fft // 2 + 1), TINY.sigma_data**2))
        x = torch.zeros(1, 4, 2000)
        x[:, 1, 800:900] = 0.2 * noise(1, 1, 100)[:, 0]
        kept = net(x, torch.tensor([1e-3]))
        assert ((kept - x).square().mean() / x.square().mean()).item() < 0.01
        spread = net(x, torch.tensor([2.0]))
        equal = x.sum(1, keepdim=True) / 4
        assert ((spread - equal).square().mean() / equal.square().mean()).item() < 0.05

    def test_the_gain_is_the_jacobian_of_a_bin_on_itself(self):
        """With all learnt weights at their start and quiet bins, D is linear in X."""
        net = network(trained=False)
        net.start_from_average(torch.rand(4, TINY.n_fft // 2 + 1, generator=stream(4)))
        with torch.no_grad():
            net.evidence.zero_()
            net.bias[8] = 2.0
        x, sigma = noise(1, 4, 320), torch.tensor([0.5])
        spectrum = net.spectral.forward(1e-3 * x)
        first = net.denoise_spectrum(spectrum, sigma)
        moved = spectrum.clone()
        moved[0, 2, 10, 3] += 1e-3
        second = net.denoise_spectrum(moved, sigma)
        slope = (second.spectrum - first.spectrum)[0, 2, 10, 3].real / 1e-3
        assert slope.item() == pytest.approx(first.mask[0, 2, 10, 3].item(), rel=1e-3)

    def test_items_do_not_see_each_other(self):
        net = network()
        x, sigma = noise(3, 4, 640), torch.tensor([0.02, 0.2, 1.0])
        together = net(x, sigma)
        alone = torch.cat([net(x[i : i + 1], sigma[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)

    def test_stems_are_not_interchangeable_and_do_see_each_other(self):
        net = network()
        x, sigma = noise(1, 4, 640), torch.tensor([0.2])
        changed = x.clone()
        changed[:, 3] *= 2
        assert not torch.allclose(net(x, sigma)[:, 0], net(changed, sigma)[:, 0], atol=1e-4)

    def test_polarity_comes_through(self):
        """Phases count against the phase of the sum alone, so the network is odd."""
        net = network()
        x, sigma = noise(1, 4, 640), torch.tensor([0.2])
        torch.testing.assert_close(net(-x, sigma), -net(x, sigma), atol=1e-5, rtol=1e-4)

    def test_scale_of_the_noise_decides(self):
        """Loud against the noise is kept; the same sound far below it is not."""
        x = noise(1, 4, 640)
        kept = network(trained=False).denoise_with_mask(x, torch.tensor([1e-3]))[1]
        lost = network(trained=False).denoise_with_mask(x, torch.tensor([10.0]))[1]
        assert kept.min() > 0.99
        assert lost.max() < 1e-3

    def test_gradient_through_the_waveform(self):
        net = network()
        x = noise(1, 4, 300).requires_grad_()
        direction = noise(1, 4, 300, seed=5)
        sigma = torch.tensor([0.3])
        (gradient,) = torch.autograd.grad((net(x, sigma) * direction).sum(), x)
        assert torch.isfinite(gradient).all()
        step = 1e-2 * gradient / gradient.norm()
        with torch.no_grad():
            change = ((net(x + step, sigma) - net(x - step, sigma)) * direction).sum() / 2
        torch.testing.assert_close((gradient * step).sum(), change, rtol=2e-2, atol=1e-6)

    def test_gradient_at_silence_is_finite(self):
        x = torch.zeros(1, 4, 300, requires_grad=True)
        (gradient,) = torch.autograd.grad(network()(x, torch.tensor([0.3])).square().sum(), x)
        assert torch.isfinite(gradient).all()

    def test_gradient_reaches_every_weight(self):
        net = network()
        net(noise(1, 4, 640), torch.tensor([0.1])).square().sum().backward()
        without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_without_crossing_stems(self):
        config = STFTUNetConfig.from_dict({**TINY.to_dict(), "cross_stem": False})
        net = network(config=config)
        assert net.outputs == 4
        assert net(noise(1, 4, 200), torch.tensor([0.1])).shape == (1, 4, 200)

    def test_half_precision_autocast_is_close(self):
        net, x, sigma = network(), noise(1, 4, 640), torch.tensor([0.2])
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, sigma)
        assert half.dtype == torch.float32
        full = net(x, sigma)
        assert (half - full).norm().item() < 0.05 * full.norm().item()

    def test_float64_waveforms_come_back_as_float64(self):
        out = network()(noise(1, 4, 100).double(), torch.tensor([0.2], dtype=torch.float64))
        assert out.dtype == torch.float64

    def test_shape_errors_say_what_is_needed(self):
        net = network()
        with pytest.raises(ShapeError, match="4, samples"):
            net(noise(1, 3, 100), torch.tensor([0.1]))
        unchecked = inspect.unwrap(type(net).denoise_with_mask)  # users have no type checker
        with pytest.raises(ShapeError, match="one value per item"):
            unchecked(net, noise(2, 4, 100), torch.tensor([0.1]))

    def test_state_dict_rebuilds_it(self):
        net = network()
        net.average_power.copy_(torch.rand(net.average_power.shape, generator=stream(3)))
        again = STFTUNet(STFTUNetConfig.from_dict(net.config.to_dict()))
        again.load_state_dict(net.state_dict())
        x, sigma = noise(1, 4, 300), torch.tensor([0.1])
        assert torch.equal(again.eval()(x, sigma), net(x, sigma))
        assert torch.equal(again.average_power, net.average_power)

    @pytest.mark.slow
    def test_compiles_whole(self, repo_root):
        command = [sys.executable, "-m", "tests.audio.compiled_network"]
        done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_attention_written_out_for_training_is_torchs():
    q, k, v = (noise(2, 3, 7, 4, seed=i).double() for i in range(3))
    with torch.no_grad():
        fused = attend(q, k, v)
    written = attend(q.requires_grad_(), k, v)
    assert torch.allclose(written, fused, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda q: attend(q, k, v), (q,))
