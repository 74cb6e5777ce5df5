"""Guided-diffusion checkpoints: read off their tensors, mapped, and equal to another library."""

import pytest
import torch

from mgdm_core.conditionals import Variational
from mgdm_core.samplers import MGDM
from recipes.images.errors import PriorError
from recipes.images.priors import load_prior
from recipes.images.priors.guided import guided_config, load_guided_prior, read_state_dict
from recipes.images.priors.guided_diffusers import diffusers_config, from_diffusers, to_diffusers
from recipes.images.priors.unet import UNet, UNetConfig
from recipes.images.restore import observe, restore
from recipes.images.tasks import build_task

TINY = MGDM(levels=4, denoising_steps=2, conditional=Variational(steps=1, late_steps=1))

CONFIGS = {
    # The shapes of the published models (FFHQ of DPS; ImageNet), narrower and shallower.
    "ffhq": UNetConfig(3, 6, 32, (1, 2, 2), 1, (False, True, False), head_channels=16),
    "imagenet": UNetConfig(3, 6, 32, (1, 2), 2, (True, True), head_channels=32),
    "plain": UNetConfig(
        1, 1, 32, (1, 1, 2), 1, (False, False, True), 32, False, False, interleaved_heads=False
    ),
}


def random_network(config: UNetConfig, seed: int = 0) -> UNet:
    """No weight is zero, so that no path is silent."""
    network = UNet(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            fan = p[0].numel() if p.ndim > 1 else 25.0
            p.copy_(torch.randn(p.shape, generator=generator) / fan**0.5)
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1.0)
    return network.eval().requires_grad_(False)


@pytest.fixture(params=CONFIGS)
def network(request):
    return random_network(CONFIGS[request.param])


def settings_of(config: UNetConfig) -> dict:
    return {
        "head_channels": config.head_channels,
        "interleaved_heads": config.interleaved_heads,
        "norm_groups": config.norm_groups,
    }


def test_shape_is_read_off_the_tensors(network):
    config = network.config
    assert guided_config(network.state_dict(), **settings_of(config)) == config


def test_published_shapes_are_read_off_their_names():
    """FFHQ: 128 wide, 1 block, attention at 16; ImageNet: 256 wide, 2 blocks, attention at 32-8."""
    ffhq = UNetConfig()
    imagenet = UNetConfig(3, 6, 256, (1, 1, 2, 2, 4, 4), 2, (False,) * 3 + (True,) * 3)
    for config, inputs, outputs in ((ffhq, 12, 12), (imagenet, 18, 18)):
        with torch.device("meta"):
            network = UNet(config)
        state = network.state_dict()
        assert len(network.input_blocks) == inputs
        assert len(network.output_blocks) == outputs
        assert guided_config(state) == config
    assert state["input_blocks.0.0.weight"].shape == (256, 3, 3, 3)
    assert state["output_blocks.2.2.in_layers.2.weight"].shape == (1024, 1024, 3, 3)
    assert state["middle_block.1.qkv.weight"].shape == (3072, 1024, 1)


def test_mapping_to_diffusers_and_back_is_the_identity(network):
    state = network.state_dict()
    back = from_diffusers(to_diffusers(state, network.config), network.config)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name


def test_outputs_equal_those_of_diffusers(network):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    config = network.config
    other = diffusers.UNet2DModel(**diffusers_config(config, 16)).eval()
    other.load_state_dict(to_diffusers(network.state_dict(), config))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_channels, 16, 16, generator=generator)
    time = torch.tensor([3, 700])
    with torch.no_grad():
        ours, theirs = network(x, time), other(x, time).sample
    assert float(ours.std()) > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_becomes_a_prior(tmp_path, suffix):
    network = random_network(CONFIGS["ffhq"])
    file = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        halved = {k: v.half() for k, v in network.state_dict().items()}
        network.load_state_dict(halved)
        torch.save({"module." + k: v for k, v in halved.items()}, file)
    else:
        from safetensors.torch import save_file

        save_file(network.state_dict(), file)
    prior = load_guided_prior(file, head_channels=16)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([10, 900])
    got = prior.denoise(x, t)
    # The learned variance is split off; the network's time is the level minus one.
    eps = network(x, t - 1)[:, :3]
    alpha, sigma = prior.schedule.at(t, x)
    torch.testing.assert_close(got, (x - sigma * eps) / alpha)


def test_files_that_are_no_such_checkpoint_get_one_line(tmp_path):
    file = tmp_path / "model.pt"
    state = random_network(CONFIGS["ffhq"]).state_dict()
    cases = {
        "garbage": (b"nothing", "cannot be read"),
        "code": ({"state_dict": UNet}, "cannot be read"),
        "other": ({"weight": torch.zeros(2)}, "no guided-diffusion checkpoint"),
        "short": ({k: v for k, v in state.items() if "input_blocks.1." not in k}, "it has no"),
        "not tensors": ({"weight": 3.0}, "no state dict"),
        "classes": ({**state, "label_emb.weight": torch.zeros(10, 128)}, "class-conditional"),
        "heads": (state, "heads of 48"),
        "cut": ({k: v for k, v in state.items() if "middle_block.2" not in k}, "does not fit"),
    }
    for name, (content, message) in cases.items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(PriorError, match=message) as caught:
            load_guided_prior(file, head_channels=48 if name == "heads" else 16)
        assert "\n" not in str(caught.value)


def test_wrong_image_size_names_the_multiple():
    with pytest.raises(PriorError, match="multiples of 4; found 18 x 16"):
        random_network(CONFIGS["ffhq"])(torch.zeros(1, 3, 18, 16), torch.zeros(1))


def test_reading_tensors_never_runs_a_pickle(tmp_path):
    file, witness = tmp_path / "evil.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    torch.save({"a": Evil()}, file)
    with pytest.raises(PriorError):
        read_state_dict(file)
    assert not witness.exists()


def test_a_guided_checkpoint_of_random_weights_runs(tmp_path):
    config = UNetConfig(3, 6, 32, (1, 2), 1, (False, True), head_channels=32)
    file = tmp_path / "guided.pt"
    network = UNet(config)
    network.draw_weights(torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), file)
    prior = load_prior(str(file), size=16, head_channels=32)
    assert prior.image_shape == (3, 16, 16)
    degradation = build_task("phase_retrieval", prior.image_shape)
    y = observe(degradation, torch.zeros(1, 3, 16, 16), 0.05, 0)
    result = restore(prior, degradation, y, TINY)
    assert torch.isfinite(result.samples).all()
    assert diffusers_config(config, 16)["sample_size"] == 16
