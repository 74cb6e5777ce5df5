"""The embedded prior: handwritten digits at 32 x 32 pixels, trained by this recipe.

The data are scikit-learn's 1797 digits of 8 x 8 pixels (UCI optical recognition of handwritten
digits), enlarged by bicubic interpolation. The network is the U-net of :mod:`unet` on blocks of
4 x 4 pixels under EDM preconditioning (Karras et al. 2022).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional

from mgdm_audio.io.atomic import replacing
from mgdm_core.array_types import Float, Int, Tensor
from mgdm_core.priors import EDMPrior
from mgdm_core.schedule import NoiseSchedule
from recipes.images.errors import PriorError
from recipes.images.priors.unet import UNet, UNetConfig

__all__ = [
    "DIGITS_FILE",
    "HELD_OUT",
    "DigitsNetwork",
    "digits",
    "empty_digits_network",
    "load_digits_prior",
    "save_digits",
]

DIGITS_FILE = Path(__file__).resolve().parent.parent / "weights" / "digits.safetensors"
SIDE = 32
PATCH = 4
# The last of scikit-learn's 1797 digits are kept out of the training.
HELD_OUT = 197
CONFIG = UNetConfig(
    in_channels=PATCH**2,
    out_channels=PATCH**2,
    model_channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention=(False, False),
    head_channels=16,
    norm_groups=8,
)


def digits(
    held_out: bool,
) -> tuple[Float[Tensor, "count 1 32 32"], Int[Tensor, " count"]]:
    """Digits in [-1, 1] and their labels, either the training part or the held-out part.

    Raises
    ------
    PriorError
        If scikit-learn, which carries the data, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PriorError(
            "the digits come with scikit-learn, which is not installed; pip install scikit-learn"
        ) from error
    bunch = load_digits()
    part = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    small = torch.from_numpy(np.asarray(bunch.images[part], dtype=np.float32))[:, None] / 16  # pyright: ignore
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    return 2 * large.clamp(0, 1) - 1, torch.from_numpy(np.asarray(bunch.target[part]))  # pyright: ignore


class DigitsNetwork(torch.nn.Module):
    """The U-net on 4 x 4 blocks of pixels, its time being log sigma / 4 as EDM gives it."""

    def __init__(self, config: UNetConfig = CONFIG) -> None:
        super().__init__()
        self.unet = UNet(config)

    def forward(
        self, x: Float[Tensor, "batch 1 32 32"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch 1 32 32"]:
        """EDM's raw output F."""
        blocks = functional.pixel_unshuffle(x, PATCH)
        # The sinusoidal features are made for times up to 1000; log sigma / 4 lies in -1.3..1.3.
        return functional.pixel_shuffle(self.unet(blocks, 1000 * time), PATCH)


def empty_digits_network(config: UNetConfig = CONFIG) -> DigitsNetwork:
    """Network whose weights are yet to be filled; no random number is drawn."""
    with torch.device("meta"):
        network = DigitsNetwork(config)
    return network.to_empty(device="cpu")


def save_digits(network: DigitsNetwork, sigma_data: float, path: Path, note: str) -> None:
    """Write weights in half precision with all that is needed to build the prior again."""
    state = {k: v.detach().half().contiguous() for k, v in network.unet.state_dict().items()}
    meta = {
        "config": json.dumps(asdict(network.unet.config)),
        "sigma_data": repr(sigma_data),
        "note": note,
    }
    with replacing(path) as partial:
        save_file(state, partial, metadata=meta)


def load_digits_prior(path: Path = DIGITS_FILE, device: torch.device | str = "cpu") -> EDMPrior:
    """Prior on the 1000 variance-preserving levels of DDPM.

    Raises
    ------
    PriorError
        If the file is absent or not a digits prior.
    """
    if not path.is_file():
        raise PriorError(
            f"no digits prior at {path}; train one with 'python -m recipes.images train-digits'"
        )
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        fields = json.loads(meta["config"])
        config = UNetConfig(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}  # pyright: ignore
        )
        network = empty_digits_network(config)
        network.unet.load_state_dict(state)
        sigma_data = float(meta["sigma_data"])
    except PriorError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PriorError(f"{path} is not a digits prior ({reason})") from error
    # Channels last: a quarter faster on a CPU at this width.
    network.eval().requires_grad_(False).to(device)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return EDMPrior(network, NoiseSchedule.vp_linear(), sigma_data)
