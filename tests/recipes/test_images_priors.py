"""Priors in the formats of diffusers, tiny and random, through every task in both spaces."""

import json
import math

import pytest
import torch

from mgdm_core.conditionals import Variational
from mgdm_core.samplers import MGDM
from recipes.images.errors import PriorError
from recipes.images.priors import Told, load_prior
from recipes.images.restore import observe, restore
from recipes.images.tasks import TASKS, build_task
from tests.recipes.test_images_kernel_network import kernel_network_state

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

TINY = MGDM(levels=4, denoising_steps=2, conditional=Variational(steps=1, late_steps=1))


def unet(channels=3, size=16, **changes):
    blocks = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    settings = {"in_channels": channels, "out_channels": channels, "sample_size": size}
    return diffusers.UNet2DModel(**{**settings, **blocks, **changes})


def vqmodel():
    return diffusers.VQModel(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=16,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def kl():
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3,
    )


@pytest.fixture(scope="module")
def pixel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixel")
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.0195)
    diffusers.LDMPipeline(vqvae=vqmodel(), unet=unet(), scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kernel_weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("kernel") / "random.pth"
    torch.save(kernel_network_state(), file)
    return file


@pytest.fixture(scope="module")
def loaded(pixel, latent):
    return {"pixel": load_prior(str(pixel)), "latent": load_prior(str(latent))}


@pytest.mark.parametrize("space", ["pixel", "latent"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_end_to_end(loaded, kernel_weights, space, task):
    prior = loaded[space]
    degradation = build_task(task, prior.image_shape, kernel_weights=kernel_weights)
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, *prior.image_shape, generator=generator) * 2 - 1
    y = observe(degradation, truth, 0.05, seed=1)
    result = restore(prior, degradation, y, TINY, samples=2)
    assert result.samples.shape == (1, 2, *prior.image_shape)
    assert float(result.samples.abs().max()) <= 1
    assert torch.isfinite(result.samples).all()
    assert result.trace.vjps > 0
    assert not torch.equal(result.samples[0, 0], result.samples[0, 1])


def test_latent_shapes_and_scale(loaded, latent):
    prior = loaded["latent"]
    assert prior.latent
    assert prior.image_shape == (3, 32, 32)
    assert prior.event_shape == (3, 16, 16)
    model = diffusers.VQModel.from_pretrained(latent / "vqvae").eval()
    z = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(prior.prior.decode(z), model.decode(z / 0.5).sample)
        image = prior.prior.decode(z)
        torch.testing.assert_close(prior.prior.encode(image), 0.5 * model.encode(image).latents)


def test_gradient_goes_through_the_decoder(loaded):
    prior = loaded["latent"]
    operator = prior.operator(build_task("sr4", prior.image_shape).operator)
    z = torch.randn(1, *prior.event_shape, generator=torch.Generator().manual_seed(0))
    z.requires_grad_(True)
    operator.forward(z).square().sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().max()) > 0


def test_autoencoder_kl(tmp_path):
    unet(4, 8).save_pretrained(tmp_path / "unet")
    kl().save_pretrained(tmp_path / "vae")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    index = {
        "_class_name": "LatentPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    prior = load_prior(str(tmp_path))
    assert prior.image_shape == (3, 16, 16)
    assert prior.event_shape == (4, 8, 8)
    degradation = build_task("blur", prior.image_shape)
    y = observe(degradation, torch.zeros(1, 3, 16, 16), 0.05, 0)
    result = restore(prior, degradation, y, TINY)
    assert torch.isfinite(result.samples).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_prediction_types(tmp_path, prediction):
    model = unet().eval()
    model.save_pretrained(tmp_path / "unet")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False
    )
    scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text("{}")
    prior = load_prior(str(tmp_path)).prior
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model(x, torch.tensor([499])).sample
        scheduler.set_timesteps(1000)
        expected = scheduler.step(out, 499, x).pred_original_sample
        got = prior.denoise(x, 500)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_score_ve_configuration(tmp_path):
    model = unet(time_embedding_type="fourier").eval()
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=200, sigma_max=50.0)
    scheduler.set_sigmas(200)
    diffusers.ScoreSdeVePipeline(model, scheduler).save_pretrained(tmp_path)
    prior = load_prior(str(tmp_path)).prior
    # The images of these networks lie in [0, 1], ours in [-1, 1].
    torch.testing.assert_close(
        prior.schedule.sigma[1:], 2 * scheduler.discrete_sigmas.double(), rtol=1e-5, atol=0
    )
    x = 3 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    level = 101
    sigma = float(scheduler.discrete_sigmas[level - 1])
    with torch.no_grad():
        score = model((x + 1) / 2, torch.tensor([sigma])).sample
        expected = 2 * ((x + 1) / 2 + sigma**2 * score) - 1
        torch.testing.assert_close(prior.denoise(x, level), expected, rtol=1e-4, atol=1e-3)


def test_a_score_network_that_takes_a_class_is_refused(tmp_path):
    unet(time_embedding_type="fourier", num_class_embeds=4).save_pretrained(tmp_path)
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path)
    with pytest.raises(
        PriorError, match="under ScoreSdeVeScheduler a network that is told nothing"
    ):
        load_prior(str(tmp_path), told=Told(1))


