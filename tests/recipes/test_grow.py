"""Networks that go on from smaller ones compute what those did."""

from __future__ import annotations

import pytest
import torch

from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.errors import SettingsError
from recipes.music_prior.training.grow import grown
from recipes.music_prior.training.tfc_tdf import TFCTDFConfig

SIZES = dict(n_fft=128, hop=32, bands=8, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2)
SIZES.update(embedding=16, hidden=12)
PATH = dict(path_width=16, path_layers=2, path_heads=2, path_patch=4, path_features=4, path_rank=8)

PITCH = dict(pitch_layers=2, pitch_width=6)


def filled(network, seed):
    """All weights random, so that nothing is zero by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    power = 0.003 * torch.rand(network.average_power.shape, generator=generator) + 1e-4
    network.start_from_average(power)
    return network.eval()


def states(stems, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(2, stems, 700, generator=generator)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (STFTUNetConfig(**SIZES), DualPathConfig(**SIZES, **PATH)),
        (DualPathConfig(**SIZES, **PATH), DualPathConfig(**SIZES, **PATH)),
        (STFTUNetConfig(**SIZES), TFCTDFConfig(**SIZES, **PATH)),
        (STFTUNetConfig(**SIZES), STFTUNetConfig(**SIZES, **PITCH)),
        (DualPathConfig(**SIZES, **PATH), DualPathConfig(**SIZES, **PATH, **PITCH)),
    ],
)
@torch.no_grad()
def test_a_second_trunk_changes_nothing_at_first(small, large):
    origin = filled(small.build(), 1)
    network = large.build()
    network.load_state_dict(grown(origin, network, network.average_power))
    x, sigma = states(4), torch.tensor([0.1, 0.3])
    torch.testing.assert_close(network.eval()(x, sigma), origin(x, sigma))


@pytest.mark.parametrize("pitch", [{}, PITCH])
@torch.no_grad()
def test_a_stem_that_is_never_heard_changes_nothing(pitch):
    """With an average spectrum of next to nothing, a silent fifth stem gets next to nothing.

    The noise is found in the quietest stem, so one of the four is silent as well. The floor on
    which the loudness of the sum counts knows the number of stems: the state is far above it.
    """
    origin = filled(DualPath(DualPathConfig(**SIZES, **PATH, **pitch)), 1)
    network = DualPath(DualPathConfig(**SIZES, **PATH, **pitch, stems=5))
    power = torch.cat([origin.average_power, torch.full((1, 65), 1e-12)])
    network.load_state_dict(grown(origin, network, power))
    x = torch.cat([40 * states(4), torch.zeros(2, 1, 700)], 1)
    x[:, 2] = 0
    sigma = torch.tensor([0.1, 0.3])
    out, before = network.eval()(x, sigma), origin(x[:, :4], sigma)
    assert out[:, 4].abs().max() < 2e-3 * before.abs().max()
    assert (out[:, :4] - before).abs().max() < 0.02 * before.abs().max()


@torch.no_grad()
def test_tokens_begin_without_a_word():
    sizes = {**SIZES, **PITCH, "pitch_layers": 3}
    origin = filled(STFTUNet(STFTUNetConfig(**sizes)), 1)
    network = STFTUNet(STFTUNetConfig(**sizes, pitch_tokens=4))
    network.load_state_dict(grown(origin, network, origin.average_power))
    x, sigma = states(4), torch.tensor([0.1, 0.3])
    torch.testing.assert_close(network.eval()(x, sigma), origin(x, sigma))
    assert network.pitch.summaries[0].value.weight.any()  # and have something to learn with


@torch.no_grad()
def test_the_new_stem_begins_at_its_average_spectrum():
    origin = filled(STFTUNet(STFTUNetConfig(**SIZES)), 1)
    network = STFTUNet(STFTUNetConfig(**SIZES, stems=5))
    power = torch.rand(5, 65) * 0.01
    network.load_state_dict(grown(origin, network, power))
    torch.testing.assert_close(network.average_power[4], power[4])
    torch.testing.assert_close(network.average_power[:4], origin.average_power)


@pytest.mark.parametrize(
    ("small", "large", "word"),
    [
        (STFTUNetConfig(**SIZES, stems=5), STFTUNetConfig(**SIZES), "lose stems"),
        (STFTUNetConfig(**SIZES), STFTUNetConfig(**{**SIZES, "widths": (16, 16)}), "does not fit"),
        (STFTUNetConfig(**SIZES), STFTUNetConfig(**{**SIZES, "blocks": (1, 2)}), "deeper"),
        (
            STFTUNetConfig(**SIZES, **PITCH),
            STFTUNetConfig(**SIZES, **{**PITCH, "pitch_layers": 3}),
            "deeper",
        ),
    ],
)
def test_what_does_not_fit_is_refused(small, large, word):
    origin, network = STFTUNet(small), STFTUNet(large)
    with pytest.raises(SettingsError, match=word):
        grown(origin, network, network.average_power)


def test_a_trunk_is_not_dropped():
    origin, network = DualPath(DualPathConfig(**SIZES, **PATH)), STFTUNet(STFTUNetConfig(**SIZES))
    with pytest.raises(SettingsError, match="cannot go on"):
        grown(origin, network, network.average_power)


@pytest.mark.parametrize(
    "config",
    [
        STFTUNetConfig(**SIZES),
        DualPathConfig(**SIZES, **PATH),
        DualPathConfig(**SIZES, **PATH, **PITCH),
    ],
)
def test_every_parameter_has_a_part_in_every_loss(config):
    """Processes that train together wait for the gradient of each; none is told of silent stems."""
    network = config.build()
    x, sigma = states(4), torch.tensor([0.1, 0.3])
    network(x, sigma).square().sum().backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]
