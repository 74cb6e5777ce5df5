"""The waveform network: parity with the published one, lengths, precision."""

from __future__ import annotations

import pytest
import torch

from mgdm_audio.priors import Levels, WaveformPrior
from mgdm_audio.priors.msdm.keys import from_published, published_name
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_audio.priors.unet1d.network import UNet1d
from mgdm_audio.priors.unet1d.stack import StackedNetwork
from mgdm_core.errors import SettingsError, ShapeError
from tests.audio.checkpoint_helpers import SMALL, STEMS, generator, published, tiny_unet


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def ours_from(model, **changes) -> UNet1d:
    config = UNet1dConfig.from_dict(SMALL | changes)
    state = {
        key.removeprefix("unet."): value
        for key, value in model.state_dict().items()
        if key.startswith("unet.")
    }
    network = UNet1d(config)
    network.load_state_dict(from_published(state, config.to_dict(), "test"))
    return network.eval()


VARIANTS = [
    {},
    {"use_nearest_upsample": True, "use_skip_scale": False},
    {"patch_blocks": 2},
    {"use_attention_bottleneck": False, "attentions": [True, False]},
    {"factors": [3, 1], "kernel_multiplier_downsample": 4, "multipliers": [1, 1, 2]},
    {"in_channels": 1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=[",".join(v) or "msdm" for v in VARIANTS])
def test_outputs_are_those_of_the_published_network(variant):
    model = published(**variant)
    network = ours_from(model, **variant)
    stems = network.config.in_channels
    length = 8 * network.config.multiple
    noise = torch.randn(3, stems, length, generator=generator(5))
    sigma = torch.tensor([1e-3, 0.1, 5.0])
    x = 0.2 * torch.randn(3, stems, length, generator=generator(6)) + sigma[:, None, None] * noise
    with torch.no_grad():
        raw = model.unet(x.clone(), sigma.log() / 4)
        assert relative(network.predict(x, sigma.log() / 4), raw) < 1e-5
        assert relative(network(x, sigma), model.diffusion.denoise_fn(x, sigmas=sigma)) < 1e-5


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_clamping_is_that_of_the_published_wrapper(threshold):
    model = published(diffusion_dynamic_threshold=threshold)
    network = ours_from(model, dynamic_threshold=threshold)
    x = 2 * torch.randn(2, 4, 256, generator=generator(1))
    sigma = torch.tensor([0.05, 0.05])
    with torch.no_grad():
        expected = model.diffusion.denoise_fn(x, sigmas=sigma)
        assert relative(network(x, sigma), expected) < 1e-5
        assert expected.abs().max() <= 1 + 1e-6
        unclipped = UNet1d(UNet1dConfig.from_dict(network.config.to_dict() | {"clip": False}))
        unclipped.load_state_dict(network.state_dict())
        assert unclipped.eval()(x, sigma).abs().max() > 1.5


@pytest.mark.slow
def test_full_width_is_the_published_network():
    package = pytest.importorskip("audio_diffusion_pytorch")
    config = UNet1dConfig()
    full = {
        k: v
        for k, v in config.to_dict().items()
        if k not in ("sigma_data", "dynamic_threshold", "clip")
    }
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = package.AudioDiffusionModel(**full, diffusion_sigma_data=0.2).eval()
    with torch.device("meta"):
        network = UNet1d(config)
    state = {k.removeprefix("unet."): v for k, v in model.state_dict().items() if "unet." in k}
    # The tensors are shared with the oracle: 1.6 GB of weights exist once.
    network.load_state_dict(from_published(state, config.to_dict(), "test"), assign=True)
    network.eval()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(405e6, rel=0.01)
    x = torch.randn(1, 4, 4 * 8192, generator=generator(3)) * 0.3
    sigma = torch.tensor([0.2])
    with torch.no_grad():
        expected = model.diffusion.denoise_fn(x, sigmas=sigma)
        assert relative(network(x, sigma), expected) < 1e-4


def test_every_name_has_one_published_counterpart():
    names = [published_name(key) for key in tiny_unet().state_dict()]
    assert len(set(names)) == len(names)
    own_words = ("norm1", "conv2", "modulation", "shortcut", "query", "fold", "embedding")
    assert not [name for name in names if any(word in name for word in own_words)]


@pytest.mark.parametrize("length", [1, 2, 3, 31, 33, 100, 500])
def test_any_length_goes_in_and_comes_out(length):
    network = tiny_unet()
    x = torch.randn(2, 4, length, generator=generator())
    out = network(x, torch.tensor([0.1, 1.0]))
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_padding_does_not_reach_far():
    network = tiny_unet(attentions=[False, False], use_attention_bottleneck=False)
    network.requires_grad_(False)
    x = 0.2 * torch.randn(1, 4, 32 * 64, generator=generator())
    sigma = torch.tensor([0.1])
    whole, cut = network(x, sigma), network(x[..., :-7], sigma)
    middle = slice(256, 1024)
    # Group normalisation sees the whole length, so that the rest differs a little everywhere.
    assert relative(cut[..., middle], whole[..., middle]) < 0.02


def test_bfloat16_is_near_float32_and_comes_out_as_float32():
    facts = {"stems": STEMS, "rate": 22_050, "window": 512, "levels": Levels()}
    exact = WaveformPrior(tiny_unet(), precision="float32", **facts)
    half = WaveformPrior(tiny_unet(), precision="bfloat16", **facts)
    kinds = {name: p.dtype for name, p in half.network.named_parameters()}
    assert kinds["down.0.blocks.0.conv1.weight"] == torch.bfloat16
    assert kinds["embedding.project.weight"] == torch.float32
    assert kinds["down.0.blocks.0.norm1.weight"] == torch.float32
    x = torch.randn(2, 4, 512, generator=generator())
    a, b = exact.denoise(x, 700), half.denoise(x, 700)
    assert b.dtype == torch.float32
    assert 0 < relative(b, a) < 0.03


def test_attention_runs_fused():
    class Spy(torch.overrides.TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Spy.calls += func is torch.nn.functional.scaled_dot_product_attention
            return func(*args, **(kwargs or {}))

    with Spy():
        tiny_unet()(torch.randn(1, 4, 64, generator=generator()), torch.ones(1))
    assert Spy.calls == 3  # one level down, one up, the bottom


def test_gradient_reaches_the_input():
    network = tiny_unet()
    x = (0.1 * torch.randn(1, 4, 64, generator=generator())).requires_grad_()
    network(x, torch.ones(1)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() >= 0
    assert x.grad.abs().sum() > 0


def test_a_stack_is_the_networks_side_by_side():
    networks = [tiny_unet(seed, in_channels=1) for seed in range(4)]
    prior = WaveformPrior(
        StackedNetwork(networks),
        stems=STEMS,
        rate=22_050,
        window=512,
        levels=Levels(),
        precision="float32",
    )
    x = torch.randn(2, 4, 300, generator=generator())
    sigma = torch.full((2,), float(prior.schedule.sigma[600]))
    alone = torch.cat([network(x[:, i : i + 1], sigma) for i, network in enumerate(networks)], 1)
    assert torch.equal(prior.denoise(x, 600), alone)
    other = x.clone()
    other[:, 2] += 1
    changed = (prior.denoise(other, 600) - prior.denoise(x, 600)).abs().amax((0, 2))
    assert changed[2] > 0
    assert changed[[0, 1, 3]].max() == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"multipliers": [1, 2]}, "multipliers"),
        ({"multipliers": [2, 2, 2]}, "first multiplier"),
        ({"channels": 31}, "even"),
        ({"channels": 10**9}, "channels"),
        ({"channels": True}, "channels"),
        ({"channels": "32"}, "channels"),
        ({"channels": None}, "channels"),
        ({"factors": 4}, "factors"),
        ({"factors": [65536, 65536]}, "too large"),
        ({"factors": []}, "levels"),
        ({"num_blocks": [2, -1]}, "num_blocks"),
        ({"resnet_groups": 7}, "resnet_groups"),
        ({"patch_factor": 5}, "patches"),
        ({"in_channels": 3}, "patches"),
        ({"kernel_multiplier_downsample": 3}, "even"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"sigma_data": float("nan")}, "sigma_data"),
        ({"dynamic_threshold": 2.0}, "dynamic_threshold"),
        ({"use_skip_scale": 1}, "use_skip_scale"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, word):
    with pytest.raises(SettingsError, match=word):
        UNet1dConfig.from_dict(SMALL | changes)


def test_a_wrong_number_of_stems_is_refused():
    network = tiny_unet()
    with pytest.raises(ShapeError, match="4, samples"):
        network(torch.zeros(1, 3, 64), torch.ones(1))