def test_old_repositories_keep_everything_at_the_top_as_pickled_tensors(tmp_path, pixel):
    model = diffusers.UNet2DModel.from_pretrained(pixel / "unet")
    model.save_pretrained(tmp_path, safe_serialization=False)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    prior = load_prior(str(tmp_path)).prior
    other = load_prior(str(pixel)).prior
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.denoise(x, 300), other.denoise(x, 300))


def test_pickled_code_is_refused(tmp_path, pixel):
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    model = diffusers.UNet2DModel.from_pretrained(pixel / "unet")
    model.save_config(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(PriorError, match="plain tensors"):
        load_prior(str(tmp_path))
    assert not witness.exists()


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_priors_that_do_not_load_get_one_line(tmp_path, pixel, monkeypatch):
    def folder(name):
        path = tmp_path / name
        path.mkdir()
        return path

    empty = folder("empty")
    no_scheduler = folder("no_scheduler")
    unet().save_pretrained(no_scheduler)
    more = folder("more")
    unet().save_pretrained(more / "unet")
    diffusers.DDPMScheduler().save_pretrained(more / "scheduler")
    write(more, "model_index.json", {"upscaler": ["diffusers", "UNet2DModel"]})
    conditional = folder("conditional")
    unet(num_class_embeds=10).save_pretrained(conditional)
    diffusers.DDPMScheduler().save_pretrained(conditional)
    other = folder("other")
    write(other, "config.json", {"_class_name": "UNet1DModel"})
    no_levels = folder("no_levels")
    unet().save_pretrained(no_levels)
    diffusers.KarrasVeScheduler().save_pretrained(no_levels)
    broken = folder("broken")
    (broken / "config.json").write_text("{")
    cases = {
        str(empty): "neither model_index.json nor config.json",
        str(no_scheduler): "no scheduler_config.json",
        str(more): "also has upscaler",
        str(conditional): "class-conditional: --label is one of 0 to 9; found None",
        str(other): "found UNet1DModel",
        str(no_levels): "alphas_cumprod or is one for flow matching",
        str(broken): "cannot be read as JSON",
        "digitz": r"no prior 'digitz'; a prior is one of: 'digits'",
        str(tmp_path / "nothing.pt"): "no prior",
    }
    for name, message in cases.items():
        with pytest.raises(PriorError, match=message) as caught:
            load_prior(name)
        assert "\n" not in str(caught.value)


def test_a_class_and_its_guidance(tmp_path, pixel):
    """D_none + 3 (D_class - D_none), the last class standing for none."""
    model = unet(num_class_embeds=4).eval()
    model.save_pretrained(tmp_path)
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), 500
    plain = load_prior(str(tmp_path), told=Told(1))
    guided = load_prior(str(tmp_path), told=Told(1, guidance=3.0))
    schedule = plain.prior.schedule
    alpha, sigma = (float(v[t]) for v in (schedule.alpha, schedule.sigma))
    with torch.no_grad():
        told, none = (
            (x - sigma * model(x, t - 1, torch.full((2,), k)).sample) / alpha for k in (1, 3)
        )
        torch.testing.assert_close(plain.prior.denoise(x, t), told, rtol=1e-4, atol=1e-4)
        want = none + 3 * (told - none)
        torch.testing.assert_close(guided.prior.denoise(x, t), want, rtol=1e-4, atol=1e-3)
    assert float((told - none).abs().max()) > 1e-3
    assert guided.name.endswith(", class 1, guidance 3")
    for options, message in (
        ({"label": 4}, "0 to 3; found 4"),
        ({"label": 3, "guidance": 2.0}, "the last class, 3, stands for none"),
    ):
        with pytest.raises(PriorError, match=message):
            load_prior(str(tmp_path), told=Told(**options))
    with pytest.raises(PriorError, match=r"takes no text; found .*negative='blurred'"):
        load_prior(str(tmp_path), told=Told(1, negative="blurred", guidance=3.0))
    with pytest.raises(PriorError, match="knows no classes; found --label 1"):
        load_prior(str(pixel), told=Told(1))


def test_hub_without_network_is_one_line(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(PriorError, match="'a/b' cannot be fetched from the hub: Name or") as caught:
        load_prior("hub:a/b")
    assert "\n" not in str(caught.value)


def test_a_task_for_other_images_than_the_priors_is_refused(loaded):
    degradation = build_task("sr4", (1, 16, 16))
    with pytest.raises(PriorError, match=r"\(3, 16, 16\).*built for \(1, 16, 16\)"):
        restore(loaded["pixel"], degradation, torch.zeros(1, 1, 4, 4), TINY)


def test_streams_do_not_depend_on_the_batch(loaded):
    prior = loaded["pixel"]
    degradation = build_task("sr4", prior.image_shape)
    y = observe(degradation, torch.zeros(3, 3, 16, 16), 0.05, 0)
    together = restore(prior, degradation, y, TINY, seed=3).samples
    alone = restore(prior, degradation, y[2:], TINY, seed=3, first=2).samples
    torch.testing.assert_close(together[2:], alone, rtol=1e-3, atol=1e-4)
    assert math.isfinite(float(together.sum()))
