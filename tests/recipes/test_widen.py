"""Widening: the wide network computes what the narrow one does."""

import pytest
import torch

from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.errors import SettingsError
from recipes.music_prior.training.widen import widened

NARROW = dict(n_fft=64, hop=32, bands=8, min_band=2, blocks=(1, 2, 1), embedding=8, hidden=5)


def network(widths, heads, seed=0, **changes):
    net = STFTUNet(STFTUNetConfig(**{**NARROW, "widths": widths, "heads": heads, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        net.start_from_average(0.01 + torch.rand(net.average_power.shape, generator=generator))
    return net


@pytest.mark.parametrize(
    ("widths", "heads"), [((8, 16, 24), 4), ((4, 24, 12), 2), ((12, 8, 36), 6), ((4, 8, 12), 2)]
)
def test_computes_the_same(widths, heads):
    narrow, wide = network((4, 8, 12), 2), network(widths, heads, seed=1)
    generator = torch.Generator().manual_seed(2)
    x = 0.1 * torch.randn(2, 4, 700, generator=generator)
    sigma = torch.tensor([0.03, 0.4])
    with torch.no_grad():
        expected = narrow(x, sigma)
        assert not torch.allclose(wide(x, sigma), expected, atol=1e-3)
        wide.load_state_dict(widened(narrow, wide, 0.0, generator))
        torch.testing.assert_close(wide(x, sigma), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("before", "width", "hidden"), [(6, 6, 5), (6, 12, 5), (32, 64, 5), (6, 12, 15)]
)
def test_a_trunk_over_pitch_is_widened_too(before, width, hidden):
    """The widest of these also keeps more of what a bin is described by."""
    narrow = network((4, 8), 2, blocks=(1, 1), pitch_layers=3, pitch_width=before, pitch_tokens=3)
    wide = network(
        (8, 16),
        4,
        seed=1,
        blocks=(1, 1),
        pitch_layers=3,
        pitch_width=width,
        pitch_tokens=3,
        hidden=hidden,
    )
    generator = torch.Generator().manual_seed(2)
    x, sigma = 0.1 * torch.randn(2, 4, 700, generator=generator), torch.tensor([0.03, 0.4])
    wide.load_state_dict(widened(narrow, wide, 0.0, generator))
    torch.testing.assert_close(wide(x, sigma), narrow(x, sigma), atol=2e-5, rtol=1e-4)


def test_copies_learn_different_things():
    narrow, wide = network((4, 8, 12), 2), network((8, 16, 24), 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    wide.load_state_dict(widened(narrow, wide, 0.0, generator))
    x = 0.1 * torch.randn(2, 4, 700, generator=generator)
    wide(x, torch.tensor([0.03, 0.4])).square().sum().backward()
    gradient = wide.down_blocks[0][0].second.weight.grad
    assert (gradient[:4] - gradient[4:]).norm() > 0.01 * gradient.norm()


def test_noise_is_a_share_of_what_is_widened_and_touches_nothing_else():
    narrow, wide = network((4, 8, 12), 2), network((8, 16, 12), 2, seed=1)
    plain = widened(narrow, wide, 0.0, torch.Generator().manual_seed(2))
    noisy = widened(narrow, wide, 0.1, torch.Generator().manual_seed(2))
    weight = "down_blocks.1.0.first.weight"
    change = (noisy[weight] - plain[weight]).square().mean() / plain[weight].square().mean()
    assert 0.08 < change.sqrt() < 0.12
    for name in ("bottom.0.first.weight", "bin_network.first.weight", "average_power"):
        torch.testing.assert_close(noisy[name], narrow.state_dict()[name], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"widths": (8, 12, 24), "heads": 4}, "multiples"),
        ({"widths": (8, 16, 24), "heads": 2}, "whole heads"),
        ({"widths": (8, 16, 24), "heads": 4, "blocks": (2, 2, 1)}, "deepened"),
        ({"widths": (8, 16, 24), "heads": 4, "hidden": 7}, "all else the same"),
    ],
)
def test_refuses_what_does_not_fit(changes, rule):
    narrow = network((4, 8, 12), 2)
    wide = network(**{"widths": (8, 16, 24), "heads": 4, **changes})
    with pytest.raises(SettingsError, match=rule):
        widened(narrow, wide, 0.0, torch.Generator())
