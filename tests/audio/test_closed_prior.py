"""Stems that are known to be silent: told to the network, not trained away."""

from __future__ import annotations

import pytest
import torch

from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_audio.priors.waveform_prior import make_prior
from mgdm_core.errors import SettingsError

SIZES = dict(n_fft=128, hop=32, bands=8, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2)
SIZES.update(embedding=16, hidden=12, stems=5)
PATH = dict(path_width=16, path_layers=2, path_heads=2, path_patch=4, path_features=4, path_rank=8)
NAMES = ("bass", "drums", "guitar", "piano", "other")


def random_network(network):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    network.start_from_average(0.003 * torch.rand(5, 65, generator=generator) + 1e-4)
    return network


def prior_of(network):
    levels = Levels(sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=20)
    return make_prior(
        network, stems=NAMES, rate=8000, window=1024, levels=levels, precision="float32"
    )


@pytest.fixture(params=["stft_unet", "dual_path"])
def prior(request):
    if request.param == "stft_unet":
        return prior_of(random_network(STFTUNet(STFTUNetConfig(**SIZES))))
    return prior_of(random_network(DualPath(DualPathConfig(**SIZES, **PATH))))


def state(stems, seed=0):
    return 0.1 * torch.randn(2, stems, 900, generator=torch.Generator().manual_seed(seed))


def test_a_silent_stem_gets_nothing_and_the_rest_share_everything(prior):
    x, sigma = state(5), torch.tensor([0.1, 0.4])
    absent = torch.tensor([[False, False, False, False, True]] * 2)
    clean, mask = prior.network.denoise_with_mask(x, sigma, absent)
    assert not clean[:, 4].any()
    assert not mask[:, 4].any()
    told_nothing = prior.network.denoise_with_mask(x, sigma)[0]
    assert told_nothing[:, 4].abs().max() > 1e-4


def test_what_a_state_holds_of_a_silent_stem_says_nothing(prior):
    x, sigma = state(5), torch.tensor([0.1, 0.4])
    absent = torch.tensor([[False, True, False, False, True]] * 2)
    other = x.clone()
    other[:, [1, 4]] = 7 * state(2, seed=3)
    a = prior.network.denoise_with_mask(x, sigma, absent)[0]
    b = prior.network.denoise_with_mask(other, sigma, absent)[0]
    torch.testing.assert_close(a, b)


def test_items_of_a_batch_are_told_apart(prior):
    x, sigma = state(5), torch.tensor([0.1, 0.4])
    absent = torch.tensor([[False] * 4 + [True], [False] * 5])
    together = prior.network.denoise_with_mask(x, sigma, absent)[0]
    alone = prior.network.denoise_with_mask(x[1:], sigma[1:], absent[1:])[0]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-6)


def test_a_closed_prior_is_one_of_fewer_stems(prior):
    closed = closed_prior(prior, ["other"])
    assert closed.stems == NAMES[:4]
    assert closed.average_power.shape == (4, 65)
    x, sigma = state(4), 0.2
    full = torch.cat([x, torch.zeros(2, 1, 900)], 1)
    absent = torch.tensor([[False] * 4 + [True]] * 2)
    expected = prior.network.denoise_with_mask(full, torch.full((2,), sigma), absent)
    torch.testing.assert_close(closed.denoise_at(x, sigma), expected[0][:, :4])
    clean, mask = closed.denoise_with_mask(x, 10)
    assert clean.shape == x.shape
    assert mask.shape[:3] == (2, 4, 65)


def test_what_a_prior_is_told_twice_or_one_after_the_other_is_the_same(prior):
    at_once = closed_prior(prior, ["other", "drums", "other"])
    later = closed_prior(closed_prior(prior, ["other"]), ["drums"])
    assert at_once.stems == later.stems == ("bass", "guitar", "piano")
    assert set(at_once.without) == set(later.without) == {"drums", "other"}
    assert prior.without == ()
    x = state(3)
    assert torch.equal(at_once.denoise_at(x, 0.2), later.denoise_at(x, 0.2))
    assert torch.equal(at_once.average_power, prior.average_power[[0, 2, 3]])


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["voice", "bass", "x"], "bass, drums, guitar, piano, other; found 'voice', 'x'"),
        (list(NAMES), "at least two stems must remain, to be told apart; found none"),
        (NAMES[1:], "found bass alone"),
        ("other", r"a tuple of names, such as \('other',\); found 'other'"),
    ],
)
def test_refuses_what_it_does_not_have(prior, without, said):
    with pytest.raises(SettingsError, match=said):
        closed_prior(prior, without)


def test_a_stem_that_is_gone_cannot_be_silent_once_more(prior):
    with pytest.raises(SettingsError, match="which are bass, drums, guitar, piano; found 'other'"):
        closed_prior(closed_prior(prior, ["other"]), ["other"])
