"""Priors of diffusers that are told a class or a text, and flows: tiny and random."""

import json

import pytest
import torch

from recipes.images.errors import PriorError
from recipes.images.priors import Told, load_prior

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

WORDS = "abcdefghijklmnopqrstuvwxyz"


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def save(folder, part, network, scheduler, **more):
    network.eval().save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    index = {part: ["diffusers", type(network).__name__], **more}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def transformer():
    """SD3's network, small."""
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=16,
        pooled_projection_dim=5,
        pos_embed_max_size=8,
    )


def text_unet():
    """Stable Diffusion's network, small."""
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=6,
    )


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """An SD3-like folder with its network, and a file of embeddings."""
    from safetensors.torch import save_file

    folder, network = tmp_path_factory.mktemp("flow"), transformer()
    save(folder, "transformer", network, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    state = {
        "prompt_embeds": rows(1, 1, 7, 6),
        "pooled_prompt_embeds": rows(2, 1, 5),
        "negative_prompt_embeds": rows(3, 1, 7, 6),
        "negative_pooled_prompt_embeds": rows(4, 1, 5),
    }
    save_file(state, folder / "text.safetensors")
    return folder, network, state


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_an_sd3_like_flow_is_told_its_embeddings(flow, scale):
    folder, network, state = flow
    prior = load_prior(
        str(folder), told=Told(prompt_embeds=folder / "text.safetensors", guidance=scale)
    ).prior
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.testing.assert_close(
        prior.schedule.sigma[1:].flip(0).float(), scheduler.sigmas[:1000], rtol=1e-5, atol=1e-6
    )
    x, level = rows(0, 2, 4, 8, 8), 600
    sigma = float(prior.schedule.sigma[level])
    time = torch.full((2,), 1000 * sigma)
    told, untold = (
        x
        - sigma
        * network(
            x,
            timestep=time,
            encoder_hidden_states=state[f"{start}prompt_embeds"].expand(2, -1, -1),
            pooled_projections=state[f"{start}pooled_prompt_embeds"].expand(2, -1),
        ).sample.detach()
        for start in ("", "negative_")
    )
    assert float((told - untold).abs().max()) > 1e-4
    with torch.no_grad():
        got = prior.denoise(x, level)
    torch.testing.assert_close(got, untold + scale * (told - untold), rtol=1e-4, atol=1e-5)


def clip(folder):
    """A tokenizer of letters and an encoder, of the kinds that Stable Diffusion has."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    vocabulary = [*WORDS, *(f"{c}</w>" for c in WORDS), "<|startoftext|>", "<|endoftext|>"]
    files = folder / "vocab.json", folder / "merges.txt"
    files[0].write_text(json.dumps({word: k for k, word in enumerate(vocabulary)}))
    files[1].write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(files[0]), str(files[1]), model_max_length=8, pad_token="<|endoftext|>"
    )
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=6,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=len(vocabulary) - 1,
    )
    return tokenizer, transformers.CLIPTextModel(config).eval()


def test_the_pipeline_s_encoders_read_the_prompt(tmp_path):
    (tmp_path / "words").mkdir()
    tokenizer, encoder = clip(tmp_path / "words")
    network = text_unet()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=network.eval(),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(tmp_path / "sd")
    prior = load_prior(str(tmp_path / "sd"), told=Told(prompt="abc", negative="z", guidance=3.0))
    assert prior.latent
    assert prior.event_shape == (4, 8, 8)
    assert prior.image_shape == (3, 16, 16)
    assert prior.name == "sd, text abc, guidance 3"
    x, level = rows(0, 2, 4, 8, 8), 500
    alpha, sigma = (float(v) for v in prior.prior.schedule.moments(level))

    def denoised(text):
        tokens = tokenizer(text, padding="max_length", max_length=8, return_tensors="pt")
        hidden = encoder(tokens.input_ids)[0].expand(2, -1, -1)
        v = network(x, level - 1, encoder_hidden_states=hidden).sample
        return alpha * x - sigma * v

    with torch.no_grad():
        told, untold = denoised("abc"), denoised("z")
        got = prior.prior.denoise(x, level)
    assert float((told - untold).abs().max()) > 1e-4
    torch.testing.assert_close(got, untold + 3 * (told - untold), rtol=1e-4, atol=1e-4)


def test_a_transformer_told_a_class(tmp_path):
    """DiT: 1000 classes and one more for none, and a variance beside the noise."""
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=3,
        out_channels=6,
        num_layers=1,
        sample_size=8,
        norm_num_groups=1,
        num_embeds_ada_norm=10,
    )
    save(tmp_path, "transformer", network, diffusers.DDIMScheduler())
    prior = load_prior(str(tmp_path), told=Told(9, guidance=2.0)).prior
    x, level = rows(0, 2, 3, 8, 8), 400
    alpha, sigma = (float(v) for v in prior.schedule.moments(level))
    with torch.no_grad():
        told, untold = (
            (x - sigma * network(x, torch.tensor([399] * 2), torch.tensor([k] * 2)).sample[:, :3])
            / alpha
            for k in (9, 10)
        )
        got = prior.denoise(x, level)
    torch.testing.assert_close(got, untold + 2 * (told - untold), rtol=1e-4, atol=1e-4)


def test_what_a_network_does_not_take_is_refused(flow, tmp_path):
    folder, _, state = flow
    with pytest.raises(PriorError, match=r"SD3Transformer2DModel.*takes a text: --prompt"):
        load_prior(str(folder))
    with pytest.raises(PriorError, match="takes a text"):
        load_prior(str(folder), told=Told(label=3))
    torch.save({"pooled_prompt_embeds": state["pooled_prompt_embeds"]}, tmp_path / "half.pt")
    with pytest.raises(PriorError, match=r"holds prompt_embeds.*found pooled_prompt_embeds"):
        load_prior(str(folder), told=Told(prompt_embeds=tmp_path / "half.pt"))
    torch.save({"prompt_embeds": state["prompt_embeds"]}, tmp_path / "told.pt")
    with pytest.raises(PriorError, match="guidance weighs a condition against none"):
        load_prior(str(folder), told=Told(prompt_embeds=tmp_path / "told.pt", guidance=2.0))
    with pytest.raises(PriorError, match="what stands for no text is in the file"):
        load_prior(str(folder), told=Told(prompt_embeds=tmp_path / "told.pt", negative="blurred"))
    with pytest.raises(PriorError, match="for networks of diffusers; found 'digits'"):
        load_prior("digits", told=Told(prompt="a cat"))
