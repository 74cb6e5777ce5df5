"""Small priors and Lightning files for the tests of checkpoints."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from mgdm_audio.priors import Levels, save_prior
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_audio.priors.unet1d.network import UNet1d

STEMS = ("bass", "drums", "guitar", "piano")

# The published network with everything but its width and depth per level left as it is.
SMALL = {
    "in_channels": 4,
    "channels": 32,
    "patch_factor": 4,
    "patch_blocks": 1,
    "resnet_groups": 8,
    "kernel_multiplier_downsample": 2,
    "multipliers": [1, 2, 2],
    "factors": [4, 2],
    "num_blocks": [2, 1],
    "attentions": [False, True],
    "attention_heads": 4,
    "attention_features": 8,
    "attention_multiplier": 2,
    "use_nearest_upsample": False,
    "use_skip_scale": True,
    "use_attention_bottleneck": True,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(network: torch.nn.Module, seed: int = 0, scale: float = 0.05) -> torch.nn.Module:
    """Move every weight off its initial value, so that no part is multiplied by 0 or 1."""
    rng = generator(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor += scale * torch.randn(tensor.shape, generator=rng)
    return network.eval()


def tiny_unet(seed: int = 0, **changes) -> UNet1d:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        network = UNet1d(UNet1dConfig.from_dict(SMALL | changes))
    return randomise(network, seed)


def save_tiny(path, network=None, **changes):
    network = tiny_unet() if network is None else network
    facts = {
        "kind": "unet1d",
        "config": network.config.to_dict() if hasattr(network, "config") else {},
        "stems": STEMS,
        "rate": 22_050,
        "window": 4096,
        "sigma_data": 0.2,
        "levels": Levels(sigma_min=1e-3, sigma_max=2.0, rho=7.0, steps=50),
        "licence": "MIT",
        "training": {"steps": 3},
    }
    return save_prior(path, network, **(facts | changes))


def read_raw(path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(path, header: dict | bytes, body: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def edit_header(path, **changes) -> None:
    """Change fields of the mgdm metadata; a value of ``...`` deletes the field."""
    header, body = read_raw(path)
    fields = json.loads(header["__metadata__"]["mgdm"])
    for key, value in changes.items():
        if value is ...:
            del fields[key]
        else:
            fields[key] = value
    header["__metadata__"]["mgdm"] = json.dumps(fields)
    write_raw(path, header, body)


def published(**changes):
    """The published package's model at small width, randomised; skips where it is missing."""
    package = pytest.importorskip(
        "audio_diffusion_pytorch", reason="audio-diffusion-pytorch==0.0.43 is not installed"
    )
    settings = SMALL | {
        "diffusion_sigma_data": 0.2,
        "diffusion_sigma_distribution": package.LogNormalDistribution(mean=-3.0, std=1.0),
    }
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        model = package.AudioDiffusionModel(**(settings | changes))
    return randomise(model, 2)


def lightning_file(path, seed: int = 2, weights_only: bool = True, **changes):
    """Write a checkpoint as MSDM's training does; return the model inside."""
    lightning = pytest.importorskip("pytorch_lightning", reason="lightning is not installed")
    package = pytest.importorskip(
        "audio_diffusion_pytorch", reason="audio-diffusion-pytorch==0.0.43 is not installed"
    )

    class Model(lightning.LightningModule):
        def __init__(self, learning_rate, beta1, beta2, **kwargs):
            super().__init__()
            self.save_hyperparameters()
            self.model = package.AudioDiffusionModel(**kwargs)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)

    settings = SMALL | {
        "kernel_sizes_init": [1, 3, 7],
        "diffusion_sigma_data": 0.2,
        "diffusion_sigma_distribution": package.LogNormalDistribution(mean=-3.0, std=1.0),
        "diffusion_dynamic_threshold": 0.0,
    }
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        model = Model(1e-4, 0.9, 0.99, **(settings | changes))
    randomise(model, seed)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(model)
    if not weights_only:
        optimizer = model.configure_optimizers()
        for tensor in model.parameters():
            tensor.grad = torch.zeros_like(tensor)
        optimizer.step()
        trainer.strategy.optimizers = [optimizer]
    trainer.save_checkpoint(path, weights_only=weights_only)
    return model.model.eval()
